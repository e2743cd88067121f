#include <type_traits>

#include "worker/kernels/column_sums.cuh"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/norm.cuh"
#include "worker/kernels/norm.h"
#include "worker/kernels/stream_scratch.cuh"

namespace trireme::cuda {
namespace {

// Calls body(std::integral_constant) with the threads of the smallest block that holds a row of
// this width and returns true, or false where none does.
template <int kThreads, int... kMore, typename Body>
bool WithThreadsOfRow(int64_t width, const Body& body) {
  if (width <= int64_t{kThreads} * gpu::kPiece) {
    body(std::integral_constant<int, kThreads>());
    return true;
  }
  if constexpr (sizeof...(kMore) > 0) return WithThreadsOfRow<kMore...>(width, body);
  return false;
}
template <typename Body>
bool WithRowBlock(int64_t width, const Body& body) {
  return WithThreadsOfRow<64, 96, 128, 160, 256, 512, 1024>(width, body);
}

gpu::NormSize SizeOf(const Tensor& x, float eps) {
  const int64_t width = x.dim(-1);
  CHECK_GT(width, 0);
  CHECK_LT(width, int64_t{1} << 30);
  return {x.elements() / width, static_cast<int>(width), eps};
}

// Whether all defined tensors have one type, `either` that or f32, and rows that are made of packs.
bool IsPacked(const gpu::NormSize& size, std::initializer_list<const Tensor*> tensors,
              const Tensor& either, std::initializer_list<const Tensor*> vectors) {
  bool packed = size.width % gpu::kPiece == 0;
  for (const Tensor* tensor : tensors) {
    if (!tensor->defined()) continue;
    packed &= gpu::IsPackAligned(tensor->data()) && tensor->dtype() == (*tensors.begin())->dtype();
  }
  if (either.defined()) {
    packed &= gpu::IsPackAligned(either.data()) &&
              (either.dtype() == (*tensors.begin())->dtype() || either.dtype() == DType::kF32);
  }
  for (const Tensor* tensor : vectors) packed &= gpu::IsPackAligned(tensor->data());
  return packed;
}

// Calls body(T*, E*) with the types of a tensor and of `either`, E being T where that is undefined.
template <typename Body>
void WithTypes(const Tensor& tensor, const Tensor& either, const Body& body) {
  WithFloatType(tensor.dtype(), [&](auto* type) {
    if (either.defined() && either.dtype() == DType::kF32) {
      body(type, static_cast<float*>(nullptr));
    } else {
      body(type, type);
    }
  });
}

gpu::AnyFloats Any(const Tensor& tensor) {
  if (tensor.defined()) WithFloatType(tensor.dtype(), [](auto*) {});
  return {tensor.data(), tensor.dtype() == DType::kBF16};
}
template <typename T>
T* OrNull(const Tensor& tensor) {
  return tensor.defined() ? tensor.as<T>() : nullptr;
}

template <bool kLayer>
void Forward(Stream& stream, const Tensor& x, const Tensor& residual, const Tensor& weight,
             const Tensor& bias, float eps, const Tensor& x_out_or_none, const Tensor& y,
             const Tensor& mean, const Tensor& inverse) {
  const gpu::NormSize size = SizeOf(x, eps);
  const Tensor x_out = residual.defined() ? x_out_or_none : Tensor();
  CheckSameShape(y, x, "y");
  if (residual.defined()) {
    CheckSameShape(residual, x, "residual");
    CheckSameShape(x_out, x, "x_out");
  }
  for (const Tensor* vector : {&weight, &bias}) {
    if (vector->defined()) CHECK_EQ(vector->elements(), size.width);
  }
  for (const Tensor* vector : {&mean, &inverse}) {
    if (vector->defined()) CHECK_EQ(vector->elements(), size.rows);
  }
  const auto *w = weight.as<float>(), *b = OrNull<float>(bias);
  float *m = OrNull<float>(mean), *r = inverse.as<float>();
  const unsigned blocks = gpu::BlocksFor(size.rows, 1);
  bool done = false;
  if (IsPacked(size, {&x, &x_out, &y}, residual, {&weight, &bias})) {
    WithTypes(x, residual, [&](auto* type, auto* added) {
      using T = std::remove_pointer_t<decltype(type)>;
      using R = std::remove_pointer_t<decltype(added)>;
      done = WithRowBlock(size.width, [&](auto block) {
        gpu::Launch(stream, {blocks, block()}, gpu::NormForwardKernel<block(), kLayer, T, R>,
                    x.as<T>(), OrNull<R>(residual), w, b, size, OrNull<T>(x_out), y.as<T>(), m, r);
      });
    });
  }
  if (done) return;
  gpu::Launch(stream, {blocks, gpu::kAnyNormThreads}, gpu::AnyNormForwardKernel<kLayer>, Any(x),
              Any(residual), w, b, size, Any(x_out), Any(y), m, r);
}

template <bool kLayer>
void Backward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight,
              const Tensor& mean, const Tensor& inverse, const Tensor& past, const Tensor& dx,
              const Tensor& dweight, const Tensor& dbias, bool accumulate) {
  const gpu::NormSize size = SizeOf(x, 0);
  CheckSameShape(dy, x, "dy");
  CheckSameShape(dx, x, "dx");
  if (past.defined()) CheckSameShape(past, x, "dx_residual");
  for (const Tensor* vector : {&weight, &dweight, &dbias}) {
    if (vector->defined()) CHECK_EQ(vector->elements(), size.width);
  }
  for (const Tensor* vector : {&mean, &inverse}) {
    if (vector->defined()) CHECK_EQ(vector->elements(), size.rows);
  }
  const auto *w = weight.as<float>(), *m = OrNull<float>(mean), *r = inverse.as<float>();
  const int64_t stride = int64_t{kLayer ? 2 : 1} * size.width;
  // launch(rows of a block, blocks, partials) makes the partial sums, which are then folded.
  const auto sum_blocks = [&](int rows_of_block, const auto& launch) {
    const unsigned blocks = gpu::BlocksFor(size.rows, rows_of_block);
    const gpu::StreamScratch<float> partials(stream, blocks * stride);
    launch(rows_of_block, blocks, partials.data());
    gpu::Launch(stream, gpu::FoldShape(size.width, kLayer ? 2 : 1), gpu::FoldColumnsKernel<>,
                partials.data(), blocks, stride, size.width, dweight.as<float>(),
                OrNull<float>(dbias), accumulate);
  };
  bool done = false;
  if (IsPacked(size, {&x, &past, &dx}, dy, {&weight})) {
    WithTypes(x, dy, [&](auto* type, auto* gradient) {
      using T = std::remove_pointer_t<decltype(type)>;
      using D = std::remove_pointer_t<decltype(gradient)>;
      done = WithRowBlock(size.width, [&](auto block) {
        sum_blocks(gpu::NormRowsOfBlock<block()>(size.rows),
                   [&](int rows, unsigned blocks, float* sums) {
                     gpu::Launch(stream, {blocks, block()},
                                 gpu::NormBackwardKernel<block(), kLayer, T, D>, dy.as<D>(),
                                 x.as<T>(), w, m, r, OrNull<T>(past), size, rows, dx.as<T>(), sums);
                   });
      });
    });
  }
  if (done) return;
  sum_blocks(gpu::NormRowsOfBlock<gpu::kAnyNormThreads>(size.rows), [&](int rows, unsigned blocks,
                                                                        float* sums) {
    gpu::Launch(stream, {blocks, gpu::kAnyNormThreads}, gpu::AnyNormBackwardKernel<kLayer>, Any(dy),
                Any(x), w, m, r, Any(past), size, rows, Any(dx), sums);
  });
}

}  // namespace

