#include "worker/kernels/activation.h"

#include <gtest/gtest.h>

#include "tests/worker_kernels/kernel_testing.h"
#include "worker/kernels/exp.h"

namespace trireme {
namespace {

double Silu(double g) { return g / (1 + std::exp(-g)); }
double Gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
double Slope(double (*f)(double), double x) { return (f(x + 1e-5) - f(x - 1e-5)) / 2e-5; }

class ActivationTest : public testing::TestWithParam<std::tuple<DType, int64_t>> {
 protected:
  DType dtype = std::get<0>(GetParam());
  int64_t n = std::get<1>(GetParam());
  Owned a = Owned::Random(dtype, {n}, 1, 6.0), b = Owned::Random(dtype, {n}, 2, 6.0);
  Owned dy = Owned::Random(dtype, {n}, 3);
  void Expect(const Owned& out, const std::function<double(int64_t)>& f, const char* what) {
    std::vector<double> expected(n);
    for (int64_t i = 0; i < n; ++i) expected[i] = f(i);
    ExpectNear(out, expected, 3e-6, Rounding(dtype) + 1e-6, what);
  }
};

TEST_P(ActivationTest, SwiGluEqualsTheDoubleReference) {
  const auto out = RunOnThreads([&](Stream& stream) {
    Owned y(dtype, {n}), dgate(dtype, {n}), dup(dtype, {n});
    SwiGluForward(stream, a, b, y);
    SwiGluBackward(stream, dy, a, b, dgate, dup);
    return std::vector<Owned>{y, dgate, dup};
  });
  Expect(
      out[0], [&](int64_t i) { return Silu(a.At(i)) * b.At(i); }, "y");
  Expect(
      out[1], [&](int64_t i) { return dy.At(i) * b.At(i) * Slope(Silu, a.At(i)); }, "dgate");
  Expect(
      out[2], [&](int64_t i) { return dy.At(i) * Silu(a.At(i)); }, "dup");
  Stream stream(2);
  Owned gate = a, up = b, into_dy = dy;
  SwiGluBackward(stream, dy, gate, up, gate, up);
  EXPECT_TRUE(gate == out[1] && up == out[2]) << "dgate on gate, dup on up";
  gate = a;
  SwiGluBackward(stream, into_dy, gate, b, gate, into_dy);
  EXPECT_TRUE(gate == out[1] && into_dy == out[2]) << "dgate on gate, dup on dy";
}

// Both gradients by central differences of one reference: <dy, silu(gate) * up>.
TEST_P(ActivationTest, SwiGluGradientsAreTheSlopesOfTheReference) {
  const auto out = RunOnThreads([&](Stream& stream) {
    Owned dgate(dtype, {n}), dup(dtype, {n});
    SwiGluBackward(stream, dy, a, b, dgate, dup);
    return std::vector<Owned>{dgate, dup};
  });
  const auto loss = [&](int64_t i, double gate, double up) { return dy.At(i) * Silu(gate) * up; };
  const double h = 1e-5;
  Expect(
      out[0],
      [&](int64_t i) {
        return (loss(i, a.At(i) + h, b.At(i)) - loss(i, a.At(i) - h, b.At(i))) / (2 * h);
      },
      "dgate");
  Expect(
      out[1],
      [&](int64_t i) {
        return (loss(i, a.At(i), b.At(i) + h) - loss(i, a.At(i), b.At(i) - h)) / (2 * h);
      },
      "dup");
}

TEST_P(ActivationTest, GeluEqualsTheDoubleReference) {
  const auto out = RunOnThreads([&](Stream& stream) {
    Owned y(dtype, {n}), dx(dtype, {n});
    GeluForward(stream, a, y);
    GeluBackward(stream, dy, a, dx);
    return std::vector<Owned>{y, dx};
  });
  Expect(
      out[0], [&](int64_t i) { return Gelu(a.At(i)); }, "y");
  Expect(
      out[1], [&](int64_t i) { return dy.At(i) * Slope(Gelu, a.At(i)); }, "dx");
  Stream stream(2);
  Owned x = a, d = dy;
  GeluBackward(stream, dy, x, x);
  GeluBackward(stream, d, a, d);
  EXPECT_TRUE(x == out[1] && d == out[1]);
}

TEST_P(ActivationTest, AddRoundsToTheResult) {
  const auto out = RunOnThreads([&](Stream& stream) {
    Owned y(dtype, {n}), into_a = a, into_b = b;
    Add(stream, a, b, y);
    Add(stream, into_a, b, into_a);
    Add(stream, a, into_b, into_b);
    return std::vector<Owned>{y, into_a, into_b};
  });
  Expect(
      out[0], [&](int64_t i) { return a.At(i) + b.At(i); }, "y");
  EXPECT_TRUE(out[0] == out[1] && out[0] == out[2]);
}

INSTANTIATE_TEST_SUITE_P(All, ActivationTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(1, 15, 64, 40001)));

TEST(ActivationTest, LargeInputsDoNotOverflow) {
  Stream stream(1);
  Owned x(DType::kF32, {4}), one(DType::kF32, {4}), y(DType::kF32, {4}), dx(DType::kF32, {4});
  const double values[] = {-1e4, -95, 95, 1e4};
  for (int i = 0; i < 4; ++i) x.Set(i, values[i]), one.Set(i, 1);
  const auto expect = [&](const Owned& out, double at_minus, double at_95, double at_1e4) {
    EXPECT_NEAR(out.At(0), at_minus, 1e-30);
    EXPECT_NEAR(out.At(1), at_minus, 1e-30);
    EXPECT_EQ(out.At(2), at_95);
    EXPECT_EQ(out.At(3), at_1e4);
  };
  GeluForward(stream, x, y);
  expect(y, 0, 95, 1e4);
  GeluBackward(stream, one, x, dx);
  expect(dx, 0, 1, 1);
  SwiGluForward(stream, x, one, y);
  expect(y, 0, 95, 1e4);
  SwiGluBackward(stream, one, x, one, dx, y);
  expect(dx, 0, 1, 1);
}

TEST(BiasBackwardTest, SumsRowsInFixedBlocks) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [rows, width] : {std::pair{1, 1}, {200, 37}, {130, 64}}) {
      const Owned dy = Owned::Random(dtype, {rows, width}, 1);
      const Owned before = Owned::Random(DType::kF32, {width}, 2);
      for (const bool accumulate : {false, true}) {
        const auto out = RunOnThreads([&](Stream& stream) {
          Owned dbias = before;
          BiasBackward(stream, dy, dbias, accumulate);
          return std::vector<Owned>{dbias};
        });
        std::vector<double> expected(width);
        for (int64_t i = 0; i < width; ++i) {
          expected[i] = accumulate ? before.At(i) : 0;
          for (int64_t n = 0; n < rows; ++n) expected[i] += dy.At(n * width + i);
        }
        ExpectNear(out[0], expected, 1e-5, 1e-6, "dbias");
      }
    }
  }
}

