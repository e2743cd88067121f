// What is left of a checkpoint after corruption, crashes and full disks, and what is said about it.
#include <gmock/gmock.h>

#include "storage/checkpoint_copy.h"
#include "storage/checkpoint_manifest.h"
#include "tests/storage/checkpoint_fixture.h"
#include "tests/storage/faulty_store.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;

constexpr char kChunk[] = "step_00000100/rank_00000_0.safetensors";
constexpr char kManifest[] = "step_00000100/manifest.json";

class CheckpointFaultTest : public testing::Test {
 protected:
  CheckpointFaultTest() {
    const StateTensors state = StateTensors::Small();
    CHECK(WriteCheckpoint(*store_, state, {.step = 50}).ok());
    CHECK(WriteCheckpoint(*store_, state, {.step = 100}).ok());
  }
  void Change(const std::string& key, const std::function<void(std::string*)>& change) {
    std::string bytes = *ReadObject(*store_, key);
    change(&bytes);
    CHECK(PutText(*store_, key, bytes).ok());
  }
  // Why step 100 was skipped in favour of step 50.
  std::string Skipped() {
    std::vector<std::string> skipped;
    const auto reader = OpenNewestCheckpoint(*store_, &skipped);
    if (!reader.ok()) return reader.status().message();
    if ((*reader)->step() == 100) return "";
    EXPECT_EQ((*reader)->step(), 50);
    EXPECT_EQ(skipped.size(), 1u);
    EXPECT_EQ(OpenVerifiedCheckpoint(*store_, 100).status().code(), StatusCode::kStorage);
    return skipped[0];
  }

  std::unique_ptr<ObjectStore> store_ = NewMemoryStore();
};

TEST_F(CheckpointFaultTest, TheNewestThatVerifiesIsTaken) {
  EXPECT_EQ(Skipped(), "");
  EXPECT_EQ((*OpenNewestCheckpoint(*store_, nullptr, 99))->step(), 50);
}

TEST_F(CheckpointFaultTest, AFlippedBitIsFoundWhereverItIs) {
  const int64_t size = *store_->Size(kChunk);
  int headers = 0, tensors = 0;
  for (int64_t at = 0; at < size; at += 97) {
    const auto flip = [&](std::string* bytes) { (*bytes)[at] ^= 16; };
    Change(kChunk, flip);
    const std::string line = Skipped();
    const bool in_tensor = line.find(": tensor ") != std::string::npos;
    (in_tensor ? tensors : headers) += 1;
    EXPECT_THAT(line, MatchesRegex("memory:///step_00000100/rank_00000_0.safetensors: (tensor .* "
                                   "at byte [0-9]+|bytes 0 to .*): checksum [0-9a-f]{16}, expected "
                                   "[0-9a-f]{16}"));
    Change(kChunk, flip);
  }
  EXPECT_GT(headers, 3);
  EXPECT_GT(tensors, 30);
  EXPECT_EQ(Skipped(), "");
}

TEST_F(CheckpointFaultTest, TheLineNamesTheTensorAndItsOffset) {
  const auto reader = CheckpointReader::Open(*store_, 100);
  const int64_t size = *store_->Size(kChunk);
  Change(kChunk, [&](std::string* bytes) { (*bytes)[size - 1] ^= 1; });
  EXPECT_THAT(Skipped(), HasSubstr("tensor optimizer.v.norm.weight at byte " +
                                   std::to_string(size - 32) + ": checksum "));
}

TEST_F(CheckpointFaultTest, ATruncatedChunkIsFound) {
  const int64_t size = *store_->Size(kChunk);
  Change(kChunk, [&](std::string* bytes) { bytes->resize(size - 1); });
  EXPECT_EQ(Skipped(), StrCat("memory:///", kChunk, ": ", size - 1, " bytes, expected ", size));
  ASSERT_TRUE(store_->Delete(kChunk).ok());
  EXPECT_EQ(Skipped(), StrCat("memory:///", kChunk, ": does not exist"));
}

