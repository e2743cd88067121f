#include <gtest/gtest.h>

#include <tuple>

#include "tests/cuda_kernels/on_gpu.h"
#include "worker/kernels/attention.h"
#include "worker/kernels/cuda_kernels.h"

namespace trireme {
namespace {

struct AttentionCase {
  int64_t batch, length, query_heads, key_heads, head_dim;
  DType dtype;
  bool documents;
  int64_t padding;  // elements behind each row
};

int64_t Width(const AttentionCase& c) {
  return (c.query_heads + 2 * c.key_heads) * c.head_dim + c.padding;
}

// Heads of a matrix [B T, stride] from a column on.
Heads Columns(const Tensor& x, const AttentionCase& c, int64_t first_head, int64_t heads) {
  return {x.bytes_data() + first_head * c.head_dim * ByteSize(x.dtype()),
          x.dtype(),
          c.batch,
          x.dim(0) / c.batch,
          heads,
          c.head_dim,
          x.dim(1)};
}
// q, k, v side by side, as the model keeps them.
Heads Queries(const Tensor& x, const AttentionCase& c) { return Columns(x, c, 0, c.query_heads); }
Heads Keys(const Tensor& x, const AttentionCase& c) {
  return Columns(x, c, c.query_heads, c.key_heads);
}
Heads Values(const Tensor& x, const AttentionCase& c) {
  return Columns(x, c, c.query_heads + c.key_heads, c.key_heads);
}

Owned DocumentStarts(const AttentionCase& c) {
  Owned starts(DType::kI32, {c.batch, c.length});
  for (int64_t b = 0; b < c.batch; ++b) {
    int64_t start = 0;
    for (int64_t t = 0; t < c.length; ++t) {
      if (t > 0 && (t * 7 + b) % 45 == 0) start = t;
      starts.Set(b * c.length + t, start);
    }
  }
  return starts;
}

Owned InFloat(const Owned& x) {
  Owned result(DType::kF32, x.view().shape());
  for (int64_t i = 0; i < x.elements(); ++i) result.Set(i, x.At(i));
  return result;
}

float ScaleOf(const AttentionCase& c) { return 1.7f / std::sqrt(static_cast<float>(c.head_dim)); }

struct Forward {
  Owned out, log_sum_exp;
};

Forward RunForward(Stream& stream, const AttentionCase& c, const Owned& fused_in) {
  const DType dtype = fused_in.view().dtype();
  const OnGpu fused(stream, fused_in), starts(stream, DocumentStarts(c)),
      out(stream, dtype, {c.batch * c.length, c.query_heads * c.head_dim}),
      saved(stream, DType::kF32, {c.batch, c.query_heads, c.length});
  AttentionForward(stream, Queries(fused, c), Keys(fused, c), Values(fused, c), ScaleOf(c),
                   c.documents ? starts.view() : Tensor(), Columns(out, c, 0, c.query_heads),
                   saved);
  return {out.Read(), saved.Read()};
}

// The gradient in the fused layout; zeros in the padding.
Owned RunBackward(Stream& stream, const AttentionCase& c, const Owned& fused_in,
                  const Owned& dout_in, const Forward& forward) {
  const OnGpu fused(stream, fused_in), starts(stream, DocumentStarts(c)), dout(stream, dout_in),
      out(stream, forward.out), saved(stream, forward.log_sum_exp),
      gradient(stream, fused_in.view().dtype(), fused_in.view().shape());
  AttentionBackward(stream, Columns(dout, c, 0, c.query_heads), Queries(fused, c), Keys(fused, c),
                    Values(fused, c), Columns(out, c, 0, c.query_heads), saved, ScaleOf(c),
                    c.documents ? starts.view() : Tensor(), Queries(gradient, c), Keys(gradient, c),
                    Values(gradient, c));
  return gradient.Read();
}

// What a kernel may be off that rounds probabilities and their gradients to bf16 before it
// multiplies them, as the library's do: for every element the sum of the products' sizes, times the
// unit of bf16. Products and sums beside them are as good as exact.
struct RoundingBounds {
  std::vector<double> out, gradient;  // in the layout of `out`, and of the fused gradient
};

RoundingBounds BoundsOf(const AttentionCase& c, const Owned& fused, const Owned& dout,
                        const Forward& forward) {
  constexpr double kUnit = 1.0 / 256;
  const int64_t width = Width(c), d = c.head_dim, out_width = c.query_heads * d;
  const Owned starts = DocumentStarts(c);
  RoundingBounds bounds{std::vector<double>(forward.out.elements()),
                        std::vector<double>(fused.elements())};
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int64_t h = 0; h < c.query_heads; ++h) {
      const int64_t key_head = h / (c.query_heads / c.key_heads);
      const int64_t k_at = (c.query_heads + key_head) * d;
      const int64_t v_at = k_at + c.key_heads * d;
      for (int64_t t = 0; t < c.length; ++t) {
        const int64_t row = b * c.length + t;
        double delta = 0;
        for (int64_t i = 0; i < d; ++i) {
          const int64_t at = row * out_width + h * d + i;
          delta += dout.At(at) * forward.out.At(at);
        }
        for (int64_t s = c.documents ? starts.At(row) : 0; s <= t; ++s) {
          const int64_t key_row = b * c.length + s;
          double dot = 0, dp = 0;
          for (int64_t i = 0; i < d; ++i) {
            dot += fused.At(row * width + h * d + i) * fused.At(key_row * width + k_at + i);
            dp += dout.At(row * out_width + h * d + i) * fused.At(key_row * width + v_at + i);
          }
          const double p = std::exp(dot * ScaleOf(c) -
                                    forward.log_sum_exp.At((b * c.query_heads + h) * c.length + t));
          const double ds = std::abs(p * (dp - delta) * ScaleOf(c));
          for (int64_t i = 0; i < d; ++i) {
            const int64_t q = row * width + h * d + i, k = key_row * width + k_at + i;
            const int64_t v = key_row * width + v_at + i, o = row * out_width + h * d + i;
            bounds.out[o] += kUnit * p * std::abs(fused.At(v));
            bounds.gradient[q] += kUnit * ds * std::abs(fused.At(k));
            bounds.gradient[k] += kUnit * ds * std::abs(fused.At(q));
            bounds.gradient[v] += kUnit * p * std::abs(dout.At(o));
          }
        }
      }
    }
  }
  return bounds;
}

