#include "cluster/comm/shared_memory.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <utility>

namespace trireme {
namespace {

using testing::HasSubstr;

TEST(SharedMemoryTest, WhatOneWritesTheOtherReadsAsLongAsItIsMapped) {
  auto made = SharedMemory::Make("test", 10000);
  ASSERT_TRUE(made.ok()) << made.status().message();
  auto opened = SharedMemory::Open(getpid(), made->descriptor(), 10000);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  EXPECT_EQ(opened->descriptor(), -1);
  EXPECT_EQ(opened->data()[9999], std::byte{0});
  made->data()[9999] = std::byte{7};
  { const SharedMemory gone = std::move(*made); }
  EXPECT_EQ(opened->data()[9999], std::byte{7});
}

TEST(SharedMemoryTest, OnlyMemoryOfThatSizeIsOpened) {
  EXPECT_THAT(SharedMemory::Open(getpid(), 9999, 8192).status().message(), HasSubstr("/fd/9999"));
  const int other = open("/dev/null", O_RDWR);
  const Status status = SharedMemory::Open(getpid(), other, 8192).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("is no memory of this job: 0 bytes, expected 8192"));
  close(other);
}

}  // namespace
}  // namespace trireme
