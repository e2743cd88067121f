#include "worker/text/added_tokens.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>

namespace trireme {
namespace {

// -1 at the ends of the text and for bytes that are no character.
UChar32 Before(std::string_view text, size_t at) {
  if (at == 0) return -1;
  const size_t window = std::min<size_t>(at, 4);  // the macro counts in 32 bits
  auto index = static_cast<int32_t>(window);
  UChar32 c;
  U8_PREV(text.data() + at - window, 0, index, c);
  return c;
}

UChar32 After(std::string_view text, size_t at, size_t* next) {
  int64_t index = static_cast<int64_t>(at);
  UChar32 c = -1;
  if (at < text.size()) U8_NEXT(text.data(), index, static_cast<int64_t>(text.size()), c);
  *next = static_cast<size_t>(index);
  return c;
}

bool IsSpace(UChar32 c) { return c >= 0 && u_hasBinaryProperty(c, UCHAR_WHITE_SPACE); }

// \w: letters, marks, decimal digits, connector punctuation.
bool IsWord(UChar32 c) {
  return c >= 0 && (u_hasBinaryProperty(c, UCHAR_ALPHABETIC) ||
                    (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0);
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(const std::vector<AddedToken>& tokens) : tokens_(tokens) {
  std::stable_sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
    return a.content.size() > b.content.size();
  });
  for (const AddedToken& token : tokens_) starts_[static_cast<uint8_t>(token.content[0])] = true;
}

bool AddedTokenFinder::Holds(int32_t id) const {
  return std::any_of(tokens_.begin(), tokens_.end(),
                     [id](const AddedToken& token) { return token.id == id; });
}

const AddedToken* AddedTokenFinder::At(std::string_view text, size_t at) const {
  for (const AddedToken& token : tokens_) {
    if (text.substr(at, token.content.size()) == token.content) return &token;
  }
  return nullptr;
}

std::optional<AddedTokenFinder::Match> AddedTokenFinder::Find(std::string_view text,
                                                              size_t from) const {
  for (size_t at = from; at < text.size(); ++at) {
    if (!starts_[static_cast<uint8_t>(text[at])]) continue;
    const AddedToken* token = At(text, at);
    if (token == nullptr) continue;
    Match match{at, at + token->content.size(), token->id};
    size_t next;
    if (token->single_word &&
        (IsWord(Before(text, match.begin)) || IsWord(After(text, match.end, &next)))) {
      continue;
    }
    while (token->left_strip && match.begin > from && IsSpace(Before(text, match.begin))) {
      do --match.begin;
      while ((static_cast<uint8_t>(text[match.begin]) & 0xc0) == 0x80);
    }
    while (token->right_strip && IsSpace(After(text, match.end, &next))) match.end = next;
    return match;
  }
  return std::nullopt;
}

}  // namespace trireme
