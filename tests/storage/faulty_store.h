// A store that fails on purpose: a disk that fills up, a write that is torn, bits that flip, slow
// answers (a hook in place of waiting).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "storage/object_store.h"

namespace trireme {

struct Faults {
  // Writes fail like a full disk once this many bytes were accepted; negative: never.
  int64_t bytes_until_full = -1;
  // Objects committed under this key keep only their first half, and OK is returned.
  std::string torn_key;
  // The bit `flip_bit` of byte `flip_offset` of this key is read inverted.
  std::string flip_key;
  int64_t flip_offset = 0;
  int flip_bit = 0;
  // Called before each operation, by name ("read", "commit", ...); blocks as long as it likes.
  std::function<void(const std::string& operation, const std::string& key)> before;
  // How often a fault took effect, so that tests can assert that it did.
  int fired = 0;
};

class FaultyStore final : public ObjectStore {
 public:
  FaultyStore(ObjectStore& base, Faults& faults) : base_(base), faults_(faults) {}

  std::string Describe(const std::string& key) const override { return base_.Describe(key); }

  Result<std::unique_ptr<ObjectWriter>> Create(const std::string& key) override {
    Before("create", key);
    return std::unique_ptr<ObjectWriter>(new Writer(*this, key));
  }
  Status Put(const std::string& key, std::span<const std::byte> bytes) override {
    ASSIGN_OR_RETURN(auto writer, Create(key));
    RETURN_IF_ERROR(writer->Append(bytes));
    return writer->Commit();
  }
  Result<bool> PutIfAbsent(const std::string& key, std::span<const std::byte> bytes) override {
    Before("put_if_absent", key);
    RETURN_IF_ERROR(Accept(key, bytes));
    return base_.PutIfAbsent(key, Tear(key, bytes));
  }
  Status Read(const std::string& key, int64_t offset, std::span<std::byte> out) const override {
    Before("read", key);
    RETURN_IF_ERROR(base_.Read(key, offset, out));
    const int64_t at = faults_.flip_offset - offset;
    if (key == faults_.flip_key && at >= 0 && at < static_cast<int64_t>(out.size())) {
      out[at] ^= std::byte{1} << faults_.flip_bit;
      ++faults_.fired;
    }
    return OkStatus();
  }
  Result<int64_t> Size(const std::string& key) const override { return base_.Size(key); }
  Result<std::vector<std::string>> List(const std::string& prefix) const override {
    return base_.List(prefix);
  }
  Status Delete(const std::string& key) override {
    Before("delete", key);
    return base_.Delete(key);
  }

 private:
  class Writer final : public ObjectWriter {
   public:
    Writer(FaultyStore& store, std::string key) : store_(store), key_(std::move(key)) {}
    Status Append(std::span<const std::byte> bytes) override {
      RETURN_IF_ERROR(store_.Accept(key_, bytes));
      bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
      return OkStatus();
    }
    Status Commit() override {
      store_.Before("commit", key_);
      return store_.base_.Put(key_, store_.Tear(key_, bytes_));
    }

   private:
    FaultyStore& store_;
    std::string key_;
    std::vector<std::byte> bytes_;
  };

  void Before(const std::string& operation, const std::string& key) const {
    if (faults_.before) faults_.before(operation, key);
  }
  Status Accept(const std::string& key, std::span<const std::byte> bytes) {
    if (faults_.bytes_until_full < 0) return OkStatus();
    if (static_cast<int64_t>(bytes.size()) > faults_.bytes_until_full) {
      ++faults_.fired;
      faults_.bytes_until_full = 0;
      return StorageError(StrCat(Describe(key), ": cannot be written: No space left on device"));
    }
    faults_.bytes_until_full -= static_cast<int64_t>(bytes.size());
    return OkStatus();
  }
  std::span<const std::byte> Tear(const std::string& key, std::span<const std::byte> bytes) {
    if (key != faults_.torn_key) return bytes;
    ++faults_.fired;
    return bytes.first(bytes.size() / 2);
  }

  ObjectStore& base_;
  Faults& faults_;
};

}  // namespace trireme
