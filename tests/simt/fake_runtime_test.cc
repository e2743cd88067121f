// The fake runtime keeps to the real one's order of work, and to no more of it.
#include "tests/simt/simt_testing.h"

namespace trireme::gpu {
namespace {

__global__ void AddOne(float* x) { x[threadIdx.x] += 1; }

struct Pinned {
  explicit Pinned(size_t count) { EXPECT_EQ(cudaMallocHost(&data, count * 4), cudaSuccess); }
  ~Pinned() { EXPECT_EQ(cudaFreeHost(data), cudaSuccess); }
  float* data = nullptr;
};

TEST(FakeCudaTest, WorkWaitsUntilSomebodyWaitsForIt) {
  TestStream stream;
  DeviceArray<float> x({1, 2, 3, 4});
  Pinned host(4);
  host.data[0] = -1;
  Launch(stream, LaunchShape{1, 4}, &AddOne, x.get());
  ASSERT_EQ(cudaMemcpyAsync(host.data, x.get(), 16, cudaMemcpyDeviceToHost, stream.handle),
            cudaSuccess);
  EXPECT_EQ(host.data[0], -1) << "the host did not wait";
  EXPECT_EQ(cudaStreamQuery(stream.handle), cudaErrorNotReady);
  stream.Synchronize();
  EXPECT_EQ(cudaStreamQuery(stream.handle), cudaSuccess);
  EXPECT_EQ(host.data[0], 2);
}

TEST(FakeCudaTest, PageableBytesAreReadAtOnceAndPinnedOnesLater) {
  TestStream stream;
  DeviceArray<float> from_pageable({0}), from_pinned({0});
  float pageable = 1;
  Pinned pinned(1);
  *pinned.data = 1;
  cudaMemcpyAsync(from_pageable.get(), &pageable, 4, cudaMemcpyHostToDevice, stream.handle);
  cudaMemcpyAsync(from_pinned.get(), pinned.data, 4, cudaMemcpyDefault, stream.handle);
  pageable = 2;
  *pinned.data = 2;
  stream.Synchronize();
  EXPECT_EQ(from_pageable.Values()[0], 1);
  EXPECT_EQ(from_pinned.Values()[0], 2);
}

TEST(FakeCudaTest, EventsOrderStreams) {
  TestStream first, second;
  cudaEvent_t event;
  ASSERT_EQ(cudaEventCreate(&event), cudaSuccess);
  for (const bool ordered : {false, true}) {
    DeviceArray<float> x({1}), y({0});
    Launch(first, LaunchShape{1, 1}, &AddOne, x.get());
    ASSERT_EQ(cudaEventRecord(event, first.handle), cudaSuccess);
    if (ordered) {
      ASSERT_EQ(cudaStreamWaitEvent(second.handle, event), cudaSuccess);
    }
    cudaMemcpyAsync(y.get(), x.get(), 4, cudaMemcpyDeviceToDevice, second.handle);
    second.Synchronize();
    EXPECT_EQ(y.Values()[0], ordered ? 2 : 1);
    first.Synchronize();
  }
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
}

TEST(FakeCudaTest, EventsAreReachedByWaitingForThem) {
  TestStream stream;
  DeviceArray<float> x({1});
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  float ms = -1;
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin, end), cudaErrorInvalidResourceHandle);
  cudaEventRecord(begin, stream.handle);
  Launch(stream, LaunchShape{1, 1}, &AddOne, x.get());
  cudaEventRecord(end, stream.handle);
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin, end), cudaErrorNotReady);
  EXPECT_EQ(cudaEventSynchronize(end), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin, end), cudaSuccess);
  EXPECT_GE(ms, 0);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}

