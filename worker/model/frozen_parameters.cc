#include "worker/model/frozen_parameters.h"

#include <algorithm>

#include "cluster/device/elementwise.h"

namespace trireme {

Result<std::unique_ptr<FrozenParameters>> FrozenParameters::Load(
    const std::vector<ParameterSpec>& specs, const Mesh& mesh, int rank, DType compute,
    Stream& stream, const ParameterReader& reader) {
  auto store = std::make_unique<FrozenParameters>();
  store->tensors_.resize(specs.size());
  const int stage = mesh.Index(rank, Axis::kPipeline);
  for (size_t id = 0; id < specs.size(); ++id) {
    const ParameterSpec& spec = specs[id];
    if (std::find(spec.stages.begin(), spec.stages.end(), stage) == spec.stages.end()) continue;
    const Box region = LocalRegion(spec.shape, spec.placement, mesh, rank);
    Buffer values(region.elements() * ByteSize(DType::kF32));
    auto* floats = reinterpret_cast<float*>(values.data());
    RETURN_IF_ERROR(reader(spec, region, floats));
    if (spec.published_shape.size() == 1 || compute == DType::kF32) {
      store->tensors_[id] = values.AsTensor(DType::kF32, region.extent);
      store->memory_.push_back(std::move(values));
      continue;
    }
    Buffer rounded(region.elements() * ByteSize(compute));
    CastToBFloat16(stream, reinterpret_cast<BFloat16*>(rounded.data()), floats, region.elements());
    store->tensors_[id] = rounded.AsTensor(compute, region.extent);
    store->memory_.push_back(std::move(rounded));
  }
  return store;
}

GradientSink FrozenParameters::Gradients(ParamId id, int, MicrobatchId) {
  LOG(FATAL) << "parameter " << id << " is frozen";
  __builtin_unreachable();
}

void FrozenParameters::GradientDone(ParamId id, int, MicrobatchId) {
  LOG(FATAL) << "parameter " << id << " is frozen";
}

}  // namespace trireme
