// Manifests as bytes: JSON out and in, and the rules that every manifest keeps.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cluster/base/box.h"
#include "cluster/base/status.h"
#include "cluster/device/dtype.h"

namespace trireme {

namespace proto {
class Manifest;
class TensorBox;
}  // namespace proto

inline constexpr int kManifestFormatVersion = 1;
inline constexpr char kManifestFile[] = "manifest.json";

// "step_00000050/manifest.json".
std::string ManifestKey(int64_t step);
// The step of "step_00000050", if it is one.
std::optional<int64_t> StepOfFolder(std::string_view name);

// Sets format version and checksum, and writes the JSON.
std::string ManifestToJson(proto::Manifest* manifest);
// Parses and checks: JSON, format version, checksum, chunk names, boxes that tile every tensor,
// offsets inside of their chunk. kDataLoss, with `place` before each message.
Status ManifestFromJson(std::string_view json, const std::string& place, proto::Manifest* manifest);
// The rules about chunks alone; messages name the tensor.
Status CheckManifestChunks(const proto::Manifest& manifest);

Shape ShapeOf(const proto::TensorBox& tensor);
Box BoxOf(const proto::TensorBox& tensor);
// kF32 of "F32"; nothing for types that checkpoints do not hold.
std::optional<DType> CheckpointDType(std::string_view name);
// The name that the box has in its file.
std::string StoredName(const std::string& name, const Shape& shape, const Box& box);

}  // namespace trireme
