// How a checkpoint comes to be, and what a crash leaves at each point:
// 1. Each rank streams its chunks to temporary names and commits each file (fsync, rename, fsync of
//    the folder). Crash: leftovers that no manifest names; readers never look at them.
// 2. Each rank reports files, boxes and checksums. Crash: as above.
// 3. One process merges the reports, checks that every tensor is tiled exactly, and creates the
//    manifest exclusively. Crash before: the step does not exist. After: it exists and is whole.
#include "storage/checkpoint_writer.h"

#include "cluster/base/checksum.h"
#include "cluster/base/version.h"
#include "proto/manifest.pb.h"
#include "storage/checkpoint_manifest.h"
#include "storage/safetensors.h"
#include "storage/stored_box.h"

namespace trireme {
namespace {

// A box that goes to disk: as the manifest describes it, and where its bytes are.
struct Item {
  proto::TensorBox tensor;
  DType dtype;
  const TensorPiece* piece;
  Box view;  // the part of piece->box that it holds

  int64_t bytes() const { return view.elements() * ByteSize(dtype); }
};

std::vector<Item> ItemsOf(std::span<const TensorPiece> pieces) {
  std::vector<Item> items;
  for (const TensorPiece& piece : pieces) {
    for (const ViewedBox& part : PublishedBoxes(piece.shape, piece.published_shape, piece.box)) {
      if (part.view.empty()) continue;
      Item item{{}, piece.dtype, &piece, part.view};
      item.tensor.set_name(piece.name);
      item.tensor.set_dtype(SafetensorsDTypeName(piece.dtype));
      for (const int64_t n : piece.published_shape) item.tensor.add_shape(n);
      for (const int64_t n : part.published.offset) item.tensor.add_offset(n);
      for (const int64_t n : part.published.extent) item.tensor.add_extent(n);
      items.push_back(std::move(item));
    }
  }
  return items;
}

std::string ChunkFile(const ChunkOptions& options, int index) {
  char text[64];
  snprintf(text, sizeof(text), "rank_%05d_%d", options.rank, index);
  // A process of an older generation that is still writing cannot touch these.
  const std::string suffix =
      options.generation > 1 ? StrCat("_generation_", options.generation) : "";
  return StrCat(text, suffix, ".safetensors");
}

// The bytes of an item, which lie in one run unless it is a part of a split view.
std::span<const std::byte> BytesOf(const Item& item, std::vector<std::byte>* scratch) {
  const size_t bytes = static_cast<size_t>(item.bytes());
  if (item.view == item.piece->box) return {item.piece->data, bytes};
  scratch->resize(bytes);
  CopyRegion(item.view, item.piece->box, item.piece->data, item.view, scratch->data(),
             ByteSize(item.dtype));
  return *scratch;
}

Status WriteChunk(ObjectStore& store, const ChunkOptions& options, std::span<Item> items,
                  proto::ManifestPart* part) {
  std::vector<SafetensorsWriter::Tensor> tensors;
  std::map<std::string, std::string> metadata = {{"step", StrCat(options.step)}};
  for (const Item& item : items) {
    const Shape shape = ShapeOf(item.tensor);
    const Box box = BoxOf(item.tensor);
    tensors.push_back({StoredName(item.tensor.name(), shape, box), item.dtype, box.extent});
    if (tensors.back().name != item.tensor.name()) {
      metadata["shape of " + item.tensor.name()] = ShapeToString(shape);
    }
  }
  proto::Chunk* chunk = part->add_chunks();
  chunk->set_file(ChunkFile(options, part->chunks_size() - 1));
  const std::string key = CheckpointFolder(options.step) + "/" + chunk->file();
  ASSIGN_OR_RETURN(auto writer,
                   SafetensorsWriter::Create(store, key, tensors, std::move(metadata)));
  std::vector<std::byte> scratch;
  for (size_t i = 0; i < items.size(); ++i) {
    const std::span<const std::byte> bytes = BytesOf(items[i], &scratch);
    RETURN_IF_ERROR(writer->Append(bytes));
    items[i].tensor.set_data_offset(writer->OffsetOf(i));
    items[i].tensor.set_checksum(ChecksumHex(Checksum64(bytes)));
    *chunk->add_tensors() = items[i].tensor;
  }
  chunk->set_bytes(writer->file_bytes());
  chunk->set_checksum(ChecksumHex(writer->checksum()));
  return writer->Commit();
}

Status MergeParts(std::span<const std::string> parts, proto::Manifest* manifest) {
  for (const std::string& bytes : parts) {
    proto::ManifestPart part;
    if (!part.ParseFromString(bytes)) return InternalError("a part of the manifest is garbled");
    if (part.step() != manifest->step() || part.generation() != manifest->generation()) {
      return InternalError(StrCat("rank ", part.rank(), " reports chunks of step ", part.step(),
                                  ", generation ", part.generation(), "; expected step ",
                                  manifest->step(), ", generation ", manifest->generation()));
    }
    for (const proto::Chunk& chunk : part.chunks()) *manifest->add_chunks() = chunk;
  }
  const Status status = CheckManifestChunks(*manifest);
  if (status.ok()) return status;
  return InternalError(StrCat(CheckpointFolder(manifest->step()), ": ", status.message()));
}

Status CheckChunkSizes(const ObjectStore& store, const proto::Manifest& manifest) {
  for (const proto::Chunk& chunk : manifest.chunks()) {
    const std::string key = CheckpointFolder(manifest.step()) + "/" + chunk.file();
    const Result<int64_t> size = store.Size(key);
    if (!size.ok()) return StorageError(size.status().message());
    if (*size != chunk.bytes()) {
      return StorageError(
          StrCat(store.Describe(key), ": ", *size, " bytes, expected ", chunk.bytes()));
    }
  }
  return OkStatus();
}

void FillFacts(const CheckpointFacts& facts, proto::Manifest* manifest) {
  manifest->set_step(facts.step);
  manifest->set_generation(facts.generation);
  manifest->set_parent_step(facts.parent_step);
  manifest->set_program_version(ProgramName());
  manifest->set_product_library(facts.product_library);
  manifest->set_instruction_set(facts.instruction_set.empty() ? InstructionSet()
                                                              : facts.instruction_set);
  if (facts.config != nullptr) {
    *manifest->mutable_config() = *facts.config;
    manifest->set_seed(facts.config->run().seed());
    manifest->set_microbatch_sequences(facts.config->batch().microbatch_sequences());
    manifest->mutable_schedule()->set_name(facts.config->lr_schedule().name());
  }
  manifest->mutable_schedule()->set_step(facts.step);
  proto::DataCursor* cursor = manifest->mutable_data_cursor();
  cursor->set_step(facts.step);
  cursor->set_samples(facts.samples);
  cursor->set_tokens(facts.tokens);
  cursor->set_label_tokens(facts.label_tokens);
  *cursor->mutable_train_data() = {facts.train_data.begin(), facts.train_data.end()};
  manifest->set_sum_leaves(facts.sum_leaves);
  manifest->set_sum_order(facts.sum_order);
  manifest->set_created(facts.created);
}

}  // namespace

std::string InstructionSet() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16")) return "avx512bf16";
  if (__builtin_cpu_supports("avx512f")) return "avx512f";
  if (__builtin_cpu_supports("avx2")) return "avx2";
  return "x86-64";
#else
  return "other";
#endif
}

