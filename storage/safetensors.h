// Safetensors files: a header of names, types, shapes and offsets, then the tensors' bytes.
// Format: https://huggingface.co/docs/safetensors (8 bytes little-endian header length, JSON,
// data).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/base/box.h"
#include "cluster/base/status.h"
#include "cluster/device/dtype.h"
#include "storage/object_store.h"
#include "storage/stream_checksum.h"

namespace trireme {

struct SafetensorsTensor {
  std::string name;
  std::string dtype_name;      // as in the file: "F32", "BOOL", ...
  std::optional<DType> dtype;  // nothing: listed, but this program does not read such elements
  Shape shape;
  int64_t begin = 0;  // bytes from the start of the data part
  int64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsTensor> tensors;  // by offset
  std::map<std::string, std::string> metadata;
  int64_t data_offset = 0;  // of the data part in the file
};

// "F32" and its like.
const char* SafetensorsDTypeName(DType dtype);

// Parses and checks the header of a file of `file_bytes` bytes; `json` is the header without its
// length. Refused with kDataLoss, naming the tensor and what was expected: bad JSON, duplicate
// names, unknown types, shapes whose bytes do not match the offsets, overlaps, gaps, and a data
// part of another length than the header says. `place` opens each message.
Result<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, int64_t file_bytes,
                                                 const std::string& place);

// One file, read by ranges. The store must outlive the reader. Thread-safe.
class SafetensorsReader {
 public:
  static Result<std::unique_ptr<SafetensorsReader>> Open(const ObjectStore& store,
                                                         const std::string& key);

  const SafetensorsHeader& header() const { return header_; }
  const std::string& key() const { return key_; }
  // Null when there is none of that name.
  const SafetensorsTensor* Find(std::string_view name) const;
  // Reads a box of a tensor into `out` (row-major, box.elements() elements of `dtype`).
  // kDataLoss: no such tensor, a box outside of its shape, an unreadable or inconvertible type.
  Status Read(std::string_view name, const Box& box, DType dtype, std::byte* out) const;

 private:
  SafetensorsReader(const ObjectStore& store, std::string key) : store_(store), key_(key) {}

  const ObjectStore& store_;
  std::string key_;
  SafetensorsHeader header_;
  std::map<std::string, size_t, std::less<>> index_;
};

// A Hugging Face folder's weights: model.safetensors, or the files that
// model.safetensors.index.json names. The store must outlive it. Thread-safe.
class SafetensorsFolder {
 public:
  // kNotFound when the store has neither file; kDataLoss for a file or tensor that the index names
  // and that is missing.
  static Result<std::unique_ptr<SafetensorsFolder>> Open(const ObjectStore& store);

  // By name.
  std::vector<const SafetensorsTensor*> tensors() const;
  const SafetensorsTensor* Find(std::string_view name) const;
  Status Read(std::string_view name, const Box& box, DType dtype, std::byte* out) const;
  // "/path/model-00001-of-00002.safetensors" of a tensor, for messages.
  std::string PlaceOf(std::string_view name) const;

 private:
  explicit SafetensorsFolder(const ObjectStore& store) : store_(store) {}
  Status AddFile(const std::string& key, SafetensorsReader** reader);
  Status OpenIndex(const std::string& text);

  const ObjectStore& store_;
  std::map<std::string, std::unique_ptr<SafetensorsReader>> files_;
  std::map<std::string, const SafetensorsReader*, std::less<>> owner_;
};

// Writes one file as a stream: the tensors are declared first, their bytes follow in that order.
class SafetensorsWriter {
 public:
  struct Tensor {
    std::string name;
    DType dtype;
    Shape shape;
  };

  // Names are unique (CHECKed). "format": "pt" joins `metadata`, as transformers wants it.
  static Result<std::unique_ptr<SafetensorsWriter>> Create(
      ObjectStore& store, const std::string& key, const std::vector<Tensor>& tensors,
      std::map<std::string, std::string> metadata = {});

  // The next bytes of the data part, cut anywhere.
  Status Append(std::span<const std::byte> bytes);
  // CHECKs that every declared byte came, then makes the file visible.
  Status Commit();

  // Offset in the file of the i-th tensor's first byte.
  int64_t OffsetOf(size_t tensor) const { return offsets_[tensor]; }
  int64_t file_bytes() const { return offsets_.back(); }
  // Of the whole file; valid after the last Append.
  uint64_t checksum() const { return checksum_.Value(); }

 private:
  SafetensorsWriter() = default;

  std::unique_ptr<ObjectWriter> writer_;
  std::vector<int64_t> offsets_;  // one more than there are tensors
  int64_t position_ = 0;
  StreamChecksum checksum_;
};

}  // namespace trireme
