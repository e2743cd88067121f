#include "worker/kernels/activation.cuh"
#include "worker/kernels/activation.h"
#include "worker/kernels/column_sums.cuh"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/stream_scratch.cuh"

namespace trireme::cuda {
namespace {

// The typed pointer of a tensor that is like another one.
template <typename T>
T* Same(const Tensor& tensor, const Tensor& like) {
  CheckSameShape(tensor, like, "activation");
  return tensor.as<T>();
}

template <int kWidth, typename T>
void BiasPartials(Stream& stream, const T* dy, int64_t rows, int64_t width, float* partials) {
  const gpu::LaunchShape shape{
      dim3(gpu::BlocksFor(width, gpu::kBiasThreads * kWidth), gpu::BlocksFor(rows, gpu::kBiasRows)),
      gpu::kBiasThreads};
  gpu::Launch(stream, shape, gpu::BiasPartialsKernel<kWidth, T>, dy, rows, width, partials);
}

}  // namespace

void SwiGluForward(Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& y) {
  WithFloatType(y.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T *g = Same<T>(gate, y), *u = Same<T>(up, y);
    T* out = y.as<T>();
    gpu::Launch(stream, gpu::ElementShape(y.elements()), gpu::SwiGluForwardKernel<T>, g, u, out,
                y.elements(), gpu::ArePackAligned(g, u, out));
  });
}

void SwiGluBackward(Stream& stream, const Tensor& dy, const Tensor& gate, const Tensor& up,
                    const Tensor& dgate, const Tensor& dup) {
  WithFloatType(dy.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T *d = dy.as<T>(), *g = Same<T>(gate, dy), *u = Same<T>(up, dy);
    T *dg = Same<T>(dgate, dy), *du = Same<T>(dup, dy);
    gpu::Launch(stream, gpu::ElementShape(dy.elements()), gpu::SwiGluBackwardKernel<T>, d, g, u, dg,
                du, dy.elements(), gpu::ArePackAligned(d, g, u, dg, du));
  });
}

void GeluForward(Stream& stream, const Tensor& x, const Tensor& y) {
  WithFloatType(y.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* in = Same<T>(x, y);
    T* out = y.as<T>();
    gpu::Launch(stream, gpu::ElementShape(y.elements()), gpu::GeluForwardKernel<T>, in, out,
                y.elements(), gpu::ArePackAligned(in, out));
  });
}

void GeluBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& dx) {
  WithFloatType(dy.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T *d = dy.as<T>(), *in = Same<T>(x, dy);
    T* out = Same<T>(dx, dy);
    gpu::Launch(stream, gpu::ElementShape(dy.elements()), gpu::GeluBackwardKernel<T>, d, in, out,
                dy.elements(), gpu::ArePackAligned(d, in, out));
  });
}

void Add(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& y) {
  CHECK_EQ(a.elements(), y.elements());
  CHECK_EQ(b.elements(), y.elements());
  WithFloatTypes(a.dtype(), b.dtype(), [&](auto* a_type, auto* b_type) {
    WithFloatType(y.dtype(), [&](auto* y_type) {
      using A = std::remove_pointer_t<decltype(a_type)>;
      using B = std::remove_pointer_t<decltype(b_type)>;
      using Y = std::remove_pointer_t<decltype(y_type)>;
      const A* left = a.as<A>();
      const B* right = b.as<B>();
      Y* out = y.as<Y>();
      gpu::Launch(stream, gpu::ElementShape(y.elements()), gpu::AddKernel<A, B, Y>, left, right,
                  out, y.elements(), gpu::ArePackAligned(left, right, out));
    });
  });
}

void BiasBackward(Stream& stream, const Tensor& dy, const Tensor& dbias, bool accumulate) {
  const int64_t width = dy.dim(-1), rows = dy.elements() / width;
  CHECK_EQ(dbias.elements(), width);
  const int64_t blocks = gpu::BlocksFor(rows, gpu::kBiasRows);
  const gpu::StreamScratch<float> partials(stream, blocks * width);
  WithFloatType(dy.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* in = dy.as<T>();
    if (width % gpu::kElements == 0 && gpu::IsPackAligned(in)) {
      BiasPartials<gpu::kElements>(stream, in, rows, width, partials.data());
    } else {
      BiasPartials<1>(stream, in, rows, width, partials.data());
    }
  });
  gpu::Launch(stream, gpu::FoldShape(width, 1), gpu::FoldColumnsKernel<>, partials.data(), blocks,
              width, width, dbias.as<float>(), static_cast<float*>(nullptr), accumulate);
}

}  // namespace trireme::cuda
