#include "tests/harness/nccl_on_one_gpu.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

#include "cluster/device/stream.h"

// The linker's --wrap sends every call here.
extern "C" int __wrap_cudaFree(void*) { return 0; }      // NOLINT(bugprone-reserved-identifier)
extern "C" int __wrap_cudaFreeHost(void*) { return 0; }  // NOLINT(bugprone-reserved-identifier)

namespace trireme {
namespace {

// As a launcher would have set it, before CUDA starts.
const bool nccl_environment = [] {
  const std::pair<const char*, const char*> defaults[] = {{"NCCL_SOCKET_IFNAME", "lo"},
                                                          {"NCCL_NET", "Socket"},
                                                          {"NCCL_IB_DISABLE", "1"},
                                                          {"NCCL_MAX_NCHANNELS", "2"},
                                                          {"CUDA_DEVICE_MAX_CONNECTIONS", "32"}};
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

}  // namespace

const nccl::Api* NcclOfRank(int rank) {
  static const auto* apis = [] {
    Stream stream(Gpu{0});
    (void)stream.native();
    // Memory that one rank's stream has freed must not make another's wait for that stream.
    cudaMemPool_t pool;
    int no = 0;
    CHECK_EQ(cudaDeviceGetDefaultMemPool(&pool, 0), cudaSuccess);
    CHECK_EQ(cudaMemPoolSetAttribute(pool, cudaMemPoolReuseAllowInternalDependencies, &no),
             cudaSuccess);
    const std::string original = PathOfNccl();
    const auto folder = std::filesystem::temp_directory_path() / StrCat("nccl_of_", getpid());
    std::filesystem::create_directories(folder);
    auto* loaded = new std::vector<const nccl::Api*>;
    for (int r = 0; r < kNcclRanksMax; ++r) {
      const std::string copy = (folder / StrCat("libnccl_", r, ".so")).string();
      std::filesystem::copy_file(original, copy, std::filesystem::copy_options::overwrite_existing);
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

}  // namespace trireme
