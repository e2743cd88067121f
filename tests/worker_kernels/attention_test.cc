#include "worker/kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <tuple>

#include "tests/worker_kernels/kernel_testing.h"

namespace trireme {
namespace {

using Doubles = std::vector<double>;

struct AttentionCase {
  int64_t batch, length, query_heads, key_heads, head_dim;
  DType dtype;
  bool documents;
};

// q, k and v side by side in one buffer, as the model keeps them: row [(Hq + 2 Hk) D + padding].
struct Fused {
  Fused(const AttentionCase& c, uint32_t seed)
      : c(c),
        stride((c.query_heads + 2 * c.key_heads) * c.head_dim + 3),
        memory(Owned::Random(c.dtype, {c.batch * c.length, stride}, seed)) {}
  Heads Part(int64_t first_head, int64_t heads) const {
    return {memory.view().bytes_data() + first_head * c.head_dim * ByteSize(c.dtype),
            c.dtype,
            c.batch,
            c.length,
            heads,
            c.head_dim,
            stride};
  }
  Heads q() const { return Part(0, c.query_heads); }
  Heads k() const { return Part(c.query_heads, c.key_heads); }
  Heads v() const { return Part(c.query_heads + c.key_heads, c.key_heads); }
  AttentionCase c;
  int64_t stride;
  Owned memory;
};

double& At(Doubles& x, const Heads& heads, const Heads& base, int64_t b, int64_t t, int64_t h,
           int64_t i) {
  const int64_t first = (static_cast<std::byte*>(heads.data) - static_cast<std::byte*>(base.data)) /
                        ByteSize(base.dtype);
  return x[(b * heads.length + t) * heads.row_stride + first + h * heads.head_dim + i];
}

Owned DocumentStarts(const AttentionCase& c) {
  Owned starts(DType::kI32, {c.batch, c.length});
  for (int64_t b = 0; b < c.batch; ++b) {
    int64_t start = 0;
    for (int64_t t = 0; t < c.length; ++t) {
      if (t > 0 && (t * 7 + b) % 45 == 0) start = t;
      starts.Set(b * c.length + t, c.documents ? start : 0);
    }
  }
  return starts;
}

// The reference in double; gradients, where dout is given, by the chain rule over the explicit
// matrix.
struct Reference {
  Doubles out, log_sum_exp, gradient;  // gradient in the fused layout
};

Reference Compute(const Fused& fused, const Owned& starts, const Owned* dout, double scale) {
  const AttentionCase& c = fused.c;
  Doubles x = fused.memory.Doubles();
  Reference r;
  r.out.resize(c.batch * c.length * c.query_heads * c.head_dim);
  r.log_sum_exp.resize(c.batch * c.query_heads * c.length);
  r.gradient.resize(x.size());
  const Heads base = fused.q(), q = fused.q(), k = fused.k(), v = fused.v();
  const int64_t d = c.head_dim;
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int64_t h = 0; h < c.query_heads; ++h) {
      const int64_t g = h / (c.query_heads / c.key_heads);
      for (int64_t t = 0; t < c.length; ++t) {
        const int64_t first = starts.At(b * c.length + t);
        Doubles p(t + 1), dp(t + 1);
        double top = -INFINITY, sum = 0, delta = 0;
        for (int64_t s = first; s <= t; ++s) {
          for (int64_t i = 0; i < d; ++i) {
            p[s] += scale * At(x, q, base, b, t, h, i) * At(x, k, base, b, s, g, i);
          }
          top = std::max(top, p[s]);
        }
        for (int64_t s = first; s <= t; ++s) sum += p[s] = std::exp(p[s] - top);
        r.log_sum_exp[(b * c.query_heads + h) * c.length + t] = top + std::log(sum);
        const int64_t row = ((b * c.length + t) * c.query_heads + h) * d;
        for (int64_t s = first; s <= t; ++s) {
          p[s] /= sum;
          for (int64_t i = 0; i < d; ++i) r.out[row + i] += p[s] * At(x, v, base, b, s, g, i);
        }
        if (dout == nullptr) continue;
        for (int64_t s = first; s <= t; ++s) {
          for (int64_t i = 0; i < d; ++i) {
            dp[s] += dout->At(row + i) * At(x, v, base, b, s, g, i);
            At(r.gradient, v, base, b, s, g, i) += p[s] * dout->At(row + i);
          }
          delta += p[s] * dp[s];
        }
        for (int64_t s = first; s <= t; ++s) {
          const double ds = p[s] * (dp[s] - delta) * scale;
          for (int64_t i = 0; i < d; ++i) {
            At(r.gradient, q, base, b, t, h, i) += ds * At(x, k, base, b, s, g, i);
            At(r.gradient, k, base, b, s, g, i) += ds * At(x, q, base, b, t, h, i);
          }
        }
      }
    }
  }
  return r;
}

