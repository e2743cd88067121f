// Unicode's normalisation form C for tokenizers that ask for it.
#pragma once

#include <string>
#include <string_view>

namespace trireme {

// `text` (valid UTF-8) in NFC: `text` itself where it already is, otherwise a view into *buffer.
std::string_view NormalizeNfc(std::string_view text, std::string* buffer);

}  // namespace trireme
