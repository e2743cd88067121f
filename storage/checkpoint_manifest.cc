#include "storage/checkpoint_manifest.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <set>
#include <vector>

#include "cluster/base/checksum.h"
#include "proto/manifest.pb.h"
#include "storage/checkpoint_writer.h"
#include "storage/object_store.h"
#include "storage/safetensors.h"

namespace trireme {
namespace {

constexpr std::string_view kFolderPrefix = "step_";

// The same bytes whenever the fields are the same: the message has no maps.
std::string ManifestChecksum(const proto::Manifest& manifest) {
  proto::Manifest copy = manifest;
  copy.clear_checksum();
  return ChecksumHex(Checksum64(copy.SerializeAsString()));
}

Status CheckTensorBox(const proto::TensorBox& tensor, const proto::Chunk& chunk) {
  const auto fail = [&](const auto&... what) {
    return DataLossError(StrCat(chunk.file(), ": tensor ", tensor.name(), ": ", what...));
  };
  if (tensor.name().empty()) return fail("no name");
  const std::optional<DType> dtype = CheckpointDType(tensor.dtype());
  if (!dtype) return fail("unknown dtype '", tensor.dtype(), "'");
  if (tensor.offset_size() != tensor.shape_size() || tensor.extent_size() != tensor.shape_size()) {
    return fail("offset and extent have other ranks than the shape");
  }
  int64_t bytes = ByteSize(*dtype), whole = bytes;
  for (int d = 0; d < tensor.shape_size(); ++d) {
    int64_t end = 0;
    if (tensor.shape(d) < 0 || tensor.offset(d) < 0 || tensor.extent(d) < 0 ||
        __builtin_add_overflow(tensor.offset(d), tensor.extent(d), &end) || end > tensor.shape(d)) {
      return fail("box ", BoxOf(tensor).ToString(), " is not in ", ShapeToString(ShapeOf(tensor)));
    }
    if (__builtin_mul_overflow(whole, tensor.shape(d), &whole)) return fail("shape overflows");
    bytes *= tensor.extent(d);
  }
  int64_t end = 0;
  if (tensor.data_offset() < 8 || __builtin_add_overflow(tensor.data_offset(), bytes, &end) ||
      end > chunk.bytes()) {
    return fail(bytes, " bytes at ", tensor.data_offset(), ", beyond the chunk's ", chunk.bytes());
  }
  return OkStatus();
}

}  // namespace

std::string CheckpointFolder(int64_t step) {
  char text[32];
  snprintf(text, sizeof(text), "step_%08lld", static_cast<long long>(step));
  return text;
}

std::string ManifestKey(int64_t step) { return CheckpointFolder(step) + "/" + kManifestFile; }

std::optional<int64_t> StepOfFolder(std::string_view name) {
  if (!name.starts_with(kFolderPrefix)) return std::nullopt;
  name.remove_prefix(kFolderPrefix.size());
  if (name.size() < 8 || name.size() > 18) return std::nullopt;
  int64_t step = 0;
  for (const char c : name) {
    if (c < '0' || c > '9') return std::nullopt;
    step = step * 10 + (c - '0');
  }
  return step;
}

Shape ShapeOf(const proto::TensorBox& tensor) {
  return Shape(tensor.shape().begin(), tensor.shape().end());
}

Box BoxOf(const proto::TensorBox& tensor) {
  return {Shape(tensor.offset().begin(), tensor.offset().end()),
          Shape(tensor.extent().begin(), tensor.extent().end())};
}

std::optional<DType> CheckpointDType(std::string_view name) {
  constexpr std::array kTypes = {DType::kF32, DType::kBF16, DType::kF16, DType::kF64,
                                 DType::kI32, DType::kI64,  DType::kU8};
  for (const DType dtype : kTypes) {
    if (name == SafetensorsDTypeName(dtype)) return dtype;
  }
  return std::nullopt;
}

std::string StoredName(const std::string& name, const Shape& shape, const Box& box) {
  return box == Box::Whole(shape) ? name : name + box.ToString();
}

std::string ManifestToJson(proto::Manifest* manifest) {
  manifest->set_format_version(kManifestFormatVersion);
  manifest->set_checksum(ManifestChecksum(*manifest));
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(*manifest, &json, options);
  CHECK(status.ok()) << status.ToString();
  return json;
}

Status ManifestFromJson(std::string_view json, const std::string& place,
                        proto::Manifest* manifest) {
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;  // a newer format is told by its version below
  const auto parsed = google::protobuf::util::JsonStringToMessage(
      google::protobuf::StringPiece(json.data(), json.size()), manifest, options);
  if (!parsed.ok()) {
    // Its first line: then come the piece of text and an arrow below it.
    const std::string reason(parsed.message());
    return DataLossError(StrCat(place, ": torn or damaged, not the JSON of a manifest: ",
                                reason.substr(0, std::min<size_t>(200, reason.find('\n')))));
  }
  if (manifest->format_version() != kManifestFormatVersion) {
    return DataLossError(StrCat(place, ": format_version ", manifest->format_version(),
                                ", expected ", kManifestFormatVersion));
  }
  const std::string actual = ManifestChecksum(*manifest);
  if (actual != manifest->checksum()) {
    return DataLossError(StrCat(place, ": checksum ", actual, ", expected ", manifest->checksum()));
  }
  return CheckManifestChunks(*manifest).WithContext(place);
}

Status CheckManifestChunks(const proto::Manifest& manifest) {
  struct Seen {
    const proto::TensorBox* first;
    std::vector<Box> boxes;
  };
  std::map<std::string, Seen> tensors;
  std::set<std::string> files;
  for (const proto::Chunk& chunk : manifest.chunks()) {
    if (!CheckObjectKey(chunk.file()).ok() || chunk.file().find('/') != std::string::npos) {
      return DataLossError(StrCat("chunk '", chunk.file(), "': expected the name of a file"));
    }
    if (!files.insert(chunk.file()).second) {
      return DataLossError(StrCat("chunk ", chunk.file(), " is named twice"));
    }
    for (const proto::TensorBox& tensor : chunk.tensors()) {
      RETURN_IF_ERROR(CheckTensorBox(tensor, chunk));
      Seen& seen = tensors.try_emplace(tensor.name(), Seen{&tensor, {}}).first->second;
      if (ShapeOf(*seen.first) != ShapeOf(tensor) || seen.first->dtype() != tensor.dtype()) {
        return DataLossError(StrCat("tensor ", tensor.name(), " is ", tensor.dtype(), " ",
                                    ShapeToString(ShapeOf(tensor)), " in ", chunk.file(), " and ",
                                    seen.first->dtype(), " ", ShapeToString(ShapeOf(*seen.first)),
                                    " elsewhere"));
      }
      seen.boxes.push_back(BoxOf(tensor));
    }
  }
  for (const auto& [name, seen] : tensors) {
    const Shape shape = ShapeOf(*seen.first);
    if (TilesExactly(shape, seen.boxes)) continue;
    int64_t elements = 0;
    for (const Box& box : seen.boxes) elements += box.elements();
    return DataLossError(StrCat("tensor ", name, " ", ShapeToString(shape), ": its ",
                                seen.boxes.size(), " boxes hold ", elements, " elements, expected ",
                                ElementCount(shape), ", each once"));
  }
  return OkStatus();
}

}  // namespace trireme
