// Pre-tokenisation: the cuts that byte pairs never cross.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "cluster/base/status.h"

namespace trireme {

// Cuts text into pieces. Immutable and thread-safe.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Writes the end offsets of the next pieces of `text` from offset *begin on, at most ends.size()
  // of them, moves *begin to the last end and returns how many; 0 once *begin is text.size(). The
  // pieces tile the text. `text` is valid UTF-8 and does not change between the calls of one walk.
  virtual size_t Split(std::string_view text, size_t* begin, std::span<size_t> ends) const = 0;
};

// The regular expression behind a name: gpt2, cl100k, llama3 (the same), o200k, qwen. A name that
// is not one of these is returned as it is: a regular expression of the user's own.
std::string PatternByName(const std::string& name);
// kInvalidArgument for what must be meant as a name and is none.
Status CheckPatternName(const std::string& name);
// The name of a known regular expression in any of its published spellings, or "".
std::string NameOfPattern(const std::string& pattern);

// A pre-tokenizer for the regular expression `pattern`, with the gaps between matches as pieces of
// their own. Published patterns are walked by hand-written code several times faster than PCRE2,
// which runs all others. kInvalidArgument for a pattern that does not compile.
Result<std::unique_ptr<PreTokenizer>> MakePreTokenizer(const std::string& pattern);
// Always by PCRE2, with \s as Unicode's White_Space as in Rust's regex and Oniguruma.
Result<std::unique_ptr<PreTokenizer>> MakeRegexPreTokenizer(const std::string& pattern);
// By hand-written code; null when there is none for `pattern`.
std::unique_ptr<PreTokenizer> MakeKnownPreTokenizer(const std::string& pattern);

}  // namespace trireme
