// What every transport must do; the same cases run on threads and under mpirun.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "cluster/comm/communicator.h"

namespace trireme {

inline constexpr Micros kSoon = 60'000'000;  // no test waits this long unless it fails

// One rank's view of a test: its factory, and the members of the largest group.
struct TestRank {
  CommunicatorFactory& factory;
  std::vector<int> members;  // world ranks
  int rank;                  // among members
  uint64_t generation;       // fresh in each test

  int size() const { return static_cast<int>(members.size()); }
  std::unique_ptr<Communicator> All(uint16_t group_id = 1) const {
    return factory.Create("all", members, group_id, generation);
  }
};

// Runs `body` on every member of a world of `ranks`; provided by the world that a program links.
void OnEveryRank(int ranks, const std::function<void(TestRank&)>& body);
// Group sizes to test: one under mpirun.
std::vector<int> WorldSizes();

template <typename T>
BufferRef Ref(std::vector<T>& values) {
  return {values.data(), static_cast<int64_t>(values.size()), DTypeOf<T>::value};
}

// Element i of leaf l: magnitudes from 2^-12 to 2^12, so that f32 and bf16 sums depend on order.
template <typename T>
T LeafValue(int leaf, int64_t i) {
  uint64_t h = (static_cast<uint64_t>(leaf) + 1) * 0x9e3779b97f4a7c15u + i * 0xbf58476d1ce4e5b9u;
  h ^= h >> 31;
  h *= 0x94d049bb133111ebu;
  h ^= h >> 29;
  const double mantissa = static_cast<double>(static_cast<int64_t>(h >> 11)) / (1ull << 52) - 1.0;
  const double value = std::ldexp(mantissa, static_cast<int>(h % 25) - 12);
  if constexpr (std::is_same_v<T, int64_t>) {
    return static_cast<int64_t>(h >> 4);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return ToBFloat16(static_cast<float>(value));
  } else {
    return static_cast<T>(value);
  }
}

template <typename T>
T AddOne(T a, T b) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return ToBFloat16(ToFloat(a) + ToFloat(b));
  } else {
    return a + b;
  }
}

// The serial sum over `node`, element i, straight from the definition.
template <typename T>
T SerialSum(SumTree::Node node, int64_t i) {
  if (node.end - node.begin == 1) return LeafValue<T>(node.begin, i);
  return AddOne(SerialSum<T>(SumTree::Left(node), i), SerialSum<T>(SumTree::Right(node), i));
}

// The same for elements 0 .. count-1. Remembered: many tests and all threads ask for the same ones.
template <typename T>
std::vector<T> SerialSums(SumTree::Node node, int64_t count) {
  static std::mutex mutex;
  static auto* known = new std::map<std::pair<int, int>, std::vector<T>>;
  std::lock_guard<std::mutex> lock(mutex);
  std::vector<T>& sums = (*known)[{node.begin, node.end}];
  for (auto i = static_cast<int64_t>(sums.size()); i < count; ++i) {
    sums.push_back(SerialSum<T>(node, i));
  }
  return std::vector<T>(sums.begin(), sums.begin() + count);
}

template <typename T>
std::vector<std::vector<T>> PartialsOf(const SumTree& tree, int rank, int64_t count) {
  std::vector<std::vector<T>> partials;
  for (const auto& node : tree.Partials(rank)) partials.push_back(SerialSums<T>(node, count));
  return partials;
}

template <typename T>
std::vector<BufferRef> Refs(std::vector<std::vector<T>>& buffers) {
  std::vector<BufferRef> refs;
  for (auto& buffer : buffers) refs.push_back(Ref(buffer));
  return refs;
}

// True when elements [begin, end) have equal bits.
template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b, int64_t begin, int64_t end) {
  return std::memcmp(a.data() + begin, b.data() + begin, (end - begin) * sizeof(T)) == 0;
}
template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && SameBits(a, b, 0, static_cast<int64_t>(a.size()));
}

#define EXPECT_DONE(work)                                     \
  do {                                                        \
    const ::trireme::Status wait_status = (work).Wait(kSoon); \
    EXPECT_TRUE(wait_status.ok()) << wait_status.message();   \
    if (!wait_status.ok()) (work).Abandon();                  \
  } while (false)

}  // namespace trireme
