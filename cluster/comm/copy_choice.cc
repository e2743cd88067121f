#include "cluster/comm/copy_choice.h"

#include <algorithm>
#include <bit>

namespace trireme {
namespace {

constexpr double kForget = 1.05;  // a message: how fast the least of late is forgotten

}  // namespace

int CopyChoice::SizeOf(int64_t bytes) {
  const auto units = static_cast<uint64_t>(bytes / kTimedBytes);
  return std::clamp(static_cast<int>(std::bit_width(units)) - 1, 0, kSizes - 1);
}

CopyChoice::Way CopyChoice::Next(int64_t bytes) {
  Costs& costs = costs_[SizeOf(bytes)];
  Way quicker = costs.of[kStaged] < costs.of[kRead] ? kStaged : kRead;
  if (costs.of[kRead] < 0) quicker = kRead;
  if (costs.of[kStaged] < 0) quicker = kStaged;
  if (bytes < kTimedBytes || ++costs.timed % kTryEvery != 0) return quicker;
  return quicker == kStaged ? kRead : kStaged;
}

void CopyChoice::Took(Way way, int64_t bytes, Micros micros) {
  if (bytes < kTimedBytes) return;
  double& known = costs_[SizeOf(bytes)].of[way];
  const double cost = static_cast<double>(micros) / static_cast<double>(bytes);
  known = known < 0 ? cost : std::min(cost, kForget * known);
}

}  // namespace trireme
