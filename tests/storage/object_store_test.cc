#include "storage/object_store.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <thread>

#include "tests/storage/faulty_store.h"
#include "tests/storage/temporary_folder.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span<const char>(text));
}

// Every implementation keeps the same promises.
class ObjectStoreTest : public testing::TestWithParam<std::string> {
 protected:
  ObjectStoreTest() {
    if (GetParam() == "memory") {
      store_ = NewMemoryStore();
    } else if (GetParam() == "local") {
      store_ = NewLocalStore(folder_ / "store");
    } else {
      store_ = NewMemoryStore();
      base_ = std::move(store_);
      store_ = std::make_unique<FaultyStore>(*base_, no_faults_);
    }
  }
  std::string Get(const std::string& key) {
    const Result<std::string> text = ReadObject(*store_, key);
    return text.ok() ? *text : text.status().message();
  }

  TemporaryFolder folder_;
  Faults no_faults_;
  std::unique_ptr<ObjectStore> base_, store_;
};

TEST_P(ObjectStoreTest, PutReadsBackWholeAndInRanges) {
  ASSERT_TRUE(PutText(*store_, "a/b.bin", "hello world").ok());
  EXPECT_EQ(Get("a/b.bin"), "hello world");
  EXPECT_EQ(*store_->Size("a/b.bin"), 11);
  std::string part(5, '?');
  ASSERT_TRUE(store_->Read("a/b.bin", 6, std::as_writable_bytes(std::span<char>(part))).ok());
  EXPECT_EQ(part, "world");
  ASSERT_TRUE(PutText(*store_, "a/b.bin", "new").ok());
  EXPECT_EQ(Get("a/b.bin"), "new");
  ASSERT_TRUE(PutText(*store_, "empty", "").ok());
  EXPECT_EQ(Get("empty"), "");
}

TEST_P(ObjectStoreTest, PutIfAbsentNeverReplaces) {
  ASSERT_TRUE(*store_->PutIfAbsent("m", Bytes("first")));
  EXPECT_FALSE(*store_->PutIfAbsent("m", Bytes("second")));
  EXPECT_EQ(Get("m"), "first");
}

