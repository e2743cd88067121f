#include "storage/checkpoint_copy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "proto/manifest.pb.h"
#include "storage/checkpoint_manifest.h"
#include "storage/checkpoint_writer.h"
#include "storage/element_conversion.h"

namespace trireme {
namespace {

Status CopyObject(const ObjectStore& from, const std::string& key, ObjectStore& to) {
  ASSIGN_OR_RETURN(const int64_t size, from.Size(key));
  ASSIGN_OR_RETURN(const auto writer, to.Create(key));
  std::vector<std::byte> block;
  for (int64_t at = 0; at < size; at += static_cast<int64_t>(block.size())) {
    block.resize(static_cast<size_t>(std::min(kObjectBlockBytes, size - at)));
    RETURN_IF_ERROR(from.Read(key, at, block));
    RETURN_IF_ERROR(writer->Append(block));
  }
  return writer->Commit();
}

// The chunks, then the manifest.
Status CopyObjects(const ObjectStore& from, const proto::Manifest& manifest, ObjectStore& to) {
  for (const proto::Chunk& chunk : manifest.chunks()) {
    const std::string key = StrCat(CheckpointFolder(manifest.step()), "/", chunk.file());
    RETURN_IF_ERROR(CopyObject(from, key, to));
  }
  const std::string key = ManifestKey(manifest.step());
  ASSIGN_OR_RETURN(const std::string text, ReadObject(from, key));
  ASSIGN_OR_RETURN(const bool created,
                   to.PutIfAbsent(key, std::as_bytes(std::span<const char>(text))));
  if (!created) return StorageError(StrCat(to.Describe(key), ": exists already"));
  return OkStatus();
}

// Compares one block of both sides, which have the same type.
void CompareBlock(DType dtype, const std::vector<std::byte>& a, const std::vector<std::byte>& b,
                  int64_t elements, TensorDifference* difference) {
  const int64_t size = ByteSize(dtype);
  if (std::memcmp(a.data(), b.data(), elements * size) == 0) return;
  const bool number = CanConvert(dtype, DType::kF64);
  for (int64_t i = 0; i < elements; ++i) {
    if (std::memcmp(&a[i * size], &b[i * size], size) == 0) continue;
    ++difference->different;
    if (!number) continue;
    double x = 0, y = 0;
    ConvertElements(dtype, &a[i * size], DType::kF64, reinterpret_cast<std::byte*>(&x), 1);
    ConvertElements(dtype, &b[i * size], DType::kF64, reinterpret_cast<std::byte*>(&y), 1);
    const double distance = std::abs(x - y);
    if (std::isnan(distance) || distance > difference->max_abs) difference->max_abs = distance;
  }
}

Status CompareTensor(const CheckpointReader& a, const CheckpointReader& b, const TensorInfo& info,
                     TensorDifference* difference) {
  const int64_t rows = info.shape.empty() ? 1 : info.shape[0];
  const int64_t row_bytes = rows == 0 ? 0 : ElementCount(info.shape) / rows * ByteSize(info.dtype);
  const int64_t block_rows =
      std::max<int64_t>(1, kObjectBlockBytes / std::max<int64_t>(1, row_bytes));
  std::vector<std::byte> block_a, block_b;
  for (int64_t row = 0; row < rows && row_bytes > 0; row += block_rows) {
    Box box = Box::Whole(info.shape);
    if (!info.shape.empty()) {
      box.offset[0] = row;
      box.extent[0] = std::min(block_rows, rows - row);
    }
    block_a.resize(static_cast<size_t>(box.elements() * ByteSize(info.dtype)));
    block_b.resize(block_a.size());
    RETURN_IF_ERROR(a.Load(info.name, info.shape, box, info.dtype, block_a.data()));
    RETURN_IF_ERROR(b.Load(info.name, info.shape, box, info.dtype, block_b.data()));
    CompareBlock(info.dtype, block_a, block_b, box.elements(), difference);
  }
  return OkStatus();
}

}  // namespace

Status CopyCheckpoint(const ObjectStore& from, const CheckpointReader& checkpoint,
                      ObjectStore& to) {
  const int64_t step = checkpoint.step();
  const std::string key = ManifestKey(step);
  if (to.Size(key).ok()) return StorageError(StrCat(to.Describe(key), ": exists already"));
  const Status copied = CopyObjects(from, checkpoint.manifest(), to);
  if (!copied.ok() && !to.Size(key).ok()) {
    // Gigabytes that no manifest names would stay on a disk that is full.
    for (const proto::Chunk& chunk : checkpoint.manifest().chunks()) {
      const Status gone = to.Delete(StrCat(CheckpointFolder(step), "/", chunk.file()));
      if (!gone.ok()) LOG(WARNING) << gone.message();
    }
  }
  RETURN_IF_ERROR(copied);
  ASSIGN_OR_RETURN(const auto copy, CheckpointReader::Open(to, step));
  return copy->Verify();
}

Result<std::vector<TensorDifference>> CompareCheckpoints(const CheckpointReader& a,
                                                         const CheckpointReader& b) {
  std::set<std::string> names;
  for (const TensorInfo& info : a.tensors()) names.insert(info.name);
  for (const TensorInfo& info : b.tensors()) names.insert(info.name);
  std::vector<TensorDifference> differences;
  for (const std::string& name : names) {
    const std::optional<TensorInfo> in_a = a.Find(name), in_b = b.Find(name);
    TensorDifference difference{name, "", 0, 0};
    if (!in_a || !in_b) {
      difference.what = in_a ? "only in the first" : "only in the second";
    } else if (in_a->shape != in_b->shape) {
      difference.what =
          StrCat("shape ", ShapeToString(in_a->shape), " and ", ShapeToString(in_b->shape));
    } else if (in_a->dtype != in_b->dtype) {
      difference.what = StrCat("type ", DTypeName(in_a->dtype), " and ", DTypeName(in_b->dtype));
    } else {
      RETURN_IF_ERROR(CompareTensor(a, b, *in_a, &difference));
    }
    if (!difference.what.empty() || difference.different > 0) differences.push_back(difference);
  }
  return differences;
}

}  // namespace trireme
