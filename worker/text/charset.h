// Other encodings than UTF-8, where they are declared; nothing is guessed.
#pragma once

#include <string>

#include "cluster/base/status.h"
#include "worker/text/unicode_clean.h"

namespace trireme {

// kInvalidArgument where ICU knows no encoding of this name.
Status CheckEncodingName(const std::string& name);

// Makes `text` valid UTF-8. What is not UTF-8 is converted from the encoding that the page declares
// (`html`: a meta element's or XML declaration's charset) or else from `fallback` (may be empty).
// Stray bytes in what is UTF-8 apart from them (ten good multi-byte characters to one bad sequence)
// are taken out. Returns false, text unspecified, where none of this helps.
bool ToUtf8(bool html, const std::string& fallback, std::string* text, TextChanges* changes);

}  // namespace trireme
