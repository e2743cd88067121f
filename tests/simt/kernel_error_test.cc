// Wrong kernels, each of which must be told by one line.
#include "tests/simt/simt_testing.h"

namespace trireme::gpu {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

// Which thread an error names depends on their order.
class KernelErrorTest : public testing::Test {
 protected:
  void SetUp() override { simt::SetOrderSeed(0); }
  void TearDown() override { simt::SetOrderSeed(1); }
};

// Each thread writes its element and reads its neighbour's.
template <bool kBarrier>
__global__ void Rotate(float* out) {
  TRIREME_SHARED_ARRAY(float, values, 64);
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (kBarrier) __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + 1) % 64];
}

TEST_F(KernelErrorTest, AReadThatNoBarrierOrdersIsARace) {
  DeviceArray<float> out(std::vector<float>(64));
  EXPECT_EQ(ErrorOf(1, 64, &Rotate<true>, out.get()), "");
  // In ascending order the neighbour has not written yet; backwards it has, which hides the race
  // from everyone who only looks at results.
  EXPECT_THAT(ErrorOf(1, 64, &Rotate<false>, out.get()),
              AllOf(StartsWith("simt: shared array 'values'[1] is read before it is written; "
                               "thread (0, 0, 0), block (0, 0, 0), launch "),
                    HasSubstr("simt_testing.h:")));
  simt::SetOrderSeed(5);
  EXPECT_NE(ErrorOf(1, 64, &Rotate<false>, out.get()), "");
}

__global__ void WriteAfterRead(float* out, bool barrier) {
  TRIREME_SHARED_ARRAY(float, value, 1);
  if (threadIdx.x == 0) value[0] = 1;
  __syncthreads();
  out[threadIdx.x] = value[0];
  if (barrier) __syncthreads();
  if (threadIdx.x == 40) value[0] = 2;
}

TEST_F(KernelErrorTest, AWriteAfterOthersReadsIsARace) {
  DeviceArray<float> out(std::vector<float>(64));
  EXPECT_EQ(ErrorOf(1, 64, &WriteAfterRead, out.get(), true), "");
  EXPECT_THAT(ErrorOf(1, 64, &WriteAfterRead, out.get(), false),
              StartsWith("simt: race on shared array 'value'[0]: writes what thread (63, 0, 0) "
                         "read, no barrier between; thread (40, 0, 0), block (0, 0, 0)"));
}

__global__ void WriteTwice() {
  TRIREME_SHARED_ARRAY(int, value, 4);
  value[threadIdx.x / 16] = 7;  // the same value: a race all the same
}

TEST_F(KernelErrorTest, TwoWritesAreARace) {
  EXPECT_THAT(ErrorOf(2, 32, &WriteTwice),
              StartsWith("simt: race on shared array 'value'[0]: writes what thread (0, 0, 0) "
                         "wrote, no barrier between; thread (1, 0, 0)"));
}

// Lane 0 writes, the lanes of the mask and it meet, then all read.
__global__ void WarpBroadcast(int* out, unsigned mask, bool shuffle) {
  TRIREME_SHARED_ARRAY(int, value, 2);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane == 0) value[warp] = 10 + warp;
  if (shuffle) {
    __shfl_sync(kFullWarp, 1, 0);
  } else if ((mask >> lane & 1) != 0) {
    __syncwarp(mask);
  }
  out[threadIdx.x] = value[warp];
}

TEST_F(KernelErrorTest, WarpBarriersOrderTheLanesOfTheirMaskAlone) {
  DeviceArray<int> out(std::vector<int>(64));
  EXPECT_EQ(ErrorOf(1, 64, &WarpBroadcast, out.get(), kFullWarp, false), "");
  EXPECT_EQ(out.Values()[63], 11);
  EXPECT_THAT(ErrorOf(1, 64, &WarpBroadcast, out.get(), 0xffffu, false),
              HasSubstr("'value'[0]: reads what thread (0, 0, 0) wrote, no barrier between; thread "
                        "(16, 0, 0)"));
  EXPECT_THAT(ErrorOf(1, 64, &WarpBroadcast, out.get(), kFullWarp, true),
              HasSubstr("thread (0, 0, 0) wrote, no barrier between; thread (31, 0, 0)"))
      << "a shuffle orders no memory";
}

