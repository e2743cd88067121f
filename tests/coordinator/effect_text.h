// Effects as lines of text, for golden files.
#pragma once

#include <string>
#include <vector>

#include "coordinator/control_types.h"

namespace trireme {

// One line an effect; equal messages to several workers in a row share one.
std::vector<std::string> EffectLines(const Effects& effects);

}  // namespace trireme
