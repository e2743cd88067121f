// Ranks with a GPU each, or all on one, and communicators for its memory as they are.
#pragma once

#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include "cluster/comm/communicator.h"
#include "cluster/comm/device_link.h"
#include "cluster/device/elementwise.h"

namespace trireme {

// body(factory of the rank, its stream) on a thread of each rank; provided by the world that a
// program links.
void OnEveryGpuRank(int ranks, const std::function<void(CommunicatorFactory&, Stream&)>& body);

// Floats of the GPU.
class GpuValues {
 public:
  GpuValues(Stream& stream, int64_t count, float value)
      : stream_(stream), count_(count), memory_(DeviceMemory(stream, count * 4)) {
    const std::vector<float> all(count, value);
    stream_.Copy(memory_.data(), all.data(), count * 4);
  }
  BufferRef ref() const { return {memory_.data(), count_, DType::kF32}; }
  void Add(const GpuValues& other) {
    AddInPlace(stream_, reinterpret_cast<float*>(memory_.data()),
               reinterpret_cast<const float*>(other.memory_.data()), count_);
  }
  std::vector<float> Read() const {
    std::vector<float> all(count_);
    stream_.Copy(all.data(), memory_.data(), count_ * 4);
    stream_.Synchronize();
    return all;
  }

 private:
  Stream& stream_;
  int64_t count_;
  Buffer memory_;
};

inline std::unique_ptr<Communicator> AllRanks(CommunicatorFactory& factory,
                                              uint64_t generation = 1) {
  std::vector<int> members(factory.world_size());
  std::iota(members.begin(), members.end(), 0);
  return factory.Create("all", members, 1, generation);
}

}  // namespace trireme
