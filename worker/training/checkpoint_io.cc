#include "worker/training/checkpoint_io.h"

#include <algorithm>
#include <memory>

#include "proto/config.pb.h"
#include "storage/checkpoint_reader.h"
#include "storage/checkpoint_writer.h"
#include "storage/object_store.h"
#include "worker/model/model_shape.h"
#include "worker/model/weight_source.h"

namespace trireme {
namespace {

std::byte* BytesOf(const StateTensor& tensor) { return tensor.tensor.bytes_data(); }

// "STORE@50" in its two parts.
Status SplitCheckpoint(const std::string& checkpoint, std::string* store, int64_t* step) {
  const size_t at = checkpoint.rfind('@');
  CHECK(at != std::string::npos) << checkpoint;
  *store = checkpoint.substr(0, at);
  *step = std::stoll(checkpoint.substr(at + 1));
  return OkStatus();
}

Status LoadCheckpoint(const std::string& checkpoint, const std::vector<StateTensor>& state) {
  std::string url;
  int64_t step = 0;
  RETURN_IF_ERROR(SplitCheckpoint(checkpoint, &url, &step));
  ASSIGN_OR_RETURN(const std::unique_ptr<ObjectStore> store, OpenStore(url));
  ASSIGN_OR_RETURN(const auto reader, CheckpointReader::Open(*store, step));
  for (const StateTensor& tensor : state) {
    RETURN_IF_ERROR(
        reader->Load(tensor.name, tensor.shape, tensor.box, DType::kF32, BytesOf(tensor)));
  }
  return OkStatus();
}

}  // namespace

Status LoadState(const proto::Config& config, const std::string& checkpoint,
                 const std::vector<StateTensor>& state, const std::vector<ParameterSpec>& specs) {
  if (!checkpoint.empty()) return LoadCheckpoint(checkpoint, state);
  std::unique_ptr<WeightSource> source;
  if (!config.model().from().empty()) {
    ASSIGN_OR_RETURN(source, WeightSource::Open(config.model().from()));
  }
  for (const StateTensor& tensor : state) {
    auto* values = tensor.tensor.as<float>();
    if (tensor.kind != StateTensor::Kind::kWeight) {
      std::fill(values, values + tensor.tensor.elements(), 0.0f);
    } else if (source != nullptr) {
      RETURN_IF_ERROR(source->Read(tensor.name, tensor.shape, tensor.box, values));
    } else {
      FillInitialValues(specs[tensor.id], config.run().seed(), tensor.box, values);
    }
  }
  return OkStatus();
}

Result<std::string> WriteCheckpointPart(const proto::Config& config, int64_t step,
                                        uint64_t generation, int rank,
                                        const std::vector<StateTensor>& state,
                                        const std::vector<ParameterSpec>& specs) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ObjectStore> store,
                   OpenStore(config.checkpoint().store()));
  std::vector<TensorPiece> pieces;
  for (const StateTensor& tensor : state) {
    pieces.push_back({tensor.name, DType::kF32, tensor.shape, specs[tensor.id].published_shape,
                      tensor.box, BytesOf(tensor)});
  }
  ChunkOptions options;
  options.step = step;
  options.generation = static_cast<int64_t>(generation);
  options.rank = rank;
  return WriteCheckpointChunks(*store, options, pieces);
}

}  // namespace trireme
