// The conformance suite over the real NCCL, with all ranks on one GPU: threads of this process, each
// with a copy of the library that takes itself for a host of its own (NCCL_HOSTID), so that data
// goes through NCCL's network over loopback. It shows the protocol, not the speed.
#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <thread>

#include "cluster/comm/nccl_group.h"
#include "tests/cluster_comm/conformance.h"
#include "tests/cluster_comm_gpu/mirrored.h"

// Freeing waits for all kernels of the GPU: one rank's would wait for another's, which waits for a
// message of the first. With a GPU a rank nothing of the kind can happen; here nothing is freed.
extern "C" int __wrap_cudaFree(void*) { return 0; }      // NOLINT(bugprone-reserved-identifier)
extern "C" int __wrap_cudaFreeHost(void*) { return 0; }  // NOLINT(bugprone-reserved-identifier)

namespace trireme {
namespace {

constexpr int kRanksMax = 3;

// As a launcher would have set it, before CUDA starts.
const bool environment = [] {
  const std::pair<const char*, const char*> defaults[] = {{"NCCL_SOCKET_IFNAME", "lo"},
                                                          {"NCCL_NET", "Socket"},
                                                          {"NCCL_IB_DISABLE", "1"},
                                                          {"NCCL_MAX_NCHANNELS", "2"},
                                                          {"CUDA_DEVICE_MAX_CONNECTIONS", "32"},
                                                          {"CUDA_MODULE_LOADING", "EAGER"}};
  for (const auto& [name, value] : defaults) setenv(name, value, /*overwrite=*/0);
  return true;
}();

std::string PathOfNccl() {
  void* library = dlopen("libnccl.so.2", RTLD_LAZY | RTLD_LOCAL);
  CHECK(library != nullptr) << dlerror();
  link_map* map = nullptr;
  CHECK_EQ(dlinfo(library, RTLD_DI_LINKMAP, &map), 0) << dlerror();
  return map->l_name;
}

// A library remembers its host's name from its first communicator on.
void ConnectAlone(const nccl::Api& api) {
  nccl::UniqueId id;
  nccl::Config config;
  config.blocking = 1;
  nccl::Comm comm = nullptr;
  CHECK_EQ(api.GetUniqueId(&id), nccl::kSuccess) << api.GetLastError(nullptr);
  CHECK_EQ(api.CommInitRankConfig(&comm, 1, id, 0, &config), nccl::kSuccess)
      << api.GetLastError(nullptr);
  CHECK_EQ(api.CommDestroy(comm), nccl::kSuccess);
}

const nccl::Api* ApiOfRank(int rank) {
  static const auto* apis = [] {
    Stream stream(Gpu{0});
    (void)stream.native();
    const std::string original = PathOfNccl();
    const auto folder = std::filesystem::temp_directory_path() / StrCat("nccl_of_", getpid());
    std::filesystem::create_directories(folder);
    auto* loaded = new std::vector<const nccl::Api*>;
    for (int r = 0; r < kRanksMax; ++r) {
      const std::string copy = (folder / StrCat("libnccl_", r, ".so")).string();
      std::filesystem::copy_file(original, copy,
                                 std::filesystem::copy_options::overwrite_existing);
      setenv("NCCL_HOSTID", StrCat("host-of-rank-", r).c_str(), 1);
      setenv("TRIREME_NCCL_LIBRARY", copy.c_str(), 1);
      const auto api = nccl::Load();
      CHECK(api.ok()) << api.status().message();
      ConnectAlone(**api);
      loaded->push_back(*api);
    }
    std::filesystem::remove_all(folder);
    return loaded;
  }();
  return (*apis)[rank];
}

// Everything on one GPU, body(rank's factory, its stream).
void OnEveryGpuRank(int ranks, const NcclOptions& options,
                    const std::function<void(TestRank&, CommunicatorFactory&, Stream&)>& body) {
  auto hosts = ThreadWorld(ranks);
  std::vector<int> members(ranks);
  std::iota(members.begin(), members.end(), 0);
  ApiOfRank(0);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      Stream compute(Gpu{0});
      auto inner = MakeNcclFactory(ApiOfRank(rank), hosts[rank].get(), &compute, options);
      MirroredFactory factory(inner.get(), &compute);
      TestRank view{factory, members, rank, 1};
      body(view, *inner, compute);
    });
  }
  for (auto& thread : threads) thread.join();
}

// NCCL's own sums are near the exact ones.
TEST(NcclOnGpuTest, FastSumsAreNcclsOwn) {
  OnEveryGpuRank(2, {.fast_sums = true}, [](TestRank& r, CommunicatorFactory&, Stream&) {
    auto comm = r.All();
    const int64_t count = 30'000;
    const SumTree tree = SumTree::Even(8, 2);
    const auto exact = SerialSums<double>({0, 8}, count);
    auto partials = PartialsOf<float>(tree, r.rank, count);
    std::vector<float> out(count);
    Work all = comm->AllReduce(Refs(partials), Ref(out), tree);
    EXPECT_DONE(all);
    for (int64_t i = 0; i < count; ++i) ASSERT_NEAR(out[i], exact[i], 1e-2) << i;
  });
}

// A peer that never comes: the kernel that waits for it is on the GPU when the group is revoked. The
// abort comes back in time, and the next generation works.
TEST(NcclOnGpuTest, AnAbortWithAKernelOnTheGpuComesBackAndTheNextGenerationWorks) {
  OnEveryGpuRank(2, {}, [](TestRank& r, CommunicatorFactory& factory, Stream& compute) {
    std::vector<int> members = r.members;
    const int64_t count = 1 << 20;
    Buffer memory(count * 4, DeviceKind::kCuda);
    const BufferRef values{memory.data(), count, DType::kF32};
    auto first = factory.Create("all", members, 1, 1);
    Work warm = first->AllReduce(values);
    EXPECT_DONE(warm);
    if (r.rank == 0) {
      Work work = first->AllReduce(values);  // rank 1 never comes
      EXPECT_EQ(work.Wait(300'000).code(), StatusCode::kDeadlineExceeded);
      const Micros start = RealClock().NowMicros();
      first->Revoke("rank 1 was lost");
      EXPECT_EQ(work.Wait(0).code(), StatusCode::kUnavailable);
      EXPECT_LT(RealClock().NowMicros() - start, 1'000'000) << "Revoke waits for nothing";
      work.Abandon();
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(400));
      first->Revoke("told by the coordinator");
    }
    auto next = factory.Create("all", members, 1, 2);
    std::vector<float> ones(count, 1.0f);
    compute.Copy(memory.data(), ones.data(), count * 4);
    Work again = next->AllReduce(values);
    EXPECT_DONE(again);
    compute.Copy(ones.data(), memory.data(), count * 4);
    compute.Synchronize();
    EXPECT_EQ(ones, std::vector<float>(count, 2.0f));
  });
}

}  // namespace

void OnEveryRank(int ranks, const std::function<void(TestRank&)>& body) {
  OnEveryGpuRank(ranks, {}, [&](TestRank& r, CommunicatorFactory&, Stream&) { body(r); });
}

std::vector<int> WorldSizes() { return {1, 2, kRanksMax}; }

}  // namespace trireme
