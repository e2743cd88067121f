#include "cluster/rpc/frame.h"

#include <gtest/gtest.h>

#include <random>

namespace trireme {
namespace {

constexpr size_t kLimit = 1000;

std::string Payload(size_t bytes) {
  std::string payload;
  for (size_t i = 0; i < bytes; ++i) payload += static_cast<char>(i * 37 + bytes);
  return payload;
}

TEST(FrameTest, ComesBackWhereverTheStreamIsCut) {
  const std::string stream =
      EncodeFrame(1, "") + EncodeFrame(7, Payload(333)) + EncodeFrame(2, "last");
  for (size_t piece = 1; piece <= stream.size(); piece += piece < 25 ? 1 : 19) {
    FrameParser parser(kLimit);
    std::vector<Frame> frames;
    for (size_t at = 0; at < stream.size(); at += piece) {
      ASSERT_TRUE(parser.Feed(std::string_view(stream).substr(at, piece), &frames).ok());
    }
    ASSERT_EQ(frames.size(), 3u) << "pieces of " << piece;
    EXPECT_EQ(frames[0].type, 1);
    EXPECT_EQ(frames[0].payload, "");
    EXPECT_EQ(frames[1].type, 7);
    EXPECT_EQ(frames[1].payload, Payload(333));
    EXPECT_EQ(frames[2].payload, "last");
    EXPECT_TRUE(parser.AtBoundary());
  }
}

TEST(FrameTest, RefusesGarbageAfterFourBytes) {
  FrameParser parser(kLimit);
  std::vector<Frame> frames;
  const Status status = parser.Feed("GET ", &frames);
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_EQ(status.message(), "not a Trireme peer: the frame starts with 'GET '");
  EXPECT_FALSE(parser.Feed(EncodeFrame(1, "good"), &frames).ok()) << "a lost stream stays lost";
  EXPECT_TRUE(frames.empty());
}

TEST(FrameTest, RefusesAnotherVersion) {
  std::string frame = EncodeFrame(1, "x");
  frame[4] = 9;
  FrameParser parser(kLimit);
  std::vector<Frame> frames;
  EXPECT_EQ(parser.Feed(frame, &frames).message(),
            "frame version 9, this program speaks version 1");
}

TEST(FrameTest, RefusesTooManyBytesFromTheHeaderAlone) {
  const std::string frame = EncodeFrame(1, Payload(kLimit + 1));
  FrameParser parser(kLimit);
  std::vector<Frame> frames;
  EXPECT_EQ(parser.Feed(std::string_view(frame).substr(0, kFrameHeaderBytes), &frames).message(),
            "a frame of 1001 bytes, the limit is 1000");
  FrameParser exact(kLimit);
  EXPECT_TRUE(exact.Feed(EncodeFrame(1, Payload(kLimit)), &frames).ok());
}

TEST(FrameTest, EveryFlippedBitIsNoticed) {
  const std::string good = EncodeFrame(3, Payload(40));
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    FrameParser parser(kLimit);
    std::vector<Frame> frames;
    const Status status = parser.Feed(bad, &frames);
    // A longer length only waits for bytes that never come; everything else is an error.
    EXPECT_TRUE(!status.ok() || !parser.AtBoundary()) << "bit " << bit;
    EXPECT_TRUE(frames.empty()) << "bit " << bit;
  }
}

// Random streams: valid frames, mutated, cut anywhere. The parser must neither crash nor hold more
// than its limit, and what it returns before the first mutated byte must be what was sent.
TEST(FrameTest, FuzzedStreamsNeverBreakTheParser) {
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    std::mt19937_64 random(seed);
    std::string stream;
    std::vector<std::pair<size_t, std::string>> sent;  // end of each frame, its payload
    const int count = static_cast<int>(random() % 6);
    for (int i = 0; i < count; ++i) {
      std::string payload = Payload(random() % 300);
      stream += EncodeFrame(static_cast<uint16_t>(random()), payload);
      sent.emplace_back(stream.size(), std::move(payload));
    }
    for (uint64_t i = random() % 50; i > 0; --i) stream += static_cast<char>(random());
    size_t first_bad = stream.size();
    for (uint64_t i = random() % 3; i > 0 && !stream.empty(); --i) {
      const size_t at = random() % stream.size();
      stream[at] = static_cast<char>(stream[at] ^ (1 + random() % 255));
      first_bad = std::min(first_bad, at);
    }
    FrameParser parser(kLimit);
    std::vector<Frame> frames;
    for (size_t at = 0; at < stream.size();) {
      const size_t piece = 1 + random() % 400;
      if (!parser.Feed(std::string_view(stream).substr(at, piece), &frames).ok()) break;
      at += piece;
    }
    for (size_t i = 0; i < sent.size() && sent[i].first <= first_bad; ++i) {
      ASSERT_LT(i, frames.size()) << "seed " << seed;
      ASSERT_EQ(frames[i].payload, sent[i].second) << "seed " << seed;
    }
    ASSERT_LE(frames.size(), sent.size()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace trireme
