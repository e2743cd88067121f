#include <cmath>

#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/norm.h"
#include "worker/kernels/row_sums.h"
#include "worker/kernels/vector.h"

namespace trireme {
namespace {

template <typename T>
using Element = std::remove_pointer_t<T>;

struct Size {
  int64_t rows, width;
};
Size SizeOf(const Tensor& x) {
  const int64_t width = x.dim(-1);
  CHECK_GT(width, 0);
  return {x.elements() / width, width};
}

// Calls body(row) with input(n) loading the norm's input: x, or x + residual, which is stored to
// x_out on the way (body must read every element once before it reads any again).
template <typename Norm>
void WithInput(Stream& stream, const Tensor& x, const Tensor& residual, const Tensor& x_out,
               const Tensor& y, const Norm& norm) {
  const Size size = SizeOf(x);
  WithFloatTypes(x.dtype(), y.dtype(), [&](auto* x_type, auto* y_type) {
    const auto* in = x.as<Element<decltype(x_type)>>();
    auto* out = y.as<Element<decltype(y_type)>>();
    if (!residual.defined()) {
      RowBlocks<16>(stream, size.rows,
                    [&](int64_t n) { norm(n, in + n * size.width, out + n * size.width); });
      return;
    }
    WithFloatTypes(residual.dtype(), x_out.dtype(), [&](auto* r_type, auto* sum_type) {
      const auto* added = residual.as<Element<decltype(r_type)>>();
      auto* sum = x_out.as<Element<decltype(sum_type)>>();
      RowBlocks<16>(stream, size.rows, [&](int64_t n) {
        const int64_t at = n * size.width;
        ForLanes(size.width, [&](int64_t i, auto count) {
          Store(sum + at + i, Load(in + at + i, count) + Load(added + at + i, count), count);
        });
        norm(n, sum + at, out + at);
      });
    });
  });
}

void CheckForward(const Tensor& x, const Tensor& residual, const Tensor& weight,
                  const Tensor& x_out, const Tensor& y) {
  CHECK_EQ(weight.elements(), x.dim(-1));
  CheckSameShape(y, x, "y");
  if (!residual.defined()) return;
  CheckSameShape(residual, x, "residual");
  CheckSameShape(x_out, x, "x_out");
}

// Calls body with typed pointers to dy, x, dx_residual (null where undefined) and dx.
template <typename Body>
void WithGradients(const Tensor& dy, const Tensor& x, const Tensor& dx_residual, const Tensor& dx,
                   const Body& body) {
  CheckSameShape(dy, x, "dy");
  CheckSameShape(dx, x, "dx");
  if (dx_residual.defined()) CheckSameShape(dx_residual, x, "dx_residual");
  WithFloatTypes(dy.dtype(), x.dtype(), [&](auto* dy_type, auto* x_type) {
    const DType residual = dx_residual.defined() ? dx_residual.dtype() : DType::kF32;
    WithFloatTypes(residual, dx.dtype(), [&](auto* r_type, auto* dx_type) {
      body(dy.as<Element<decltype(dy_type)>>(), x.as<Element<decltype(x_type)>>(),
           static_cast<const Element<decltype(r_type)>*>(dx_residual.data()),
           dx.as<Element<decltype(dx_type)>>());
    });
  });
}

}  // namespace

void RmsNormForward(Stream& stream, const Tensor& x, const Tensor& residual, const Tensor& weight,
                    float eps, const Tensor& x_out, const Tensor& y, const Tensor& inv_rms) {
  if (stream.OnGpu("RmsNormForward")) {
    return cuda::RmsNormForward(stream, x, residual, weight, eps, x_out, y, inv_rms);
  }
  CheckForward(x, residual, weight, x_out, y);
  const Size size = SizeOf(x);
  CHECK_EQ(inv_rms.elements(), size.rows);
  const float* w = weight.as<float>();
  float* inverse = inv_rms.as<float>();
  WithInput(stream, x, residual, x_out, y, [&](int64_t n, const auto* in, auto* out) {
    Vec squares{};
    ForLanes(size.width, [&](int64_t i, auto count) {
      const Vec v = Load(in + i, count);
      squares = Fma(v, v, squares);
    });
    const float r = 1.0f / std::sqrt(Sum(squares) / static_cast<float>(size.width) + eps);
    inverse[n] = r;
    ForLanes(size.width, [&](int64_t i, auto count) {
      Store(out + i, Load(in + i, count) * r * Load(w + i, count), count);
    });
  });
}

// With g = dy * weight: dx = r (g - x r^2 mean(g x)), dweight = sum over rows of dy x r.
void RmsNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight,
                     const Tensor& inv_rms, const Tensor& dx_residual, const Tensor& dx,
                     const Tensor& dweight, bool accumulate) {
  if (stream.OnGpu("RmsNormBackward")) {
    return cuda::RmsNormBackward(stream, dy, x, weight, inv_rms, dx_residual, dx, dweight,
                                 accumulate);
  }
  const Size size = SizeOf(x);
  CHECK_EQ(weight.elements(), size.width);
  CHECK_EQ(dweight.elements(), size.width);
  CHECK_EQ(inv_rms.elements(), size.rows);
  const float* w = weight.as<float>();
  const float* inverse = inv_rms.as<float>();
  WithGradients(dy, x, dx_residual, dx, [&](auto* dy_0, auto* x_0, auto* past_0, auto* dx_0) {
    const auto row = [&](int64_t n, float* dw) {
      const int64_t at = n * size.width;
      const float r = inverse[n];
      Vec dots{};
      ForLanes(size.width, [&](int64_t i, auto count) {
        const Vec dy_i = Load(dy_0 + at + i, count), x_i = Load(x_0 + at + i, count);
        dots = Fma(dy_i * Load(w + i, count), x_i, dots);
        Store(dw + i, Fma(dy_i, x_i * r, Load(dw + i, count)), count);
      });
      const float pull = -r * r * (Sum(dots) / static_cast<float>(size.width));
      ForLanes(size.width, [&](int64_t i, auto count) {
        const Vec g = Load(dy_0 + at + i, count) * Load(w + i, count);
        Vec d = r * Fma(Load(x_0 + at + i, count), Broadcast(pull), g);
        if (past_0 != nullptr) d = Load(past_0 + at + i, count) + d;
        Store(dx_0 + at + i, d, count);
      });
    };
    SumOverRows(stream, size.rows, size.width, dweight.as<float>(), accumulate,
                [&](int64_t begin, int64_t end, float* dw) {
                  for (int64_t n = begin; n < end; ++n) row(n, dw);
                });
  });
}

