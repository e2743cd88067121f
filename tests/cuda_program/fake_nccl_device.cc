// Shows the fake NCCL the way to the SIMT backend's memory, before the program begins.
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <simt/device_memory.h>

#include <cstdlib>
#include <optional>

namespace {

thread_local std::optional<trireme::simt::DeviceAccess> access;

using Synchronize = void (*)(void*);
using Hook = void (*)();

const bool kShown = [] {
  const char* name = std::getenv("TRIREME_NCCL_LIBRARY");
  void* library = name == nullptr ? nullptr : dlopen(name, RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) return false;
  const auto show =
      reinterpret_cast<void (*)(Synchronize, Hook, Hook)>(dlsym(library, "FakeNcclDevice"));
  if (show == nullptr) return false;
  show([](void* stream) { cudaStreamSynchronize(static_cast<cudaStream_t>(stream)); },
       [] { access.emplace(); }, [] { access.reset(); });
  return true;
}();

}  // namespace