TEST_F(CheckpointFaultTest, ATornManifestIsFound) {
  const std::string whole = *ReadObject(*store_, kManifest);
  for (size_t size = 0; size < whole.size(); size += 101) {
    ASSERT_TRUE(PutText(*store_, kManifest, whole.substr(0, size)).ok());
    EXPECT_THAT(Skipped(), HasSubstr(StrCat("memory:///", kManifest, ": "))) << size;
  }
  ASSERT_TRUE(store_->Delete(kManifest).ok());
  EXPECT_EQ(Skipped(), StrCat("memory:///", kManifest, ": does not exist"));
}

TEST_F(CheckpointFaultTest, AChangedManifestIsFound) {
  const std::string whole = *ReadObject(*store_, kManifest);
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    const size_t at = text.find(from);
    CHECK_NE(at, std::string::npos);
    text.replace(at, from.size(), to);
    CHECK(PutText(*store_, kManifest, text).ok());
    return Skipped();
  };
  EXPECT_THAT(replaced("\"seed\": \"1234\"", "\"seed\": \"1235\""),
              MatchesRegex("memory:///step_00000100/manifest.json: checksum [0-9a-f]{16}, expected "
                           "[0-9a-f]{16}"));
  EXPECT_EQ(replaced("\"format_version\": 1", "\"format_version\": 2, \"new_field\": 3"),
            "memory:///step_00000100/manifest.json: format_version 2, expected 1");
  const auto is_damaged =
      testing::AllOf(HasSubstr("memory:///step_00000100/manifest.json: torn or damaged, not the "
                               "JSON of a manifest: "),
                     testing::Not(HasSubstr("^")));
  EXPECT_THAT(replaced("\"seed\"", "\"seed"), is_damaged);
  ASSERT_TRUE(PutText(*store_, kManifest, whole.substr(0, 300)).ok());
  EXPECT_THAT(Skipped(), is_damaged);
  // A manifest of another step in this folder.
  ASSERT_TRUE(
      PutText(*store_, kManifest, *ReadObject(*store_, "step_00000050/manifest.json")).ok());
  EXPECT_EQ(Skipped(), "memory:///step_00000100/manifest.json: step 50, expected 100");
}

TEST_F(CheckpointFaultTest, WhenNoneVerifiesItIsAStorageError) {
  for (const char* step : {"50", "100"}) {
    Change(StrCat("step_00000", step == std::string("50") ? "0" : "", step,
                  "/rank_00000_0.safetensors"),
           [](std::string* bytes) { bytes->back() ^= 1; });
  }
  const Status status = OpenNewestCheckpoint(*store_, nullptr).status();
  EXPECT_EQ(status.code(), StatusCode::kStorage);
  EXPECT_EQ(ExitCode(status), 4);
  EXPECT_THAT(status.message(), HasSubstr("none of 2 checkpoints verifies; the newest: "
                                          "memory:///step_00000100/rank_00000_0.safetensors: "));
}