void LayerNormForward(Stream& stream, const Tensor& x, const Tensor& residual, const Tensor& weight,
                      const Tensor& bias, float eps, const Tensor& x_out, const Tensor& y,
                      const Tensor& mean, const Tensor& inv_std) {
  if (stream.OnGpu("LayerNormForward")) {
    return cuda::LayerNormForward(stream, x, residual, weight, bias, eps, x_out, y, mean, inv_std);
  }
  CheckForward(x, residual, weight, x_out, y);
  const Size size = SizeOf(x);
  CHECK_EQ(bias.elements(), size.width);
  CHECK_EQ(mean.elements(), size.rows);
  CHECK_EQ(inv_std.elements(), size.rows);
  const float* w = weight.as<float>();
  const float* b = bias.as<float>();
  float* means = mean.as<float>();
  float* inverse = inv_std.as<float>();
  WithInput(stream, x, residual, x_out, y, [&](int64_t n, const auto* in, auto* out) {
    Vec sums{};
    ForLanes(size.width, [&](int64_t i, auto count) { sums += Load(in + i, count); });
    const float m = Sum(sums) / static_cast<float>(size.width);
    Vec squares{};
    ForLanes(size.width, [&](int64_t i, auto count) {
      const Vec v = KeepLanes(Load(in + i, count) - m, count, 0.0f);
      squares = Fma(v, v, squares);
    });
    const float r = 1.0f / std::sqrt(Sum(squares) / static_cast<float>(size.width) + eps);
    means[n] = m;
    inverse[n] = r;
    ForLanes(size.width, [&](int64_t i, auto count) {
      const Vec normal = (Load(in + i, count) - m) * r;
      Store(out + i, Fma(normal, Load(w + i, count), Load(b + i, count)), count);
    });
  });
}