Heads Plain(const Owned& x, const AttentionCase& c, int64_t heads) {
  return {x.view().data(), c.dtype, c.batch, c.length, heads, c.head_dim, heads * c.head_dim};
}

class AttentionTest : public testing::TestWithParam<AttentionCase> {};

TEST_P(AttentionTest, ForwardAndBackwardEqualTheDoubleReference) {
  const AttentionCase c = GetParam();
  const Fused fused(c, 1);
  const Owned starts = DocumentStarts(c);
  const Shape out_shape = {c.batch * c.length, c.query_heads * c.head_dim};
  const Owned dout = Owned::Random(c.dtype, out_shape, 2);
  const float scale = 1.7f / std::sqrt(static_cast<float>(c.head_dim));
  const Tensor starts_if_any = c.documents ? starts.view() : Tensor();
  const auto results = RunOnThreads([&](Stream& stream) {
    Owned out(c.dtype, out_shape), saved(DType::kF32, {c.batch, c.query_heads, c.length});
    Fused gradient(c, 9);
    for (int64_t i = 0; i < gradient.memory.elements(); ++i) gradient.memory.Set(i, 0);
    AttentionForward(stream, fused.q(), fused.k(), fused.v(), scale, starts_if_any,
                     Plain(out, c, c.query_heads), saved);
    AttentionBackward(stream, Plain(dout, c, c.query_heads), fused.q(), fused.k(), fused.v(),
                      Plain(out, c, c.query_heads), saved, scale, starts_if_any, gradient.q(),
                      gradient.k(), gradient.v());
    return std::vector<Owned>{out, saved, gradient.memory};
  });
  const Reference reference = Compute(fused, starts, &dout, scale);
  const double unit = c.dtype == DType::kBF16 ? 1.0 / 128 : 3e-6;
  ExpectNear(results[0], reference.out, unit, unit, "out");
  ExpectNear(results[1], reference.log_sum_exp, 3e-6, 1e-6, "log_sum_exp");
  ExpectNear(results[2], reference.gradient, 2 * unit, 2 * unit, "gradient");
}

INSTANTIATE_TEST_SUITE_P(All, AttentionTest,
                         testing::Values(AttentionCase{1, 1, 1, 1, 16, DType::kF32, false},
                                         AttentionCase{2, 17, 2, 1, 8, DType::kF32, false},
                                         AttentionCase{1, 64, 3, 3, 20, DType::kF32, false},
                                         AttentionCase{2, 130, 4, 2, 16, DType::kF32, true},
                                         AttentionCase{1, 200, 6, 2, 64, DType::kF32, false},
                                         AttentionCase{1, 70, 10, 1, 8, DType::kF32, true},
                                         AttentionCase{1, 70, 5, 1, 8, DType::kBF16, true},
                                         AttentionCase{1, 600, 2, 1, 8, DType::kF32, false},
                                         AttentionCase{1, 1100, 1, 1, 8, DType::kF32, true},
                                         AttentionCase{2, 130, 4, 2, 16, DType::kBF16, true},
                                         AttentionCase{1, 200, 6, 2, 64, DType::kBF16, false},
                                         AttentionCase{1, 570, 2, 1, 32, DType::kBF16, false}));

// The double reference's own gradient is the slope of its own output.
class AttentionReferenceTest : public testing::TestWithParam<AttentionCase> {};

