// The published patterns walked by hand. Every function below follows the alternatives of its
// regular expression in their order, with what backtracking would find worked out beforehand.
#include <unicode/uchar.h>

#include <array>
#include <cstdint>
#include <memory>

#include "worker/text/pretokenize.h"

namespace trireme {
namespace {

// Properties of a code point, as bits.
enum : uint8_t {
  kLetter = 1,     // \p{L}
  kNumber = 2,     // \p{N}
  kSpace = 4,      // \s
  kLineBreak = 8,  // [\r\n]
  kUpperish = 16,  // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
  kLowerish = 32,  // [\p{Ll}\p{Lm}\p{Lo}\p{M}]
};
constexpr uint8_t kWordOrSpace = kLetter | kNumber | kSpace;

class Properties {
 public:
  Properties() {
    u_enumCharTypes(
        [](const void* context, UChar32 start, UChar32 limit, UCharCategory type) -> UBool {
          uint8_t* bits = static_cast<Properties*>(const_cast<void*>(context))->bits_.data();
          const uint8_t of_type = OfCategory(type);
          for (UChar32 c = start; c < limit; ++c) bits[c] = of_type;
          return 1;
        },
        this);
    for (UChar32 c = 0; c <= 0x3000; ++c) {  // White_Space ends with the ideographic space
      if (u_hasBinaryProperty(c, UCHAR_WHITE_SPACE)) bits_[c] |= kSpace;
    }
    bits_['\r'] |= kLineBreak;
    bits_['\n'] |= kLineBreak;
  }
  const uint8_t* bits() const { return bits_.data(); }

 private:
  static uint8_t OfCategory(UCharCategory type) {
    const uint32_t mask = U_MASK(type);
    uint8_t bits = 0;
    if ((mask & U_GC_L_MASK) != 0) bits |= kLetter;
    if ((mask & U_GC_N_MASK) != 0) bits |= kNumber;
    if ((mask & (U_GC_LU_MASK | U_GC_LT_MASK | U_GC_LM_MASK | U_GC_LO_MASK | U_GC_M_MASK)) != 0) {
      bits |= kUpperish;
    }
    if ((mask & (U_GC_LL_MASK | U_GC_LM_MASK | U_GC_LO_MASK | U_GC_M_MASK)) != 0) {
      bits |= kLowerish;
    }
    return bits;
  }

  std::array<uint8_t, 0x110000> bits_ = {};
};

const uint8_t* PropertyBits() {
  static const auto* properties = new Properties;  // 1.1 MiB, filled once a process
  return properties->bits();
}

// Walks valid UTF-8. All offsets are pointers into the text.
struct Walker {
  const uint8_t* bits;
  const char* end;

  // Properties of the character at p (p < end); *next is where the following one starts.
  uint8_t At(const char* p, const char** next) const {
    const auto b0 = static_cast<uint8_t>(*p);
    if (b0 < 0x80) {
      *next = p + 1;
      return bits[b0];
    }
    const auto byte = [p](int i) {
      return static_cast<uint32_t>(static_cast<uint8_t>(p[i]) & 0x3f);
    };
    if (b0 < 0xe0) {
      *next = p + 2;
      return bits[(b0 & 0x1fu) << 6 | byte(1)];
    }
    if (b0 < 0xf0) {
      *next = p + 3;
      return bits[(b0 & 0x0fu) << 12 | byte(1) << 6 | byte(2)];
    }
    *next = p + 4;
    return bits[(b0 & 0x07u) << 18 | byte(1) << 12 | byte(2) << 6 | byte(3)];
  }

  // The end of the run of characters from p that have any of `wanted`.
  const char* Run(const char* p, uint8_t wanted) const {
    while (p < end) {
      const char* next;
      if ((At(p, &next) & wanted) == 0) break;
      p = next;
    }
    return p;
  }

  // The same for characters that have none of `unwanted`.
  const char* RunWithout(const char* p, uint8_t unwanted) const {
    while (p < end) {
      const char* next;
      if ((At(p, &next) & unwanted) != 0) break;
      p = next;
    }
    return p;
  }

