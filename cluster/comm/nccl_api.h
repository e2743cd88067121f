// NCCL's entry points, loaded at run time: a program needs no NCCL to be built, none to run without
// several GPUs, and tests load one of their own. Types and values are those of nccl.h 2.27 to 2.28
// (tests/cluster_comm_gpu/nccl_header_test.cc compares with the header where the build finds it).
#pragma once

#include <climits>
#include <cstddef>
#include <memory>
#include <string>

#include "cluster/base/status.h"
#include "cluster/device/dtype.h"

namespace trireme::nccl {

enum Result : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};
enum DataType : int { kUint8 = 1, kInt64 = 4, kFloat32 = 7, kFloat64 = 8, kBfloat16 = 9 };
enum RedOp : int { kSum = 0 };

using Comm = void*;    // ncclComm_t
using Stream = void*;  // cudaStream_t

struct UniqueId {
  char internal[128];
};

inline constexpr int kDefault = INT_MIN;  // NCCL decides

// The head of ncclConfig_t, as of 2.17; `size` and `version` say so, and NCCL takes its defaults
// for all that came later.
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef;
  unsigned version = 21700;
  int blocking = 0;
  int cga_cluster_size = kDefault;
  int ctas_min = kDefault;
  int ctas_max = kDefault;  // blocks, each of them on a multiprocessor, that an operation may take
};

struct Api {
  int (*GetVersion)(int* version);
  int (*GetUniqueId)(UniqueId* id);
  int (*CommInitRankConfig)(Comm* comm, int ranks, UniqueId id, int rank, Config* config);
  int (*CommGetAsyncError)(Comm comm, int* result);
  int (*CommFinalize)(Comm comm);
  int (*CommDestroy)(Comm comm);
  int (*CommAbort)(Comm comm);
  const char* (*GetErrorString)(int result);
  const char* (*GetLastError)(Comm comm);
  int (*GroupStart)();
  int (*GroupEnd)();
  int (*Send)(const void* data, size_t count, int type, int peer, Comm comm, Stream stream);
  int (*Recv)(void* data, size_t count, int type, int peer, Comm comm, Stream stream);
  int (*AllReduce)(const void* in, void* out, size_t count, int type, int op, Comm comm,
                   Stream stream);
  int (*ReduceScatter)(const void* in, void* out, size_t count_each, int type, int op, Comm comm,
                       Stream stream);
  int (*Reduce)(const void* in, void* out, size_t count, int type, int op, int root, Comm comm,
                Stream stream);
  int (*AllGather)(const void* in, void* out, size_t count_each, int type, Comm comm,
                   Stream stream);
  int (*Broadcast)(const void* in, void* out, size_t count, int type, int root, Comm comm,
                   Stream stream);

  int version = 0;   // 22809 is 2.28.9
  std::string path;  // what was loaded
};

// The library at TRIREME_NCCL_LIBRARY, or libnccl.so.2 where the loader finds it. Loaded once and
// never unloaded. kUnavailable with one line when it is missing, lacks a function or is older than
// 2.27.3.
trireme::Result<const Api*> Load();
// "2.28.9".
std::string VersionText(int version);

// The type in which elements of `dtype` are summed. CHECKs that they can be.
DataType SumTypeOf(DType dtype);

}  // namespace trireme::nccl