// With g = dy * weight and z = (x - mean) r: dx = r (g - mean(g) - z mean(g z)),
// dweight = sum over rows of dy z, dbias = sum over rows of dy.
void LayerNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight,
                       const Tensor& mean, const Tensor& inv_std, const Tensor& dx_residual,
                       const Tensor& dx, const Tensor& dweight, const Tensor& dbias,
                       bool accumulate) {
  if (stream.OnGpu("LayerNormBackward")) {
    return cuda::LayerNormBackward(stream, dy, x, weight, mean, inv_std, dx_residual, dx, dweight,
                                   dbias, accumulate);
  }
  const Size size = SizeOf(x);
  CHECK_EQ(weight.elements(), size.width);
  CHECK_EQ(dweight.elements(), size.width);
  CHECK_EQ(dbias.elements(), size.width);
  CHECK_EQ(mean.elements(), size.rows);
  CHECK_EQ(inv_std.elements(), size.rows);
  const float* w = weight.as<float>();
  const float* means = mean.as<float>();
  const float* inverse = inv_std.as<float>();
  std::vector<float> both(2 * size.width);  // dweight, then dbias
  WithGradients(dy, x, dx_residual, dx, [&](auto* dy_0, auto* x_0, auto* past_0, auto* dx_0) {
    const auto row = [&](int64_t n, float* dw, float* db) {
      const int64_t at = n * size.width;
      const float r = inverse[n], m = means[n];
      Vec dots{}, sums{};
      ForLanes(size.width, [&](int64_t i, auto count) {
        const Vec dy_i = Load(dy_0 + at + i, count), z = (Load(x_0 + at + i, count) - m) * r;
        const Vec g = dy_i * Load(w + i, count);
        sums += g;
        dots = Fma(g, z, dots);
        Store(dw + i, Fma(dy_i, z, Load(dw + i, count)), count);
        Store(db + i, dy_i + Load(db + i, count), count);
      });
      const float mean_g = Sum(sums) / static_cast<float>(size.width);
      const float mean_gz = Sum(dots) / static_cast<float>(size.width);
      ForLanes(size.width, [&](int64_t i, auto count) {
        const Vec z = (Load(x_0 + at + i, count) - m) * r;
        const Vec g = Load(dy_0 + at + i, count) * Load(w + i, count);
        Vec d = r * Fma(z, Broadcast(-mean_gz), g - mean_g);
        if (past_0 != nullptr) d = Load(past_0 + at + i, count) + d;
        Store(dx_0 + at + i, d, count);
      });
    };
    SumOverRows(stream, size.rows, 2 * size.width, both.data(), /*accumulate=*/false,
                [&](int64_t begin, int64_t end, float* sums) {
                  for (int64_t n = begin; n < end; ++n) row(n, sums, sums + size.width);
                });
  });
  const auto add = [&](float* out, const float* sum) {
    ForLanes(size.width, [&](int64_t i, auto count) {
      const Vec s = Load(sum + i, count);
      Store(out + i, accumulate ? Load(out + i, count) + s : s, count);
    });
  };
  add(dweight.as<float>(), both.data());
  add(dbias.as<float>(), both.data() + size.width);
}

}  // namespace trireme
