#include "worker/text/charset.h"

#include <unicode/ucnv.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string_view>

namespace trireme {
namespace {

struct CloseConverter {
  void operator()(UConverter* converter) const { ucnv_close(converter); }
};
using Converter = std::unique_ptr<UConverter, CloseConverter>;

Converter OpenConverter(const std::string& name) {
  UErrorCode error = U_ZERO_ERROR;
  UConverter* converter = ucnv_open(name.c_str(), &error);
  return Converter(U_SUCCESS(error) ? converter : nullptr);
}

// What browsers read under a declared name (WHATWG encoding standard): the names of the old
// standards mean their Windows supersets.
std::string WebEncoding(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (name == "iso-8859-1" || name == "latin1" || name == "us-ascii" || name == "ascii") {
    return "windows-1252";
  }
  if (name == "gb2312" || name == "gbk" || name == "x-gbk") return "gb18030";
  if (name == "iso-8859-9") return "windows-1254";
  if (name == "ks_c_5601-1987" || name == "euc-kr") return "windows-949";
  if (name == "shift_jis" || name == "x-sjis") return "windows-31j";
  return name;
}

// The charset named near the start of a page; empty if none is.
std::string DeclaredEncoding(std::string_view page) {
  const std::string_view head = page.substr(0, 4096);
  for (const std::string_view key : {"charset=", "encoding="}) {
    for (size_t at = head.find(key); at != std::string_view::npos; at = head.find(key, at + 1)) {
      size_t begin = at + key.size();
      while (begin < head.size() && (head[begin] == '"' || head[begin] == '\'')) ++begin;
      size_t end = begin;
      while (end < head.size() && (std::isalnum(static_cast<unsigned char>(head[end])) != 0 ||
                                   std::strchr("-_:.", head[end]) != nullptr)) {
        ++end;
      }
      if (end > begin) return WebEncoding(std::string(head.substr(begin, end - begin)));
    }
  }
  return {};
}

// `text` from `encoding`; false where the encoding is unknown or does not fit the bytes: more than
// one character in a thousand without a meaning.
bool Convert(const std::string& encoding, std::string* text) {
  const Converter from = OpenConverter(encoding);
  const Converter to = OpenConverter("UTF-8");
  if (from == nullptr || to == nullptr) return false;
  std::string out(text->size() * 3 + 16, '\0');
  char* target = out.data();
  const char* source = text->data();
  UErrorCode error = U_ZERO_ERROR;
  ucnv_convertEx(to.get(), from.get(), &target, out.data() + out.size(), &source,
                 text->data() + text->size(), nullptr, nullptr, nullptr, nullptr, true, true,
                 &error);
  if (U_FAILURE(error)) return false;
  out.resize(static_cast<size_t>(target - out.data()));
  int64_t replaced = 0;
  for (size_t at = out.find("\xEF\xBF\xBD"); at != std::string::npos;
       at = out.find("\xEF\xBF\xBD", at + 3)) {
    ++replaced;
  }
  if (replaced * 1000 > CountCharacters(out)) return false;
  *text = std::move(out);
  return true;
}

// Takes invalid sequences out of what is otherwise UTF-8; -1 where it is not, else their number.
int64_t RemoveStrayBytes(std::string* text) {
  std::string kept;
  kept.reserve(text->size());
  int64_t good = 0;
  int64_t bad = 0;
  const auto size = static_cast<int32_t>(text->size());
  for (int32_t i = 0; i < size;) {
    const int32_t begin = i;
    UChar32 c;
    U8_NEXT(text->data(), i, size, c);
    if (c < 0) {
      ++bad;
    } else {
      good += c >= 0x80 ? 1 : 0;
      kept.append(*text, static_cast<size_t>(begin), static_cast<size_t>(i - begin));
    }
  }
  if (good < 10 * bad) return -1;
  *text = std::move(kept);
  return bad;
}

}  // namespace

Status CheckEncodingName(const std::string& name) {
  if (OpenConverter(name) != nullptr) return OkStatus();
  return InvalidArgumentError(
      StrCat("--encoding ", name, ": unknown; expected a name like windows-1252 or gb18030"));
}

bool ToUtf8(bool html, const std::string& fallback, std::string* text, TextChanges* changes) {
  if (IsValidUtf8(*text)) return true;
  const std::string declared = html ? DeclaredEncoding(*text) : "";
  for (const std::string& encoding : {declared, fallback}) {
    if (encoding.empty() || encoding == "utf-8" || encoding == "utf8") continue;
    if (!Convert(encoding, text)) continue;
    (*changes)[static_cast<size_t>(TextChange::kEncoding)] += CountCharacters(*text);
    return true;
  }
  const int64_t stray = RemoveStrayBytes(text);
  if (stray > 0) (*changes)[static_cast<size_t>(TextChange::kInvalidUtf8)] += stray;
  return stray >= 0;
}

}  // namespace trireme
