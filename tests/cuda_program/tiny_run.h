// A run small enough for the SIMT backend.
#pragma once

#include <string>

#include "tests/cli/small_run.h"

namespace trireme {

inline constexpr SmallModel kTinyModel = {.vocabulary = 260,
                                          .hidden = 16,
                                          .intermediate = 32,
                                          .heads = 2,
                                          .key_heads = 1,
                                          .positions = 32,
                                          .length = 16};

// Makes a corpus of so many lines, and run.yaml of kTinyModel and `rest`.
inline void MakeTinyRun(const Workplace& place, int lines, const std::string& rest) {
  MakeSmallCorpus(place, lines, kTinyModel.vocabulary);
  place.Write("run.yaml", ModelAndData(kTinyModel) + rest);
}

}  // namespace trireme
