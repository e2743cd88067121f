#include "worker/inference/input_staging.h"

namespace trireme {

int32_t* InputStaging::Open(const Tensor& target) {
  if (target.device() == DeviceKind::kCpu) return target.as<int32_t>();
  sent_.Synchronize();
  if (pinned_.bytes() < target.bytes()) pinned_ = Buffer::Pinned(target.bytes());
  return reinterpret_cast<int32_t*>(pinned_.data());
}

void InputStaging::Send(Stream& stream, const Tensor& target) {
  if (target.device() == DeviceKind::kCpu) return;
  stream.Copy(target.data(), pinned_.data(), target.bytes());
  sent_ = stream.Record();
}

}  // namespace trireme
