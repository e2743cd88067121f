// What the harness' own tests need: device memory with a view back, and the line of an error.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cluster/device/cuda_language.cuh"

namespace trireme::gpu {

// What Launch wants of a stream.
struct TestStream {
  TestStream() { EXPECT_EQ(cudaStreamCreate(&handle), cudaSuccess); }
  ~TestStream() { EXPECT_EQ(cudaStreamDestroy(handle), cudaSuccess); }
  void* native() { return handle; }
  void Synchronize() { EXPECT_EQ(cudaStreamSynchronize(handle), cudaSuccess); }
  cudaStream_t handle = nullptr;
};

// An array in device memory.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : count_(values.size()) {
    EXPECT_EQ(cudaMalloc(&data_, count_ * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  ~DeviceArray() { EXPECT_EQ(cudaFree(data_), cudaSuccess); }
  DeviceArray(const DeviceArray&) = delete;

  T* get() const { return data_; }
  std::vector<T> Values() const {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

// Runs the kernel and returns the line of its error; "" when there was none.
template <typename... Params, typename... Args>
std::string ErrorOf(dim3 grid, dim3 block, void (*kernel)(Params...), Args... args) {
  TestStream stream;
  Launch(stream, LaunchShape{grid, block}, kernel, args...);
  try {
    stream.Synchronize();
  } catch (const simt::KernelError& error) {
    return error.what();
  }
  return "";
}

// Orders of threads and blocks that every test of right kernels runs with.
inline constexpr uint64_t kOrders[] = {0, 1, 2, 3};

}  // namespace trireme::gpu
