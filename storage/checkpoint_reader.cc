#include "storage/checkpoint_reader.h"

#include <algorithm>

#include "cluster/base/checksum.h"
#include "proto/manifest.pb.h"
#include "storage/checkpoint_manifest.h"
#include "storage/checkpoint_writer.h"
#include "storage/safetensors.h"
#include "storage/stream_checksum.h"

namespace trireme {
namespace {

// Feeds the bytes [begin, end) of an object to `sink`, in blocks.
template <typename Sink>
Status ReadBlocks(const ObjectStore& store, const std::string& key, int64_t begin, int64_t end,
                  const Sink& sink) {
  std::vector<std::byte> block;
  for (int64_t at = begin; at < end; at += static_cast<int64_t>(block.size())) {
    block.resize(static_cast<size_t>(std::min(kObjectBlockBytes, end - at)));
    RETURN_IF_ERROR(store.Read(key, at, block));
    sink(std::span<const std::byte>(block));
  }
  return OkStatus();
}

Status VerifyChunk(const ObjectStore& store, const std::string& key, const proto::Chunk& chunk) {
  const std::string place = store.Describe(key);
  const Result<int64_t> size = store.Size(key);
  if (size.status().code() == StatusCode::kNotFound) {
    return DataLossError(size.status().message());
  }
  RETURN_IF_ERROR(size.status());
  if (*size != chunk.bytes()) {
    return DataLossError(StrCat(place, ": ", *size, " bytes, expected ", chunk.bytes()));
  }
  StreamChecksum whole;
  int64_t position = 0;
  const auto read_to = [&](int64_t end, StreamChecksum* part) {
    const int64_t begin = position;
    position = std::max(position, end);
    return ReadBlocks(store, key, begin, end, [&](std::span<const std::byte> bytes) {
      whole.Update(bytes);
      if (part != nullptr) part->Update(bytes);
    });
  };
  for (const proto::TensorBox& tensor : chunk.tensors()) {
    RETURN_IF_ERROR(read_to(tensor.data_offset(), nullptr));
    const int64_t bytes = BoxOf(tensor).elements() * ByteSize(*CheckpointDType(tensor.dtype()));
    StreamChecksum part;
    RETURN_IF_ERROR(read_to(tensor.data_offset() + bytes, &part));
    const std::string actual = ChecksumHex(part.Value());
    if (actual != tensor.checksum()) {
      return DataLossError(StrCat(place, ": tensor ", tensor.name(), " at byte ",
                                  tensor.data_offset(), ": checksum ", actual, ", expected ",
                                  tensor.checksum()));
    }
  }
  RETURN_IF_ERROR(read_to(chunk.bytes(), nullptr));
  const std::string actual = ChecksumHex(whole.Value());
  if (actual == chunk.checksum()) return OkStatus();
  return DataLossError(StrCat(place, ": bytes 0 to ", chunk.bytes(), " (the header; the tensors",
                              " are whole): checksum ", actual, ", expected ", chunk.checksum()));
}

void HashShape(const TensorInfo& info, ContentHasher* hasher) {
  hasher->Update(static_cast<uint64_t>(info.name.size()));
  hasher->Update(std::string_view(info.name));
  hasher->Update(std::string_view(SafetensorsDTypeName(info.dtype)));
  hasher->Update(static_cast<uint64_t>(info.shape.size()));
  for (const int64_t n : info.shape) hasher->Update(static_cast<uint64_t>(n));
}

}  // namespace

CheckpointReader::CheckpointReader(const ObjectStore& store)
    : store_(store), manifest_(std::make_unique<proto::Manifest>()) {}
CheckpointReader::~CheckpointReader() = default;

int64_t CheckpointReader::step() const { return manifest_->step(); }

bool IsOptimizerTensor(std::string_view name) { return name.starts_with("optimizer."); }

Result<std::unique_ptr<CheckpointReader>> CheckpointReader::Open(const ObjectStore& store,
                                                                 int64_t step) {
  const std::string key = ManifestKey(step);
  ASSIGN_OR_RETURN(const std::string json, ReadObject(store, key));
  auto reader = std::unique_ptr<CheckpointReader>(new CheckpointReader(store));
  proto::Manifest& manifest = *reader->manifest_;
  RETURN_IF_ERROR(ManifestFromJson(json, store.Describe(key), &manifest));
  if (manifest.step() != step) {
    return DataLossError(
        StrCat(store.Describe(key), ": step ", manifest.step(), ", expected ", step));
  }
  for (const proto::Chunk& chunk : manifest.chunks()) {
    for (const proto::TensorBox& box : chunk.tensors()) {
      Tensor& tensor = reader->tensors_[box.name()];
      tensor.info = {box.name(), *CheckpointDType(box.dtype()), ShapeOf(box)};
      tensor.pieces.push_back({CheckpointFolder(step) + "/" + chunk.file(), box.data_offset(),
                               tensor.info.dtype, BoxOf(box), box.name()});
    }
  }
  return reader;
}

std::vector<TensorInfo> CheckpointReader::tensors() const {
  std::vector<TensorInfo> infos;
  for (const auto& [name, tensor] : tensors_) infos.push_back(tensor.info);
  return infos;
}

std::optional<TensorInfo> CheckpointReader::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return std::nullopt;
  return found->second.info;
}

