#include "worker/kernels/attention_plan.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <vector>

namespace trireme::cudnn {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// Heads of bf16 in a buffer that fits none: addresses are compared, never read.
struct Call {
  Call(int64_t length, int64_t query_heads, int64_t key_heads, int64_t head_dim)
      : stride((query_heads + 2 * key_heads) * head_dim) {
    auto* fused = reinterpret_cast<char*>(4096);
    const auto heads = [&](char* data, int64_t count, int64_t row) {
      return Heads{data, DType::kBF16, 4, length, count, head_dim, row};
    };
    q = heads(fused, query_heads, stride);
    k = heads(fused + query_heads * head_dim * 2, key_heads, stride);
    v = heads(fused + (query_heads + key_heads) * head_dim * 2, key_heads, stride);
    out = heads(fused, query_heads, query_heads * head_dim);
  }
  std::optional<AttentionProblem> Forward() const { return ForwardProblem(q, k, v, Tensor(), out); }
  // Gradients lie as what they are the gradients of.
  std::optional<AttentionProblem> Backward() const {
    return BackwardProblem(out, q, k, v, out, Tensor(), q, k, v);
  }

  int64_t stride;
  Heads q, k, v, out;
};

TEST(AttentionProblemTest, IsWhatAPlanDependsOnAndNothingElse) {
  const Call call(1024, 12, 4, 64);
  Call elsewhere = call;
  elsewhere.q.data = static_cast<char*>(elsewhere.q.data) + 32;
  ASSERT_TRUE(call.Forward());
  EXPECT_TRUE(call.Forward() == elsewhere.Forward());
  EXPECT_FALSE(call.Forward()->backward());
  EXPECT_TRUE(call.Backward()->backward());
  Call strided = call;
  strided.k.row_stride += 8;
  std::set<AttentionProblem> kept = {*call.Forward(),
                                     *call.Backward(),
                                     *strided.Forward(),
                                     *Call(1000, 12, 4, 64).Forward(),
                                     *Call(1024, 12, 12, 64).Forward(),
                                     *Call(1024, 12, 4, 128).Forward()};
  AttentionProblem isolated = *call.Forward();
  isolated.documents = true;
  kept.insert(isolated);
  EXPECT_EQ(kept.size(), 7u);
  EXPECT_EQ(kept.count(*elsewhere.Forward()), 1u);
}

TEST(AttentionProblemTest, CallsThatTheOwnKernelTakesAreDeclined) {
  EXPECT_FALSE(Call(128, 2, 2, 20).Forward()) << "head dim";
  EXPECT_FALSE(Call(128, 2, 2, 264).Forward()) << "head dim";
  EXPECT_FALSE(Call(128, 3, 2, 64).Forward()) << "groups";
  Call call(128, 4, 2, 64);
  call.q.dtype = call.k.dtype = call.v.dtype = call.out.dtype = DType::kF32;
  EXPECT_FALSE(call.Forward()) << "f32";
  call = Call(128, 4, 2, 64);
  call.v.data = static_cast<char*>(call.v.data) + 2;
  EXPECT_FALSE(call.Forward()) << "alignment";
  call = Call(128, 4, 2, 64);
  call.k.row_stride += 4;
  EXPECT_FALSE(call.Forward()) << "alignment of rows";
  call = Call(128, 4, 2, 64);
  call.k.length = 64;
  EXPECT_FALSE(call.Forward()) << "lengths";
  call = Call(128, 4, 2, 64);
  Heads dq = call.q;
  dq.data = static_cast<char*>(dq.data) + 2;
  EXPECT_FALSE(
      BackwardProblem(call.out, call.q, call.k, call.v, call.out, Tensor(), dq, call.k, call.v));
}

TEST(CudnnLibraryTest, SaysInOneLineWhatIsWrongWithTheLibrary) {
  const char* before = std::getenv("TRIREME_CUDNN_LIBRARY");
  const std::string kept = before == nullptr ? "" : before;
  setenv("TRIREME_CUDNN_LIBRARY", "/nowhere/libcudnn.so.9", 1);
  EXPECT_THAT(Load().status().message(), StartsWith("no cuDNN: /nowhere/libcudnn.so.9"));
  setenv("TRIREME_CUDNN_LIBRARY", "libm.so.6", 1);
  EXPECT_THAT(Load().status().message(), HasSubstr("libm.so.6 has no cudnnGetVersion"));
  setenv("TRIREME_CUDNN_LIBRARY", kept.c_str(), 1);
}

// What the library asks about a GPU, as it writes it itself; figures of public data sheets.
std::string DeviceJson(int version, int processors, int shared_bytes) {
  return StrCat(R"({"cudaDeviceId":0,"deviceVer":)", version, R"(,"multiProcessorCount":)",
                processors, R"(,"maxSharedMemoryPerBlockOptin":)", shared_bytes,
                R"(,"driverVer":13000,"totalGlobalMem":85045870592,"warpSize":32,)"
                R"("maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],)"
                R"("regsPerBlock":65536,"maxSharedMemoryPerBlock":49152,)"
                R"("reservedSharedMemoryPerBlock":1024,"maxRegistersPerSM":65536,)"
                R"("maxCtasPerSM":32,"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,)"
                R"("pciDeviceId":0,"isTccDriver":0,"supportCoopLaunch":1,)"
                R"("smClockRateKHz":1980000,"memClockRateKHz":2619000,"l2CacheSize":52428800,)"
                R"("deviceName":"described","version":1})");
}

