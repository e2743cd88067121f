#include "storage/memory_object_store.h"

#include <cstring>
#include <map>
#include <mutex>

namespace trireme {
namespace {

using Bytes = std::vector<std::byte>;

struct Content {
  std::mutex mutex;
  std::map<std::string, Bytes> objects;
};

class MemoryWriter final : public ObjectWriter {
 public:
  MemoryWriter(std::shared_ptr<Content> content, std::string key)
      : content_(std::move(content)), key_(std::move(key)) {}

  Status Append(std::span<const std::byte> bytes) override {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return OkStatus();
  }
  Status Commit() override {
    const std::lock_guard lock(content_->mutex);
    content_->objects[key_] = std::move(bytes_);
    return OkStatus();
  }

 private:
  std::shared_ptr<Content> content_;
  std::string key_;
  Bytes bytes_;
};

class MemoryStore final : public ObjectStore {
 public:
  MemoryStore(std::shared_ptr<Content> content, std::string name)
      : content_(std::move(content)), name_(std::move(name)) {}

  std::string Describe(const std::string& key) const override {
    return StrCat("memory://", name_, "/", key);
  }

  Result<std::unique_ptr<ObjectWriter>> Create(const std::string& key) override {
    RETURN_IF_ERROR(CheckObjectKey(key));
    return std::unique_ptr<ObjectWriter>(std::make_unique<MemoryWriter>(content_, key));
  }

  Status Put(const std::string& key, std::span<const std::byte> bytes) override {
    RETURN_IF_ERROR(CheckObjectKey(key));
    const std::lock_guard lock(content_->mutex);
    content_->objects[key] = Bytes(bytes.begin(), bytes.end());
    return OkStatus();
  }

  Result<bool> PutIfAbsent(const std::string& key, std::span<const std::byte> bytes) override {
    RETURN_IF_ERROR(CheckObjectKey(key));
    const std::lock_guard lock(content_->mutex);
    return content_->objects.try_emplace(key, bytes.begin(), bytes.end()).second;
  }

  Status Read(const std::string& key, int64_t offset, std::span<std::byte> out) const override {
    RETURN_IF_ERROR(CheckObjectKey(key));
    const std::lock_guard lock(content_->mutex);
    const auto found = content_->objects.find(key);
    if (found == content_->objects.end()) return NotFound(key);
    const int64_t size = static_cast<int64_t>(found->second.size());
    if (offset < 0 || offset > size || static_cast<int64_t>(out.size()) > size - offset) {
      return DataLossError(StrCat(Describe(key), ": ", size, " bytes, expected at least ",
                                  offset + static_cast<int64_t>(out.size())));
    }
    if (!out.empty()) std::memcpy(out.data(), found->second.data() + offset, out.size());
    return OkStatus();
  }

  Result<int64_t> Size(const std::string& key) const override {
    RETURN_IF_ERROR(CheckObjectKey(key));
    const std::lock_guard lock(content_->mutex);
    const auto found = content_->objects.find(key);
    if (found == content_->objects.end()) return NotFound(key);
    return static_cast<int64_t>(found->second.size());
  }

  Result<std::vector<std::string>> List(const std::string& prefix) const override {
    const std::lock_guard lock(content_->mutex);
    std::vector<std::string> keys;
    for (auto it = content_->objects.lower_bound(prefix);
         it != content_->objects.end() && it->first.starts_with(prefix); ++it) {
      keys.push_back(it->first);
    }
    return keys;
  }

  Status Delete(const std::string& key) override {
    RETURN_IF_ERROR(CheckObjectKey(key));
    const std::lock_guard lock(content_->mutex);
    content_->objects.erase(key);
    return OkStatus();
  }

 private:
  Status NotFound(const std::string& key) const {
    return NotFoundError(StrCat(Describe(key), ": does not exist"));
  }

  std::shared_ptr<Content> content_;
  std::string name_;
};

}  // namespace

std::unique_ptr<ObjectStore> NewMemoryStore() {
  return std::make_unique<MemoryStore>(std::make_shared<Content>(), "");
}

std::unique_ptr<ObjectStore> OpenNamedMemoryStore(const std::string& name) {
  static std::mutex mutex;
  static auto* contents = new std::map<std::string, std::shared_ptr<Content>>;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Content>& content = (*contents)[name];
  if (content == nullptr) content = std::make_shared<Content>();
  return std::make_unique<MemoryStore>(content, name);
}

}  // namespace trireme
