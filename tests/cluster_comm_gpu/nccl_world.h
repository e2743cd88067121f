// Ranks that are threads, with the fake NCCL between them.
#pragma once

#include "cluster/comm/nccl_group.h"
#include "tests/cluster_comm/conformance.h"
#include "tests/harness/fake_nccl/fake_nccl.h"

namespace trireme {

// The fake library, loaded as the real one is, and the calls that steer it.
struct FakeNccl {
  FakeNccl();
  const nccl::Api* api;
  decltype(&FakeNcclReset) reset;
  decltype(&FakeNcclFailCall) fail_call;
  decltype(&FakeNcclAsyncError) async_error;
  decltype(&FakeNcclHangInAbort) hang_in_abort;
  decltype(&FakeNcclDevice) device;
  decltype(&FakeNcclEnqueue) enqueue;
  decltype(&FakeNcclAlive) alive;
  decltype(&FakeNcclAborts) aborts;
  decltype(&FakeNcclCalls) calls;
};
const FakeNccl& Fake();

void OnEveryNcclRank(int ranks, const NcclOptions& options,
                     const std::function<void(TestRank&)>& body);

}  // namespace trireme