// ExpectNear with a bound for each element besides.
void ExpectWithin(const Owned& actual, const Owned& expected, const std::vector<double>& bounds,
                  double absolute, double relative, const std::string& what) {
  for (int64_t i = 0; i < actual.elements(); ++i) {
    const double tolerance = absolute + relative * std::abs(expected.At(i)) + bounds[i];
    ASSERT_NEAR(actual.At(i), expected.At(i), tolerance) << what << ", element " << i;
  }
}

// Whether a library's kernel takes the case's forward pass.
bool IsFused(Stream& gpu, const AttentionCase& c, const Owned& fused_in) {
  const OnGpu fused(gpu, fused_in), starts(gpu, DocumentStarts(c)),
      out(gpu, c.dtype, {c.batch * c.length, c.query_heads * c.head_dim}),
      saved(gpu, DType::kF32, {c.batch, c.query_heads, c.length});
  const bool is_fused = cuda::FusedAttentionForward(
      gpu, Queries(fused, c), Keys(fused, c), Values(fused, c), ScaleOf(c),
      c.documents ? starts.view() : Tensor(), Columns(out, c, 0, c.query_heads), saved);
  gpu.Synchronize();
  return is_fused;
}

class CudaAttentionTest : public testing::TestWithParam<AttentionCase> {};

