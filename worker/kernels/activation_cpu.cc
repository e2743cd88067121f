#include "worker/kernels/activation.h"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/row_sums.h"
#include "worker/kernels/vector.h"

namespace trireme {
namespace {

constexpr int64_t kBlock = 1 << 14;  // elements a parallel block

// Calls body(i, count) for all elements, spread over the threads.
template <typename Body>
void Elements(Stream& stream, int64_t n, const Body& body) {
  stream.ParallelFor(CeilDivide(n, kBlock), [&](int64_t block) {
    const int64_t begin = block * kBlock;
    ForLanes(std::min(kBlock, n - begin), [&](int64_t i, auto count) { body(begin + i, count); });
  });
}

// The tanh form is x times the sigmoid of 2 sqrt(2 / pi) (x + 0.044715 x^3).
constexpr float kGeluLinear = 1.5957691216f;
constexpr float kGeluCubic = 0.0713548162726f;  // kGeluLinear * 0.044715

template <typename T>
void SameType(const Tensor& tensor, const Tensor& like, T*) {
  CheckSameShape(tensor, like, "activation");
  CHECK(tensor.dtype() == like.dtype()) << DTypeName(tensor.dtype());
}

}  // namespace

void SwiGluForward(Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& y) {
  if (stream.OnGpu("SwiGluForward")) {
    return cuda::SwiGluForward(stream, gate, up, y);
  }
  WithFloatType(y.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    SameType(gate, y, type);
    SameType(up, y, type);
    const T *g_0 = gate.as<T>(), *u_0 = up.as<T>();
    T* y_0 = y.as<T>();
    Elements(stream, y.elements(), [&](int64_t i, auto count) {
      const Vec g = Load(g_0 + i, count);
      Store(y_0 + i, g * Sigmoid(g) * Load(u_0 + i, count), count);
    });
  });
}

void SwiGluBackward(Stream& stream, const Tensor& dy, const Tensor& gate, const Tensor& up,
                    const Tensor& dgate, const Tensor& dup) {
  if (stream.OnGpu("SwiGluBackward")) {
    return cuda::SwiGluBackward(stream, dy, gate, up, dgate, dup);
  }
  WithFloatType(dy.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (const Tensor* tensor : {&gate, &up, &dgate, &dup}) SameType(*tensor, dy, type);
    const T *dy_0 = dy.as<T>(), *g_0 = gate.as<T>(), *u_0 = up.as<T>();
    T *dg_0 = dgate.as<T>(), *du_0 = dup.as<T>();
    Elements(stream, dy.elements(), [&](int64_t i, auto count) {
      const Vec d = Load(dy_0 + i, count), g = Load(g_0 + i, count), u = Load(u_0 + i, count);
      const Vec s = Sigmoid(g);
      // silu'(g) = s + g s (1 - s)
      Store(dg_0 + i, d * u * Fma(g * s, 1.0f - s, s), count);
      Store(du_0 + i, d * (g * s), count);
    });
  });
}

void GeluForward(Stream& stream, const Tensor& x, const Tensor& y) {
  if (stream.OnGpu("GeluForward")) {
    return cuda::GeluForward(stream, x, y);
  }
  WithFloatType(y.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    SameType(x, y, type);
    const T* x_0 = x.as<T>();
    T* y_0 = y.as<T>();
    Elements(stream, y.elements(), [&](int64_t i, auto count) {
      const Vec v = Load(x_0 + i, count);
      const Vec inner = v * Fma(v * v, Broadcast(kGeluCubic), Broadcast(kGeluLinear));
      Store(y_0 + i, v * Sigmoid(inner), count);
    });
  });
}

void GeluBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& dx) {
  if (stream.OnGpu("GeluBackward")) {
    return cuda::GeluBackward(stream, dy, x, dx);
  }
  WithFloatType(dy.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    SameType(x, dy, type);
    SameType(dx, dy, type);
    const T *dy_0 = dy.as<T>(), *x_0 = x.as<T>();
    T* dx_0 = dx.as<T>();
    Elements(stream, dy.elements(), [&](int64_t i, auto count) {
      const Vec v = Load(x_0 + i, count), square = v * v;
      const Vec inner = v * Fma(square, Broadcast(kGeluCubic), Broadcast(kGeluLinear));
      const Vec slope = Fma(square, Broadcast(3 * kGeluCubic), Broadcast(kGeluLinear));
      const Vec s = Sigmoid(inner);
      Store(dx_0 + i, Load(dy_0 + i, count) * Fma(v * slope, s * (1.0f - s), s), count);
    });
  });
}

void Add(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& y) {
  if (stream.OnGpu("Add")) {
    return cuda::Add(stream, a, b, y);
  }
  CHECK_EQ(a.elements(), y.elements());
  CHECK_EQ(b.elements(), y.elements());
  WithFloatTypes(a.dtype(), b.dtype(), [&](auto* a_type, auto* b_type) {
    WithFloatType(y.dtype(), [&](auto* y_type) {
      const auto* a_0 = a.as<std::remove_pointer_t<decltype(a_type)>>();
      const auto* b_0 = b.as<std::remove_pointer_t<decltype(b_type)>>();
      auto* y_0 = y.as<std::remove_pointer_t<decltype(y_type)>>();
      Elements(stream, y.elements(), [&](int64_t i, auto count) {
        Store(y_0 + i, Load(a_0 + i, count) + Load(b_0 + i, count), count);
      });
    });
  });
}

void BiasBackward(Stream& stream, const Tensor& dy, const Tensor& dbias, bool accumulate) {
  if (stream.OnGpu("BiasBackward")) {
    return cuda::BiasBackward(stream, dy, dbias, accumulate);
  }
  const int64_t width = dy.dim(-1);
  CHECK_EQ(dbias.elements(), width);
  WithFloatType(dy.dtype(), [&](auto* type) {
    const auto* dy_0 = dy.as<std::remove_pointer_t<decltype(type)>>();
    SumOverRows(stream, dy.elements() / width, width, dbias.as<float>(), accumulate,
                [&](int64_t begin, int64_t end, float* sum) {
                  for (int64_t n = begin; n < end; ++n) {
                    ForLanes(width, [&](int64_t i, auto count) {
                      Store(sum + i, Load(sum + i, count) + Load(dy_0 + n * width + i, count),
                            count);
                    });
                  }
                });
  });
}

}  // namespace trireme
