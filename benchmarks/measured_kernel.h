// A kernel's time, held against what the machine can do in the same run: the benchmark's own tools.
#pragma once

#include <benchmark/benchmark.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cluster/device/buffer.h"
#include "cluster/device/stream.h"
#include "worker/kernels/matmul.h"

namespace trireme {
namespace {  // for one program

int64_t peak_size = 2048;  // of the products that the peak is measured with
bool on_gpu = false;

// --cpu_clock: seconds that the calling thread got, one thread only: for machines that others use
// at the same time. Else wall clock.
bool cpu_clock = false;

double Now() {
  timespec time;
  clock_gettime(cpu_clock ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Until the stream has done the work.
double Seconds(Stream& stream, const std::function<void()>& run) {
  stream.Synchronize();
  if (stream.device() == DeviceKind::kCuda) {
    const StreamEvent start = stream.Record(true);
    run();
    return 1e-3 * stream.Record(true).MillisecondsSince(start);
  }
  const double start = Now();
  run();
  return Now() - start;
}

Stream& StreamOf(int threads) {
  static std::map<int, std::unique_ptr<Stream>> streams;
  auto& stream = streams[on_gpu ? 0 : threads];
  if (stream == nullptr) {
    stream = on_gpu ? std::make_unique<Stream>(Gpu{0}) : std::make_unique<Stream>(threads);
  }
  return *stream;
}

double Best(Stream& stream, int times, const std::function<void()>& run) {
  double best = 1e30;
  for (int i = 0; i < times; ++i) best = std::min(best, Seconds(stream, run));
  return best;
}

// A tensor of uniform values in [-1, 1], or of what `value` says, with its memory.
struct Owned {
  Owned(DType dtype, const Shape& shape, uint32_t seed = 1) {
    Allocate(dtype, shape);
    std::mt19937 bits(seed);
    // As many as no cache holds by chance; the rest repeats them.
    const int64_t some = std::min<int64_t>(tensor.elements(), kRandomElements);
    Fill(some, [&](int64_t) { return static_cast<float>(bits()) * 4.656612873e-10f - 1.0f; });
    Repeat(some);
  }
  Owned(DType dtype, const Shape& shape, const std::function<float(int64_t)>& value) {
    Allocate(dtype, shape);
    Fill(tensor.elements(), value);
  }
  operator const Tensor&() const { return tensor; }  // NOLINT: implicit on purpose
  // One value, fetched alone: for many of a tensor, Values.
  float At(int64_t i) const { return Values(i, 1)[0]; }
  // `count` values from the first (all of them: -1), in memory of the host.
  std::vector<float> Values(int64_t first = 0, int64_t count = -1) const {
    if (count < 0) count = tensor.elements();
    const int64_t size = ByteSize(tensor.dtype());
    std::vector<std::byte> raw(count * size);
    Stream& stream = StreamOf(1);
    StreamOf(2).Synchronize();
    stream.Copy(raw.data(), tensor.bytes_data() + first * size, count * size);
    stream.Synchronize();
    std::vector<float> values(count);
    for (int64_t i = 0; i < count; ++i) {
      values[i] = tensor.dtype() == DType::kF32 ? reinterpret_cast<const float*>(raw.data())[i]
                  : tensor.dtype() == DType::kBF16
                      ? ToFloat(reinterpret_cast<const BFloat16*>(raw.data())[i])
                      : static_cast<float>(reinterpret_cast<const int32_t*>(raw.data())[i]);
    }
    return values;
  }

  Buffer memory;
  Tensor tensor;

 private:
  static constexpr int64_t kRandomElements = (1 << 22) + 1;  // odd: rows do not repeat rows

  void Allocate(DType dtype, const Shape& shape) {
    memory = Buffer(ElementCount(shape) * ByteSize(dtype), StreamOf(1).device());
    tensor = memory.AsTensor(dtype, shape);
  }
  // Labels and ids that nobody gave stay zero.
  template <typename F>
  void Fill(int64_t elements, const F& value) {
    std::vector<std::byte> host(elements * ByteSize(tensor.dtype()));
    for (int64_t i = 0; i < elements; ++i) {
      const float x = value(i);
      if (tensor.dtype() == DType::kF32) reinterpret_cast<float*>(host.data())[i] = x;
      if (tensor.dtype() == DType::kBF16) {
        reinterpret_cast<BFloat16*>(host.data())[i] = ToBFloat16(x);
      }
      if (tensor.dtype() == DType::kI32) {
        reinterpret_cast<int32_t*>(host.data())[i] = static_cast<int32_t>(x);
      }
    }
    Stream& stream = StreamOf(1);
    stream.Copy(tensor.data(), host.data(), static_cast<int64_t>(host.size()));
    stream.Synchronize();
  }
  // The first `elements`, over and over to the end, on the device itself.
  void Repeat(int64_t elements) {
    Stream& stream = StreamOf(1);
    int64_t made = elements * ByteSize(tensor.dtype());
    while (made < tensor.bytes()) {
      const int64_t more = std::min(made, tensor.bytes() - made);
      stream.Copy(tensor.bytes_data() + made, tensor.data(), more);
      made += more;
    }
    stream.Synchronize();
  }
};

std::string Computers(int threads) {
  return on_gpu ? "cuda" : "threads:" + std::to_string(threads);
}

// FLOP/s of the best peak_size^3 product of these threads: the program's own, and for f32 the
// library's own multi-threaded one.
double ProductPeak(DType dtype, int threads) {
  static std::map<std::pair<DType, int>, double> peaks;
  double& peak = peaks[{dtype, threads}];
  if (peak > 0) return peak;
  const int64_t n = peak_size;
  const Owned a(dtype, {n, n}, 1), b(dtype, {n, n}, 2), c(DType::kF32, {n, n});
  double best = 1e30;
  for (const Transpose tb : {Transpose::kNo, Transpose::kYes}) {
    best = std::min(best, Best(StreamOf(threads), 6, [&] {
                      MatMul(StreamOf(threads), Matrix::Of(a), Transpose::kNo, Matrix::Of(b), tb,
                             Matrix::Of(c));
                    }));
  }
  if (dtype == DType::kF32 && !on_gpu) {
    omp_set_num_threads(threads);
    best = std::min(best, Best(StreamOf(threads), 6, [&] {
                      dnnl_sgemm('N', 'N', n, n, n, 1.0f, a.tensor.as<float>(), n,
                                 b.tensor.as<float>(), n, 0.0f, c.tensor.as<float>(), n);
                    }));
    omp_set_num_threads(1);
  }
  peak = 2.0 * static_cast<double>(n * n) * static_cast<double>(n) / best;
  std::fprintf(stderr, "peak: %s product of %d^3, %s: %.1f GFLOP/s\n", DTypeName(dtype),
               static_cast<int>(n), Computers(threads).c_str(), peak * 1e-9);
  return peak;
}

// Bytes a second of a[i] = b[i] + s c[i] over arrays far beyond the caches, three streams counted;
// on a GPU of a copy, two counted.
double Bandwidth(int threads) {
  static std::map<int, double> bandwidths;
  double& bandwidth = bandwidths[threads];
  if (bandwidth > 0) return bandwidth;
  const int64_t n = on_gpu ? 4 * peak_size * peak_size : int64_t{1} << 24;
  constexpr int64_t block = int64_t{1} << 16;
  const Owned a(DType::kF32, {n}), b(DType::kF32, {n}), c(DType::kF32, {n});
  float* pa = a.tensor.as<float>();
  const float *pb = b.tensor.as<float>(), *pc = c.tensor.as<float>();
  Stream& stream = StreamOf(threads);
  if (on_gpu) {
    bandwidth = 2.0 * n * 4 / Best(stream, 8, [&] { stream.Copy(pa, pb, n * 4); });
    std::fprintf(stderr, "peak: copy, cuda: %.1f GB/s\n", bandwidth * 1e-9);
    return bandwidth;
  }
  bandwidth = 3.0 * n * 4 / Best(stream, 8, [&] {
                stream.ParallelFor(n / block, [&](int64_t i) {
                  for (int64_t j = i * block; j < (i + 1) * block; ++j)
                    pa[j] = pb[j] + 0.5f * pc[j];
                });
              });
  std::fprintf(stderr, "peak: triad, %d thread(s): %.1f GB/s\n", threads, bandwidth * 1e-9);
  return bandwidth;
}

// What a kernel does in one call, for the shares.
struct Work {
  double flop = 0;   // against the product peak of `dtype`, or
  double bytes = 0;  // least bytes read and written, against the triad
  DType dtype = DType::kF32;
};

void Report(benchmark::State& state, int threads, const Work& work,
            const std::function<void(Stream&)>& run) {
  const double peak = work.flop > 0 ? ProductPeak(work.dtype, threads) : Bandwidth(threads);
  Stream& stream = StreamOf(threads);
  run(stream);  // compiles kernels, touches memory
  double best = 1e30;
  for (auto _ : state) {
    const double seconds = Seconds(stream, [&] { run(stream); });
    state.SetIterationTime(seconds);
    best = std::min(best, seconds);
  }
  const double rate = (work.flop > 0 ? work.flop : work.bytes) / best;
  state.counters["best_us"] = best * 1e6;
  if (work.bytes > 0) state.counters["bytes"] = work.bytes;
  state.counters[work.flop > 0 ? "GFLOP/s" : "GB/s"] = rate * 1e-9;
  state.counters["share"] = rate / peak;
}

void Add(const std::string& name, const Work& work, const std::function<void(Stream&)>& run) {
  for (const int threads : {1, 2}) {
    if ((cpu_clock || on_gpu) && threads > 1) continue;
    const std::string full = name + "/" + DTypeName(work.dtype) + "/" + Computers(threads);
    benchmark::RegisterBenchmark(
        full.c_str(), [=](benchmark::State& state) { Report(state, threads, work, run); })
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond)
        ->MinTime(on_gpu ? 0.05 : 0.3);
  }
}

// Ends the program when `actual` is not what the double loops say: a fast wrong kernel is not one.
void Verify(const std::string& what, double actual, double expected, double tolerance) {
  if (std::abs(actual - expected) <= tolerance) return;
  std::fprintf(stderr, "%s: %g, expected %g\n", what.c_str(), actual, expected);
  std::exit(1);
}

}  // namespace
}  // namespace trireme
