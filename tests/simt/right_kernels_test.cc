// Right kernels give right results in whatever order threads and blocks run.
#include <numeric>
#include <thread>

#include "tests/simt/simt_testing.h"

namespace trireme::gpu {
namespace {

class RightKernelsTest : public testing::TestWithParam<uint64_t> {
 protected:
  void SetUp() override { simt::SetOrderSeed(GetParam()); }
  void TearDown() override { simt::SetOrderSeed(1); }
};
INSTANTIATE_TEST_SUITE_P(Orders, RightKernelsTest, testing::ValuesIn(kOrders));

// out[b] = sum of in[b, :]. in: [B, n].
template <int kThreads, typename T>
__global__ void RowSum(const T* in, T* out, int n) {
  T sums[2] = {0, 0};
  for (int i = threadIdx.x; i < n; i += kThreads) {
    sums[0] += in[blockIdx.x * n + i];
    sums[1] += 1;
  }
  BlockSums<kThreads>(sums);
  const T top = BlockSum<kThreads>(threadIdx.x == kThreads - 1 ? sums[1] : 0);
  if (threadIdx.x == 0) out[blockIdx.x] = sums[0] * 1000 + top;
}

template <int kThreads, typename T>
void CheckRowSum() {
  constexpr int kRows = 5, kWidth = 333;
  std::vector<T> in(kRows * kWidth);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<T>(i % 17);
  DeviceArray<T> in_array(in), out(std::vector<T>(kRows, 0));
  ASSERT_EQ(ErrorOf(kRows, kThreads, &RowSum<kThreads, T>, in_array.get(), out.get(), kWidth), "");
  for (int b = 0; b < kRows; ++b) {
    const T sum = std::accumulate(in.begin() + b * kWidth, in.begin() + (b + 1) * kWidth, T(0));
    EXPECT_EQ(out.Values()[b], sum * 1000 + kWidth) << kThreads << " threads, row " << b;
  }
}

TEST_P(RightKernelsTest, BlockSums) {
  CheckRowSum<32, float>();
  CheckRowSum<256, float>();
  CheckRowSum<1024, double>();
}

template <int kCount>
__global__ void SumsOfWarp(const float* in, float* out) {
  float x[kCount];
  for (int i = 0; i < kCount; ++i) x[i] = in[threadIdx.x * kCount + i];
  out[threadIdx.x] = WarpSumOfOne(x);
}

// Lanes of one part of the warp have the sum of one value.
template <int kCount>
void CheckSumsOfWarp() {
  std::vector<float> in(32 * kCount), sums(kCount, 0.0f);
  for (int i = 0; i < 32 * kCount; ++i) {
    in[i] = static_cast<float>((i * 37) % 101);
    sums[i % kCount] += in[i];
  }
  DeviceArray<float> in_array(in), out(std::vector<float>(32, 0.0f));
  ASSERT_EQ(ErrorOf(1, 32, &SumsOfWarp<kCount>, in_array.get(), out.get()), "");
  for (int lane = 0; lane < 32; ++lane) {
    EXPECT_EQ(out.Values()[lane], sums[lane * kCount / 32]) << kCount << " values, lane " << lane;
  }
}

TEST_P(RightKernelsTest, WarpSumsOfSeveralValues) {
  CheckSumsOfWarp<1>();
  CheckSumsOfWarp<2>();
  CheckSumsOfWarp<4>();
  CheckSumsOfWarp<8>();
}

__global__ void MaxOf(const float* in, float* out) {
  out[threadIdx.x] = BlockMax<128>(in[threadIdx.x]);
}

TEST_P(RightKernelsTest, BlockMax) {
  std::vector<float> in(128);
  for (int i = 0; i < 128; ++i) in[i] = static_cast<float>(-1 - (i * 37) % 128);
  DeviceArray<float> in_array(in), out(in);
  ASSERT_EQ(ErrorOf(1, 128, &MaxOf, in_array.get(), out.get()), "");
  EXPECT_THAT(out.Values(), testing::Each(-1));
}

// Inclusive prefix sums of 256 values: in warps by shuffles, then over warps in shared memory.
__global__ void Scan(int* values) {
  TRIREME_SHARED_ARRAY(int, totals, 8);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int sum = values[threadIdx.x];
  for (int distance = 1; distance < 32; distance *= 2) {
    const int below = __shfl_up_sync(kFullWarp, sum, distance);
    if (lane >= distance) sum += below;
  }
  if (lane == 31) totals[warp] = sum;
  __syncthreads();
  for (int w = 0; w < warp; ++w) sum += totals[w];
  values[threadIdx.x] = sum;
}

TEST_P(RightKernelsTest, Scan) {
  std::vector<int> values(256), expected(256);
  for (int i = 0; i < 256; ++i) values[i] = (i * 31) % 101 - 50;
  std::partial_sum(values.begin(), values.end(), expected.begin());
  DeviceArray<int> array(values);
  ASSERT_EQ(ErrorOf(1, 256, &Scan, array.get()), "");
  EXPECT_EQ(array.Values(), expected);
}

// out[j, i] = in[i, j] by tiles of 32 x 32, blocks of 32 x 8.
__global__ void Transpose(const float* in, float* out, int rows, int columns) {
  TRIREME_SHARED_ARRAY(float, tile, 32 * 33);
  const int column = blockIdx.x * 32 + threadIdx.x;
  for (int i = threadIdx.y; i < 32; i += blockDim.y) {
    const int row = blockIdx.y * 32 + i;
    if (row < rows && column < columns) tile[i * 33 + threadIdx.x] = in[row * columns + column];
  }
  __syncthreads();
  const int row = blockIdx.y * 32 + threadIdx.x;
  for (int i = threadIdx.y; i < 32; i += blockDim.y) {
    const int j = blockIdx.x * 32 + i;
    if (row < rows && j < columns) out[j * rows + row] = tile[threadIdx.x * 33 + i];
  }
}

TEST_P(RightKernelsTest, Transpose) {
  const int rows = 45, columns = 70;
  std::vector<float> in(rows * columns);
  std::iota(in.begin(), in.end(), 0.0f);
  DeviceArray<float> in_array(in), out(std::vector<float>(in.size()));
  ASSERT_EQ(ErrorOf(dim3(3, 2), dim3(32, 8), &Transpose, in_array.get(), out.get(), rows, columns),
            "");
  const std::vector<float> result = out.Values();
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) ASSERT_EQ(result[j * rows + i], in[i * columns + j]);
  }
}