void RmsNormForward(Stream& stream, const Tensor& x, const Tensor& residual, const Tensor& weight,
                    float eps, const Tensor& x_out, const Tensor& y, const Tensor& inv_rms) {
  Forward<false>(stream, x, residual, weight, Tensor(), eps, x_out, y, Tensor(), inv_rms);
}

void RmsNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight,
                     const Tensor& inv_rms, const Tensor& dx_residual, const Tensor& dx,
                     const Tensor& dweight, bool accumulate) {
  Backward<false>(stream, dy, x, weight, Tensor(), inv_rms, dx_residual, dx, dweight, Tensor(),
                  accumulate);
}

void LayerNormForward(Stream& stream, const Tensor& x, const Tensor& residual, const Tensor& weight,
                      const Tensor& bias, float eps, const Tensor& x_out, const Tensor& y,
                      const Tensor& mean, const Tensor& inv_std) {
  Forward<true>(stream, x, residual, weight, bias, eps, x_out, y, mean, inv_std);
}

void LayerNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight,
                       const Tensor& mean, const Tensor& inv_std, const Tensor& dx_residual,
                       const Tensor& dx, const Tensor& dweight, const Tensor& dbias,
                       bool accumulate) {
  Backward<true>(stream, dy, x, weight, mean, inv_std, dx_residual, dx, dweight, dbias, accumulate);
}

}  // namespace trireme::cuda
