#include "storage/safetensors.h"

#include <set>

#include "cluster/base/json.h"
#include "storage/stored_box.h"

namespace trireme {
namespace {

constexpr int64_t kHeaderBytesMax = 100'000'000;  // as in the reference implementation
constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

}  // namespace

Result<std::unique_ptr<SafetensorsReader>> SafetensorsReader::Open(const ObjectStore& store,
                                                                   const std::string& key) {
  const std::string place = store.Describe(key);
  ASSIGN_OR_RETURN(const int64_t file_bytes, store.Size(key));
  if (file_bytes < 8) {
    return DataLossError(StrCat(place, ": ", file_bytes, " bytes, expected at least 8"));
  }
  unsigned char length_bytes[8];
  RETURN_IF_ERROR(store.Read(key, 0, std::as_writable_bytes(std::span(length_bytes))));
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | length_bytes[i];
  if (length > static_cast<uint64_t>(std::min(file_bytes - 8, kHeaderBytesMax))) {
    return DataLossError(StrCat(place, ": header of ", length, " bytes, expected at most ",
                                std::min(file_bytes - 8, kHeaderBytesMax),
                                " (no safetensors file, or truncated)"));
  }
  std::string json(length, '\0');
  RETURN_IF_ERROR(store.Read(key, 8, std::as_writable_bytes(std::span<char>(json))));
  auto reader = std::unique_ptr<SafetensorsReader>(new SafetensorsReader(store, key));
  ASSIGN_OR_RETURN(reader->header_, ParseSafetensorsHeader(json, file_bytes, place));
  for (size_t i = 0; i < reader->header_.tensors.size(); ++i) {
    reader->index_[reader->header_.tensors[i].name] = i;
  }
  return reader;
}

const SafetensorsTensor* SafetensorsReader::Find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.tensors[found->second];
}

Status SafetensorsReader::Read(std::string_view name, const Box& box, DType dtype,
                               std::byte* out) const {
  const SafetensorsTensor* tensor = Find(name);
  if (tensor == nullptr) {
    return DataLossError(StrCat(store_.Describe(key_), ": no tensor ", name));
  }
  const Box whole = Box::Whole(tensor->shape);
  if (box.rank() != whole.rank() || !whole.Contains(box)) {
    return DataLossError(StrCat(store_.Describe(key_), ": tensor ", name, " is ",
                                ShapeToString(tensor->shape), ", expected ", box.ToString(),
                                " in it"));
  }
  if (!tensor->dtype) {
    return DataLossError(StrCat(store_.Describe(key_), ": tensor ", name, " is ",
                                tensor->dtype_name, ", expected ", SafetensorsDTypeName(dtype)));
  }
  const StoredBox stored{key_, header_.data_offset + tensor->begin, *tensor->dtype, whole,
                         tensor->name};
  return ReadStoredBox(store_, stored, box, dtype, box, out);
}

Result<std::unique_ptr<SafetensorsFolder>> SafetensorsFolder::Open(const ObjectStore& store) {
  auto folder = std::unique_ptr<SafetensorsFolder>(new SafetensorsFolder(store));
  Result<std::string> index = ReadObject(store, kIndexFile);
  if (index.ok()) {
    RETURN_IF_ERROR(folder->OpenIndex(*index));
    return folder;
  }
  if (index.status().code() != StatusCode::kNotFound) return index.status();
  SafetensorsReader* reader = nullptr;
  RETURN_IF_ERROR(folder->AddFile(kSingleFile, &reader));
  for (const SafetensorsTensor& tensor : reader->header().tensors) {
    folder->owner_[tensor.name] = reader;
  }
  return folder;
}

Status SafetensorsFolder::AddFile(const std::string& key, SafetensorsReader** reader) {
  std::unique_ptr<SafetensorsReader>& file = files_[key];
  if (file == nullptr) {
    ASSIGN_OR_RETURN(file, SafetensorsReader::Open(store_, key));
  }
  *reader = file.get();
  return OkStatus();
}