// Every word of the language once: what each lane should see is easy to say.
__global__ void Words(int* out) {
  const int lane = threadIdx.x;
  int* mine = out + lane * 10;
  mine[0] = __shfl_sync(kFullWarp, lane, 35);
  mine[1] = __shfl_sync(kFullWarp, lane, 1, 8);
  mine[2] = __shfl_xor_sync(kFullWarp, lane, 5);
  mine[3] = __shfl_down_sync(kFullWarp, lane, 3);
  mine[4] = __shfl_up_sync(kFullWarp, lane, 3, 16);
  mine[5] = static_cast<int>(__ballot_sync(kFullWarp, lane % 3 == 0));
  mine[6] = __any_sync(kFullWarp, lane == 31);
  mine[7] = __all_sync(kFullWarp, lane < 31);
  if (lane < 8) mine[8] = static_cast<int>(__shfl_sync(0xffu, 1.5 * lane, 7));
  mine[9] = static_cast<int>(__ballot_sync(kFullWarp, 1));
}

TEST_P(RightKernelsTest, WarpOperations) {
  DeviceArray<int> out(std::vector<int>(320, -1));
  ASSERT_EQ(ErrorOf(1, 32, &Words, out.get()), "");
  const std::vector<int> seen = out.Values();
  for (int lane = 0; lane < 32; ++lane) {
    const std::vector<int> mine(seen.begin() + lane * 10, seen.begin() + lane * 10 + 10);
    const std::vector<int> expected = {3,
                                       lane / 8 * 8 + 1,
                                       lane ^ 5,
                                       lane + 3 < 32 ? lane + 3 : lane,
                                       lane % 16 >= 3 ? lane - 3 : lane,
                                       0x49249249,
                                       1,
                                       0,
                                       lane < 8 ? 10 : -1,
                                       -1};
    EXPECT_EQ(mine, expected) << lane;
  }
}

__global__ void Indices(unsigned* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

TEST_P(RightKernelsTest, EveryThreadOfTheGridRunsOnce) {
  DeviceArray<unsigned> out(std::vector<unsigned>(24 * 30, 0));
  ASSERT_EQ(ErrorOf(dim3(2, 3, 4), dim3(5, 3, 2), &Indices, out.get()), "");
  for (unsigned i = 0; i < 24 * 30; ++i) EXPECT_EQ(out.Values()[i], i / 30 * 1000 + i % 30);
}

__global__ void RoundPacks(const float* in, BFloat16* out) {
  Pack<BFloat16> pack;
  for (int half = 0; half < 2; ++half) {
    const Pack<float> values = LoadPack(in + threadIdx.x * 8 + half * 4);
    for (int i = 0; i < 4; ++i) pack[half * 4 + i] = RoundTo<BFloat16>(values[i]);
  }
  StorePack(out + threadIdx.x * 8, pack);
}

TEST_P(RightKernelsTest, PacksAndRounding) {
  std::vector<float> in(256);
  for (int i = 0; i < 256; ++i) in[i] = 1.0f + static_cast<float>(i) / 512;
  DeviceArray<float> in_array(in);
  DeviceArray<BFloat16> out(std::vector<BFloat16>(256));
  ASSERT_EQ(ErrorOf(1, 32, &RoundPacks, in_array.get(), out.get()), "");
  for (int i = 0; i < 256; ++i) EXPECT_EQ(out.Values()[i].bits, ToBFloat16(in[i]).bits) << i;
}

// Ten warps of barriers and shared memory in each of several OS threads at once.
TEST_P(RightKernelsTest, HostThreadsRunKernelsAtTheSameTime) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int round = 0; round < 5; ++round) {
        std::vector<int> values(256, 1);
        DeviceArray<int> array(values);
        ASSERT_EQ(ErrorOf(1, 256, &Scan, array.get()), "");
        ASSERT_EQ(array.Values()[255], 256);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace trireme::gpu
