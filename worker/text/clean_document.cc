// Cleaning of one document by itself.
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>

#include "worker/text/charset.h"
#include "worker/text/cleaner.h"
#include "worker/text/html_text.h"

namespace trireme {

const char* DropReasonName(DropReason reason) {
  switch (reason) {
    case DropReason::kNotUtf8:
      return "not_utf8";
    case DropReason::kTooDeep:
      return "html_too_deep";
    case DropReason::kEmpty:
      return "empty";
    case DropReason::kTooShort:
      return "too_short";
    case DropReason::kTooLong:
      return "too_long";
    case DropReason::kSymbols:
      return "symbols";
    case DropReason::kExactDuplicate:
      return "exact_duplicate";
    case DropReason::kNearDuplicate:
      return "near_duplicate";
  }
  return "unknown";
}

double SymbolShare(std::string_view text) {
  int64_t visible = 0;
  int64_t symbols = 0;
  const auto size = static_cast<int32_t>(text.size());
  for (int32_t i = 0; i < size;) {
    UChar32 c = static_cast<unsigned char>(text[i]);
    if (c < 0x80) {
      ++i;
      if (c <= ' ') continue;
      const bool word = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
      symbols += word ? 0 : 1;
    } else {
      U8_NEXT_OR_FFFD(text.data(), i, size, c);
      const uint32_t category = U_GET_GC_MASK(c);
      if ((category & U_GC_Z_MASK) != 0) continue;
      symbols += (category & (U_GC_L_MASK | U_GC_M_MASK | U_GC_N_MASK)) != 0 ? 0 : 1;
    }
    ++visible;
  }
  return visible == 0 ? 0.0 : static_cast<double>(symbols) / static_cast<double>(visible);
}

namespace {

// What reading has changed already.
void CountMark(ByteOrderMark mark, int64_t characters, TextChanges* changes) {
  if (mark == ByteOrderMark::kUtf8) ++(*changes)[static_cast<size_t>(TextChange::kZeroWidth)];
  if (mark != ByteOrderMark::kUtf16) return;
  (*changes)[static_cast<size_t>(TextChange::kEncoding)] += characters;
}

}  // namespace

CleanedText CleanDocument(Document document, const CleanOptions& options) {
  CleanedText result;
  std::string& text = result.text;
  text = std::move(document.text);
  const auto drop = [&](DropReason reason) {
    result.dropped = reason;
    return std::move(result);
  };
  const bool html =
      options.html == HtmlMode::kAlways || (options.html == HtmlMode::kAuto && document.html);
  result.input_characters = static_cast<int64_t>(text.size());
  if (!ToUtf8(html, options.encoding, &text, &result.changes)) return drop(DropReason::kNotUtf8);
  result.input_characters = CountCharacters(text);
  CountMark(document.mark, result.input_characters, &result.changes);
  if (html) {
    std::optional<std::string> rendered = HtmlToText(text);
    if (!rendered.has_value()) return drop(DropReason::kTooDeep);
    text = std::move(*rendered);
    const int64_t removed = result.input_characters - CountCharacters(text);
    result.changes[static_cast<size_t>(TextChange::kHtml)] += std::max<int64_t>(1, removed);
  }
  CleanUnicode(&text, &result.changes);
  if (options.lowercase) Lowercase(&text, &result.changes);
  if (text.empty()) return drop(DropReason::kEmpty);
  const int64_t characters = CountCharacters(text);
  if (characters < options.characters_min) return drop(DropReason::kTooShort);
  if (options.characters_max > 0 && characters > options.characters_max) {
    return drop(DropReason::kTooLong);
  }
  if (SymbolShare(text) > options.symbol_share_max) return drop(DropReason::kSymbols);
  return result;
}

}  // namespace trireme