TEST_P(AttentionReferenceTest, GradientsAreTheSlopeOfTheOutput) {
  const AttentionCase c = GetParam();
  Fused fused(c, 1);
  const Owned starts = DocumentStarts(c);
  const Doubles positions = starts.Doubles();
  ASSERT_EQ(std::any_of(positions.begin(), positions.end(), [](double t) { return t > 0; }),
            c.documents);
  const Owned dout = Owned::Random(c.dtype, {c.batch * c.length, c.query_heads * c.head_dim}, 2);
  const Doubles gradient = Compute(fused, starts, &dout, 0.5).gradient;
  const auto loss = [&] {
    const Doubles out = Compute(fused, starts, nullptr, 0.5).out;
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) sum += out[i] * dout.At(i);
    return sum;
  };
  for (int64_t i = 0; i < fused.memory.elements(); i += 3) {
    const double before = fused.memory.At(i);
    fused.memory.Set(i, before + 1.0 / 256);
    const double x_above = fused.memory.At(i), above = loss();
    fused.memory.Set(i, before - 1.0 / 256);
    const double x_below = fused.memory.At(i), below = loss();
    fused.memory.Set(i, before);
    EXPECT_NEAR(gradient[i], (above - below) / (x_above - x_below), 2e-5) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(All, AttentionReferenceTest,
                         testing::Values(AttentionCase{2, 5, 4, 2, 3, DType::kF32, false},
                                         AttentionCase{4, 12, 2, 1, 3, DType::kF32, true}));

TEST(AttentionForwardTest, KeysOfTheFutureAndOfOtherDocumentsAreNeverRead) {
  const AttentionCase c{1, 150, 2, 1, 16, DType::kF32, true};
  Fused fused(c, 1);
  const Owned starts = DocumentStarts(c);
  const auto run = [&](const Fused& f) {
    Stream stream(1);
    Owned out(c.dtype, {c.length, c.query_heads * c.head_dim}), saved(DType::kF32, {2 * c.length});
    AttentionForward(stream, f.q(), f.k(), f.v(), 0.25f, starts, Plain(out, c, 2), saved);
    return out;
  };
  const Owned before = run(fused);
  // Position 100 belongs to the document that starts at 90.
  const int64_t width = c.query_heads * c.head_dim;
  for (int64_t t = 0; t < c.length; ++t) {
    if (t >= 90 && t <= 100) continue;
    for (int64_t i = 0; i < fused.stride; ++i) fused.memory.Set(t * fused.stride + i, 50.0);
  }
  ASSERT_EQ(starts.At(100), 90);
  const Owned after = run(fused);
  for (int64_t i = 0; i < width; ++i)
    EXPECT_EQ(before.At(100 * width + i), after.At(100 * width + i));
}

class AttentionDecodeTest : public testing::TestWithParam<std::tuple<DType, int64_t>> {};

TEST_P(AttentionDecodeTest, EqualsTheWholeForwardPass) {
  const auto [dtype, queries] = GetParam();
  constexpr int64_t kCapacity = 330;
  const int64_t filled[] = {queries, 300};
  const Owned lengths = [&] {
    Owned l(DType::kI32, {2});
    for (int b = 0; b < 2; ++b) l.Set(b, filled[b]);
    return l;
  }();
  const AttentionCase c{2, kCapacity, 6, 2, 20, dtype, false};
  const Fused fused(c, 1);
  const float scale = 0.3f;
  const int64_t width = c.query_heads * c.head_dim;
  Owned q(dtype, {2 * queries, width});
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t t = 0; t < queries; ++t) {
      for (int64_t i = 0; i < width; ++i) {
        const int64_t source = b * kCapacity + filled[b] - queries + t;
        q.Set((b * queries + t) * width + i, fused.memory.At(source * fused.stride + i));
      }
    }
  }
  AttentionCase few = c;
  few.length = queries;
  const auto out = RunOnThreads([&](Stream& stream) {
    Owned y(dtype, {2 * queries, width});
    AttentionDecode(stream, Plain(q, few, 6), fused.k(), fused.v(), lengths, scale,
                    Plain(y, few, 6));
    return std::vector<Owned>{y};
  });
  const Reference whole = Compute(fused, DocumentStarts(c), nullptr, scale);
  Doubles expected(2 * queries * width);
  for (int64_t n = 0; n < 2 * queries; ++n) {
    const int64_t b = n / queries, source = b * kCapacity + filled[b] - queries + n % queries;
    for (int64_t i = 0; i < width; ++i) expected[n * width + i] = whole.out[source * width + i];
  }
  const double unit = dtype == DType::kBF16 ? 1.0 / 128 : 3e-6;
  ExpectNear(out[0], expected, unit, unit, "out");
}