Result<std::string> WriteCheckpointChunks(ObjectStore& store, const ChunkOptions& options,
                                          std::span<const TensorPiece> pieces) {
  std::vector<Item> items = ItemsOf(pieces);
  proto::ManifestPart part;
  part.set_step(options.step);
  part.set_generation(options.generation);
  part.set_rank(options.rank);
  for (size_t begin = 0, end = 0; begin < items.size(); begin = end) {
    int64_t bytes = 0;
    while (end < items.size() &&
           (end == begin || bytes + items[end].bytes() <= options.chunk_bytes_max)) {
      bytes += items[end++].bytes();
    }
    RETURN_IF_ERROR(
        WriteChunk(store, options, std::span(items).subspan(begin, end - begin), &part));
  }
  return part.SerializeAsString();
}

Status CommitCheckpoint(ObjectStore& store, const CheckpointFacts& facts,
                        std::span<const std::string> parts) {
  proto::Manifest manifest;
  FillFacts(facts, &manifest);
  RETURN_IF_ERROR(MergeParts(parts, &manifest));
  RETURN_IF_ERROR(CheckChunkSizes(store, manifest));
  const std::string json = ManifestToJson(&manifest);
  const std::string key = ManifestKey(facts.step);
  ASSIGN_OR_RETURN(const bool created,
                   store.PutIfAbsent(key, std::as_bytes(std::span<const char>(json))));
  if (!created) return StorageError(StrCat(store.Describe(key), ": exists already"));
  return OkStatus();
}

}  // namespace trireme