TEST(ExpTest, IsWithinOneAndATenthUnitsInTheLastPlaceEverywhere) {
  std::vector<float> x, y;
  for (uint32_t bits = 0; bits < 0xff800000u; bits += 1999) {
    const float v = std::bit_cast<float>(bits);
    if (!std::isnan(v)) x.push_back(v);
  }
  y.resize(x.size());
  ExpOf(x.data(), y.data(), x.size());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    if (exact > std::numeric_limits<float>::max()) {
      EXPECT_TRUE(std::isinf(y[i]) || exact < 3.41e38) << x[i];
      continue;
    }
    const float near = static_cast<float>(exact);
    const double ulp = std::nextafter(near, INFINITY) - static_cast<double>(near);
    worst = std::max(worst, std::abs(y[i] - exact) / ulp);
  }
  EXPECT_LT(worst, 1.1);
  EXPECT_EQ(ExpOf(0.0f), 1.0f);
  EXPECT_EQ(ExpOf(-INFINITY), 0.0f);
  EXPECT_TRUE(std::isinf(ExpOf(INFINITY)));
  EXPECT_TRUE(std::isnan(ExpOf(NAN)));
}

TEST(ExpTest, ElementsDoNotDependOnTheirPlace) {
  std::vector<float> x(77), y(77), alone(1);
  for (size_t i = 0; i < x.size(); ++i) x[i] = -3.7f + 0.13f * i;
  ExpOf(x.data(), y.data(), x.size());
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], ExpOf(x[i])) << i;
}

}  // namespace
}  // namespace trireme
