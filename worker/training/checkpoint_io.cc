#include "worker/training/checkpoint_io.h"

#include <algorithm>
#include <memory>

#include "proto/config.pb.h"
#include "storage/checkpoint_reader.h"
#include "storage/checkpoint_writer.h"
#include "storage/element_conversion.h"
#include "storage/object_store.h"
#include "worker/model/model_shape.h"
#include "worker/model/weight_source.h"

namespace trireme {
namespace {

// "STORE@50" in its two parts.
Status SplitCheckpoint(const std::string& checkpoint, std::string* store, int64_t* step) {
  const size_t at = checkpoint.rfind('@');
  CHECK(at != std::string::npos) << checkpoint;
  *store = checkpoint.substr(0, at);
  *step = std::stoll(checkpoint.substr(at + 1));
  return OkStatus();
}

// Has `fill` write the values of a tensor, wherever it is.
template <typename Fill>
Status FillTensor(const StateTensor& tensor, Stream& stream, const Fill& fill) {
  if (stream.device() == DeviceKind::kCpu) return fill(tensor.tensor.bytes_data());
  const Buffer values(tensor.tensor.bytes());
  RETURN_IF_ERROR(fill(values.data()));
  stream.Copy(tensor.tensor.data(), values.data(), values.bytes());
  stream.Synchronize();
  return OkStatus();
}

// Has `fill` write the floats that `values`, elements of the tensor's type, are made of.
template <typename Fill>
Status AsFloats(const Tensor& tensor, std::byte* values, const Fill& fill) {
  if (tensor.dtype() == DType::kF32) return fill(reinterpret_cast<float*>(values));
  const Buffer floats(tensor.elements() * ByteSize(DType::kF32));
  RETURN_IF_ERROR(fill(reinterpret_cast<float*>(floats.data())));
  ConvertElements(DType::kF32, floats.data(), tensor.dtype(), values, tensor.elements());
  return OkStatus();
}

Status LoadCheckpoint(const std::string& checkpoint, const std::vector<StateTensor>& state,
                      Stream& stream) {
  std::string url;
  int64_t step = 0;
  RETURN_IF_ERROR(SplitCheckpoint(checkpoint, &url, &step));
  ASSIGN_OR_RETURN(const std::unique_ptr<ObjectStore> store, OpenStore(url));
  ASSIGN_OR_RETURN(const auto reader, CheckpointReader::Open(*store, step));
  for (const StateTensor& tensor : state) {
    RETURN_IF_ERROR(FillTensor(tensor, stream, [&](std::byte* values) {
      return reader->Load(tensor.name, tensor.shape, tensor.box, tensor.tensor.dtype(), values);
    }));
  }
  return OkStatus();
}

}  // namespace

Status LoadState(const proto::Config& config, const std::string& checkpoint,
                 const std::vector<StateTensor>& state, const std::vector<ParameterSpec>& specs,
                 Stream& stream) {
  if (!checkpoint.empty()) return LoadCheckpoint(checkpoint, state, stream);
  std::unique_ptr<WeightSource> source;
  if (!config.model().from().empty()) {
    ASSIGN_OR_RETURN(source, WeightSource::Open(config.model().from()));
  }
  for (const StateTensor& tensor : state) {
    RETURN_IF_ERROR(FillTensor(tensor, stream, [&](std::byte* values) {
      return AsFloats(tensor.tensor, values, [&](float* floats) {
        if (tensor.kind != StateTensor::Kind::kWeight) {
          std::fill(floats, floats + tensor.tensor.elements(), 0.0f);
        } else if (source != nullptr) {
          return source->Read(tensor.name, tensor.shape, tensor.box, floats);
        } else {
          FillInitialValues(specs[tensor.id], config.run().seed(), tensor.box, floats);
        }
        return OkStatus();
      });
    }));
  }
  return OkStatus();
}

Result<std::string> WriteCheckpointPart(const proto::Config& config, int64_t step,
                                        uint64_t generation, int rank,
                                        const std::vector<StateTensor>& state,
                                        const std::vector<ParameterSpec>& specs, Stream& stream) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ObjectStore> store,
                   OpenStore(config.checkpoint().store()));
  std::vector<TensorPiece> pieces;
  std::vector<Buffer> copies;  // of what is not in the host's memory
  for (const StateTensor& tensor : state) {
    const std::byte* values = tensor.tensor.bytes_data();
    if (stream.device() != DeviceKind::kCpu) {
      const Buffer& copy = copies.emplace_back(tensor.tensor.bytes());
      stream.Copy(copy.data(), values, copy.bytes());
      values = copy.data();
    }
    pieces.push_back({tensor.name, tensor.tensor.dtype(), tensor.shape,
                      specs[tensor.id].published_shape, tensor.box, values});
  }
  stream.Synchronize();
  // It would push out the good ones, and nobody could go on from it.
  for (size_t i = 0; i < state.size(); ++i) {
    if (state[i].kind != StateTensor::Kind::kWeight) continue;
    if (!FindNonFinite(pieces[i].dtype, pieces[i].data, state[i].tensor.elements())) continue;
    return DataLossError(StrCat(state[i].name, " has values that are not finite"));
  }
  ChunkOptions options;
  options.step = step;
  options.generation = static_cast<int64_t>(generation);
  options.rank = rank;
  return WriteCheckpointChunks(*store, options, pieces);
}

}  // namespace trireme