TEST(FakeCudaTest, ACapturedGraphRunsAgainAndAgain) {
  TestStream stream, side;
  DeviceArray<float> x({1, 1}), y({0, 0});
  cudaEvent_t fork, join;
  cudaEventCreate(&fork);
  cudaEventCreate(&join);
  ASSERT_EQ(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  Launch(stream, LaunchShape{1, 2}, &AddOne, x.get());
  cudaEventRecord(fork, stream.handle);
  cudaStreamWaitEvent(side.handle, fork);
  cudaMemcpyAsync(y.get(), x.get(), 8, cudaMemcpyDeviceToDevice, side.handle);
  cudaEventRecord(join, side.handle);
  cudaStreamWaitEvent(stream.handle, join);
  Launch(stream, LaunchShape{1, 2}, &AddOne, x.get());
  cudaStreamCaptureStatus status;
  cudaStreamIsCapturing(side.handle, &status);
  EXPECT_EQ(status, cudaStreamCaptureStatusActive);
  cudaGraph_t graph;
  ASSERT_EQ(cudaStreamEndCapture(stream.handle, &graph), cudaSuccess);
  EXPECT_EQ(x.Values()[0], 1) << "captured, not run";
  cudaGraphExec_t exec;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph), cudaSuccess);
  ASSERT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(cudaGraphLaunch(exec, stream.handle), cudaSuccess);
  stream.Synchronize();
  EXPECT_EQ(x.Values()[1], 7);
  EXPECT_EQ(y.Values()[1], 6);
  cudaGraphExecDestroy(exec);
  cudaEventDestroy(fork);
  cudaEventDestroy(join);
}

TEST(FakeCudaTest, CapturesRefuseWhatTheRealOneRefuses) {
  TestStream stream, side;
  DeviceArray<float> x({1});
  float pageable = 1;
  cudaGraph_t graph;
  const auto begin = [&] {
    ASSERT_EQ(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeGlobal), cudaSuccess);
  };
  begin();
  EXPECT_EQ(cudaStreamSynchronize(stream.handle), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(stream.handle, &graph), cudaErrorStreamCaptureInvalidated);
  begin();
  EXPECT_EQ(cudaMemcpyAsync(x.get(), &pageable, 4, cudaMemcpyHostToDevice, stream.handle),
            cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(stream.handle, &graph), cudaErrorStreamCaptureInvalidated);
  cudaEvent_t fork;
  cudaEventCreate(&fork);
  begin();
  cudaEventRecord(fork, stream.handle);
  cudaStreamWaitEvent(side.handle, fork);
  Launch(side, LaunchShape{1, 1}, &AddOne, x.get());
  EXPECT_EQ(cudaStreamEndCapture(stream.handle, &graph), cudaErrorStreamCaptureUnjoined);
  EXPECT_STREQ(cudaGetErrorString(cudaGetLastError()), "capturing stream has unjoined work");
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  cudaEventDestroy(fork);
}

TEST(FakeCudaTest, CopiesAndFillsHaveBoundsAndDirections) {
  TestStream stream;
  DeviceArray<float> x({1, 2});
  float host[4] = {};
  EXPECT_EQ(cudaMemcpy(host, x.get(), 9, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host, x.get(), 8, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(x.get() + 1, 0, 5), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(x.get() + 1, 0, 4), cudaSuccess);
  EXPECT_EQ(x.Values()[1], 0);
  EXPECT_EQ(cudaFree(x.get() + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(host)),
            cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaSetDevice(1), cudaErrorInvalidDevice);
  void* p;
  EXPECT_EQ(cudaMalloc(&p, size_t{17} << 30), cudaErrorMemoryAllocation);
}

TEST(FakeCudaTest, StreamOrderedMemoryIsFreedInOrder) {
  TestStream stream;
  void* p;
  ASSERT_EQ(cudaMallocAsync(&p, 4, stream.handle), cudaSuccess);
  ASSERT_EQ(cudaMemsetAsync(p, 0, 4, stream.handle), cudaSuccess);
  Launch(stream, LaunchShape{1, 1}, &AddOne, static_cast<float*>(p));
  ASSERT_EQ(cudaFreeAsync(p, stream.handle), cudaSuccess);
  stream.Synchronize();
  EXPECT_EQ(cudaMemset(p, 0, 4), cudaErrorInvalidValue) << "gone";
}

TEST(FakeCudaTest, NewMemoryIsNotZero) {
  float* p;
  ASSERT_EQ(cudaMalloc(&p, 12), cudaSuccess);
  float host[3];
  cudaMemcpy(host, p, 12, cudaMemcpyDeviceToHost);
  EXPECT_TRUE(std::isnan(host[0]) && std::isnan(host[2]));
  cudaFree(p);
}

}  // namespace
}  // namespace trireme::gpu
