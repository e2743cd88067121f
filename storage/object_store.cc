#include "storage/object_store.h"

#include <algorithm>

#include "storage/memory_object_store.h"

namespace trireme {

Status CheckObjectKey(const std::string& key) {
  size_t begin = 0;
  while (true) {
    const size_t end = std::min(key.find('/', begin), key.size());
    if (end == begin || key[begin] == '.') {
      return InvalidArgumentError(StrCat("object key '", key,
                                         "': expected names separated by '/', none empty and none "
                                         "starting with '.'"));
    }
    if (end == key.size()) return OkStatus();
    begin = end + 1;
  }
}

Result<std::unique_ptr<ObjectStore>> OpenStore(const std::string& url) {
  if (url.empty()) return InvalidArgumentError("the store is empty: expected a path or a URL");
  const size_t scheme_end = url.find("://");
  if (scheme_end == std::string::npos) return NewLocalStore(url);
  const std::string scheme = url.substr(0, scheme_end);
  const std::string rest = url.substr(scheme_end + 3);
  if (scheme == "file") {
    if (rest.empty() || rest[0] != '/') {
      return InvalidArgumentError(StrCat("store '", url, "': expected file:///absolute/path"));
    }
    return NewLocalStore(rest);
  }
  if (scheme == "memory") return OpenNamedMemoryStore(rest);
  if (scheme == "s3") return NotBuiltError(StrCat("store '", url, "': s3:// is not built yet"));
  return InvalidArgumentError(
      StrCat("store '", url, "': expected a path, file:///, s3:// or memory://"));
}

Result<std::string> ReadObject(const ObjectStore& store, const std::string& key,
                               int64_t bytes_max) {
  ASSIGN_OR_RETURN(const int64_t size, store.Size(key));
  if (size > bytes_max) {
    return DataLossError(
        StrCat(store.Describe(key), ": ", size, " bytes, expected at most ", bytes_max));
  }
  std::string text(static_cast<size_t>(size), '\0');
  RETURN_IF_ERROR(store.Read(key, 0, std::as_writable_bytes(std::span<char>(text))));
  return text;
}

Status PutText(ObjectStore& store, const std::string& key, std::string_view text) {
  return store.Put(key, std::as_bytes(std::span<const char>(text)));
}

}  // namespace trireme
