// --set: what it changes, and what it leaves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/config_loader.h"
#include "proto/config.pb.h"

namespace trireme {
namespace {

using testing::HasSubstr;

std::string RunOn(const std::string& train) {
  return "run: {dir: d}\nmodel: {preset: llama-5m}\ndata:\n  train: " + train + "\n";
}

Result<std::unique_ptr<proto::Config>> WithSet(const std::string& yaml,
                                               const std::vector<std::string>& overrides) {
  return ParseConfig(yaml, "run.yaml", overrides);
}

std::string Refusal(const std::string& yaml, const std::vector<std::string>& overrides) {
  const Status status = WithSet(yaml, overrides).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  return status.message();
}

TEST(OverridesTest, AKeyOfAListIsSetInItsOnlyItem) {
  auto config = WithSet(RunOn("[{path: a, weight: 3}]"), {"data.train.weight=2"});
  ASSERT_TRUE(config.ok()) << config.status().message();
  ASSERT_EQ((*config)->data().train_size(), 1);
  EXPECT_EQ((*config)->data().train(0).path(), "a");
  EXPECT_EQ((*config)->data().train(0).weight(), 2);

  config = WithSet(RunOn("[{path: a, weight: 3}]"), {"data.train={path: b}"});
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ((*config)->data().train(0).path(), "b");
  EXPECT_FALSE((*config)->data().train(0).has_weight()) << "a whole item replaces the list";
}

TEST(OverridesTest, KeysOfAnItemThatIsMadeAreKeptInAnyOrder) {
  const std::string path = "data.train.path=x", weight = "data.train.weight=2";
  for (const auto& overrides :
       {std::vector<std::string>{path, weight}, std::vector<std::string>{weight, path}}) {
    const auto config = WithSet("run: {dir: d}\nmodel: {preset: llama-5m}\n", overrides);
    ASSERT_TRUE(config.ok()) << config.status().message();
    ASSERT_EQ((*config)->data().train_size(), 1);
    EXPECT_EQ((*config)->data().train(0).path(), "x");
    EXPECT_EQ((*config)->data().train(0).weight(), 2);
  }
}

TEST(OverridesTest, AKeyOfOneOfSeveralItemsNeedsTheWholeList) {
  const std::string two = RunOn("[{path: a}, {path: b}]");
  EXPECT_EQ(Refusal(two, {"data.train.weight=2"}),
            "--set data.train.weight=2: data.train has 2 items: expected the whole list, --set "
            "'data.train=[{path: a, weight: 2}, ...]'");
  EXPECT_THAT(Refusal(two, {"data.train.wieght=2"}), HasSubstr("did you mean weight?"));
}

TEST(OverridesTest, ADropoutIsANumber) {
  const std::string run = RunOn("[{path: a}]");
  for (const std::string value : {"foo", "0.1x", "true", "[0.1]", "nan"}) {
    const std::string text = "--set model.resid_pdrop=" + value;
    EXPECT_THAT(Refusal(run, {"model.resid_pdrop=" + value}),
                testing::AllOf(HasSubstr(text + ": model.resid_pdrop: "),
                               testing::EndsWith(": expected a number")));
  }
  for (const char* value : {"0.1", "1e-1", "0", "null"}) {
    EXPECT_TRUE(WithSet(run, {std::string("model.resid_pdrop=") + value}).ok()) << value;
  }
  EXPECT_EQ(Refusal("model:\n  preset: llama-5m\n  attn_pdrop: much\n", {}),
            "run.yaml:3: model.attn_pdrop: much: expected a number");
}

TEST(OverridesTest, TheHeadsOfGpt2CutItsWidth) {
  const std::string gpt2 = "model: {family: gpt2, vocab_size: 8, n_embd: 8, n_layer: 1, ";
  EXPECT_EQ(Refusal(gpt2 + "n_head: 2}\n", {"model.head_dim=8"}),
            "--set model.head_dim=8: model.head_dim: 8: expected hidden_size / "
            "num_attention_heads (4)");
  EXPECT_EQ(Refusal(gpt2 + "n_head: 3}\n", {}),
            "run.yaml:1: model.n_head: 3: expected a divisor of hidden_size (8)");
}

}  // namespace
}  // namespace trireme
