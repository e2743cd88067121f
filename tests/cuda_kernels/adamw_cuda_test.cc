#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/cuda_kernels/on_gpu.h"
#include "worker/optimizer/adamw.h"
#include "worker/optimizer/state_checksum.h"
#include "worker/optimizer/step_numbers.h"

namespace trireme {
namespace {

const AdamWStep kStep = {3e-3, 0.9, 0.95, 1e-8, 0.1, 7, 0.25};

Owned NonNegative(int64_t n, uint32_t seed) {
  Owned x = Owned::Random(DType::kF32, {n}, seed);
  for (int64_t i = 0; i < n; ++i) x.Set(i, std::abs(x.At(i)));
  return x;
}

// State of n elements of one parameter on a device, `offset` elements behind an aligned address.
struct State {
  State(Stream& stream, DType masters, int64_t n, int64_t offset = 0)
      : gradient(stream, Owned::Random(DType::kF32, {n}, 4), offset),
        p(stream, Owned::Random(masters, {n}, 1), offset),
        m(stream, Owned::Random(DType::kF32, {n}, 2), offset),
        v(stream, NonNegative(n, 3), offset),
        compute(stream, Owned(DType::kBF16, {n}), offset) {}
  std::vector<Owned> Read() const { return {p.Read(), m.Read(), v.Read(), compute.Read()}; }
  OnGpu gradient, p, m, v, compute;
};

// Elements [begin, end) from one state to another, which may be the same.
AdamWSlice Slice(const State& from, const State& to, int64_t begin, int64_t end, bool decay = true,
                 bool compute = true) {
  return {from.gradient.as<float>() + begin,
          from.p.as<float>() + begin,
          from.m.as<float>() + begin,
          from.v.as<float>() + begin,
          to.p.as<float>() + begin,
          to.m.as<float>() + begin,
          to.v.as<float>() + begin,
          compute ? to.compute.as<BFloat16>() + begin : nullptr,
          end - begin,
          decay};
}
AdamWRoundedSlice RoundedSlice(const State& from, const State& to, int64_t begin, int64_t end,
                               int64_t first_element) {
  return {from.gradient.as<float>() + begin,
          from.p.as<BFloat16>() + begin,
          from.m.as<float>() + begin,
          from.v.as<float>() + begin,
          to.p.as<BFloat16>() + begin,
          to.m.as<float>() + begin,
          to.v.as<float>() + begin,
          end - begin,
          first_element + begin,
          true};
}

constexpr int64_t kElements = 20003;

TEST(CudaAdamWTest, BitsAreThoseOfTheCpuInPlaceAndNotPackedAndNot) {
  Stream cpu(1), gpu(Gpu{});
  for (const bool decay : {false, true}) {
    const State from(cpu, DType::kF32, kElements), to(cpu, DType::kF32, kElements);
    const AdamWSlice slice = Slice(from, to, 0, kElements, decay);
    AdamW(cpu, {&slice, 1}, kStep);
    const std::vector<Owned> expected = to.Read();
    for (const int64_t offset : {0, 1}) {
      const State state(gpu, DType::kF32, kElements, offset);
      const State next(gpu, DType::kF32, kElements, offset);
      const AdamWSlice apart = Slice(state, next, 0, kElements, decay);
      AdamW(gpu, {&apart, 1}, kStep);
      EXPECT_TRUE(next.Read() == expected) << decay << " at " << offset;
      const AdamWSlice in_place = Slice(state, state, 0, kElements, decay);
      AdamW(gpu, {&in_place, 1}, kStep);
      EXPECT_TRUE(state.Read() == expected) << decay << " at " << offset << " in place";
    }
  }
}

TEST(CudaAdamWTest, ManySlicesOfOneCallAreManyCalls) {
  Stream cpu(1), gpu(Gpu{});
  const State whole(cpu, DType::kF32, kElements), state(gpu, DType::kF32, kElements);
  const AdamWSlice all = Slice(whole, whole, 0, kElements, true);
  AdamW(cpu, {&all, 1}, kStep);
  // More slices than one launch takes, empty ones among them, aligned and not.
  std::vector<AdamWSlice> slices;
  for (int64_t begin = 0, i = 0; begin < kElements; ++i) {
    const int64_t end = std::min(kElements, begin + (i % 3 == 0 ? 64 : i % 3 == 1 ? 0 : 301));
    slices.push_back(Slice(state, state, begin, end));
    begin = end;
  }
  ASSERT_GT(slices.size(), 150u);
  AdamW(gpu, slices, kStep);
  EXPECT_TRUE(state.Read() == whole.Read());
  AdamW(gpu, {}, kStep);
}

TEST(CudaAdamWTest, WithoutAComputeCopyNothingElseIsWritten) {
  Stream cpu(1), gpu(Gpu{});
  const State expected(cpu, DType::kF32, 100), state(gpu, DType::kF32, 100);
  const AdamWSlice on_cpu = Slice(expected, expected, 8, 50, true, false);
  const AdamWSlice on_gpu = Slice(state, state, 8, 50, true, false);
  AdamW(cpu, {&on_cpu, 1}, kStep);
  AdamW(gpu, {&on_gpu, 1}, kStep);
  EXPECT_TRUE(state.Read() == expected.Read());
}

TEST(CudaAdamWRoundedTest, BitsAreThoseOfTheCpuWhateverTheCuts) {
  Stream cpu(1), gpu(Gpu{});
  for (const int64_t first_element : {int64_t{0}, int64_t{5}, int64_t{1} << 40}) {
    const State whole(cpu, DType::kBF16, kElements);
    const AdamWRoundedSlice all = RoundedSlice(whole, whole, 0, kElements, first_element);
    AdamWRounded(cpu, {&all, 1}, kStep, 11);
    const std::vector<Owned> expected = whole.Read();
    for (const int64_t offset : {0, 1}) {
      const State state(gpu, DType::kBF16, kElements, offset);
      std::vector<AdamWRoundedSlice> slices;
      const int64_t edges[] = {0, 1, 18, 18, 8216, kElements};
      for (int i = 0; i + 1 < 6; ++i) {
        slices.push_back(RoundedSlice(state, state, edges[i], edges[i + 1], first_element));
      }
      AdamWRounded(gpu, slices, kStep, 11);
      EXPECT_TRUE(state.Read() == expected) << first_element << " at " << offset;
    }
    const State state(gpu, DType::kBF16, kElements);
    const AdamWRoundedSlice one = RoundedSlice(state, state, 0, kElements, first_element);
    AdamWRounded(gpu, {&one, 1}, kStep, 11);
    EXPECT_TRUE(state.Read() == expected) << first_element;
  }
}

// Sums of squares of consecutive ranges of x.
std::vector<double> SumsOfRanges(Stream& gpu, const float* x, const std::vector<int64_t>& edges) {
  const auto count = static_cast<int64_t>(edges.size()) - 1;
  const Buffer sums(count * 8, gpu.device());
  const Buffer table(count * static_cast<int64_t>(sizeof(NormRange)), gpu.device());
  std::vector<NormRange> ranges;
  for (int64_t r = 0; r < count; ++r) {
    ranges.push_back(
        {x + edges[r], edges[r + 1] - edges[r], reinterpret_cast<double*>(sums.data()) + r});
  }
  gpu.Copy(table.data(), ranges.data(), table.bytes());
  SumsOfSquares(gpu, reinterpret_cast<const NormRange*>(table.data()), count);
  std::vector<double> made(count, -1);
  gpu.Copy(made.data(), sums.data(), sums.bytes());
  gpu.Synchronize();
  return made;
}

TEST(CudaSumsOfSquaresTest, RangesAreSummedInDoubleInAnOrderOfTheirOwn) {
  Stream gpu(Gpu{});
  const Owned x = Owned::Random(DType::kF32, {60000}, 5);
  // Empty ranges too, and one that a block takes in several rounds.
  std::vector<int64_t> edges = {0, 1, 17, 17, 5000, 50003};
  while (edges.size() < 80) edges.push_back(edges.back() + 13);
  const OnGpu aligned(gpu, x), offset(gpu, x, 1);
  const std::vector<double> sums = SumsOfRanges(gpu, aligned.as<float>(), edges);
  for (size_t r = 0; r < sums.size(); ++r) {
    double expected = 0;
    for (int64_t i = edges[r]; i < edges[r + 1]; ++i) expected += x.At(i) * x.At(i);
    EXPECT_NEAR(sums[r], expected, 1e-12 * expected) << r;
  }
  EXPECT_EQ(SumsOfRanges(gpu, offset.as<float>(), edges), sums);
  // A range's bits do not depend on those it is asked with.
  EXPECT_EQ(SumsOfRanges(gpu, aligned.as<float>() + 5000, {0, 45003})[0], sums[4]);
}

StepNumbers Finish(Stream& gpu, const std::vector<double>& table,
                   const std::vector<int64_t>& row_ends, double clip_norm) {
  Buffer sums(std::ssize(table) * 8, gpu.device()), ends(std::ssize(row_ends) * 8, gpu.device());
  Buffer numbers(sizeof(StepNumbers), gpu.device());
  gpu.Copy(sums.data(), table.data(), sums.bytes());
  gpu.Copy(ends.data(), row_ends.data(), ends.bytes());
  FinishNorm(gpu, reinterpret_cast<const double*>(sums.data()),
             reinterpret_cast<const int64_t*>(ends.data()), std::ssize(row_ends), clip_norm,
             reinterpret_cast<StepNumbers*>(numbers.data()));
  StepNumbers made;
  gpu.Copy(&made, numbers.data(), numbers.bytes());
  gpu.Synchronize();
  return made;
}

// More rows than the block has threads, some of them empty.
TEST(CudaFinishNormTest, HasTheBitsOfTheHost) {
  Stream gpu(Gpu{});
  const Owned x = Owned::Random(DType::kF32, {3001}, 9);
  std::vector<double> table;
  for (int64_t i = 0; i < 3001; ++i) table.push_back(std::abs(x.At(i)) / 3.0);
  std::vector<int64_t> row_ends;
  for (int64_t end = 0; end <= 3000; end += 1 + end % 17) row_ends.push_back(end);
  row_ends.push_back(3001);
  ASSERT_GT(row_ends.size(), 300u);
  double total = 0;
  for (size_t row = 0; row < row_ends.size(); ++row) {
    double sum = 0;
    for (int64_t i = row == 0 ? 0 : row_ends[row - 1]; i < row_ends[row]; ++i) sum += table[i];
    total += sum;
  }
  const double norm = std::sqrt(total);
  for (const double clip : {0.0, 0.5, 1e6}) {
    const StepNumbers made = Finish(gpu, table, row_ends, clip);
    EXPECT_EQ(made.norm, norm);
    EXPECT_EQ(made.factors.gradient, static_cast<float>(ClipFactor(norm, clip))) << clip;
  }
  const double none = std::numeric_limits<double>::quiet_NaN();
  const StepNumbers made = Finish(gpu, {1, none}, {2}, 1);
  EXPECT_TRUE(std::isnan(made.norm));
  EXPECT_EQ(made.factors.gradient, static_cast<float>(ClipFactor(none, 1)));
}

TEST(CudaAdamWTest, NumbersOfTheDeviceGiveTheBitsOfGivenOnes) {
  Stream gpu(Gpu{});
  const State given(gpu, DType::kF32, kElements), on_device(gpu, DType::kF32, kElements);
  const AdamWSlice a = Slice(given, given, 0, kElements);
  const AdamWSlice b = Slice(on_device, on_device, 0, kElements);
  StepNumbers numbers{};
  numbers.factors = AdamWFactorsOf(kStep);
  Buffer memory(sizeof(numbers), gpu.device());
  gpu.Copy(memory.data(), &numbers, memory.bytes());
  AdamW(gpu, {&a, 1}, kStep);
  AdamW(gpu, {&b, 1}, reinterpret_cast<const StepNumbers*>(memory.data()));
  gpu.Synchronize();
  EXPECT_TRUE(given.Read() == on_device.Read());
}

TEST(CudaStateChecksumTest, IsTheCpuSum) {
  Stream cpu(1), gpu(Gpu{});
  const auto sum = [](Stream& stream, int64_t offset) {
    const OnGpu x(stream, Owned::Random(DType::kF32, {kElements}, 1), offset);
    const OnGpu y(stream, Owned::Random(DType::kBF16, {5001}, 2), offset);
    std::vector<ChecksumSlice> slices = {{x, 0}, {y, kElements}, {x.view().Rows(0, 0), 3}};
    for (int64_t i = 0; i < 100; ++i) slices.push_back({x.view().Rows(i, 3 * i + 1), 100 * i});
    const Tensor doubles(x.view().data(), DType::kF64, {77}, x.view().device());
    if (offset % 2 == 0) slices.push_back({doubles, 9});
    return StateChecksum(stream, slices);
  };
  for (const int64_t offset : {0, 1, 2}) EXPECT_EQ(sum(gpu, offset), sum(cpu, offset)) << offset;
  EXPECT_EQ(StateChecksum(gpu, {}), 0u);
}

}  // namespace
}  // namespace trireme
