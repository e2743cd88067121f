// The device layer's CUDA sources, on the SIMT harness' runtime or on a GPU.
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "cluster/device/buffer.h"
#include "cluster/device/elementwise.h"
#include "cluster/device/graph.h"
#include "cluster/device/operation_log.h"
#include "cluster/device/operation_times.h"

namespace trireme {
namespace {

std::vector<float> Numbers(int n, float first) {
  std::vector<float> numbers(n);
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

std::vector<float> Read(Stream& stream, const Buffer& buffer) {
  std::vector<float> host(buffer.bytes() / 4);
  stream.Copy(host.data(), buffer.data(), buffer.bytes());
  stream.Synchronize();
  return host;
}

float* Floats(const Buffer& buffer) { return reinterpret_cast<float*>(buffer.data()); }

TEST(GpuStreamTest, CopiesAndFillsInOrder) {
  Stream stream(Gpu{0});
  EXPECT_EQ(stream.device(), DeviceKind::kCuda);
  EXPECT_EQ(stream.gpu(), 0);
  EXPECT_NE(stream.native(), nullptr);
  const std::vector<float> numbers = Numbers(1000, 1);
  Buffer a(4000, DeviceKind::kCuda), b(4000, DeviceKind::kCuda);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(Buffer(4096, DeviceKind::kCuda).data()) % 256, 0u);
  EXPECT_EQ(Read(stream, a), std::vector<float>(1000, 0.0f));
  stream.Copy(a.data(), numbers.data(), 4000);
  stream.Copy(b.data(), a.data(), 4000);
  stream.Fill(a.data(), 0, 2000);
  EXPECT_EQ(Read(stream, b), numbers);
  std::vector<float> half = numbers;
  std::fill(half.begin(), half.begin() + 500, 0.0f);
  EXPECT_EQ(Read(stream, a), half);
}

TEST(GpuStreamTest, PinnedMemoryIsTheHosts) {
  Stream stream(Gpu{0});
  Buffer pinned = Buffer::Pinned(256), gpu(256, DeviceKind::kCuda);
  EXPECT_EQ(pinned.device(), DeviceKind::kCpu);
  Floats(pinned)[5] = 3;
  stream.Copy(gpu.data(), pinned.data(), 256);
  EXPECT_EQ(Read(stream, gpu)[5], 3);
}

// Without the wait the side stream would read zeros: on the harness, whose streams do nothing until
// someone needs them to, always.
TEST(GpuStreamTest, ASideStreamWaitsForAnEvent) {
  Stream stream(Gpu{0}), side(Gpu{0});
  Buffer a(4096, DeviceKind::kCuda), b(4096, DeviceKind::kCuda);
  const std::vector<float> numbers = Numbers(1024, 7);
  stream.Copy(a.data(), numbers.data(), 4096);
  const StreamEvent written = stream.Record();
  side.Wait(written);
  side.Copy(b.data(), a.data(), 4096);
  EXPECT_EQ(Read(side, b), numbers);
  written.Synchronize();
}

TEST(GpuStreamTest, AnEventBlocksTheHostUntilItsWorkIsDone) {
  Stream stream(Gpu{0});
  Buffer a(400, DeviceKind::kCuda), pinned = Buffer::Pinned(400);
  const std::vector<float> numbers = Numbers(100, 2);
  stream.Copy(a.data(), numbers.data(), 400);
  stream.Copy(pinned.data(), a.data(), 400);
  stream.Record().Synchronize();
  EXPECT_EQ(Floats(pinned)[99], 101.0f);
}

TEST(GpuStreamTest, TimedEventsTellTheTimeBetweenThem) {
  Stream gpu(Gpu{0}), cpu(1);
  for (Stream* stream : {&gpu, &cpu}) {
    const StreamEvent begin = stream->Record(true), end = stream->Record(true);
    EXPECT_GE(end.MillisecondsSince(begin), 0);
  }
  EXPECT_DEATH(gpu.Record().MillisecondsSince(gpu.Record(true)), "not recorded as timed");
}

TEST(GpuStreamTest, WhatCannotBeIsToldInOneLine) {
  EXPECT_DEATH(Stream(Gpu{99}), "GPU 99 is wanted, and 1 are visible");
  Stream stream(Gpu{0});
  EXPECT_DEATH(stream.ParallelFor(1, [](int64_t) {}), "this operation has no GPU form");
}

TEST(GraphTest, RunsTheCapturedWorkAtEachLaunchAndNotBefore) {
  Stream gpu(Gpu{0}), cpu(1);
  for (Stream* stream : {&gpu, &cpu}) {
    Buffer sum(400, stream->device()), one(400, stream->device());
    const std::vector<float> ones(100, 1.0f);
    stream->Copy(one.data(), ones.data(), 400);
    const Graph graph =
        Graph::Capture(*stream, [&] { AddInPlace(*stream, Floats(sum), Floats(one), 100); });
    EXPECT_EQ(Read(*stream, sum)[0], 0.0f);
    for (int i = 0; i < 3; ++i) graph.Launch(*stream);
    EXPECT_EQ(Read(*stream, sum), std::vector<float>(100, 3.0f));
  }
}

TEST(GraphTest, TakesSideStreamsThatJoinAgain) {
  Stream stream(Gpu{0}), side(Gpu{0});
  Buffer a(400, DeviceKind::kCuda), b(400, DeviceKind::kCuda), one(400, DeviceKind::kCuda);
  const std::vector<float> ones(100, 1.0f);
  stream.Copy(one.data(), ones.data(), 400);
  const Graph graph = Graph::Capture(stream, [&] {
    AddInPlace(stream, Floats(a), Floats(one), 100);
    side.Wait(stream.Record());
    AddInPlace(side, Floats(b), Floats(a), 100);
    stream.Wait(side.Record());
  });
  for (int i = 0; i < 3; ++i) graph.Launch(stream);
  EXPECT_EQ(Read(stream, b), std::vector<float>(100, 6.0f));
}

TEST(RecordingTest, LaunchesAndCallsComeInTheirOrder) {
  Stream stream(Gpu{0}), side(Gpu{0});
  EXPECT_TRUE(stream.CanRecord());
  EXPECT_FALSE(Stream(1).CanRecord());
  Buffer a(400, DeviceKind::kCuda), b(400, DeviceKind::kCuda), one(400, DeviceKind::kCuda);
  const std::vector<float> ones(100, 1.0f);
  stream.Copy(one.data(), ones.data(), 400);
  Recording recording(&stream);
  int calls = 0;
  recording.Begin();
  AddInPlace(stream, Floats(a), Floats(one), 100);
  const Recording::HostCall on_the_side = [&] {
    ++calls;
    side.Wait(stream.Record());
    AddInPlace(side, Floats(b), Floats(a), 100);
    stream.Wait(side.Record());
    return OkStatus();
  };
  EXPECT_TRUE(recording.Call(on_the_side).ok());
  AddInPlace(stream, Floats(a), Floats(one), 100);
  recording.End();
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(Read(stream, a)[0], 0.0f);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(recording.Replay().ok());
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(recording.graphs(), 2);
  EXPECT_EQ(Read(stream, a), std::vector<float>(100, 6.0f));
  EXPECT_EQ(Read(stream, b), std::vector<float>(100, 1.0f + 3.0f + 5.0f));
  EXPECT_DEATH(recording.Begin(), "a recording is made once");
}

TEST(RecordingTest, ACallThatFailsEndsTheReplayAndStretchesWithoutWorkAreNoGraphs) {
  Stream stream(Gpu{0});
  Buffer a(400, DeviceKind::kCuda), one(400, DeviceKind::kCuda);
  const std::vector<float> ones(100, 1.0f);
  stream.Copy(one.data(), ones.data(), 400);
  Recording recording(&stream);
  bool fails = false;
  recording.Begin();
  const Recording::HostCall nothing = [] { return OkStatus(); };
  EXPECT_TRUE(recording.Call(nothing).ok());
  AddInPlace(stream, Floats(a), Floats(one), 100);
  const Recording::HostCall meets = [&] {
    return fails ? UnavailableError("a peer is lost") : OkStatus();
  };
  EXPECT_TRUE(recording.Call(meets).ok());
  EXPECT_TRUE(recording.Call(nothing).ok());
  AddInPlace(stream, Floats(a), Floats(one), 100);
  recording.End();
  EXPECT_EQ(recording.graphs(), 2);
  EXPECT_TRUE(recording.Replay().ok());
  EXPECT_EQ(Read(stream, a)[0], 2.0f);
  fails = true;
  EXPECT_EQ(recording.Replay().message(), "a peer is lost");
  EXPECT_EQ(Read(stream, a)[0], 3.0f) << "what comes behind is not launched";
}

TEST(RecordingTest, ARehearsalRunsWorkAndCallsAsTheyCome) {
  Stream stream(Gpu{0});
  Buffer a(400, DeviceKind::kCuda), one(400, DeviceKind::kCuda);
  const std::vector<float> ones(100, 1.0f);
  stream.Copy(one.data(), ones.data(), 400);
  Recording rehearsal = Recording::Rehearsal(&stream);
  int calls = 0;
  const auto call = [&] {
    ++calls;
    return OkStatus();
  };
  rehearsal.Begin();
  AddInPlace(stream, Floats(a), Floats(one), 100);
  EXPECT_TRUE(CallOrRecord(&rehearsal, call).ok());
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(Read(stream, a)[0], 1.0f);
  const Recording::HostCall lost = [] { return UnavailableError("a peer is lost"); };
  EXPECT_EQ(CallOrRecord(&rehearsal, lost).message(), "a peer is lost");
  rehearsal.End();
  EXPECT_EQ(rehearsal.graphs(), 0);
  EXPECT_TRUE(CallOrRecord(nullptr, call).ok());
  EXPECT_EQ(calls, 2);
}

TEST(RecordingTest, TimedStreamsAreNotRecorded) {
  Stream stream(Gpu{0});
  {
    const OperationTimes times(&stream);
    EXPECT_FALSE(stream.CanRecord());
  }
  EXPECT_TRUE(stream.CanRecord());
}

TEST(OperationLogTest, NamesTheLatestAndSomeBeforeIt) {
  OperationLog log;
  EXPECT_EQ(log.ToString(), "before any operation of this stream");
  log.Enter("MatMul");
  EXPECT_EQ(log.ToString(), "in MatMul");
  log.Enter("Add");
  EXPECT_EQ(log.ToString(), "in Add or one of the 1 operations before it (MatMul)");
  for (int i = 0; i < 20; ++i) log.Enter("AdamW");
  EXPECT_EQ(log.ToString(),
            "in AdamW or one of the 21 operations before it "
            "(AdamW, AdamW, AdamW, AdamW, AdamW, AdamW, AdamW, ...)");
  log.Clear();
  EXPECT_EQ(log.latest(), nullptr);
}

TEST(GpuMemoryTest, IsCountedByGpuAndPurpose) {
  Stream stream(Gpu{0});
  const int64_t gpu = BufferMemoryOfGpu(0).bytes_now, host = BufferMemory().bytes_now;
  {
    Buffer weights(3 << 20, DeviceKind::kCuda, "test weights");
    Buffer staging = Buffer::Pinned(1 << 20, "test staging");
    EXPECT_EQ(BufferMemoryOfGpu(0).bytes_now, gpu + (3 << 20));
    EXPECT_EQ(BufferMemory().bytes_now, host + (1 << 20));
    const Buffer moved = std::move(weights);
    EXPECT_EQ(BufferMemoryOfGpu(0).bytes_now, gpu + (3 << 20));
    const std::string table = MemoryTable();
    EXPECT_NE(table.find("gpu 0    test weights         3.00 MiB  (at most 3.00 MiB)"),
              std::string::npos)
        << table;
    EXPECT_NE(table.find("pinned   test staging         1.00 MiB"), std::string::npos) << table;
  }
  EXPECT_EQ(BufferMemoryOfGpu(0).bytes_now, gpu);
  EXPECT_EQ(BufferMemory().bytes_now, host);
}

}  // namespace
}  // namespace trireme
