// That nccl_api.h says what NCCL's own header says; built where that header is found.
#include <gtest/gtest.h>
#include <nccl.h>

#include <cstddef>

#include "cluster/comm/nccl_api.h"

namespace trireme::nccl {
namespace {

static_assert(int{kSuccess} == ncclSuccess && int{kUnhandledCudaError} == ncclUnhandledCudaError);
static_assert(int{kSystemError} == ncclSystemError && int{kInternalError} == ncclInternalError);
static_assert(int{kInvalidArgument} == ncclInvalidArgument);
static_assert(int{kInvalidUsage} == ncclInvalidUsage && int{kRemoteError} == ncclRemoteError);
static_assert(int{kInProgress} == ncclInProgress);
static_assert(int{kUint8} == ncclUint8 && int{kInt64} == ncclInt64);
static_assert(int{kFloat32} == ncclFloat32 && int{kFloat64} == ncclFloat64);
static_assert(int{kBfloat16} == ncclBfloat16 && int{kSum} == ncclSum);
static_assert(sizeof(UniqueId) == sizeof(ncclUniqueId));
static_assert(offsetof(Config, size) == offsetof(ncclConfig_t, size));
static_assert(offsetof(Config, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(Config, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(Config, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(offsetof(Config, cga_cluster_size) == offsetof(ncclConfig_t, cgaClusterSize));
static_assert(offsetof(Config, ctas_min) == offsetof(ncclConfig_t, minCTAs));
static_assert(offsetof(Config, ctas_max) == offsetof(ncclConfig_t, maxCTAs));
static_assert(kDefault == NCCL_CONFIG_UNDEF_INT);

TEST(NcclHeaderTest, TheHeadOfAConfigIsNccls) {
  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  EXPECT_EQ(Config().magic, theirs.magic);
  EXPECT_LE(sizeof(Config), sizeof(theirs));
}

}  // namespace
}  // namespace trireme::nccl
