// Words cut at borders have the tokens of whole ones: against a merger that knows nothing but the
// definition of byte pair encoding.
#include "worker/text/bpe_borders.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>

#include "worker/text/bpe_tokenizer.h"

namespace trireme {
namespace {

// Characters that share bytes, at each end of a character, and of all lengths.
const std::vector<std::string> kCharacters = {"一", "丁", "七", "万", "的", "皀", "。", "、",
                                              "ぁ", "가", "a",  " ",  "é",  "א",  "😀",  "😁"};

std::string RandomText(std::mt19937* random, int characters) {
  // Mostly the first ones, so that pairs come again.
  std::geometric_distribution<size_t> choose(0.25);
  std::string text;
  for (int i = 0; i < characters; ++i) {
    text += kCharacters[std::min(choose(*random), kCharacters.size() - 1)];
  }
  return text;
}

using Merges = std::map<std::pair<int32_t, int32_t>, BpeMerge>;

// The lowest rank first, of equal ranks the leftmost.
std::vector<int32_t> MergeOneByOne(const std::string& word, const Merges& merges) {
  std::vector<int32_t> symbols;
  for (const char c : word) symbols.push_back(static_cast<uint8_t>(c));
  while (true) {
    size_t best = symbols.size();
    const BpeMerge* found = nullptr;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto at = merges.find({symbols[i], symbols[i + 1]});
      if (at == merges.end() || (found != nullptr && found->rank <= at->second.rank)) continue;
      best = i;
      found = &at->second;
    }
    if (found == nullptr) return symbols;
    symbols[best] = found->result;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

// Bytes, and `count` merges of pairs that come in texts once the merges before them are done. So
// pieces of characters meet across borders, and ranks are of any order.
struct RandomPairs {
  RandomPairs(int count, std::mt19937* random) {
    for (int byte = 0; byte < 256; ++byte)
      tokens.push_back(std::string(1, static_cast<char>(byte)));
    std::vector<uint32_t> ranks(count);
    for (int i = 0; i < count; ++i) ranks[i] = i;
    if ((*random)() % 2 == 0) std::shuffle(ranks.begin(), ranks.end(), *random);
    while (std::ssize(merges) < count) {
      const std::vector<int32_t> symbols = MergeOneByOne(RandomText(random, 40), merges);
      if (symbols.size() < 2) continue;
      const size_t at = (*random)() % (symbols.size() - 1);
      const auto result = static_cast<int32_t>(tokens.size());
      tokens.push_back(tokens[symbols[at]] + tokens[symbols[at + 1]]);
      const BpeMerge merge{symbols[at], symbols[at + 1], result, ranks[merges.size()]};
      merges[{merge.left, merge.right}] = merge;
    }
  }
  std::vector<BpeMerge> List() const {
    std::vector<BpeMerge> list;
    for (const auto& [pair, merge] : merges) list.push_back(merge);
    return list;
  }
  std::unique_ptr<Tokenizer> MakeTokenizer() const {
    BpeDefinition definition;
    definition.tokens = tokens;
    definition.present.assign(tokens.size(), true);
    definition.merges = List();
    auto tokenizer = MakeBpeTokenizer(std::move(definition), "test");
    CHECK(tokenizer.ok()) << tokenizer.status().message();
    return std::move(tokenizer).value();
  }

  std::vector<std::string> tokens;
  Merges merges;
};

TEST(BpeBordersTest, PartsHaveTheTokensOfWholeWords) {
  std::mt19937 random(7);
  for (int round = 0; round < 60; ++round) {
    const RandomPairs pairs(1 + round * 3, &random);
    const auto tokenizer = pairs.MakeTokenizer();
    for (int i = 0; i < 200; ++i) {
      const std::string text = RandomText(&random, 1 + i % 60);
      std::vector<int32_t> ids;
      tokenizer->Encode(text, &ids);
      ASSERT_EQ(ids, MergeOneByOne(text, pairs.merges)) << round << ": " << text;
    }
  }
}

TEST(BpeBordersTest, AreFoundWhereNoMergeGoes) {
  const std::string text = "一丁";  // e4 b8 80, e4 b8 81
  const char* const border = text.data() + 3;
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(std::string(1, static_cast<char>(byte)));
  for (const char* more : {"一", "丁", "\xb8\x80", "\xe4\xb8", "x一"}) tokens.push_back(more);
  EXPECT_FALSE(BpeBorders().defined());
  const auto may_cross = [&](int32_t left, int32_t right) {
    return BpeBorders({{left, right, 0, 0}}, tokens).MayCross(border);
  };
  for (const int32_t left : {256, 0x80, 258, 260}) {
    for (const int32_t right : {257, 0xe4, 259}) {
      // "x一" is longer than what is compared: it might be there.
      EXPECT_TRUE(may_cross(left, right)) << left << " and " << right;
    }
  }
  EXPECT_FALSE(may_cross(257, 257));
  EXPECT_FALSE(may_cross(0x81, 257));
  EXPECT_FALSE(may_cross(256, 0xb8));
  EXPECT_FALSE(may_cross(259, 0x80)) << "inside a character";
}

}  // namespace
}  // namespace trireme