TEST_P(ObjectStoreTest, OfManyCreatorsOneWins) {
  std::atomic<int> winners{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back(
        [&, i] { winners += *store_->PutIfAbsent("m", Bytes(std::string(1000, 'a' + i))); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(winners, 1);
  EXPECT_EQ(Get("m"), std::string(1000, Get("m")[0]));
}

TEST_P(ObjectStoreTest, AStreamIsInvisibleUntilItIsCommitted) {
  {
    auto created = store_->Create("s/x");
    ObjectWriter* const writer = created->get();
    ASSERT_TRUE(writer->Append(Bytes(std::string(3 << 20, 'x'))).ok());
    ASSERT_TRUE(writer->Append(Bytes("end")).ok());
    EXPECT_EQ(store_->Size("s/x").status().code(), StatusCode::kNotFound);
    EXPECT_THAT(*store_->List(""), IsEmpty());
    ASSERT_TRUE(writer->Commit().ok());
  }
  EXPECT_EQ(*store_->Size("s/x"), (3 << 20) + 3);
  {
    auto abandoned_writer = store_->Create("s/y");
    ObjectWriter* const abandoned = abandoned_writer->get();
    ASSERT_TRUE(abandoned->Append(Bytes("abc")).ok());
  }
  EXPECT_THAT(*store_->List(""), ElementsAre("s/x"));
}

TEST_P(ObjectStoreTest, ListsByPrefixInOrder) {
  for (const char* key : {"step_2/b", "step_10/a", "step_2/a", "other", "step"}) {
    ASSERT_TRUE(PutText(*store_, key, "x").ok());
  }
  EXPECT_THAT(*store_->List("step_"), ElementsAre("step_10/a", "step_2/a", "step_2/b"));
  EXPECT_THAT(*store_->List("step_2/"), ElementsAre("step_2/a", "step_2/b"));
  EXPECT_THAT(*store_->List("nothing/"), IsEmpty());
  EXPECT_EQ(store_->List("")->size(), 5u);
}

TEST_P(ObjectStoreTest, DeleteRemovesOneAndForgivesNone) {
  ASSERT_TRUE(PutText(*store_, "d/a", "x").ok());
  ASSERT_TRUE(PutText(*store_, "d/b", "x").ok());
  EXPECT_TRUE(store_->Delete("d/a").ok());
  EXPECT_TRUE(store_->Delete("d/a").ok());
  EXPECT_TRUE(store_->Delete("no/such").ok());
  EXPECT_THAT(*store_->List(""), ElementsAre("d/b"));
}

TEST_P(ObjectStoreTest, ErrorsNameTheObjectAndWhatWasExpected) {
  const Status missing = ReadObject(*store_, "x/y").status();
  EXPECT_EQ(missing.code(), StatusCode::kNotFound);
  EXPECT_EQ(missing.message(), store_->Describe("x/y") + ": does not exist");
  ASSERT_TRUE(PutText(*store_, "short", "1234").ok());
  std::byte out[8];
  const Status range = store_->Read("short", 2, out);
  EXPECT_EQ(range.code(), StatusCode::kDataLoss);
  EXPECT_THAT(range.message(), HasSubstr(store_->Describe("short") + ": "));
  EXPECT_THAT(range.message(), HasSubstr("expected at least 10"));
  EXPECT_EQ(ReadObject(*store_, "short", 3).status().message(),
            store_->Describe("short") + ": 4 bytes, expected at most 3");
  for (const char* key : {"", "/a", "a//b", "a/", "../a", "a/..", ".hidden"}) {
    EXPECT_EQ(store_->Size(key).status().code(), StatusCode::kInvalidArgument) << key;
    EXPECT_EQ(PutText(*store_, key, "x").code(), StatusCode::kInvalidArgument) << key;
  }
}

INSTANTIATE_TEST_SUITE_P(Stores, ObjectStoreTest, testing::Values("memory", "local", "faulty"),
                         [](const auto& info) { return info.param; });

TEST(LocalStoreTest, LeftoversOfACrashAreNotListed) {
  const TemporaryFolder folder;
  auto store = NewLocalStore(folder.path());
  ASSERT_TRUE(PutText(*store, "a", "x").ok());
  std::ofstream(folder / ".b.partial-1-0") << "half";
  EXPECT_THAT(*store->List(""), ElementsAre("a"));
}

TEST(LocalStoreTest, WhatIsNotCommittedLeavesNoFolders) {
  const TemporaryFolder folder;
  auto store = NewLocalStore(folder.path());
  ASSERT_TRUE(PutText(*store, "a/kept", "x").ok());
  for (const char* key : {"a/b/c/object", "new/object", "object"}) {
    {
      auto writer = store->Create(key);
      ASSERT_TRUE(writer.ok()) << key;
      ASSERT_TRUE((*writer)->Append(Bytes("abc")).ok());
      ASSERT_TRUE(
          std::filesystem::is_directory((folder / key).substr(0, (folder / key).rfind('/'))));
    }
    EXPECT_THAT(*store->List(""), ElementsAre("a/kept"));
    EXPECT_FALSE(std::filesystem::exists(folder / "a/b")) << key;
    EXPECT_FALSE(std::filesystem::exists(folder / "new")) << key;
  }
  EXPECT_TRUE(std::filesystem::is_directory(folder.path())) << "the root stays";
}

TEST(LocalStoreTest, AnUnwritablePlaceIsAStorageErrorWithTheReason) {
  const TemporaryFolder folder;
  std::ofstream(folder / "file") << "x";
  auto store = NewLocalStore(folder / "file");
  const Status status = PutText(*store, "a", "x");
  EXPECT_EQ(status.code(), StatusCode::kStorage);
  EXPECT_THAT(status.message(), HasSubstr("file/a: "));
  EXPECT_THAT(status.message(), HasSubstr("Not a directory"));
}

TEST(LocalStoreTest, ADiskThatIsFullFailsWithPathAndReasonAndLeavesTheOldObject) {
  const TemporaryFolder folder;
  if (::mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=256k") != 0) {
    GTEST_SKIP() << "no tmpfs of our own: " << std::strerror(errno);
  }
  {
    auto store = NewLocalStore(folder.path());
    ASSERT_TRUE(PutText(*store, "a", "old").ok());
    const Status status = PutText(*store, "a", std::string(1 << 20, 'x'));
    EXPECT_EQ(status.code(), StatusCode::kStorage);
    EXPECT_EQ(status.message(), folder / "a: cannot be written: No space left on device");
    EXPECT_EQ(*ReadObject(*store, "a"), "old");
    EXPECT_EQ(store->PutIfAbsent("b", Bytes(std::string(1 << 20, 'x'))).status().code(),
              StatusCode::kStorage);
    EXPECT_THAT(*store->List(""), ElementsAre("a"));
    EXPECT_TRUE(PutText(*store, "a", std::string(100 << 10, 'y')).ok()) << "space was given back";
  }
  ::umount(folder.path().c_str());
}

TEST(LocalStoreTest, AFileSizeLimitActsLikeAFullDisk) {
  const TemporaryFolder folder;
  auto store = NewLocalStore(folder.path());
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  auto* const handler = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{64 << 10, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status status = PutText(*store, "a", std::string(1 << 20, 'x'));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, handler);
  EXPECT_EQ(status.code(), StatusCode::kStorage);
  EXPECT_EQ(status.message(), folder / "a: cannot be written: File too large");
  EXPECT_THAT(*store->List(""), IsEmpty());
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(OpenStoreTest, SchemesOpenTheStoreTheyName) {
  const TemporaryFolder folder;
  ASSERT_TRUE(PutText(**OpenStore("file://" + folder.path()), "k", "v").ok());
  EXPECT_EQ(*ReadObject(**OpenStore(folder.path() + "/"), "k"), "v");
  ASSERT_TRUE(PutText(**OpenStore("memory://one"), "k", "v").ok());
  EXPECT_EQ(*ReadObject(**OpenStore("memory://one"), "k"), "v");
  EXPECT_EQ(ReadObject(**OpenStore("memory://two"), "k").status().code(), StatusCode::kNotFound);
}

TEST(OpenStoreTest, OtherSchemesAreRefused) {
  const Status s3 = OpenStore("s3://bucket/prefix").status();
  EXPECT_EQ(s3.code(), StatusCode::kNotBuilt);
  EXPECT_EQ(s3.message(), "store 's3://bucket/prefix': s3:// is not built yet");
  EXPECT_EQ(OpenStore("ftp://x").status().message(),
            "store 'ftp://x': expected a path, file:///, s3:// or memory://");
  EXPECT_EQ(OpenStore("file://x").status().message(),
            "store 'file://x': expected file:///absolute/path");
  EXPECT_EQ(OpenStore("").status().code(), StatusCode::kInvalidArgument);
}

TEST(FaultyStoreTest, EachFaultFires) {
  auto base = NewMemoryStore();
  Faults faults;
  FaultyStore store(*base, faults);
  faults.torn_key = "torn";
  ASSERT_TRUE(PutText(store, "torn", "12345678").ok());
  EXPECT_EQ(*ReadObject(store, "torn"), "1234");
  faults.flip_key = "flip";
  faults.flip_offset = 1;
  ASSERT_TRUE(PutText(store, "flip", "aaa").ok());
  EXPECT_EQ(*ReadObject(store, "flip"), "a`a");
  std::vector<std::string> slow;
  faults.before = [&](const std::string& operation, const std::string& key) {
    slow.push_back(operation + " " + key);
  };
  faults.bytes_until_full = 10;
  EXPECT_EQ(PutText(store, "full", std::string(11, 'x')).code(), StatusCode::kStorage);
  EXPECT_EQ(faults.fired, 3);
  EXPECT_THAT(slow, ElementsAre("create full"));
}

}  // namespace
}  // namespace trireme