// The CPU runs in f32 on the same values, so that bf16 differs by what the GPU rounds alone.
TEST_P(CudaAttentionTest, ForwardAndBackwardEqualTheCpu) {
  const AttentionCase c = GetParam();
  const Owned fused = Owned::Random(c.dtype, {c.batch * c.length, Width(c)}, 1);
  const Owned dout = Owned::Random(c.dtype, {c.batch * c.length, c.query_heads * c.head_dim}, 2);
  Stream cpu(1), gpu(Gpu{});
  const Forward actual = RunForward(gpu, c, fused);
  const Forward expected = RunForward(cpu, c, InFloat(fused));
  const double unit = Rounding(c.dtype);
  RoundingBounds bounds{std::vector<double>(actual.out.elements()),
                        std::vector<double>(fused.elements())};
  if (IsFused(gpu, c, fused)) bounds = BoundsOf(c, fused, dout, actual);
  ExpectWithin(actual.out, expected.out, bounds.out, 3e-6, unit, "out");
  ExpectNear(actual.log_sum_exp, expected.log_sum_exp.Doubles(), 3e-6, 1e-6, "log_sum_exp");
  const Owned gradient = RunBackward(gpu, c, fused, dout, actual);
  const Owned reference =
      RunBackward(cpu, c, InFloat(fused), InFloat(dout), {InFloat(actual.out), actual.log_sum_exp});
  ExpectWithin(gradient, reference, bounds.gradient, 2e-5, unit, "gradient");
  EXPECT_TRUE(RunBackward(gpu, c, fused, dout, actual) == gradient) << "another run";
}

constexpr DType kF32 = DType::kF32, kBF16 = DType::kBF16;
INSTANTIATE_TEST_SUITE_P(All, CudaAttentionTest,
                         testing::Values(AttentionCase{1, 1, 1, 1, 16, kF32, false, 0},
                                         AttentionCase{2, 17, 2, 1, 8, kF32, false, 3},
                                         AttentionCase{1, 70, 2, 2, 20, kF32, false, 0},
                                         AttentionCase{2, 100, 4, 2, 16, kF32, true, 4},
                                         AttentionCase{1, 130, 3, 1, 64, kF32, true, 0},
                                         AttentionCase{1, 40, 2, 1, 128, kF32, false, 0},
                                         AttentionCase{1, 66, 1, 1, 13, kF32, true, 1},
                                         AttentionCase{1, 33, 1, 1, 96, kF32, true, 1},
                                         AttentionCase{1, 20, 2, 1, 256, kF32, false, 0},
                                         AttentionCase{1, 70, 5, 1, 8, kBF16, true, 0},
                                         AttentionCase{2, 100, 4, 2, 16, kBF16, true, 3},
                                         AttentionCase{1, 130, 2, 1, 64, kBF16, false, 0},
                                         AttentionCase{1, 40, 2, 1, 128, kBF16, true, 8},
                                         AttentionCase{1, 35, 2, 2, 20, kBF16, false, 0},
                                         AttentionCase{1, 20, 1, 1, 192, kBF16, true, 0}));

TEST(CudaAttentionTest, BitsOfASequenceDoNotDependOnItsCompany) {
  const AttentionCase both = {2, 70, 2, 1, 16, DType::kF32, false, 0};
  AttentionCase one = both;
  one.batch = 1;
  const Owned fused = Owned::Random(DType::kF32, {140, Width(both)}, 1);
  Owned second(DType::kF32, {70, Width(both)});
  for (int64_t i = 0; i < second.elements(); ++i) second.Set(i, fused.At(second.elements() + i));
  Stream gpu(Gpu{});
  const Forward all = RunForward(gpu, both, fused), alone = RunForward(gpu, one, second);
  for (int64_t i = 0; i < alone.out.elements(); ++i) {
    ASSERT_EQ(alone.out.At(i), all.out.At(alone.out.elements() + i)) << i;
  }
}