INSTANTIATE_TEST_SUITE_P(All, AttentionDecodeTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(1, 3, 90)));

class RotaryTest : public testing::TestWithParam<DType> {
 protected:
  static constexpr int64_t kHalf = 5;  // 10 of 22 dims turn

  RotaryTest() {
    for (int64_t n = 0; n < 18; ++n) positions_.Set(n, (n * 5) % 20);
    for (int64_t i = 0; i < 20 * kHalf; ++i) {
      const double angle = (i / kHalf) * std::pow(100.0, -(i % kHalf) / 5.0);
      cosines_.Set(i, std::cos(angle));
      sines_.Set(i, std::sin(angle));
    }
  }

  // The reference in double: the three query heads of a fused buffer turned.
  Doubles Turned(Doubles x) const {
    for (int64_t n = 0; n < 18; ++n) {
      for (int64_t h = 0; h < 3; ++h) {
        for (int64_t i = 0; i < kHalf; ++i) {
          double& a = x[n * fused_.stride + h * 22 + i];
          double& b = x[n * fused_.stride + h * 22 + kHalf + i];
          const int64_t at = static_cast<int64_t>(positions_.At(n)) * kHalf + i;
          const double cosine = cosines_.At(at), sine = sines_.At(at), a0 = a;
          a = a0 * cosine - b * sine;
          b = b * cosine + a0 * sine;
        }
      }
    }
    return x;
  }

  const AttentionCase c_{2, 9, 3, 1, 22, GetParam(), false};
  const Fused fused_{c_, 1};
  Owned positions_{DType::kI32, {2, 9}}, cosines_{DType::kF32, {20, kHalf}}, sines_ = cosines_;
};

TEST_P(RotaryTest, RotatesHalvesAndBack) {
  const auto out = RunOnThreads([&](Stream& stream) {
    Fused turned = fused_;
    RotaryInPlace(stream, turned.q(), positions_, cosines_, sines_, false);
    Fused back = turned;
    RotaryInPlace(stream, back.q(), positions_, cosines_, sines_, true);
    return std::vector<Owned>{turned.memory, back.memory};
  });
  ExpectNear(out[0], Turned(fused_.memory.Doubles()), 2e-7, Rounding(c_.dtype), "turned");
  ExpectNear(out[1], fused_.memory.Doubles(), 4 * Rounding(c_.dtype), 0, "back");
}

// The backward pass turns gradients back: the slope of <dy, turned x> in x.
TEST_P(RotaryTest, TheInverseIsTheSlopeOfTheReference) {
  const Fused dy(c_, 2);
  const auto out = RunOnThreads([&](Stream& stream) {
    Fused dx = dy;
    RotaryInPlace(stream, dx.q(), positions_, cosines_, sines_, true);
    return std::vector<Owned>{dx.memory};
  });
  const auto loss = [&](const Doubles& x) {
    const Doubles turned = Turned(x), gradient = dy.memory.Doubles();
    return std::inner_product(turned.begin(), turned.end(), gradient.begin(), 0.0);
  };
  const Doubles x = fused_.memory.Doubles();
  Doubles slope(x.size());
  for (size_t i = 0; i < x.size(); ++i) slope[i] = Difference(loss, x, static_cast<int64_t>(i));
  ExpectNear(out[0], slope, 1e-7, Rounding(c_.dtype), "dx");
}

INSTANTIATE_TEST_SUITE_P(All, RotaryTest, testing::Values(DType::kF32, DType::kBF16));

}  // namespace
}  // namespace trireme