class AttentionPlanTest : public testing::Test {
 protected:
  void SetUp() override {
    // Stay loaded: cuDNN finds them by their names.
    if (dlopen("libcuda.so.1", RTLD_NOW) == nullptr) dlopen(CUDA_DRIVER_LIBRARY, RTLD_NOW);
    dlopen(NVRTC_LIBRARY, RTLD_NOW);
    if (*CUDNN_LIBRARY != '\0') setenv("TRIREME_CUDNN_LIBRARY", CUDNN_LIBRARY, 0);
    auto api = Load();
    if (!api.ok()) GTEST_SKIP() << api.status().message();
    if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD) == nullptr) GTEST_SKIP() << "no driver";
    api_ = *api;
    auto device = DeviceFrom(*api_, DeviceJson(900, 132, 232448));
    ASSERT_TRUE(device.ok()) << device.status().message();
    h100_ = std::move(*device);
  }

  // The call forward, and backward in both forms.
  void ExpectPlans(const Descriptor& device, AttentionProblem forward, AttentionProblem backward,
                   bool documents = false) {
    forward.documents = backward.documents = documents;
    const auto expect = [&](const AttentionProblem& problem, bool deterministic) {
      const auto proposals = ProposeAttention(*api_, device, problem, deterministic);
      EXPECT_TRUE(proposals.ok()) << proposals.status().message() << ": length " << problem.length
                                  << ", heads of " << problem.head_dim
                                  << (problem.backward() ? ", backward" : ", forward")
                                  << (documents ? ", documents" : "")
                                  << (deterministic ? ", deterministic" : "");
    };
    expect(forward, true);
    expect(backward, true);
    expect(backward, false);
  }

  // By the library's count.
  int64_t EngineNumber(const Descriptor& configured) {
    const auto engine = Descriptor::Make(*api_, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    cudnnBackendDescriptor_t raw = engine->get();
    int64_t count = 0, number = -1;
    EXPECT_EQ(api_->GetAttribute(configured.get(), CUDNN_ATTR_ENGINECFG_ENGINE,
                                 CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &raw),
              CUDNN_STATUS_SUCCESS);
    EXPECT_EQ(api_->GetAttribute(raw, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &count,
                                 &number),
              CUDNN_STATUS_SUCCESS);
    return number;
  }

  const Api* api_ = nullptr;
  Descriptor h100_;
};

TEST_F(AttentionPlanTest, HopperRunsTheShapesOfGpt2AndLlama) {
  for (const Call& call : {Call(1024, 12, 12, 64), Call(2048, 32, 8, 128), Call(1024, 25, 25, 64),
                           Call(4096, 8, 1, 256)}) {
    ExpectPlans(h100_, *call.Forward(), *call.Backward());
  }
}