Status SafetensorsFolder::OpenIndex(const std::string& text) {
  const std::string place = store_.Describe(kIndexFile);
  const SortedJson index = ParseSortedJson(text);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return DataLossError(StrCat(place, ": expected a JSON object with a weight_map"));
  }
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos ||
        !CheckObjectKey(file.get<std::string>()).ok()) {
      return DataLossError(StrCat(place, ": tensor ", name, ": expected the name of a file"));
    }
    SafetensorsReader* reader = nullptr;
    const Status status = AddFile(file.get<std::string>(), &reader);
    if (status.code() == StatusCode::kNotFound) {
      return DataLossError(StrCat(place, ": tensor ", name, ": ", status.message()));
    }
    RETURN_IF_ERROR(status);
    if (reader->Find(name) == nullptr) {
      return DataLossError(StrCat(place, ": tensor ", name, " is not in ",
                                  store_.Describe(file.get<std::string>())));
    }
    owner_[name] = reader;
  }
  return OkStatus();
}

std::vector<const SafetensorsTensor*> SafetensorsFolder::tensors() const {
  std::vector<const SafetensorsTensor*> result;
  for (const auto& [name, reader] : owner_) result.push_back(reader->Find(name));
  return result;
}

const SafetensorsTensor* SafetensorsFolder::Find(std::string_view name) const {
  const auto found = owner_.find(name);
  return found == owner_.end() ? nullptr : found->second->Find(name);
}

Status SafetensorsFolder::Read(std::string_view name, const Box& box, DType dtype,
                               std::byte* out) const {
  const auto found = owner_.find(name);
  if (found == owner_.end()) {
    return DataLossError(StrCat(PlaceOf(name), ": no tensor ", name));
  }
  return found->second->Read(name, box, dtype, out);
}

std::string SafetensorsFolder::PlaceOf(std::string_view name) const {
  const auto found = owner_.find(name);
  if (found != owner_.end()) return store_.Describe(found->second->key());
  return store_.Describe(files_.size() == 1 ? files_.begin()->first : kIndexFile);
}

Result<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    ObjectStore& store, const std::string& key, const std::vector<Tensor>& tensors,
    std::map<std::string, std::string> metadata) {
  metadata.emplace("format", "pt");
  std::string text = StrCat("{\"__metadata__\":", DumpJson(SortedJson(metadata)));
  std::set<std::string_view> names;
  auto result = std::unique_ptr<SafetensorsWriter>(new SafetensorsWriter);
  int64_t position = 0;
  for (const Tensor& tensor : tensors) {
    CHECK(names.insert(tensor.name).second) << "tensor named twice: " << tensor.name;
    result->offsets_.push_back(position);
    const int64_t end = position + ElementCount(tensor.shape) * ByteSize(tensor.dtype);
    // Keys in the order of the reference implementation, whose files come out byte for byte.
    text += StrCat(",", DumpJson(SortedJson(tensor.name)), ":{\"dtype\":\"",
                   SafetensorsDTypeName(tensor.dtype),
                   "\",\"shape\":", DumpJson(SortedJson(tensor.shape)), ",\"data_offsets\":[",
                   position, ",", end, "]}");
    position = end;
  }
  text += "}";
  result->offsets_.push_back(position);
  text.append((8 - text.size() % 8) % 8, ' ');  // the data part begins on 8 bytes
  for (int64_t& offset : result->offsets_) offset += static_cast<int64_t>(text.size()) + 8;
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i));
  ASSIGN_OR_RETURN(result->writer_, store.Create(key));
  RETURN_IF_ERROR(result->Append(std::as_bytes(std::span<const char>(length + text))));
  return result;
}

Status SafetensorsWriter::Append(std::span<const std::byte> bytes) {
  position_ += static_cast<int64_t>(bytes.size());
  CHECK_LE(position_, file_bytes()) << "more bytes than were declared";
  checksum_.Update(bytes);
  return writer_->Append(bytes);
}

Status SafetensorsWriter::Commit() {
  CHECK_EQ(position_, file_bytes()) << "fewer bytes than were declared";
  return writer_->Commit();
}

}  // namespace trireme