  // At most `count` numbers.
  const char* Numbers(const char* p, int count) const {
    for (; count > 0 && p < end; --count) {
      const char* next;
      if ((At(p, &next) & kNumber) == 0) break;
      p = next;
    }
    return p;
  }

  // The end of 's 't 'm 'd 're 've 'll at p, or p. Without case, U+017F (long s) is an s.
  template <bool kAnyCase>
  const char* Contraction(const char* p) const {
    if (end - p < 2 || *p != '\'') return p;
    const auto fold = [](char c) {
      return kAnyCase && c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
    };
    const char a = fold(p[1]);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return p + 2;
    if (end - p < 3) return p;
    const char b = fold(p[2]);
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l')) return p + 3;
    if (kAnyCase && p[1] == '\xc5' && p[2] == '\xbf') return p + 3;
    return p;
  }

  // \s+(?!\S)|\s+ for a run of spaces [p, run_end): the last one goes to what follows, if anything
  // does and if it is not alone.
  const char* Spaces(const char* p, const char* run_end) const {
    if (run_end == end) return run_end;
    const char* last = run_end - 1;
    while ((static_cast<uint8_t>(*last) & 0xc0) == 0x80) --last;
    return last > p ? last : run_end;
  }

  // \s*[\r\n]+|\s+(?!\S)|\s+ at p, where a space is. `whole_at_end`: \s++$ comes first.
  const char* SpacesOrLines(const char* p, bool whole_at_end) const {
    const char* run_end = p;
    const char* lines_end = p;
    while (run_end < end) {
      const char* next;
      const uint8_t bits_here = At(run_end, &next);
      if ((bits_here & kSpace) == 0) break;
      if ((bits_here & kLineBreak) != 0) lines_end = next;
      run_end = next;
    }
    if (whole_at_end && run_end == end) return end;
    return lines_end > p ? lines_end : Spaces(p, run_end);
  }
};

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
struct Gpt2 {
  const char* Next(const Walker& walk, const char* p) const {
    if (*p == '\'') {
      const char* end = walk.Contraction<false>(p);
      if (end > p) return end;
    }
    const char* start = p;
    const char* next;
    uint8_t bits = walk.At(p, &next);
    if (*p == ' ' && next < walk.end) {
      const char* after;
      const uint8_t following = walk.At(next, &after);
      if ((following & kSpace) == 0) {
        start = next;
        next = after;
        bits = following;
      }
    }
    if ((bits & kLetter) != 0) return walk.Run(next, kLetter);
    if ((bits & kSpace) != 0) return walk.Spaces(start, walk.Run(next, kSpace));
    if ((bits & kNumber) != 0) return walk.Run(next, kNumber);
    return walk.RunWithout(next, kWordOrSpace);
  }
};

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*
// |\s*[\r\n]+|\s+(?!\S)|\s+     with \p{N} alone for Qwen.
struct Cl100k {
  int numbers = 3;
  bool whole_at_end = false;

