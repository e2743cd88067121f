// The conformance suite over the real NCCL, with all ranks on one GPU.
#include <numeric>
#include <thread>

#include "cluster/comm/nccl_group.h"
#include "tests/cluster_comm/conformance.h"
#include "tests/cluster_comm_gpu/gpu_world.h"
#include "tests/cluster_comm_gpu/mirrored.h"
#include "tests/harness/nccl_on_one_gpu.h"

namespace trireme {
namespace {

// Kernels that are loaded when they are first launched may wait for all that run.
const bool environment = setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/0) == 0;

// Everything on one GPU.
void OnEveryNcclRank(int ranks, const NcclOptions& options,
                     const std::function<void(CommunicatorFactory&, Stream&)>& body) {
  auto hosts = ThreadWorld(ranks);
  NcclOfRank(0);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      Stream compute(Gpu{0});
      auto factory = MakeNcclFactory(NcclOfRank(rank), hosts[rank].get(), &compute, options);
      body(*factory, compute);
    });
  }
  for (auto& thread : threads) thread.join();
}

// The same, with memory of the host in front.
void OnEveryMirroredRank(int ranks, const NcclOptions& options,
                         const std::function<void(TestRank&)>& body) {
  std::vector<int> members(ranks);
  std::iota(members.begin(), members.end(), 0);
  OnEveryNcclRank(ranks, options, [&](CommunicatorFactory& inner, Stream& compute) {
    MirroredFactory factory(&inner, &compute);
    TestRank view{factory, members, inner.world_rank(), 1};
    body(view);
  });
}

// NCCL's own sums are near the exact ones.
TEST(NcclOnGpuTest, FastSumsAreNcclsOwn) {
  OnEveryMirroredRank(2, {.fast_sums = true}, [](TestRank& r) {
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

// A peer that never comes: the kernel that waits for it is on the GPU when the group is revoked.
// The abort comes back in time, and the next generation works.
TEST(NcclOnGpuTest, AnAbortWithAKernelOnTheGpuComesBackAndTheNextGenerationWorks) {
  OnEveryNcclRank(2, {}, [](CommunicatorFactory& factory, Stream& compute) {
    const std::vector<int> members = {0, 1};
    const int64_t count = 1 << 20;
    Buffer memory(count * 4, DeviceKind::kCuda);
    const BufferRef values{memory.data(), count, DType::kF32};
    auto first = factory.Create("all", members, 1, 1);
    Work warm = first->AllReduce(values);
    EXPECT_DONE(warm);
    if (factory.world_rank() == 0) {
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
  OnEveryMirroredRank(ranks, {}, body);
}

void OnEveryGpuRank(int ranks, const std::function<void(CommunicatorFactory&, Stream&)>& body) {
  OnEveryNcclRank(ranks, {}, body);
}

std::vector<int> WorldSizes() { return {1, 2, 3}; }

}  // namespace trireme
