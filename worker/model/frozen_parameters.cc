#include "worker/model/frozen_parameters.h"

#include <algorithm>

#include "cluster/device/elementwise.h"

namespace trireme {

namespace {

// Reads parameters piece by piece into pinned memory while the piece before is on its way to the
// GPU.
class Uploader {
 public:
  Uploader(Stream& stream, const ParameterReader& reader) : stream_(stream), reader_(reader) {}

  // target: of the region's shape, f32 or bf16, on the GPU.
  Status Load(const ParameterSpec& spec, const Box& region, const Tensor& target) {
    const int64_t rows = region.extent[0], row = region.elements() / rows;
    const int64_t step = std::clamp<int64_t>(kPieceBytes / (row * kFloatBytes), 1, rows);
    for (int64_t begin = 0; begin < rows; begin += step) {
      Box piece = region;
      piece.offset[0] += begin;
      piece.extent[0] = std::min(step, rows - begin);
      side_ ^= 1;
      sent_[side_].Synchronize();
      const int64_t bytes = piece.elements() * kFloatBytes;
      if (pinned_[side_].bytes() < bytes) pinned_[side_] = Buffer::Pinned(bytes);
      auto* values = reinterpret_cast<float*>(pinned_[side_].data());
      RETURN_IF_ERROR(reader_(spec, piece, values));
      Send(values, piece.elements(), target, begin * row);
    }
    return OkStatus();
  }

 private:
  static constexpr int64_t kPieceBytes = 32 << 20;
  static constexpr int64_t kFloatBytes = sizeof(float);

  void Send(const float* values, int64_t count, const Tensor& target, int64_t first) {
    std::byte* to = target.bytes_data() + first * ByteSize(target.dtype());
    if (target.dtype() == DType::kF32) {
      stream_.Copy(to, values, count * kFloatBytes);
    } else {
      if (floats_.bytes() < count * kFloatBytes) {
        floats_ = Buffer(count * kFloatBytes, stream_.device());
      }
      auto* floats = reinterpret_cast<float*>(floats_.data());
      stream_.Copy(floats, values, count * kFloatBytes);
      CastToBFloat16(stream_, reinterpret_cast<BFloat16*>(to), floats, count);
    }
    sent_[side_] = stream_.Record();
  }

  Stream& stream_;
  const ParameterReader& reader_;
  Buffer pinned_[2];
  StreamEvent sent_[2];
  Buffer floats_;  // a piece on the GPU, before it is rounded
  int side_ = 0;
};

DType TypeOf(const ParameterSpec& spec, DType compute) {
  return spec.published_shape.size() == 1 ? DType::kF32 : compute;
}

}  // namespace

Result<std::unique_ptr<FrozenParameters>> FrozenParameters::Load(
    const std::vector<ParameterSpec>& specs, const Mesh& mesh, int rank, DType compute,
    Stream& stream, const ParameterReader& reader) {
  auto store = std::make_unique<FrozenParameters>();
  store->tensors_.resize(specs.size());
  const int stage = mesh.Index(rank, Axis::kPipeline);
  Uploader uploader(stream, reader);
  for (size_t id = 0; id < specs.size(); ++id) {
    const ParameterSpec& spec = specs[id];
    if (std::find(spec.stages.begin(), spec.stages.end(), stage) == spec.stages.end()) continue;
    const Box region = LocalRegion(spec.shape, spec.placement, mesh, rank);
    const DType dtype = TypeOf(spec, compute);
    const int64_t rows = region.extent[0], row_elements = region.elements() / rows;
    Buffer memory(PaddedRows(rows) * row_elements * ByteSize(dtype), stream.device(), "weights");
    store->tensors_[id] = memory.AsTensor(dtype, region.extent);
    const Tensor& target = store->tensors_[id];
    if (stream.device() != DeviceKind::kCpu) {
      RETURN_IF_ERROR(uploader.Load(spec, region, target));
    } else if (dtype == DType::kF32) {
      RETURN_IF_ERROR(reader(spec, region, target.as<float>()));
    } else {
      const Buffer values(region.elements() * ByteSize(DType::kF32));
      auto* floats = reinterpret_cast<float*>(values.data());
      RETURN_IF_ERROR(reader(spec, region, floats));
      CastToBFloat16(stream, target.as<BFloat16>(), floats, region.elements());
    }
    store->memory_.push_back(std::move(memory));
  }
  stream.Synchronize();
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