  const char* Next(const Walker& walk, const char* p) const {
    if (*p == '\'') {
      const char* end = walk.Contraction<true>(p);
      if (end > p) return end;
    }
    const char* next;
    const uint8_t bits = walk.At(p, &next);
    if ((bits & kLetter) != 0) return walk.Run(next, kLetter);
    if ((bits & kNumber) != 0) return walk.Numbers(next, numbers - 1);
    uint8_t following = kSpace;
    const char* after = next;
    if (next < walk.end) following = walk.At(next, &after);
    if ((following & kLetter) != 0 && (bits & kLineBreak) == 0) return walk.Run(after, kLetter);
    if ((bits & kSpace) == 0) {
      return walk.Run(walk.RunWithout(next, kWordOrSpace), kLineBreak);
    }
    if (*p == ' ' && (following & kWordOrSpace) == 0) {
      return walk.Run(walk.RunWithout(after, kWordOrSpace), kLineBreak);
    }
    return walk.SpacesOrLines(p, whole_at_end);
  }
};

// As Cl100k, but words are capitals followed by small letters, each set with the letters and marks
// that have no case, and take their contraction along; symbols take slashes along.
struct O200k {
  // [U]*[L]+ from p, or null. Backtracking gives the capitals' run back to its last caseless
  // letter.
  static const char* SmallWord(const Walker& walk, const char* p) {
    const char* last_caseless_end = nullptr;
    while (p < walk.end) {
      const char* next;
      const uint8_t bits = walk.At(p, &next);
      if ((bits & kUpperish) == 0) {
        if ((bits & kLowerish) != 0) return walk.Run(next, kLowerish);
        break;
      }
      if ((bits & kLowerish) != 0) last_caseless_end = next;
      p = next;
    }
    return last_caseless_end;
  }

  // [U]+[L]* from p, or null.
  static const char* CapitalWord(const Walker& walk, const char* p) {
    const char* capitals_end = walk.Run(p, kUpperish);
    return capitals_end > p ? walk.Run(capitals_end, kLowerish) : nullptr;
  }

  const char* Next(const Walker& walk, const char* p) const {
    const char* next;
    const uint8_t bits = walk.At(p, &next);
    const bool may_lead = (bits & (kLetter | kNumber | kLineBreak)) == 0;
    const char* word = nullptr;
    if (may_lead) word = SmallWord(walk, next);
    if (word == nullptr && (bits & (kUpperish | kLowerish)) != 0) word = SmallWord(walk, p);
    if (word == nullptr && may_lead) word = CapitalWord(walk, next);
    if (word == nullptr && (bits & kUpperish) != 0) word = CapitalWord(walk, p);
    if (word != nullptr) return walk.Contraction<true>(word);
    if ((bits & kNumber) != 0) return walk.Numbers(next, 2);
    if ((bits & kSpace) == 0) return Symbols(walk, next);
    if (*p == ' ' && next < walk.end) {
      const char* after;
      if ((walk.At(next, &after) & kWordOrSpace) == 0) return Symbols(walk, after);
    }
    return walk.SpacesOrLines(p, false);
  }

  static const char* Symbols(const Walker& walk, const char* p) {
    p = walk.RunWithout(p, kWordOrSpace);
    while (p < walk.end && (*p == '\r' || *p == '\n' || *p == '/')) ++p;
    return p;
  }
};

template <typename Pattern>
class KnownPreTokenizer : public PreTokenizer {
 public:
  explicit KnownPreTokenizer(Pattern pattern) : pattern_(pattern), bits_(PropertyBits()) {}

  size_t Split(std::string_view text, size_t* begin, std::span<size_t> ends) const override {
    const Walker walk{bits_, text.data() + text.size()};
    const char* p = text.data() + *begin;
    size_t count = 0;
    while (p < walk.end && count < ends.size()) {
      p = pattern_.Next(walk, p);
      ends[count++] = p - text.data();
    }
    *begin = p - text.data();
    return count;
  }

 private:
  Pattern pattern_;
  const uint8_t* bits_;
};

}  // namespace

std::unique_ptr<PreTokenizer> MakeKnownPreTokenizer(const std::string& pattern) {
  const std::string name = NameOfPattern(pattern);
  if (name == "gpt2") return std::make_unique<KnownPreTokenizer<Gpt2>>(Gpt2{});
  if (name == "cl100k") return std::make_unique<KnownPreTokenizer<Cl100k>>(Cl100k{3, false});
  if (name == "cl100k_end") return std::make_unique<KnownPreTokenizer<Cl100k>>(Cl100k{3, true});
  if (name == "qwen") return std::make_unique<KnownPreTokenizer<Cl100k>>(Cl100k{1, false});
  if (name == "o200k") return std::make_unique<KnownPreTokenizer<O200k>>(O200k{});
  return nullptr;
}

}  // namespace trireme