TEST(CudaAttentionTest, KeysOfTheFutureAndOfOtherDocumentsAreNeverRead) {
  const AttentionCase c = {1, 150, 2, 1, 16, DType::kF32, true, 0};
  Owned fused = Owned::Random(DType::kF32, {c.length, Width(c)}, 1);
  Stream gpu(Gpu{});
  const Forward before = RunForward(gpu, c, fused);
  // Position 100 belongs to the document that starts at 90.
  ASSERT_EQ(DocumentStarts(c).At(100), 90);
  for (int64_t t = 0; t < c.length; ++t) {
    if (t >= 90 && t <= 100) continue;
    for (int64_t i = 0; i < Width(c); ++i) fused.Set(t * Width(c) + i, 50.0);
  }
  const Forward after = RunForward(gpu, c, fused);
  const int64_t width = c.query_heads * c.head_dim;
  for (int64_t i = 0; i < width; ++i) {
    EXPECT_EQ(before.out.At(100 * width + i), after.out.At(100 * width + i));
  }
}

TEST(CudaAttentionDeathTest, HeadDimsWithoutAKernelAreToldByName) {
  const AttentionCase c = {1, 4, 1, 1, 264, DType::kF32, false, 0};
  const Owned fused = Owned::Random(c.dtype, {c.length, Width(c)}, 1);
  EXPECT_DEATH(
      {
        Stream gpu(Gpu{});
        RunForward(gpu, c, fused);
      },
      "264.*head dims above this have no kernel on a GPU");
}

// Head dim, queries, capacity of the cache, type.
class CudaAttentionDecodeTest
    : public testing::TestWithParam<std::tuple<int64_t, int64_t, int64_t, DType>> {};

TEST_P(CudaAttentionDecodeTest, EqualsTheCpuAndReadsNothingBehindTheFilledPart) {
  const auto [head_dim, queries, capacity, dtype] = GetParam();
  const AttentionCase c = {2, capacity, 6, 2, head_dim, dtype, false, 0};
  const int64_t filled[] = {queries, capacity - 9};
  Owned cache = Owned::Random(dtype, {2 * capacity, Width(c)}, 1), lengths(DType::kI32, {2});
  const Owned q = Owned::Random(dtype, {2 * queries, 6 * head_dim}, 2);
  for (int64_t b = 0; b < 2; ++b) lengths.Set(b, filled[b]);
  const auto run = [&](Stream& stream, const Owned& q_in, const Owned& cache_in) {
    const OnGpu query(stream, q_in), keys(stream, cache_in), length(stream, lengths),
        out(stream, q_in.view().dtype(), {2 * queries, 6 * head_dim});
    AttentionDecode(stream, Columns(query, c, 0, 6), Keys(keys, c), Values(keys, c), length, 0.3f,
                    Columns(out, c, 0, 6));
    return out.Read();
  };
  Stream cpu(1), gpu(Gpu{});
  const Owned expected = run(cpu, InFloat(q), InFloat(cache));
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t t = filled[b]; t < capacity; ++t) {
      for (int64_t i = 0; i < Width(c); ++i) cache.Set((b * capacity + t) * Width(c) + i, NAN);
    }
  }
  ExpectNear(run(gpu, q, cache), expected.Doubles(), 3e-6, Rounding(dtype), "out");
}

// One split and several; up to 16 rows a key head, and more.
INSTANTIATE_TEST_SUITE_P(
    All, CudaAttentionDecodeTest,
    testing::Values(std::make_tuple(20, 1, 70, kF32), std::make_tuple(64, 1, 600, kF32),
                    std::make_tuple(16, 3, 300, kF32), std::make_tuple(128, 1, 70, kF32),
                    std::make_tuple(256, 2, 20, kF32), std::make_tuple(64, 5, 300, kBF16),
                    std::make_tuple(16, 1, 600, kBF16), std::make_tuple(16, 40, 100, kBF16),
                    std::make_tuple(13, 30, 100, kF32)));

}  // namespace
}  // namespace trireme
