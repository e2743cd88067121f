// Pre-tokenizers by PCRE2, and the published patterns by name.
#include "worker/text/pretokenize.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdint>

namespace trireme {
namespace {

constexpr size_t kJitStackBytesMax = size_t{64} << 20;

// White_Space is what Rust's regex and Oniguruma mean by \s; PCRE2 adds U+180E.
constexpr std::string_view kSpaceClass = "\\t-\\r \\x{85}\\p{Z}";

std::string WithUnicodeSpaces(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char next = pattern[++i];
      if (next == 's') {
        out += in_class ? std::string(kSpaceClass) : StrCat("[", kSpaceClass, "]");
      } else if (next == 'S' && !in_class) {
        out += StrCat("[^", kSpaceClass, "]");
      } else {
        out += {c, next};
      }
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

std::string Pcre2Message(int code) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

class RegexPreTokenizer : public PreTokenizer {
 public:
  ~RegexPreTokenizer() override { pcre2_code_free(code_); }

  Status Compile(const std::string& pattern) {
    const std::string translated = WithUnicodeSpaces(pattern);
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_ =
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
    if (code_ == nullptr) {
      return InvalidArgumentError(
          StrCat("pattern \"", pattern, "\" does not compile: ", Pcre2Message(error)));
    }
    pcre2_jit_compile(code_, PCRE2_JIT_COMPLETE);  // without JIT it is slower, not wrong
    return OkStatus();
  }

  size_t Split(std::string_view text, size_t* begin, std::span<size_t> ends) const override {
    Scratch scratch;
    size_t count = 0;
    size_t search = *begin;
    while (*begin < text.size() && count < ends.size()) {
      size_t match_begin = text.size(), match_end = text.size();
      if (!Match(text, search, scratch, &match_begin, &match_end)) {
        match_begin = match_end = text.size();
      }
      if (match_begin == match_end && match_begin < text.size()) {
        search = NextCharacter(text, match_begin);  // an empty match cuts nothing
        if (search < text.size()) continue;
        match_begin = match_end = text.size();
      }
      // The gap before the match is a piece; the match itself is found again by the next turn.
      const size_t end = match_begin > *begin ? match_begin : match_end;
      ends[count++] = *begin = search = end;
    }
    return count;
  }

 private:
  struct Scratch {
    pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
    pcre2_match_context* context = nullptr;
    pcre2_jit_stack* stack = nullptr;
    ~Scratch() {
      pcre2_match_data_free(match);
      pcre2_match_context_free(context);
      pcre2_jit_stack_free(stack);
    }
  };

  static size_t NextCharacter(std::string_view text, size_t at) {
    do ++at;
    while (at < text.size() && (static_cast<uint8_t>(text[at]) & 0xc0) == 0x80);
    return at;
  }

  bool Match(std::string_view text, size_t from, Scratch& scratch, size_t* begin,
             size_t* end) const {
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int rc = pcre2_match(code_, subject, text.size(), from, PCRE2_NO_UTF_CHECK, scratch.match,
                         scratch.context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && scratch.stack == nullptr) {
      // Long runs need more than the 32 KiB of machine stack that JIT code takes by itself.
      scratch.stack = pcre2_jit_stack_create(1 << 20, kJitStackBytesMax, nullptr);
      scratch.context = pcre2_match_context_create(nullptr);
      pcre2_jit_stack_assign(scratch.context, nullptr, scratch.stack);
      rc = pcre2_match(code_, subject, text.size(), from, PCRE2_NO_UTF_CHECK, scratch.match,
                       scratch.context);
    }
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
      LOG(ERROR) << "pre-tokenisation pattern gave up at byte " << from << " (" << Pcre2Message(rc)
                 << "); the rest of the text is one piece";
    }
    if (rc < 0) return false;
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(scratch.match);
    *begin = offsets[0];
    *end = offsets[1];
    return true;
  }

  pcre2_code* code_ = nullptr;
};

constexpr const char* kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kCl100k =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kO200k =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// tiktoken's later spellings. The first means what kGpt2 means; the second differs from kCl100k for
// a text that ends in a line break and spaces, which it keeps in one piece.
constexpr const char* kGpt2Possessive =
    R"('(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s)";
constexpr const char* kCl100kPossessive =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+)"
    R"(|\s++$|\s*[\r\n]|\s+(?!\S)|\s)";

struct KnownPattern {
  const char* name;
  const char* pattern;
};
constexpr KnownPattern kKnownPatterns[] = {
    {"gpt2", kGpt2},
    {"cl100k", kCl100k},
    {"llama3", kCl100k},
    {"qwen", kQwen},
    {"qwen2", kQwen},
    {"qwen3", kQwen},
    {"o200k", kO200k},
    {"r50k", kGpt2},
    {"p50k", kGpt2},
    {"gpt2", kGpt2Possessive},
    {"cl100k_end", kCl100kPossessive},
};

}  // namespace

std::string PatternByName(const std::string& name) {
  for (const KnownPattern& known : kKnownPatterns) {
    if (name == known.name) return known.pattern;
  }
  return name;
}

Status CheckPatternName(const std::string& name) {
  constexpr const char* kOfNames =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
  if (name.empty() || name.find_first_not_of(kOfNames) != std::string::npos) return OkStatus();
  if (PatternByName(name) != name) return OkStatus();
  return InvalidArgumentError(StrCat(
      "--pattern ", name, ": expected gpt2, cl100k, o200k, llama3, qwen or a regular expression"));
}

std::string NameOfPattern(const std::string& pattern) {
  for (const KnownPattern& known : kKnownPatterns) {
    if (pattern == known.pattern) return known.name;
  }
  return "";
}

Result<std::unique_ptr<PreTokenizer>> MakeRegexPreTokenizer(const std::string& pattern) {
  auto regex = std::make_unique<RegexPreTokenizer>();
  RETURN_IF_ERROR(regex->Compile(pattern));
  return std::unique_ptr<PreTokenizer>(std::move(regex));
}

Result<std::unique_ptr<PreTokenizer>> MakePreTokenizer(const std::string& pattern) {
  if (auto known = MakeKnownPreTokenizer(pattern)) return known;
  return MakeRegexPreTokenizer(pattern);
}

}  // namespace trireme