TEST_F(CheckpointFaultTest, AnEmptyStoreHasNone) {
  auto empty = NewMemoryStore();
  EXPECT_EQ(OpenNewestCheckpoint(*empty, nullptr).status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(PutText(*empty, "step_00000007/rank_00000_0.safetensors", "x").ok());
  const Status orphan = OpenNewestCheckpoint(*empty, nullptr).status();
  EXPECT_EQ(orphan.code(), StatusCode::kStorage);
  EXPECT_THAT(orphan.message(), HasSubstr("step_00000007/manifest.json: does not exist"));
}

TEST_F(CheckpointFaultTest, AFullDiskLeavesTheOlderCheckpoints) {
  Faults faults;
  FaultyStore full(*store_, faults);
  int failures = 0;
  // However far the write comes, step 150 exists whole or not at all.
  for (int64_t bytes = 0;; bytes += 1500) {
    faults.bytes_until_full = bytes;
    const Status status = WriteCheckpoint(full, StateTensors::Small(), {.step = 150, .ranks = 2});
    if (status.ok()) break;
    ++failures;
    EXPECT_EQ(status.code(), StatusCode::kStorage);
    EXPECT_THAT(status.message(), HasSubstr("cannot be written: No space left on device"));
    EXPECT_THAT(*ListCheckpoints(*store_), ElementsAre(50, 100));
    EXPECT_EQ((*OpenNewestCheckpoint(*store_, nullptr))->step(), 100);
  }
  EXPECT_GT(failures, 5);
  EXPECT_EQ(faults.fired, failures);
  EXPECT_EQ((*OpenNewestCheckpoint(*store_, nullptr))->step(), 150);
}

TEST_F(CheckpointFaultTest, ACopyThatFailsTakesItsChunksAlong) {
  ASSERT_TRUE(WriteCheckpoint(*store_, StateTensors::Small(), {.step = 150, .ranks = 3}).ok());
  const auto checkpoint = CheckpointReader::Open(*store_, 150);
  auto target = NewMemoryStore();
  Faults faults;
  FaultyStore full(*target, faults);
  int commits = 0;
  faults.before = [&](const std::string& operation, const std::string&) {
    commits += operation == "commit";
  };
  for (int64_t bytes = 0;; bytes += 1500) {
    faults.bytes_until_full = bytes;
    const Status status = CopyCheckpoint(*store_, **checkpoint, full);
    if (status.ok()) break;
    EXPECT_THAT(status.message(), HasSubstr("No space left on device"));
    EXPECT_THAT(*target->List(""), IsEmpty()) << bytes;
  }
  EXPECT_GT(commits, 3) << "some failed with chunks in place";
  EXPECT_THAT(*ListCheckpoints(*target), ElementsAre(150));
}

TEST_F(CheckpointFaultTest, AStoreThatTearsAWriteIsNoticedBeforeTheManifest) {
  Faults faults;
  FaultyStore torn(*store_, faults);
  faults.torn_key = "step_00000150/rank_00001_0.safetensors";
  const Status status = WriteCheckpoint(torn, StateTensors::Small(), {.step = 150, .ranks = 2});
  EXPECT_EQ(faults.fired, 1);
  EXPECT_EQ(status.code(), StatusCode::kStorage);
  EXPECT_THAT(status.message(), HasSubstr("rank_00001_0.safetensors: "));
  EXPECT_THAT(*ListCheckpoints(*store_), ElementsAre(50, 100));
}

TEST_F(CheckpointFaultTest, DeletingTakesTheManifestFirst) {
  Faults faults;
  FaultyStore store(*store_, faults);
  std::vector<std::string> deleted;
  faults.before = [&](const std::string& operation, const std::string& key) {
    if (operation == "delete") deleted.push_back(key);
  };
  ASSERT_TRUE(DeleteCheckpoint(store, 100).ok());
  EXPECT_THAT(deleted, ElementsAre(kManifest, kChunk));
  EXPECT_THAT(*store_->List("step_00000100"), IsEmpty());
}

TEST_F(CheckpointFaultTest, LaterStepsCanBeWrittenAgainOnceDiscarded) {
  Change(kChunk, [](std::string* bytes) { bytes->back() ^= 1; });
  ASSERT_TRUE(DiscardCheckpointsAfter(*store_, 50).ok());
  EXPECT_THAT(*ListCheckpoints(*store_), ElementsAre(50));
  EXPECT_TRUE(store_->Size("step_00000100/manifest.discarded.json").ok()) << "kept for people";
  ASSERT_TRUE(WriteCheckpoint(*store_, StateTensors::Small(), {.step = 100}).ok());
  EXPECT_EQ(Skipped(), "");
}

TEST_F(CheckpointFaultTest, LeftoversAreSweptButNotWhatIsBeingWritten) {
  for (const char* key : {"step_00000070/rank_00000_0.safetensors",
                          "step_00000150/rank_00000_0.safetensors", "notes/text"}) {
    ASSERT_TRUE(PutText(*store_, key, "x").ok());
  }
  ASSERT_TRUE(SweepCheckpoints(*store_).ok());
  EXPECT_THAT(*store_->List("step_00000070"), IsEmpty());
  EXPECT_EQ(store_->List("step_00000150")->size(), 1u);
  EXPECT_EQ(store_->List("notes")->size(), 1u);
  EXPECT_THAT(*ListCheckpoints(*store_), ElementsAre(50, 100));
}

}  // namespace
}  // namespace trireme