__global__ void OtherWarpReads(int* out) {
  TRIREME_SHARED_ARRAY(int, value, 1);
  if (threadIdx.x == 0) value[0] = 1;
  __syncwarp();
  if (threadIdx.x == 32) *out = value[0];
}

TEST_F(KernelErrorTest, WarpBarriersDoNotOrderOtherWarps) {
  DeviceArray<int> out({0});
  EXPECT_THAT(ErrorOf(1, 64, &OtherWarpReads, out.get()), HasSubstr("race on shared array"));
}

__global__ void SomeReturnEarly(int n) {
  if (static_cast<int>(threadIdx.x) >= n) return;
  __syncthreads();
}
__global__ void SomeWaitElsewhere() {
  if (threadIdx.x < 32) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

TEST_F(KernelErrorTest, ABarrierThatNotAllThreadsReach) {
  EXPECT_EQ(ErrorOf(3, 64, &SomeReturnEarly, 64), "");
  EXPECT_THAT(ErrorOf(3, 64, &SomeReturnEarly, 50),
              StartsWith("simt: missing barrier: thread (0, 0, 0) waits at __syncthreads, but "
                         "thread (50, 0, 0) has returned; block (0, 0, 0)"));
  EXPECT_THAT(ErrorOf(3, 64, &SomeWaitElsewhere),
              StartsWith("simt: missing barrier: thread (32, 0, 0) waits at __syncthreads, but "
                         "thread (0, 0, 0) has returned"));
}

__global__ void HalfAShuffle(unsigned mask) {
  if (threadIdx.x < 16) __shfl_xor_sync(mask, 1.0f, 1);
}
__global__ void TwoKinds() {
  if (threadIdx.x < 16) {
    __shfl_sync(kFullWarp, 1.0f, 0);
  } else {
    __ballot_sync(kFullWarp, 1);
  }
}
__global__ void ReadsOutsideItsMask() { __shfl_sync(threadIdx.x < 16 ? 0xffffu : ~0xffffu, 1, 20); }

TEST_F(KernelErrorTest, DivergenceAtAShuffle) {
  EXPECT_EQ(ErrorOf(1, 32, &HalfAShuffle, 0xffffu), "");
  EXPECT_THAT(ErrorOf(1, 32, &HalfAShuffle, kFullWarp),
              StartsWith("simt: divergence at __shfl_xor_sync: thread (0, 0, 0) waits for lane 16 "
                         "of its mask, but thread (16, 0, 0) has returned; block (0, 0, 0)"));
  EXPECT_THAT(ErrorOf(1, 32, &HalfAShuffle, 0xfffcu),
              StartsWith("simt: __shfl_xor_sync with a mask that leaves its own lane out"));
  EXPECT_THAT(ErrorOf(1, 16, &HalfAShuffle, kFullWarp),
              StartsWith("simt: __shfl_xor_sync names lane 16, which this block does not have"));
  EXPECT_THAT(ErrorOf(1, 32, &TwoKinds),
              StartsWith("simt: divergence at __shfl_sync: thread (0, 0, 0) waits for lane 16 of "
                         "its mask, but thread (16, 0, 0) waits in __ballot_sync with another"));
  EXPECT_THAT(ErrorOf(1, 32, &ReadsOutsideItsMask),
              StartsWith("simt: __shfl_sync reads lane 20, which its mask leaves out; thread (0,"));
}

__global__ void SharedIndex(int i) {
  TRIREME_SHARED_ARRAY(float, tile, 48);
  tile[i] = 1;
}
__global__ void SharedPack(int i) {
  TRIREME_SHARED_ARRAY(float, tile, 48);
  StorePack(tile + i, Pack<float>{});
}
__global__ void LargeShared() {
  TRIREME_SHARED_ARRAY(float, first, 8192);
  TRIREME_SHARED_ARRAY(float, second, 4097);
  first[0] = second[0];
}

TEST_F(KernelErrorTest, SharedMemoryHasBounds) {
  EXPECT_EQ(ErrorOf(1, 1, &SharedIndex, 47), "");
  EXPECT_THAT(ErrorOf(1, 1, &SharedIndex, 48),
              StartsWith("simt: index 48 of shared array 'tile' of 48 elements; thread (0, 0, 0)"));
  EXPECT_THAT(ErrorOf(1, 1, &SharedIndex, -1), StartsWith("simt: index -1 of"));
  EXPECT_EQ(ErrorOf(1, 1, &SharedPack, 44), "");
  EXPECT_THAT(ErrorOf(1, 1, &SharedPack, 48), StartsWith("simt: index 48 of"));
  EXPECT_THAT(ErrorOf(1, 1, &SharedPack, 2), HasSubstr("no multiple of its size"));
  EXPECT_THAT(ErrorOf(1, 1, &LargeShared),
              StartsWith("simt: shared array 'second' makes 49168 bytes of shared memory"));
}

__global__ void Nothing() {}
__global__ void Throws() { simt::Block::Current().Fail("told to"); }

TEST_F(KernelErrorTest, LaunchesHaveLimits) {
  EXPECT_EQ(ErrorOf(1, 1024, &Nothing), "");
  EXPECT_EQ(ErrorOf(0, 32, &Nothing), "") << "an empty grid does nothing";
  EXPECT_THAT(ErrorOf(1, 1025, &Nothing), StartsWith("simt: a block of 1025 x 1 x 1 threads"));
  EXPECT_THAT(ErrorOf(dim3(1, 65536), 1, &Nothing), StartsWith("simt: a grid of 1 x 65536"));
}

TEST_F(KernelErrorTest, TheHarnessGoesOnAfterAnError) {
  DeviceArray<float> out(std::vector<float>(64));
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(ErrorOf(dim3(2, 3), 64, &Throws), StartsWith("simt: told to"));
    EXPECT_EQ(ErrorOf(1, 64, &Rotate<true>, out.get()), "");
  }
}