int64_t CheckpointReader::chunk_bytes() const {
  int64_t bytes = 0;
  for (const proto::Chunk& chunk : manifest_->chunks()) bytes += chunk.bytes();
  return bytes;
}

Status CheckpointReader::Verify() const {
  for (const proto::Chunk& chunk : manifest_->chunks()) {
    RETURN_IF_ERROR(VerifyChunk(store_, CheckpointFolder(step()) + "/" + chunk.file(), chunk));
  }
  return OkStatus();
}

Status CheckpointReader::LoadPublished(const Tensor& tensor, const Box& box, DType dtype,
                                       std::byte* out) const {
  for (const StoredBox& piece : tensor.pieces) {
    const std::optional<Box> common = Intersect(piece.box, box);
    if (!common || common->empty()) continue;
    RETURN_IF_ERROR(ReadStoredBox(store_, piece, *common, dtype, box, out));
  }
  return OkStatus();
}

Status CheckpointReader::Load(std::string_view name, const Shape& view_shape, const Box& box,
                              DType dtype, std::byte* out) const {
  const auto fail = [&](const auto&... what) {
    return DataLossError(
        StrCat(store_.Describe(CheckpointFolder(step())), ": tensor ", name, what...));
  };
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return fail(" is not there");
  const Tensor& tensor = found->second;
  if (!IsViewOf(view_shape, tensor.info.shape)) {
    return fail(" is ", ShapeToString(tensor.info.shape), ", expected ", ShapeToString(view_shape));
  }
  CHECK(Box::Whole(view_shape).Contains(box)) << name << " " << box.ToString();
  const std::vector<ViewedBox> parts = PublishedBoxes(view_shape, tensor.info.shape, box);
  if (parts.size() == 1) return LoadPublished(tensor, parts[0].published, dtype, out);
  std::vector<std::byte> scratch;
  for (const ViewedBox& part : parts) {
    scratch.resize(static_cast<size_t>(part.view.elements() * ByteSize(dtype)));
    RETURN_IF_ERROR(LoadPublished(tensor, part.published, dtype, scratch.data()));
    CopyRegion(part.view, part.view, scratch.data(), box, out, ByteSize(dtype));
  }
  return OkStatus();
}

Result<CheckpointHash> CheckpointReader::Hash() const {
  ContentHasher weights, state;
  std::vector<std::byte> block;
  for (const auto& [name, tensor] : tensors_) {
    const TensorInfo& info = tensor.info;
    ContentHasher& hasher = IsOptimizerTensor(name) ? state : weights;
    HashShape(info, &hasher);
    const int64_t rows = info.shape.empty() ? 1 : info.shape[0];
    const int64_t row_bytes =
        rows == 0 ? 0 : ElementCount(info.shape) / rows * ByteSize(info.dtype);
    const int64_t block_rows =
        std::max<int64_t>(1, kObjectBlockBytes / std::max<int64_t>(1, row_bytes));
    for (int64_t row = 0; row < rows && row_bytes > 0; row += block_rows) {
      Box box = Box::Whole(info.shape);
      if (!info.shape.empty()) {
        box.offset[0] = row;
        box.extent[0] = std::min(block_rows, rows - row);
      }
      block.resize(static_cast<size_t>(box.elements() * ByteSize(info.dtype)));
      RETURN_IF_ERROR(LoadPublished(tensor, box, info.dtype, block.data()));
      hasher.Update(block);
    }
  }
  const proto::DataCursor& cursor = manifest_->data_cursor();
  for (const int64_t number : {manifest_->step(), cursor.step(), cursor.samples(), cursor.tokens(),
                               cursor.label_tokens(), manifest_->schedule().step()}) {
    state.Update(static_cast<uint64_t>(number));
  }
  state.Update(manifest_->seed());
  state.Update(std::string_view(manifest_->schedule().name()));
  return CheckpointHash{step(), weights.Hex(), state.Hex()};
}

}  // namespace trireme
