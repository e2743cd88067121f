#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <mutex>

#include "cluster/comm/nccl_api.h"

namespace trireme::nccl {
namespace {

// Before it, the calls that one thread had begun on non-blocking communicators shared one job: a
// second one, while the first was in progress, was refused (2.18) or overwrote it (to 2.26).
constexpr int kVersionMin = 22703;

trireme::Result<const Api*> LoadFrom(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return UnavailableError(StrCat("no NCCL: ", dlerror()));
  auto api = std::make_unique<Api>();
  api->path = path;
  std::string missing;
  const auto find = [&](auto** function, const char* name) {
    void* symbol = dlsym(library, name);
    if (symbol == nullptr && missing.empty()) missing = name;
    *function = reinterpret_cast<std::remove_reference_t<decltype(*function)>>(symbol);
  };
  find(&api->GetVersion, "ncclGetVersion");
  find(&api->GetUniqueId, "ncclGetUniqueId");
  find(&api->CommInitRankConfig, "ncclCommInitRankConfig");
  find(&api->CommGetAsyncError, "ncclCommGetAsyncError");
  find(&api->CommFinalize, "ncclCommFinalize");
  find(&api->CommDestroy, "ncclCommDestroy");
  find(&api->CommAbort, "ncclCommAbort");
  find(&api->GetErrorString, "ncclGetErrorString");
  find(&api->GetLastError, "ncclGetLastError");
  find(&api->GroupStart, "ncclGroupStart");
  find(&api->GroupEnd, "ncclGroupEnd");
  find(&api->Send, "ncclSend");
  find(&api->Recv, "ncclRecv");
  find(&api->AllReduce, "ncclAllReduce");
  find(&api->ReduceScatter, "ncclReduceScatter");
  find(&api->Reduce, "ncclReduce");
  find(&api->AllGather, "ncclAllGather");
  find(&api->Broadcast, "ncclBroadcast");
  if (!missing.empty()) return UnavailableError(StrCat("no NCCL: ", path, " has no ", missing));
  if (api->GetVersion(&api->version) != kSuccess || api->version < kVersionMin) {
    return UnavailableError(StrCat("no NCCL: ", path, " is version ", VersionText(api->version),
                                   ", wanted ", VersionText(kVersionMin), " or later"));
  }
  return static_cast<const Api*>(api.release());
}

}  // namespace

trireme::Result<const Api*> Load() {
  static std::mutex mutex;
  static auto* known = new std::map<std::string, const Api*>;
  const char* named = std::getenv("TRIREME_NCCL_LIBRARY");
  const std::string path = named != nullptr && *named != '\0' ? named : "libnccl.so.2";
  std::lock_guard<std::mutex> lock(mutex);
  if (const auto found = known->find(path); found != known->end()) return found->second;
  auto loaded = LoadFrom(path);
  if (loaded.ok()) (*known)[path] = *loaded;
  return loaded;
}

std::string VersionText(int version) {
  if (version < 10'000) {  // up to 2.8
    return StrCat(version / 1000, ".", version / 100 % 10, ".", version % 100);
  }
  return StrCat(version / 10'000, ".", version / 100 % 100, ".", version % 100);
}

DataType SumTypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return kFloat32;
    case DType::kBF16:
      return kBfloat16;
    case DType::kF64:
      return kFloat64;
    case DType::kI64:
      return kInt64;
    default:
      LOG(FATAL) << "sums are of float32, bfloat16, float64 or int64, not " << DTypeName(dtype);
  }
}

}  // namespace trireme::nccl
