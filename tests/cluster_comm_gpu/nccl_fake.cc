#include <dlfcn.h>

#include <cstdlib>

#include "tests/cluster_comm_gpu/nccl_world.h"

namespace trireme {

FakeNccl::FakeNccl() {
  setenv("TRIREME_NCCL_LIBRARY", FAKE_NCCL, 1);
  const auto loaded = nccl::Load();
  CHECK(loaded.ok()) << loaded.status().message();
  api = *loaded;
  void* library = dlopen(FAKE_NCCL, RTLD_NOW | RTLD_NOLOAD);
  const auto find = [&](auto* function, const char* name) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, name));
    CHECK(*function != nullptr) << name;
  };
  find(&reset, "FakeNcclReset");
  find(&fail_call, "FakeNcclFailCall");
  find(&async_error, "FakeNcclAsyncError");
  find(&hang_in_abort, "FakeNcclHangInAbort");
  find(&device, "FakeNcclDevice");
  find(&enqueue, "FakeNcclEnqueue");
  find(&alive, "FakeNcclAlive");
  find(&aborts, "FakeNcclAborts");
  find(&calls, "FakeNcclCalls");
}

const FakeNccl& Fake() {
  static const auto* fake = new FakeNccl;
  return *fake;
}

}  // namespace trireme
