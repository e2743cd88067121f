// The microbatches that a step reads from token files.
#include "worker/training/data_feed.h"

#include <gmock/gmock.h>

#include <numeric>

#include "tests/worker_training/token_files.h"
#include "worker/kernels/cross_entropy.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

class DataFeedTest : public testing::Test {
 protected:
  // Ids first, first + 1, ..., so many, as one document.
  std::string Range(const std::string& name, int32_t first, int32_t count) {
    Ids ids(count);
    std::iota(ids.begin(), ids.end(), first);
    WriteTokens(folder_ / name, {ids});
    return folder_ / name;
  }
  TemporaryFolder folder_;
};

// Five windows of 3 tokens; step s reads windows 4 (s - 1) .. 4 (s - 1) + 3, modulo 5.
TEST_F(DataFeedTest, AStepReadsItsWindowsAndWhatFollowsThem) {
  const auto feed = OpenFeed({.train = {Range("train", 1, 17)}, .length = 3}).value();
  EXPECT_EQ(feed->step_label_tokens(), 12);
  const std::vector<Ids> starts = {{1, 4, 7, 10}, {13, 1, 4, 7}, {10, 13, 1, 4}};
  for (int step = 1; step <= 3; ++step) {
    const std::vector<MicrobatchId> both = {0, 1};
    ASSERT_TRUE(feed->LoadStep(step, both).ok());
    for (const MicrobatchId id : both) {
      const Microbatch& data = feed->Get(id);
      const int32_t a = starts[step - 1][id * 2], b = starts[step - 1][id * 2 + 1];
      EXPECT_THAT(Values(data.ids), ElementsAre(a, a + 1, a + 2, b, b + 1, b + 2))
          << "step " << step << ", microbatch " << id;
      EXPECT_THAT(Values(data.labels), ElementsAre(a + 1, a + 2, a + 3, b + 1, b + 2, b + 3));
      EXPECT_THAT(Values(data.places.positions), ElementsAre(0, 1, 2, 0, 1, 2));
      EXPECT_FALSE(data.places.document_starts.defined());
      EXPECT_EQ(data.gradient_scale, 1.0 / 12);
      EXPECT_EQ(feed->LabelTokens(id), 6);
    }
  }
  // A data rank reads the microbatches that are its own.
  ASSERT_TRUE(feed->LoadStep(1, std::vector<MicrobatchId>{1}).ok());
  EXPECT_THAT(Values(feed->Get(1).ids), ElementsAre(7, 8, 9, 10, 11, 12));
}

TEST_F(DataFeedTest, WhatWasReadAheadIsWhatTheStepHas) {
  const auto feed = OpenFeed({.train = {Range("train", 1, 17)}, .length = 3}).value();
  const std::vector<MicrobatchId> both = {0, 1}, second = {1};
  ASSERT_TRUE(feed->LoadStep(1, both).ok());
  feed->ReadAhead(2, both);
  EXPECT_THAT(Values(feed->Get(0).ids), ElementsAre(1, 2, 3, 4, 5, 6)) << "still the first step";
  ASSERT_TRUE(feed->LoadStep(2, both).ok());
  EXPECT_THAT(Values(feed->Get(0).ids), ElementsAre(13, 14, 15, 1, 2, 3));
  // Something else is asked for than was expected.
  feed->ReadAhead(3, both);
  ASSERT_TRUE(feed->LoadStep(3, second).ok());
  EXPECT_THAT(Values(feed->Get(1).ids), ElementsAre(1, 2, 3, 4, 5, 6));
  ASSERT_TRUE(feed->LoadStep(1, both).ok());
  EXPECT_THAT(Values(feed->Get(1).ids), ElementsAre(7, 8, 9, 10, 11, 12));
}

TEST_F(DataFeedTest, AnErrorOfWhatWasReadAheadIsToldByItsStep) {
  WriteTokens(folder_ / "train", {{1, 2, 3, 4, 5, 6, 99, 8, 9, 10, 11, 12, 13}});
  const auto feed =
      OpenFeed({.train = {folder_ / "train"}, .length = 3, .sequences = 2, .vocab_size = 50})
          .value();
  const std::vector<MicrobatchId> all = {0};
  feed->ReadAhead(1, all);
  const Status status = feed->LoadStep(1, all);
  EXPECT_THAT(status.message(), HasSubstr("token 6 is 99"));
}

// 5 6 7 0 | 8 0 | 9 10 11 12 0 | 1 | 2 3 0 4: the first window ends in the second document, which
// the second window goes on with.
TEST_F(DataFeedTest, PositionsRestartAtEachDocumentWhenIsolated) {
  WriteTokens(folder_ / "train", {{5, 6, 7, 0}, {8, 0}, {9, 10, 11, 12, 0}, {1}, {2, 3, 0, 4}});
  FeedOptions options{.train = {folder_ / "train"}, .sequences = 3, .rows = 3};
  options.isolate = true;
  const auto feed = OpenFeed(options).value();
  ASSERT_TRUE(feed->LoadStep(1, std::vector<MicrobatchId>{0}).ok());
  const Microbatch& data = feed->Get(0);
  const Ids ids = {5, 6, 7, 0, 8, /**/ 0, 9, 10, 11, 12, /**/ 0, 1, 2, 3, 0};
  const Ids labels = {6, 7, 0, 8, 0, /**/ 9, 10, 11, 12, 0, /**/ 1, 2, 3, 0, 4};
  const Ids positions = {0, 1, 2, 3, 0, /**/ 0, 0, 1, 2, 3, /**/ 0, 0, 0, 1, 2};
  const Ids starts = {0, 0, 0, 0, 4, /**/ 0, 1, 1, 1, 1, /**/ 0, 1, 2, 2, 2};
  EXPECT_EQ(Values(data.ids), ids);
  EXPECT_EQ(Values(data.labels), labels);
  EXPECT_EQ(Values(data.places.positions), positions);
  EXPECT_EQ(Values(data.places.document_starts), starts);
  EXPECT_EQ(feed->LabelTokens(0), 15) << "the border of two documents is predicted as well";
}

