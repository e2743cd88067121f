#include "worker/text/near_duplicates.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>

#include "cluster/base/rng.h"

namespace trireme {
namespace {

TEST(NearDuplicatesTest, ShinglesAreRunsOfFiveWords) {
  EXPECT_EQ(Shingles("one two three four five six").size(), 2u);
  EXPECT_EQ(Shingles("One, TWO -- three\nfour five!"), Shingles("one two three four five"));
  EXPECT_EQ(Shingles("too short").size(), 1u);
  EXPECT_TRUE(Shingles("... !?").empty());
  // Scripts without spaces: characters are words.
  EXPECT_EQ(Shingles("\u4E00\u4E8C\u4E09\u56DB\u4E94\u516D\u4E03").size(), 3u);
}

// Pairs of sets of known similarity collide in at least one band as often as the formula says.
TEST(NearDuplicatesTest, CollisionsFollowTheProbabilityCurve) {
  constexpr int kPairs = 1500;
  const CounterRng rng(11, RngUse::kTest, 5);
  uint64_t draw = 0;
  for (const int shared : {40, 60, 70, 80, 90}) {
    // 100 shingles in the union, `shared` of them in both.
    const double s = shared / 100.0;
    const double expected = 1.0 - std::pow(1.0 - std::pow(s, 8), 14);
    int collisions = 0;
    for (int pair = 0; pair < kPairs; ++pair) {
      std::vector<uint64_t> left;
      std::vector<uint64_t> right;
      for (int i = 0; i < 100; ++i) {
        const uint64_t shingle = rng.Bits64(draw++);
        if (i < shared || i % 2 == 0) left.push_back(shingle);
        if (i < shared || i % 2 == 1) right.push_back(shingle);
      }
      const auto a = MinHashBands(left);
      const auto b = MinHashBands(right);
      bool collides = false;
      for (int band = 0; band < kMinHashBands; ++band) collides |= a[band] == b[band];
      collisions += collides ? 1 : 0;
    }
    // Five standard deviations of a binomial count.
    const double tolerance = 5 * std::sqrt(expected * (1 - expected) / kPairs) + 1e-9;
    EXPECT_NEAR(static_cast<double>(collisions) / kPairs, expected, tolerance) << "s = " << s;
  }
}

TEST(NearDuplicatesTest, IndexTellsEqualFromSimilarFromNew) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += "word" + std::to_string(i) + " ";
  std::string similar = text;
  similar.replace(similar.find("word100"), 7, "changed");
  std::string other;
  for (int i = 0; i < 200; ++i) other += "other" + std::to_string(i) + " ";

  DuplicateIndex index;
  EXPECT_EQ(index.Add(SignatureOf(text), true), DuplicateKind::kNone);
  EXPECT_EQ(index.Add(SignatureOf(text), true), DuplicateKind::kExact);
  EXPECT_EQ(index.Add(SignatureOf(similar), true), DuplicateKind::kNear);
  EXPECT_EQ(index.Add(SignatureOf(other), true), DuplicateKind::kNone);
  EXPECT_EQ(index.Add(SignatureOf("!!!"), true), DuplicateKind::kNone);
  EXPECT_EQ(index.Add(SignatureOf("???"), true), DuplicateKind::kNone) << "no words, not equal";

  DuplicateIndex exact;
  EXPECT_EQ(exact.Add(SignatureOf(text), false), DuplicateKind::kNone);
  EXPECT_EQ(exact.Add(SignatureOf(similar), false), DuplicateKind::kNone);
  EXPECT_EQ(exact.Add(SignatureOf(text), false), DuplicateKind::kExact);
}

TEST(NearDuplicatesTest, IndexGrowsByAFewHundredBytesADocument) {
  DuplicateIndex index;
  const CounterRng rng(12, RngUse::kTest, 6);
  constexpr uint64_t kDocuments = 20000;
  for (uint64_t i = 0; i < kDocuments; ++i) {
    DuplicateSignature signature;
    signature.exact = {rng.Bits64(32 * i), rng.Bits64(32 * i + 1) | 1};
    for (int band = 0; band < kMinHashBands; ++band) {
      signature.bands[band] = rng.Bits64(32 * i + 2 + static_cast<uint64_t>(band)) | 1;
    }
    ASSERT_EQ(index.Add(signature, true), DuplicateKind::kNone);
    ASSERT_EQ(index.Add(signature, true), DuplicateKind::kExact);
  }
  EXPECT_LE(index.bytes(), 342 * kDocuments);
}

}  // namespace
}  // namespace trireme
