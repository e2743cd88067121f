#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

#include "worker/kernels/cudnn_library.h"

namespace trireme::cudnn {
namespace {

// Properties of a device, by which plans are made, are dependable from here.
constexpr int kVersionMin = 91100;
constexpr int kVersionEnd = 100000;

Result<const Api*> LoadFrom(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return UnavailableError(StrCat("no cuDNN: ", dlerror()));
  auto api = std::make_unique<Api>();
  api->path = path;
  std::string missing;
  const auto find = [&](auto* function, const char* name) {
    void* symbol = dlsym(library, name);
    if (symbol == nullptr && missing.empty()) missing = name;
    *function = reinterpret_cast<std::remove_reference_t<decltype(*function)>>(symbol);
  };
  find(&api->GetVersion, "cudnnGetVersion");
  find(&api->GetErrorString, "cudnnGetErrorString");
  find(&api->GetLastErrorString, "cudnnGetLastErrorString");
  find(&api->Create, "cudnnCreate");
  find(&api->SetStream, "cudnnSetStream");
  find(&api->CreateDescriptor, "cudnnBackendCreateDescriptor");
  find(&api->DestroyDescriptor, "cudnnBackendDestroyDescriptor");
  find(&api->Finalize, "cudnnBackendFinalize");
  find(&api->SetAttribute, "cudnnBackendSetAttribute");
  find(&api->GetAttribute, "cudnnBackendGetAttribute");
  find(&api->Execute, "cudnnBackendExecute");
  if (!missing.empty()) return UnavailableError(StrCat("no cuDNN: ", path, " has no ", missing));
  api->version = static_cast<int>(api->GetVersion());
  if (api->version < kVersionMin || api->version >= kVersionEnd) {
    return UnavailableError(StrCat("no cuDNN: ", path, " is version ", api->version,
                                   ", expected 9.11 (91100) or later of cuDNN 9"));
  }
  return static_cast<const Api*>(api.release());
}

}  // namespace

Result<const Api*> Load() {
  static std::mutex& mutex = *new std::mutex;
  static auto& known = *new std::map<std::string, const Api*>;
  const char* named = std::getenv("TRIREME_CUDNN_LIBRARY");
  const std::string path = named != nullptr && *named != '\0' ? named : "libcudnn.so.9";
  std::lock_guard lock(mutex);
  if (const auto found = known.find(path); found != known.end()) return found->second;
  auto loaded = LoadFrom(path);
  if (loaded.ok()) known[path] = *loaded;
  return loaded;
}

Status StatusOf(const Api& api, cudnnStatus_t status, const char* call) {
  if (status == CUDNN_STATUS_SUCCESS) return OkStatus();
  char reason[512] = "";
  api.GetLastErrorString(reason, sizeof(reason));
  for (char& c : reason) {
    if (c == '\n') c = ' ';
  }
  const std::string line = StrCat("cuDNN: ", call, ": ", api.GetErrorString(status), " ", reason);
  const bool no_support = CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED;
  return no_support ? NotFoundError(line) : InternalError(line);
}

}  // namespace trireme::cudnn