TEST_F(AttentionPlanTest, HopperRunsIsolatedDocumentsAndOddLengths) {
  for (const Call& call : {Call(1024, 12, 12, 64), Call(1000, 12, 4, 128)}) {
    ExpectPlans(h100_, *call.Forward(), *call.Backward(), /*documents=*/true);
    ExpectPlans(h100_, *call.Forward(), *call.Backward());
  }
}

TEST_F(AttentionPlanTest, HopperRunsPartsOfWhatIsTooLarge) {
  const Call call(8192, 32, 8, 128);
  const AttentionProblem whole = *call.Backward();
  for (const AttentionPart& part :
       {AttentionPart{1, 8}, AttentionPart{1, 4}, AttentionPart{1, 1}}) {
    const AttentionProblem problem = PartOf(whole, part);
    EXPECT_EQ(problem.query_heads, part.key_heads * 4);
    EXPECT_EQ(problem.q_stride, whole.q_stride);
    ExpectPlans(h100_, PartOf(*call.Forward(), part), problem);
  }
}

// The library proposes the engine of A100s.
TEST_F(AttentionPlanTest, BlackwellsOwnEngineIsPreferredForADeterministicBackwardPass) {
  if (api_->version < 91800) GTEST_SKIP() << "cuDNN " << api_->version << " has no such engine";
  auto b200 = DeviceFrom(*api_, DeviceJson(1000, 148, 232448));
  ASSERT_TRUE(b200.ok()) << b200.status().message();
  const auto engines = [&](const Descriptor& device, const AttentionProblem& problem) {
    std::vector<int64_t> numbers;
    const auto proposals = ProposeAttention(*api_, device, problem, true);
    EXPECT_TRUE(proposals.ok()) << proposals.status().message();
    if (!proposals.ok()) return numbers;
    for (const Descriptor& engine : proposals->engines) numbers.push_back(EngineNumber(engine));
    return numbers;
  };
  for (const Call& call : {Call(1024, 25, 25, 64), Call(2048, 32, 8, 128), Call(1000, 12, 4, 64)}) {
    EXPECT_EQ(engines(*b200, *call.Backward()), (std::vector<int64_t>{5, 7})) << call.q.length;
    EXPECT_EQ(engines(h100_, *call.Backward()), (std::vector<int64_t>{6, 7})) << call.q.length;
  }
}

TEST_F(AttentionPlanTest, OtherGenerationsHaveTheForwardAndBackwardPass) {
  for (const auto& [version, processors, shared] :
       std::vector<std::array<int, 3>>{{800, 108, 166912}, {1000, 148, 232448}}) {
    auto device = DeviceFrom(*api_, DeviceJson(version, processors, shared));
    ASSERT_TRUE(device.ok()) << device.status().message();
    const Call call(1024, 12, 4, 64);
    ExpectPlans(*device, *call.Forward(), *call.Backward());
  }
}

TEST_F(AttentionPlanTest, WhatTheLibraryDoesNotSupportIsToldFromErrors) {
  AttentionProblem wide = *Call(128, 2, 2, 64).Backward();
  wide.head_dim = 1024;
  wide.q_stride = wide.k_stride = wide.v_stride = 6144;
  wide.out_stride = wide.dout_stride = 2048;
  wide.dq_stride = wide.dk_stride = wide.dv_stride = 6144;
  EXPECT_EQ(ProposeAttention(*api_, h100_, wide, true).status().code(), StatusCode::kNotFound);
  // The first error stays, whatever is added later.
  GraphBuilder graph(*api_);
  const int a = graph.Memory(1, CUDNN_DATA_BFLOAT16, {1, 1, 16, 16}, {256, 256, 16, 1});
  const int b = graph.Memory(2, CUDNN_DATA_BFLOAT16, {1, 1, -8, 16}, {256, 256, 16, 1});
  const int c = graph.Virtual(CUDNN_DATA_FLOAT, {1, 1, 16, 16});
  graph.MatMul(a, b, c);
  const Status status = graph.Propose(h100_).status();
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), StartsWith("cuDNN: "));
}

}  // namespace
}  // namespace trireme::cudnn
