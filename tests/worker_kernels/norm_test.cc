#include "worker/kernels/norm.h"

#include <gtest/gtest.h>

#include "tests/worker_kernels/kernel_testing.h"

namespace trireme {
namespace {

using Doubles = std::vector<double>;
constexpr double kEps = 1e-5;

// One row's norm in double. bias null: RMS norm.
Doubles NormRow(const double* x, int64_t d, const Doubles& weight, const Doubles* bias) {
  double mean = 0, square = 0;
  if (bias != nullptr) {
    for (int64_t i = 0; i < d; ++i) mean += x[i] / d;
  }
  for (int64_t i = 0; i < d; ++i) square += (x[i] - mean) * (x[i] - mean) / d;
  Doubles y(d);
  for (int64_t i = 0; i < d; ++i) {
    y[i] = (x[i] - mean) / std::sqrt(square + kEps) * weight[i];
    if (bias != nullptr) y[i] += (*bias)[i];
  }
  return y;
}

Doubles Norm(const Doubles& x, const Doubles& weight, const Doubles* bias) {
  Doubles y;
  const int64_t d = weight.size();
  for (size_t at = 0; at < x.size(); at += d) {
    const Doubles row = NormRow(x.data() + at, d, weight, bias);
    y.insert(y.end(), row.begin(), row.end());
  }
  return y;
}

double Dot(const Doubles& a, const Doubles& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

struct NormCase {
  int64_t n, d;
  DType dtype;
  bool layer_norm, residual;
};

std::string Name(const testing::TestParamInfo<NormCase>& info) {
  const NormCase& c = info.param;
  return StrCat(c.layer_norm ? "Layer" : "Rms", c.residual ? "Residual" : "", c.n, "x", c.d,
                DTypeName(c.dtype));
}

class NormTest : public testing::TestWithParam<NormCase> {
 protected:
  NormCase c = GetParam();
  Owned x = Owned::Random(c.dtype, {c.n, c.d}, 1), past = Owned::Random(c.dtype, {c.n, c.d}, 2);
  Owned weight = Owned::Random(DType::kF32, {c.d}, 3), bias = Owned::Random(DType::kF32, {c.d}, 4);
  Owned dy = Owned::Random(c.dtype, {c.n, c.d}, 5);
  Doubles bias_doubles = bias.Doubles();
  const Doubles* bias_if_any = c.layer_norm ? &bias_doubles : nullptr;

  // {x_out, y, mean, inverse} on a stream; x_out is `x` where there is no residual.
  std::vector<Owned> Forward(Stream& stream) {
    Owned x_out = x, y(c.dtype, {c.n, c.d}), mean(DType::kF32, {c.n}), inverse(DType::kF32, {c.n});
    const Tensor residual = c.residual ? past.view() : Tensor();
    if (c.layer_norm) {
      LayerNormForward(stream, x, residual, weight, bias, kEps, x_out, y, mean, inverse);
    } else {
      RmsNormForward(stream, x, residual, weight, kEps, x_out, y, inverse);
    }
    return {x_out, y, mean, inverse};
  }
};

TEST_P(NormTest, ForwardEqualsTheDoubleReference) {
  const auto out = RunOnThreads([&](Stream& stream) { return Forward(stream); });
  Doubles input = x.Doubles();
  if (c.residual) {
    for (int64_t i = 0; i < x.elements(); ++i) input[i] += past.At(i);
    ExpectNear(out[0], input, 1e-7, Rounding(c.dtype), "x_out");
    input = out[0].Doubles();
  }
  ExpectNear(out[1], Norm(input, weight.Doubles(), bias_if_any), 2e-6, 2 * Rounding(c.dtype) + 1e-6,
             "y");
}

TEST_P(NormTest, BackwardEqualsFiniteDifferences) {
  Stream stream(1);
  const auto saved = Forward(stream);
  const Owned& input = saved[0];
  const Owned dw0 = Owned::Random(DType::kF32, {c.d}, 6),
              db0 = Owned::Random(DType::kF32, {c.d}, 7);
  const auto out = RunOnThreads([&](Stream& s) {
    Owned dx(c.dtype, {c.n, c.d}), dw = dw0, db = db0;
    const Tensor residual = c.residual ? past.view() : Tensor();
    if (c.layer_norm) {
      LayerNormBackward(s, dy, input, weight, saved[2], saved[3], residual, dx, dw, db, true);
    } else {
      RmsNormBackward(s, dy, input, weight, saved[3], residual, dx, dw, true);
    }
    return std::vector<Owned>{dx, dw, db};
  });
  const Doubles x_d = input.Doubles(), w_d = weight.Doubles(), dy_d = dy.Doubles();
  for (int64_t i = 0; i < c.n * c.d; i += 1 + c.n * c.d / 50) {
    // Only the element's own row depends on it.
    const int64_t row = i / c.d * c.d;
    const Doubles x_row(x_d.begin() + row, x_d.begin() + row + c.d);
    const Doubles dy_row(dy_d.begin() + row, dy_d.begin() + row + c.d);
    double expected = Difference(
        [&](const Doubles& v) { return Dot(Norm(v, w_d, bias_if_any), dy_row); }, x_row, i - row);
    if (c.residual) expected += past.At(i);
    EXPECT_NEAR(out[0].At(i), expected, 2e-5 + 2 * Rounding(c.dtype) * std::abs(expected)) << i;
  }
  for (int64_t i = 0; i < c.d; i += 1 + c.d / 20) {
    const double expected =
        Difference([&](const Doubles& v) { return Dot(Norm(x_d, v, bias_if_any), dy_d); }, w_d, i);
    EXPECT_NEAR(out[1].At(i) - dw0.At(i), expected, 2e-5 * std::sqrt(c.n)) << i;
    if (!c.layer_norm) continue;
    double sum = 0;
    for (int64_t n = 0; n < c.n; ++n) sum += dy_d[n * c.d + i];
    EXPECT_NEAR(out[2].At(i) - db0.At(i), sum, 1e-5) << i;
  }
}

TEST_P(NormTest, AliasesOfTheHeaderGiveTheSameBits) {
  Stream stream(2);
  const auto saved = Forward(stream);
  const Owned& input = saved[0];
  const Tensor residual = c.residual ? past.view() : Tensor();
  // Forward with x_out on x and on the residual.
  for (const bool on_x : {true, false}) {
    if (!c.residual) break;
    Owned a = x, b = past, y(c.dtype, {c.n, c.d}), mean(DType::kF32, {c.n}),
          inverse(DType::kF32, {c.n});
    const Tensor x_out = on_x ? a.view() : b.view();
    if (c.layer_norm) {
      LayerNormForward(stream, a, b, weight, bias, kEps, x_out, y, mean, inverse);
    } else {
      RmsNormForward(stream, a, b, weight, kEps, x_out, y, inverse);
    }
    EXPECT_TRUE(saved[0] == (on_x ? a : b));
    EXPECT_TRUE(saved[1] == y);
  }
  // Backward with dx on dy and on dx_residual. Without `accumulate` old sums are gone.
  const auto backward = [&](const Tensor& dy_in, const Tensor& past_in, const Tensor& dx) {
    Owned dw = Owned::Random(DType::kF32, {c.d}, 8), db = dw;
    if (c.layer_norm) {
      LayerNormBackward(stream, dy_in, input, weight, saved[2], saved[3], past_in, dx, dw, db,
                        false);
    } else {
      RmsNormBackward(stream, dy_in, input, weight, saved[3], past_in, dx, dw, false);
    }
    return dw;
  };
  Owned dx(c.dtype, {c.n, c.d}), dy_copy = dy, past_copy = past;
  const Owned dw = backward(dy, residual, dx);
  EXPECT_TRUE(dw == backward(dy_copy, residual, dy_copy));
  EXPECT_TRUE(dx == dy_copy);
  if (c.residual) {
    EXPECT_TRUE(dw == backward(dy, past_copy, past_copy));
    EXPECT_TRUE(dx == past_copy);
  }
}

std::vector<NormCase> Cases() {
  std::vector<NormCase> cases;
  for (const bool layer_norm : {false, true}) {
    for (const bool residual : {false, true}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        cases.push_back({1, 1 + 4 * layer_norm, dtype, layer_norm, residual});
        cases.push_back({5, 17, dtype, layer_norm, residual});
        cases.push_back({133, 64, dtype, layer_norm, residual});
        cases.push_back({200, 37, dtype, layer_norm, residual});
      }
    }
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(All, NormTest, testing::ValuesIn(Cases()), Name);

TEST(NormRowTest, BitsOfARowDoNotDependOnItsPlace) {
  Stream stream(2);
  const Owned row = Owned::Random(DType::kF32, {1, 45}, 1),
              weight = Owned::Random(DType::kF32, {45}, 2);
  Owned many(DType::kF32, {30, 45}), y(DType::kF32, {30, 45}), inverse(DType::kF32, {30});
  for (int64_t i = 0; i < 30 * 45; ++i) many.Set(i, row.At(i % 45));
  RmsNormForward(stream, many, Tensor(), weight, 1e-6f, Tensor(), y, inverse);
  for (int64_t i = 45; i < 30 * 45; ++i) ASSERT_EQ(y.At(i), y.At(i % 45)) << i;
}

}  // namespace
}  // namespace trireme
