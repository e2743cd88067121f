#include "cluster/device/operation_times.h"

#include <algorithm>
#include <map>

#include "cluster/device/stream_state.h"

namespace trireme {

OperationTimes::OperationTimes(Stream* stream) : stream_(stream) {
  if (stream_->gpu_ == nullptr) return;
  CHECK(stream_->gpu_->timeline == nullptr) << "the stream's operations are timed already";
  stream_->gpu_->timeline = &timeline_;
}

OperationTimes::~OperationTimes() {
  if (stream_->gpu_ != nullptr) stream_->gpu_->timeline = nullptr;
}

std::vector<OperationTimes::Share> OperationTimes::Take() {
  if (timeline_.empty()) return {};
  timeline_.emplace_back("", stream_->Record(true));
  std::map<std::string, Share> by_name;
  for (size_t i = 0; i + 1 < timeline_.size(); ++i) {
    Share& share = by_name[timeline_[i].first];
    share.operation = timeline_[i].first;
    ++share.calls;
    share.milliseconds += timeline_[i + 1].second.MillisecondsSince(timeline_[i].second);
  }
  timeline_.clear();
  std::vector<Share> shares;
  for (auto& [name, share] : by_name) shares.push_back(std::move(share));
  std::sort(shares.begin(), shares.end(),
            [](const Share& a, const Share& b) { return a.milliseconds > b.milliseconds; });
  return shares;
}

}  // namespace trireme