// Two windows of one file and one of another, two sequences a microbatch.
TEST_F(DataFeedTest, TheLastValidationMicrobatchIsFilledUpWithoutLabels) {
  for (const bool isolate : {false, true}) {
    FeedOptions options{.train = {Range("train", 1, 17)},
                        .validation = {Range("one", 1, 8), Range("two", 11, 5)},
                        .length = 3};
    options.isolate = isolate;
    const auto feed = OpenFeed(options).value();
    ASSERT_TRUE(feed->has_validation());
    EXPECT_EQ(feed->ValidationMicrobatches(1), 2);
    ASSERT_TRUE(feed->LoadValidation(std::vector<MicrobatchId>{0, 1}).ok());
    EXPECT_THAT(Values(feed->Get(0).ids), ElementsAre(1, 2, 3, 4, 5, 6));
    EXPECT_THAT(Values(feed->Get(0).labels), ElementsAre(2, 3, 4, 5, 6, 7));
    EXPECT_EQ(feed->LabelTokens(0), 6);
    const Microbatch& last = feed->Get(1);
    EXPECT_THAT(Values(last.ids), ElementsAre(11, 12, 13, 0, 0, 0));
    EXPECT_THAT(Values(last.labels), ElementsAre(12, 13, 14, kNoLabel, kNoLabel, kNoLabel));
    EXPECT_THAT(Values(last.places.positions), ElementsAre(0, 1, 2, 0, 1, 2));
    EXPECT_EQ(feed->LabelTokens(1), 3);
    ASSERT_EQ(last.places.document_starts.defined(), isolate);
    if (isolate) {
      EXPECT_THAT(Values(last.places.document_starts), ElementsAreArray(Ids(6, 0)));
    }
  }
}

TEST_F(DataFeedTest, ValidationTakesTheFirstWindowsAndSkipsFilesThatAreTooShort) {
  const auto feed = OpenFeed({.train = {Range("train", 1, 17)},
                              .validation = {Range("short", 1, 3), Range("long", 1, 19)},
                              .length = 3,
                              .sequences = 2,
                              .rows = 1})
                        .value();
  EXPECT_EQ(feed->ValidationMicrobatches(2), 4) << "of 6 windows";
  EXPECT_EQ(feed->ValidationMicrobatches(3), 6);
  EXPECT_EQ(feed->ValidationMicrobatches(4), 6) << "fewer if the data end before";
  ASSERT_TRUE(feed->LoadValidation(std::vector<MicrobatchId>{5}).ok());
  EXPECT_THAT(Values(feed->Get(5).ids), ElementsAre(16, 17, 18));
}

TEST_F(DataFeedTest, DataThatCannotBeFedAreRefused) {
  const auto error = [](const FeedOptions& options, StatusCode code) {
    const Status status = OpenFeed(options).status();
    EXPECT_EQ(status.code(), code) << status.message();
    return status.message();
  };
  const std::string train = Range("train", 1, 17);
  EXPECT_EQ(error({}, StatusCode::kInvalidArgument),
            "data.train: not set: expected a list of TOKENS");
  EXPECT_EQ(error({.train = {train}, .length = 16}, StatusCode::kOk), "");
  EXPECT_THAT(error({.train = {train}, .length = 17}, StatusCode::kDataLoss),
              HasSubstr("train.bin: 17 tokens are not enough for one sample"));
  EXPECT_THAT(
      error({.train = {train}, .validation = {Range("short", 1, 5)}}, StatusCode::kDataLoss),
      HasSubstr("short.bin: 5 tokens are not enough"));
  WriteTokens(folder_ / "wide", {Ids(17, 3)}, 30);
  const Status wide = OpenFeed({.train = {folder_ / "wide"}}).value()->CheckVocabulary();
  EXPECT_EQ(wide.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(
      wide.message(),
      HasSubstr("model.vocab_size: 20: expected at least the 30 tokens of the tokenizer of "));
}

// A source that no sample would ever come from is not what was meant.
TEST_F(DataFeedTest, AWeightThatIsNothingIsRefused) {
  const std::string one = Range("one", 1, 17), two = Range("two", 1, 17);
  const auto open = [&](double weight) {
    return OpenFeed({.train = {one, two}, .weights = {1 - weight, weight}}).status();
  };
  EXPECT_TRUE(open(0.0006).ok());
  const Status status = open(0.0004);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "data.train: weight 0.0004 of " + two +
                                  ": expected at least one sample of 1000 by its share of the "
                                  "weights");
}

// Id 17 stands at position 16, where it is the label of the last window's last token.
TEST_F(DataFeedTest, AnIdBeyondTheVocabularyIsNamedWithItsPosition) {
  const auto feed =
      OpenFeed({.train = {Range("train", 1, 17)}, .length = 4, .vocab_size = 17}).value();
  ASSERT_TRUE(feed->LoadStep(1, std::vector<MicrobatchId>{0}).ok());
  const Status loaded = feed->LoadStep(1, std::vector<MicrobatchId>{1});
  for (const Status& status : {loaded, feed->CheckVocabulary()}) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("16 is 17"));
  }
}

}  // namespace
}  // namespace trireme