// Global memory: pages that nobody may touch.
__global__ void WriteAt(float* out, int64_t i) { out[i] = 1; }
__global__ void PackAt(const float* in) { LoadPack(in + 1); }

TEST(KernelErrorDeathTest, GlobalMemoryHasBounds) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  DeviceArray<float> out(std::vector<float>(1000));
  EXPECT_EQ(ErrorOf(1, 1, &WriteAt, out.get(), 999), "");
  EXPECT_DEATH(ErrorOf(1, 1, &WriteAt, out.get(), 1000),
               "simt: byte 4000 of a device allocation of 4000 bytes is touched, thread .0, 0, 0., "
               "block .0, 0, 0., launch");
  EXPECT_THAT(ErrorOf(1, 1, &PackAt, out.get()), HasSubstr("no multiple of 16"));
}

TEST(KernelErrorDeathTest, BytesAroundAnAllocationAreLookedAt) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const auto write_at = [](int64_t i) {
    DeviceArray<float> out({1, 2, 3});
    ErrorOf(1, 1, &WriteAt, out.get(), i);
  };
  EXPECT_DEATH(write_at(3), "bytes around a device allocation of 12 bytes were written");
  EXPECT_DEATH(write_at(-1), "bytes around a device allocation of 12 bytes were written");
}

TEST(KernelErrorDeathTest, TheHostCannotTouchDeviceMemory) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  DeviceArray<float> out(std::vector<float>(1000));
  EXPECT_DEATH(out.get()[10] = 1,
               "simt: the host touched byte 40 of a device allocation of 4000 bytes");
  EXPECT_DEATH(EXPECT_EQ(out.get()[999], 0), "simt: the host touched byte 3996");
}

__global__ void Copy(float* out, const float* in) { out[threadIdx.x] = in[threadIdx.x]; }

TEST_F(KernelErrorTest, MemoryOfTheHostIsNoArgument) {
  DeviceArray<float> out(std::vector<float>(32)), in(std::vector<float>(32, 3.0f));
  EXPECT_EQ(ErrorOf(1, 32, &Copy, out.get(), static_cast<const float*>(in.get())), "");
  const std::vector<float> host(32, 3.0f);
  EXPECT_THAT(ErrorOf(1, 32, &Copy, out.get(), host.data()),
              StartsWith("simt: argument 2 is no memory of the GPU; launch "));
}

}  // namespace
}  // namespace trireme::gpu
