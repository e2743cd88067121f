#include "tests/cuda_kernels/device_testing.h"
#include "worker/kernels/norm.h"

namespace trireme {
namespace {

constexpr float kEps = 1e-5f;

struct NormCase {
  int64_t rows, width;
  // Of x, residual, x_out (and dx), y (and dy). One type: the form with rows in registers.
  DType x, residual, x_out, y;
  bool layer, has_residual;
};

std::string Name(const testing::TestParamInfo<NormCase>& info) {
  const NormCase& c = info.param;
  const bool mixed = c.x != c.y || c.x != c.residual;
  return StrCat(c.layer ? "Layer" : "Rms", c.has_residual ? "Residual" : "", c.rows, "x", c.width,
                mixed ? "mixed" : DTypeName(c.x));
}

class NormCudaTest : public testing::TestWithParam<NormCase> {
 protected:
  NormCase c = GetParam();
  Owned Matrix(DType dtype, uint32_t seed) const {
    return Owned::Random(dtype, {c.rows, c.width}, seed, 2.0);
  }
  Owned Vector(int64_t size, uint32_t seed) const {
    return Owned::Random(DType::kF32, {size}, seed, 2.0);
  }

  // Tensors: x, residual, weight, bias, x_out, y, mean, inverse.
  Kernel Forward() const {
    return [layer = c.layer](Stream& stream, const Tensors& t) {
      if (layer) {
        LayerNormForward(stream, t[0], t[1], t[2], t[3], kEps, t[4], t[5], t[6], t[7]);
      } else {
        RmsNormForward(stream, t[0], t[1], t[2], kEps, t[4], t[5], t[7]);
      }
    };
  }
  std::vector<Owned> ForwardTensors() const {
    return {Matrix(c.x, 1),     c.has_residual ? Matrix(c.residual, 2) : Owned(),
            Vector(c.width, 3), Vector(c.width, 4),
            Matrix(c.x_out, 5), Matrix(c.y, 6),
            Vector(c.rows, 7),  Vector(c.rows, 8)};
  }

  // Tensors: dy, x, weight, mean, inverse, dx_residual, dx, dweight, dbias.
  Kernel Backward(bool accumulate, size_t dx = 6) const {
    return [layer = c.layer, accumulate, dx](Stream& stream, const Tensors& t) {
      if (layer) {
        LayerNormBackward(stream, t[0], t[1], t[2], t[3], t[4], t[5], t[dx], t[7], t[8],
                          accumulate);
      } else {
        RmsNormBackward(stream, t[0], t[1], t[2], t[4], t[5], t[dx], t[7], accumulate);
      }
    };
  }
  std::vector<Owned> BackwardTensors() const {
    const auto saved = RunOnCpu(Forward(), ForwardTensors());
    return {Matrix(c.y, 9),
            c.has_residual ? saved[4] : saved[0],
            saved[2],
            saved[6],
            saved[7],
            c.has_residual ? Matrix(c.residual, 10) : Owned(),
            Matrix(c.x_out, 11),
            Vector(c.width, 12),
            Vector(c.width, 13)};
  }
};

TEST_P(NormCudaTest, ForwardIsTheCpus) { ExpectGpuIsCpu(Forward(), ForwardTensors(), 2e-6, 2e-6); }

TEST_P(NormCudaTest, BackwardIsTheCpus) {
  for (const bool accumulate : {false, true}) {
    ExpectGpuIsCpu(Backward(accumulate), BackwardTensors(), 2e-5, 2e-6);
  }
}

TEST_P(NormCudaTest, AliasesOfTheHeaderGiveTheSameBits) {
  if (c.width > 2000) return;  // as the narrower ones of the same form
  const auto forward = ForwardTensors();
  const auto plain = RunOnGpu(Forward(), forward);
  for (const size_t target : {0, 1}) {  // x_out on x, and on the residual
    if (!c.has_residual || (target == 0 ? c.x : c.residual) != c.x_out) continue;
    const auto aliased = RunOnGpu(
        [&](Stream& stream, Tensors t) {
          t[4] = t[target];
          Forward()(stream, t);
        },
        forward);
    EXPECT_TRUE(aliased[target] == plain[4] && aliased[5] == plain[5]) << target;
  }
  const auto backward = BackwardTensors();
  const auto plain_backward = RunOnGpu(Backward(false), backward);
  for (const size_t target : {0, 5}) {  // dx on dy, and on dx_residual
    if (backward[target].elements() == 0) continue;
    if ((target == 0 ? c.y : c.residual) != c.x_out) continue;
    const auto aliased = RunOnGpu(Backward(false, target), backward);
    EXPECT_TRUE(aliased[target] == plain_backward[6]) << target;
    EXPECT_TRUE(aliased[7] == plain_backward[7]) << target;
  }
}

std::vector<NormCase> Cases() {
  std::vector<NormCase> cases;
  for (const bool layer : {false, true}) {
    for (const bool residual : {false, true}) {
      for (const DType t : {DType::kF32, DType::kBF16}) {
        // Odd widths; the widest row of each block and the next one; a row for the general form.
        for (const auto& [rows, width] : {std::pair{3, 1},
                                          {19, 37},
                                          {33, 40},
                                          {2, 1024},
                                          {5, 1032},
                                          {2, 4104},
                                          {2, 8192},
                                          {1, 8200}}) {
          if (width > 2000 && !residual) continue;
          cases.push_back({rows, width, t, t, t, t, layer, residual});
        }
      }
      // f32 sums beside bf16: the residual forward, dy backward; a mix of the general form alone.
      // Two blocks or three of 8 rows, the last one with an odd row.
      for (const auto& [rows, width] : {std::pair{19, 24}, {19, 40}, {9, 1096}, {9, 4104}}) {
        cases.push_back(
            {rows, width, DType::kBF16, DType::kF32, DType::kBF16, DType::kBF16, layer, residual});
        cases.push_back({rows + 2, width, DType::kBF16, DType::kBF16, DType::kBF16, DType::kF32,
                         layer, residual});
      }
      cases.push_back(
          {18, 64, DType::kF32, DType::kBF16, DType::kF32, DType::kBF16, layer, residual});
    }
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(All, NormCudaTest, testing::ValuesIn(Cases()), Name);

}  // namespace
}  // namespace trireme
