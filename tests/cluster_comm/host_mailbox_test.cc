#include "cluster/comm/host_mailbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace trireme {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::vector<std::pair<int, std::string>> ReceiveAll(HostMailbox& mailbox) {
  std::vector<std::pair<int, std::string>> received;
  mailbox.Receive([&](int source, std::span<const std::byte> packet) {
    received.emplace_back(source,
                          std::string(reinterpret_cast<const char*>(packet.data()), packet.size()));
  });
  return received;
}

std::unique_ptr<HostMailbox> Make(int rank, int size) {
  auto made = HostMailbox::Make(rank, size);
  CHECK(made.ok()) << made.status().message();
  return std::move(*made);
}

// Of one process, which may open its own descriptors.
class HostMailboxTest : public testing::Test {
 protected:
  HostMailboxTest() {
    for (int rank = 0; rank < 3; ++rank) boxes.push_back(Make(rank, 3));
    for (int rank = 0; rank < 3; ++rank) {
      for (int peer = 0; peer < 3; ++peer) {
        if (peer == rank) continue;
        const Status status = boxes[rank]->Connect(peer, getpid(), boxes[peer]->descriptor());
        CHECK(status.ok()) << status.message();
      }
    }
  }
  std::vector<std::unique_ptr<HostMailbox>> boxes;
};

TEST_F(HostMailboxTest, PacketsOfASourceArriveInTheirOrder) {
  EXPECT_FALSE(boxes[0]->Receive([](int, std::span<const std::byte>) { FAIL(); }));
  EXPECT_TRUE(boxes[2]->Send(0, Bytes("first")));
  EXPECT_TRUE(boxes[1]->Send(0, Bytes("")));
  EXPECT_TRUE(boxes[2]->Send(0, Bytes("second")));
  EXPECT_THAT(ReceiveAll(*boxes[0]), ElementsAre(Pair(1, ""), Pair(2, "first"), Pair(2, "second")));
  EXPECT_THAT(ReceiveAll(*boxes[0]), ElementsAre());
  EXPECT_THAT(ReceiveAll(*boxes[1]), ElementsAre());
}

TEST_F(HostMailboxTest, AFullLaneRefusesUntilItIsRead) {
  int sent = 0;
  while (boxes[1]->Send(0, Bytes(std::to_string(sent)))) ASSERT_LT(++sent, 1000);
  EXPECT_GE(sent, 4);
  EXPECT_TRUE(boxes[2]->Send(0, Bytes("of another lane")));
  // Many rounds: the ring is passed again and again.
  for (int round = 0; round < 100; ++round) {
    const auto received = ReceiveAll(*boxes[0]);
    int first = -1, count = 0;
    for (const auto& [source, text] : received) {
      if (source != 1) continue;
      if (first < 0) first = std::stoi(text);
      EXPECT_EQ(std::stoi(text), first + count++);
    }
    EXPECT_EQ(count, sent - first);
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(boxes[1]->Send(0, Bytes(std::to_string(sent++))));
  }
}

TEST_F(HostMailboxTest, WhatIsTooLargeOrForAStrangerIsRefused) {
  EXPECT_TRUE(boxes[1]->Send(0, Bytes(std::string(HostMailbox::kPacketBytesMax, 'x'))));
  EXPECT_FALSE(boxes[1]->Send(0, Bytes(std::string(HostMailbox::kPacketBytesMax + 1, 'x'))));
  EXPECT_EQ(ReceiveAll(*boxes[0]).size(), 1u);
  const auto alone = Make(0, 2);
  EXPECT_FALSE(alone->Send(1, Bytes("nobody")));
}

TEST(HostMailboxConnectTest, AnotherFileIsNotTakenForAnInbox) {
  const auto mailbox = Make(0, 2);
  const Status status = mailbox->Connect(1, getpid(), 9999);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("/fd/9999"));
  // The other one may have had more luck: what it sends is read.
  const auto peer = Make(1, 2);
  ASSERT_TRUE(peer->Connect(0, getpid(), mailbox->descriptor()).ok());
  ASSERT_TRUE(peer->Send(0, Bytes("one way")));
  EXPECT_THAT(ReceiveAll(*mailbox), ElementsAre(Pair(1, "one way")));
  // An inbox of a job of another size.
  EXPECT_FALSE(mailbox->Connect(1, getpid(), Make(1, 3)->descriptor()).ok());
  EXPECT_FALSE(mailbox->Send(1, Bytes("x")));
}

// The child answers, and is killed: what it sent is there, and its inbox still takes packets.
TEST(HostMailboxProcessTest, OutlivesAProcessThatIsKilled) {
  const auto mailbox = Make(0, 2);
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto own = Make(1, 2);
    const int descriptor = own->descriptor();
    if (!own->Connect(0, getppid(), mailbox->descriptor()).ok()) _exit(1);
    if (write(pipes[1], &descriptor, sizeof(descriptor)) != sizeof(descriptor)) _exit(1);
    while (!own->Receive([&](int source, std::span<const std::byte> packet) {
      if (!own->Send(source, packet)) _exit(1);
    })) {
      usleep(100);
    }
    while (true) pause();
  }
  int descriptor = -1;
  ASSERT_EQ(read(pipes[0], &descriptor, sizeof(descriptor)), ssize_t{sizeof(descriptor)});
  ASSERT_TRUE(mailbox->Connect(1, child, descriptor).ok());
  ASSERT_TRUE(mailbox->Send(1, Bytes("echo")));
  std::vector<std::pair<int, std::string>> received;
  while (received.empty()) received = ReceiveAll(*mailbox);
  EXPECT_THAT(received, ElementsAre(Pair(1, "echo")));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(mailbox->Send(1, Bytes("nobody reads this")));
  EXPECT_THAT(ReceiveAll(*mailbox), ElementsAre());
  close(pipes[0]);
  close(pipes[1]);
}

}  // namespace
}  // namespace trireme
