#include "worker/text/near_duplicates.h"

#include <unicode/uchar.h>
#include <unicode/uscript.h>
#include <unicode/utf8.h>
#include <xxhash.h>

#include <algorithm>
#include <limits>
#include <string>

#include "cluster/base/rng.h"

namespace trireme {
namespace {

constexpr int kPermutations = kMinHashBands * kMinHashRows;

bool IsWrittenWithoutSpaces(UChar32 c) {
  if (c < 0xE00) return false;
  UErrorCode error = U_ZERO_ERROR;
  switch (uscript_getScript(c, &error)) {
    case USCRIPT_HAN:
    case USCRIPT_HIRAGANA:
    case USCRIPT_KATAKANA:
    case USCRIPT_THAI:
    case USCRIPT_LAO:
    case USCRIPT_KHMER:
    case USCRIPT_MYANMAR:
      return true;
    default:
      return false;
  }
}

bool IsWordCharacter(UChar32 c) {
  return (U_GET_GC_MASK(c) & (U_GC_L_MASK | U_GC_M_MASK | U_GC_N_MASK)) != 0;
}

// Hashes of the words of `text`, in order.
std::vector<uint64_t> WordHashes(std::string_view text) {
  std::vector<uint64_t> words;
  std::string word;
  const auto end_word = [&] {
    if (!word.empty()) words.push_back(XXH3_64bits(word.data(), word.size()));
    word.clear();
  };
  const auto append = [&](UChar32 c) {
    char bytes[U8_MAX_LENGTH];
    int32_t size = 0;
    U8_APPEND_UNSAFE(bytes, size, c);
    word.append(bytes, static_cast<size_t>(size));
  };
  const auto size = static_cast<int32_t>(text.size());
  for (int32_t i = 0; i < size;) {
    UChar32 c = static_cast<unsigned char>(text[i]);
    if (c < 0x80) {
      ++i;
      const bool upper = c >= 'A' && c <= 'Z';
      if (upper || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
        word.push_back(static_cast<char>(upper ? c + 32 : c));
      } else {
        end_word();
      }
      continue;
    }
    U8_NEXT_OR_FFFD(text.data(), i, size, c);
    if (IsWrittenWithoutSpaces(c)) {
      end_word();
      append(c);
      end_word();
    } else if (IsWordCharacter(c)) {
      append(u_tolower(c));
    } else {
      end_word();
    }
  }
  end_word();
  return words;
}

// h(x) = mix(a x + b), a bijection of 32 bits for odd a: a permutation a parameter pair. mix is
// MurmurHash3's finaliser (Appleby, public domain).
struct Permutations {
  std::array<uint32_t, kPermutations> a;
  std::array<uint32_t, kPermutations> b;

  Permutations() {
    constexpr uint64_t kSeed = 0x7472697265;  // part of no format; fixed so that runs agree
    const CounterRng rng(kSeed, RngUse::kInit, 14 * 8);
    for (int i = 0; i < kPermutations; ++i) {
      a[i] = rng.Bits32(2 * static_cast<uint64_t>(i)) | 1;
      b[i] = rng.Bits32(2 * static_cast<uint64_t>(i) + 1);
    }
  }
};

uint32_t Mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x85ebca6bU;
  x ^= x >> 13;
  x *= 0xc2b2ae35U;
  x ^= x >> 16;
  return x;
}

}  // namespace

std::vector<uint64_t> Shingles(std::string_view text) {
  const std::vector<uint64_t> words = WordHashes(text);
  std::vector<uint64_t> shingles;
  if (words.empty()) return shingles;
  const size_t length = std::min<size_t>(words.size(), kShingleWords);
  shingles.reserve(words.size() - length + 1);
  for (size_t i = 0; i + length <= words.size(); ++i) {
    shingles.push_back(XXH3_64bits(words.data() + i, length * sizeof(uint64_t)));
  }
  return shingles;
}

std::array<uint64_t, kMinHashBands> MinHashBands(const std::vector<uint64_t>& shingles) {
  static const Permutations permutations;
  std::array<uint32_t, kPermutations> minima;
  minima.fill(std::numeric_limits<uint32_t>::max());
  for (const uint64_t shingle : shingles) {
    const auto x = static_cast<uint32_t>(shingle ^ (shingle >> 32));
    for (int i = 0; i < kPermutations; ++i) {
      minima[i] = std::min(minima[i], Mix(permutations.a[i] * x + permutations.b[i]));
    }
  }
  std::array<uint64_t, kMinHashBands> bands;
  for (int band = 0; band < kMinHashBands; ++band) {
    const uint64_t key =
        XXH3_64bits(minima.data() + band * kMinHashRows, kMinHashRows * sizeof(uint32_t));
    bands[band] = key != 0 ? key : 1;
  }
  return bands;
}

DuplicateSignature SignatureOf(std::string_view text) {
  DuplicateSignature signature;
  const XXH128_hash_t exact = XXH3_128bits(text.data(), text.size());
  signature.exact = {exact.low64, exact.high64 | 1};
  const std::vector<uint64_t> shingles = Shingles(text);
  if (!shingles.empty()) {
    signature.bands = MinHashBands(shingles);
  } else {
    signature.bands.fill(exact.low64 | 1);  // no words: similar to its equals alone
  }
  return signature;
}

DuplicateKind DuplicateIndex::Add(const DuplicateSignature& signature, bool near) {
  if (exact_.Contains(signature.exact)) return DuplicateKind::kExact;
  if (near) {
    for (int band = 0; band < kMinHashBands; ++band) {
      if (bands_[band].Contains(signature.bands[band])) return DuplicateKind::kNear;
    }
    for (int band = 0; band < kMinHashBands; ++band) bands_[band].Insert(signature.bands[band]);
  }
  exact_.Insert(signature.exact);
  return DuplicateKind::kNone;
}

size_t DuplicateIndex::bytes() const {
  size_t bytes = exact_.bytes();
  for (const KeySet<uint64_t>& band : bands_) bytes += band.bytes();
  return bytes;
}

}  // namespace trireme
