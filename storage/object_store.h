// Object stores: named, immutable-by-habit byte strings with atomic writes. Checkpoints, exports
// and model files go through this interface, so that a local folder, memory and S3 are one code
// path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/base/status.h"

namespace trireme {

// Large objects are read, checked and copied in blocks of this size.
inline constexpr int64_t kObjectBlockBytes = 8 << 20;

// One object on its way into a store. Nothing is visible under its key before Commit() returns OK;
// destroyed without Commit(), it leaves nothing. Used by one thread.
class ObjectWriter {
 public:
  virtual ~ObjectWriter() = default;
  virtual Status Append(std::span<const std::byte> bytes) = 0;
  // Makes the object durable and visible, replacing an older one of that key. Called once.
  virtual Status Commit() = 0;
};

// Keys are relative paths of '/'-separated names, none empty and none starting with '.'
// (kInvalidArgument otherwise). All methods are safe to call from several threads.
//
// Errors: kNotFound (no such key), kDataLoss (a range beyond the object's end), kStorage (a full
// disk, no permission, ...; the message has the object's place and the system's reason).
class ObjectStore {
 public:
  virtual ~ObjectStore() = default;

  // The object's place for people: "/data/run/step_00000050/manifest.json".
  virtual std::string Describe(const std::string& key) const = 0;

  // Starts a streamed write. At most one writer a key.
  virtual Result<std::unique_ptr<ObjectWriter>> Create(const std::string& key) = 0;
  // Writes a whole object, atomically and durably; replaces an older one.
  virtual Status Put(const std::string& key, std::span<const std::byte> bytes) = 0;
  // The same only when the key does not exist yet; false (and no change) when it does. Of several
  // concurrent callers exactly one gets true.
  virtual Result<bool> PutIfAbsent(const std::string& key, std::span<const std::byte> bytes) = 0;

  // Fills `out` with the bytes from `offset` on.
  virtual Status Read(const std::string& key, int64_t offset, std::span<std::byte> out) const = 0;
  virtual Result<int64_t> Size(const std::string& key) const = 0;
  // All keys that start with `prefix`, ascending. Objects not yet committed are not listed.
  virtual Result<std::vector<std::string>> List(const std::string& prefix) const = 0;
  // Removes the object; one that does not exist is no error.
  virtual Status Delete(const std::string& key) = 0;
};

// A store in memory, empty.
std::unique_ptr<ObjectStore> NewMemoryStore();
// A local folder; it is made when the first object is written.
std::unique_ptr<ObjectStore> NewLocalStore(const std::string& root);

// The store at `url`: a path, file:///path, or memory://NAME (one store per name and process).
// s3:// is kNotBuilt; another scheme is kInvalidArgument.
Result<std::unique_ptr<ObjectStore>> OpenStore(const std::string& url);

// The whole object as text; kDataLoss when it is larger than `bytes_max`.
Result<std::string> ReadObject(const ObjectStore& store, const std::string& key,
                               int64_t bytes_max = int64_t{1} << 30);
Status PutText(ObjectStore& store, const std::string& key, std::string_view text);

// OK when `key` can name an object.
Status CheckObjectKey(const std::string& key);

}  // namespace trireme
