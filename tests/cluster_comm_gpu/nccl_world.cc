#include "tests/cluster_comm_gpu/nccl_world.h"

#include <dlfcn.h>

#include <cstdlib>
#include <numeric>
#include <thread>

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
  find(&alive, "FakeNcclAlive");
  find(&aborts, "FakeNcclAborts");
  find(&calls, "FakeNcclCalls");
}

const FakeNccl& Fake() {
  static const auto* fake = new FakeNccl;
  return *fake;
}

void OnEveryNcclRank(int ranks, const NcclOptions& options,
                     const std::function<void(TestRank&)>& body) {
  auto hosts = ThreadWorld(ranks);
  std::vector<int> members(ranks);
  std::iota(members.begin(), members.end(), 0);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      Stream compute(1);
      auto factory = MakeNcclFactory(Fake().api, hosts[rank].get(), &compute, options);
      TestRank view{*factory, members, rank, 1};
      body(view);
    });
  }
  for (auto& thread : threads) thread.join();
}

void OnEveryRank(int ranks, const std::function<void(TestRank&)>& body) {
  OnEveryNcclRank(ranks, {}, body);
}

std::vector<int> WorldSizes() { return {1, 2, 3, 4}; }

}  // namespace trireme
