#include "cluster/comm/staging_area.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>

namespace trireme {
namespace {

std::unique_ptr<StagingArea> Make(int size) {
  auto made = StagingArea::Make(size);
  CHECK(made.ok()) << made.status().message();
  return std::move(*made);
}

TEST(StagingAreaTest, BlocksAreTheLowestThatAreFree) {
  const auto area = Make(2);
  auto first = area->Take(1);
  auto second = area->Take(StagingArea::kAlignment + 1);
  auto third = area->Take(100);
  EXPECT_EQ(area->OffsetOf(first.get()), 0);
  EXPECT_EQ(area->OffsetOf(second.get()), StagingArea::kAlignment);
  EXPECT_EQ(area->OffsetOf(third.get()), 3 * StagingArea::kAlignment);
  second.reset();
  EXPECT_EQ(area->OffsetOf(area->Take(3 * StagingArea::kAlignment).get()),
            4 * StagingArea::kAlignment)
      << "the gap is too small";
  EXPECT_EQ(area->OffsetOf(area->Take(2 * StagingArea::kAlignment).get()), StagingArea::kAlignment);
}

TEST(StagingAreaTest, ABlockIsTakenUntilItsLastHolderLetsGo) {
  const auto area = Make(2);
  auto all = area->Take(StagingArea::kBytes);
  ASSERT_NE(all, nullptr);
  auto holder = all;
  all.reset();
  EXPECT_EQ(area->Take(1), nullptr);
  holder.reset();
  EXPECT_NE(area->Take(1), nullptr);
  EXPECT_EQ(area->Take(StagingArea::kBytes + 1), nullptr);
}

// A send of `sequence` to `peer`, of [begin, end) and then [0, 2) of `text`.
std::unique_ptr<Transfer> Send(std::string& text, int peer, uint32_t sequence, int64_t begin,
                               int64_t end) {
  auto* data = reinterpret_cast<std::byte*>(text.data());
  auto transfer = std::make_unique<Transfer>();
  transfer->peer = peer;
  transfer->key.sequence = sequence;
  transfer->key.slot = peer;
  transfer->layout = StreamLayout({{data + begin, end - begin}, {data, 2}});
  return transfer;
}

TEST(StagingAreaTest, WhatACollectiveSendsToSeveralIsCopiedOnce) {
  const auto area = Make(4);
  std::string text = "0123456789";
  const auto to_1 = area->Put(*Send(text, 1, 7, 4, 8));
  ASSERT_NE(to_1, nullptr);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(to_1.get()), 6), "456701");
  text = "9876543210";  // between the operations of one group, so that copies can be told
  EXPECT_EQ(area->Put(*Send(text, 2, 7, 4, 8)), to_1);
  const auto other_part = area->Put(*Send(text, 3, 7, 3, 7));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(other_part.get()), 6), "654398");
  const auto next = area->Put(*Send(text, 1, 8, 4, 8));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(next.get()), 6), "543298");
  const auto message = Send(text, 1, 9, 4, 8);
  message->key.collective = false;
  const auto first = area->Put(*message);
  EXPECT_NE(area->Put(*message), first) << "two messages of one number, to different peers";
}

TEST(StagingAreaTest, WithoutRoomNothingIsPut) {
  const auto area = Make(2);
  std::string text = "0123456789";
  const auto all = area->Take(StagingArea::kBytes);
  EXPECT_EQ(area->Put(*Send(text, 1, 7, 4, 8)), nullptr);
}

TEST(StagingAreaTest, CopiesInPiecesAreWhole) {
  for (const int64_t bytes : {0, 1, 1983, 1984, 1985, 10000}) {
    std::string source(bytes, 0), target(bytes + 1, 'x');
    for (int64_t i = 0; i < bytes; ++i) source[i] = static_cast<char>(i * 7 % 251);
    CopyInPieces(reinterpret_cast<std::byte*>(target.data()),
                 reinterpret_cast<const std::byte*>(source.data()), bytes);
    EXPECT_EQ(target, source + "x");
  }
}

TEST(StagingAreaTest, ABlockOutlivesItsArea) {
  auto area = Make(2);
  auto block = area->Take(8);
  area.reset();
  std::memcpy(block.get(), "written", 8);
  EXPECT_STREQ(reinterpret_cast<const char*>(block.get()), "written");
}

TEST(StagingAreaTest, AnotherProcessReadsABlockEvenAfterItsOwnersEnd) {
  const auto area = Make(2);
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto own = Make(2);
    own->Take(1 << 20).reset();
    const auto first = own->Take(8);
    const auto block = own->Take(8);
    std::memcpy(block.get(), "message", 8);
    const int said[2] = {own->descriptor(), own->OffsetOf(block.get())};
    if (write(pipes[1], said, sizeof(said)) != sizeof(said)) _exit(1);
    while (true) pause();
  }
  int said[2];
  ASSERT_EQ(read(pipes[0], said, sizeof(said)), ssize_t{sizeof(said)});
  ASSERT_TRUE(area->Connect(1, child, said[0]).ok());
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_STREQ(reinterpret_cast<const char*>(area->Of(1, said[1], 8)), "message");
  close(pipes[0]);
  close(pipes[1]);
}

TEST(StagingAreaDeathTest, ABlockOutsideOfAnAreaIsRefused) {
  const auto area = Make(2);
  EXPECT_DEATH(area->Of(1, 0, 1), "of the staging area of process 1, which has 0");
  const auto peer = Make(2);
  ASSERT_TRUE(area->Connect(1, getpid(), peer->descriptor()).ok());
  EXPECT_DEATH(area->Of(1, StagingArea::kBytes - 1, 2), "which has 8388608");
  EXPECT_DEATH(area->Of(1, -1, 2), "which has 8388608");
}

}  // namespace
}  // namespace trireme
