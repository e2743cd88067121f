// The fake CUDA runtime: its memory, copies, streams and events. Captures are in
// fake_graph.cc.
#include <cuda_runtime_api.h>
#include <glog/logging.h>
#include <simt/device_memory.h>
#include <simt/fake_runtime.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace trireme::simt {
namespace {

constexpr size_t kDeviceBytes = size_t{16} << 30;

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;
// As many as TRIREME_SIMT_DEVICES says, for programs that are run as they are; one without it.
std::atomic<int> device_count{[] {
  const char* devices = std::getenv("TRIREME_SIMT_DEVICES");
  return devices == nullptr ? 1 : std::max(1, std::atoi(devices));
}()};

// TRIREME_SIMT_ERROR=N: the N-th wait for a stream finds that a kernel has touched memory that is
// not its own.
std::atomic<int64_t> waits_until_error{[] {
  const char* text = std::getenv("TRIREME_SIMT_ERROR");
  return text == nullptr ? int64_t{0} : int64_t{std::atoi(text)};
}()};

// Pinned host memory, by its start.
std::mutex pinned_mutex;
std::map<const char*, size_t>& Pinned() {
  static auto* pinned = new std::map<const char*, size_t>;
  return *pinned;
}

// Which device memory was made on, by its start.
std::mutex device_of_mutex;
std::map<void*, int>& DeviceOf() {
  static auto* device_of = new std::map<void*, int>;
  return *device_of;
}

// What cudaMallocAsync has given, of all devices, in the order of the calls.
struct PoolAccount {
  uint64_t now = 0, high = 0;
  std::map<void*, uint64_t> bytes_of;
};
std::mutex pool_mutex;
PoolAccount& PoolUse() {
  static auto* use = new PoolAccount;
  return *use;
}

bool IsPinned(const void* p, size_t bytes) {
  const std::lock_guard lock(pinned_mutex);
  const auto* begin = static_cast<const char*>(p);
  auto next = Pinned().upper_bound(begin);
  if (next == Pinned().begin()) return false;
  --next;
  return begin + bytes <= next->first + next->second;
}

bool IsCapturing(StreamState* stream) {
  const std::lock_guard lock(Queues::Get().mutex);
  return stream->capture != nullptr;
}

void CopyBytes(void* target, const void* source, size_t bytes) {
  const DeviceAccess access;
  memmove(target, source, bytes);
}

// A wait inside a capture spoils it.
cudaError_t RefuseInCapture(StreamState* stream) {
  const std::lock_guard lock(Queues::Get().mutex);
  if (stream->capture == nullptr) return cudaSuccess;
  stream->capture->invalid = true;
  return Fail(cudaErrorStreamCaptureUnsupported);
}

cudaError_t CopyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind,
                      const std::shared_ptr<StreamState>& stream) {
  const bool from_device = IsDeviceMemory(source, bytes), to_device = IsDeviceMemory(target, bytes);
  const bool kind_says_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const bool kind_says_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault && (kind_says_from != from_device || kind_says_to != to_device)) {
    return Fail(cudaErrorInvalidValue);
  }
  const bool pageable =
      (!from_device && !IsPinned(source, bytes)) || (!to_device && !IsPinned(target, bytes));
  if (pageable && IsCapturing(stream.get())) return RefuseInCapture(stream.get());
  Queues& queues = Queues::Get();
  if (!from_device && !IsPinned(source, bytes)) {
    const auto* begin = static_cast<const char*>(source);
    queues.Push(stream, [target, staged = std::vector<char>(begin, begin + bytes)] {
      CopyBytes(target, staged.data(), staged.size());
    });
  } else {
    queues.Push(stream, [=] { CopyBytes(target, source, bytes); });
  }
  // A copy to pageable memory returns when it is done.
  if (!to_device && !IsPinned(target, bytes)) queues.Drain(stream);
  return cudaSuccess;
}

}  // namespace

cudaError_t Fail(cudaError_t error) {
  last_error = error;
  return error;
}

void Enqueue(cudaStream_t handle, std::function<void()> work) {
  const auto stream = Queues::Get().Find(handle);
  CHECK(stream != nullptr) << "a launch on what is no stream";
  Queues::Get().Push(stream, [work = std::move(work)] {
    const DeviceAccess access;
    work();
  });
}

void EnqueueWhenOver(cudaStream_t handle, std::function<bool()> over) {
  const auto stream = Queues::Get().Find(handle);
  CHECK(stream != nullptr) << "work on what is no stream";
  Queues::Get().PushWhenReady(stream, {[] {}, std::move(over)});
}

void RunStreamsAhead() { Queues::Get().RunAhead(); }

void SetDeviceCount(int count) { device_count = count; }

}  // namespace trireme::simt

using namespace trireme::simt;  // NOLINT: the C interface of the names above

const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureUnjoined:
      return "capturing stream has unjoined work";
  }
  return "unrecognized error code";
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = device_count;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= device_count) return Fail(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= device_count) return Fail(cudaErrorInvalidDevice);
  *properties = cudaDeviceProp();
  strcpy(properties->name, "SIMT harness");
  properties->totalGlobalMem = kDeviceBytes;
  properties->sharedMemPerBlock = 48 << 10;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->major = 9;
  properties->multiProcessorCount = 2;
  properties->pciBusID = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device)) return error;
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      return cudaSuccess;
  }
  return Fail(cudaErrorInvalidValue);
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int device) {
  if (device < 0 || device >= device_count) return Fail(cudaErrorInvalidDevice);
  snprintf(id, bytes, "ffff:%02x:00.0", device);
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  *can = device != peer;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  Queues::Get().DrainAll(current_device);
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *total_bytes = kDeviceBytes;
  *free_bytes = kDeviceBytes - static_cast<size_t>(DeviceBytes());
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  *p = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (bytes + static_cast<size_t>(DeviceBytes()) > kDeviceBytes) {
    return Fail(cudaErrorMemoryAllocation);
  }
  *p = AllocateDeviceMemory(bytes);
  if (*p == nullptr) return Fail(cudaErrorMemoryAllocation);
  const std::lock_guard lock(device_of_mutex);
  DeviceOf()[*p] = current_device;
  return cudaSuccess;
}
// Waits for all that its device has to do.
cudaError_t cudaFree(void* p) {
  if (p == nullptr) return cudaSuccess;
  int device = current_device;
  {
    const std::lock_guard lock(device_of_mutex);
    const auto found = DeviceOf().find(p);
    if (found != DeviceOf().end()) device = found->second;
  }
  Queues::Get().DrainAll(device);
  return FreeDeviceMemory(p) ? cudaSuccess : Fail(cudaErrorInvalidValue);
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  if (device < 0 || device >= device_count) return Fail(cudaErrorInvalidDevice);
  static char pools[64];
  *pool = reinterpret_cast<cudaMemPool_t>(pools + device % 64);
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  const bool known = attribute == cudaMemPoolAttrReleaseThreshold;
  if (pool == nullptr || value == nullptr || !known) return Fail(cudaErrorInvalidValue);
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) {
  return pool == nullptr ? Fail(cudaErrorInvalidValue) : cudaSuccess;
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  if (pool == nullptr || attribute != cudaMemPoolAttrUsedMemHigh)
    return Fail(cudaErrorInvalidValue);
  const std::lock_guard lock(pool_mutex);
  *static_cast<uint64_t*>(value) = PoolUse().high;
  return cudaSuccess;
}
// Graphs' memory counts as the pool's here.
cudaError_t cudaDeviceGetGraphMemAttribute(int, cudaGraphMemAttributeType, void* value) {
  *static_cast<uint64_t*>(value) = 0;
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t) {
  if (const cudaError_t error = cudaMalloc(p, bytes)) return error;
  const std::lock_guard lock(pool_mutex);
  PoolUse().bytes_of[*p] = bytes;
  PoolUse().high = std::max(PoolUse().high, PoolUse().now += bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t handle) {
  Queues& queues = Queues::Get();
  const auto stream = queues.Find(handle);
  if (stream == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  if (p == nullptr) return cudaSuccess;
  {
    const std::lock_guard lock(pool_mutex);
    PoolUse().now -= PoolUse().bytes_of[p];
  }
  {
    const std::lock_guard lock(queues.mutex);
    if (stream->capture != nullptr) {
      stream->capture->memory.push_back(p);  // every launch of the graph uses it
      return cudaSuccess;
    }
  }
  queues.Push(stream, [p] { CHECK(FreeDeviceMemory(p)) << "cudaFreeAsync of another pointer"; });
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** p, size_t bytes) {
  *p = ::operator new (bytes, std::align_val_t{64}, std::nothrow);
  if (*p == nullptr) return Fail(cudaErrorMemoryAllocation);
  const std::lock_guard lock(pinned_mutex);
  Pinned()[static_cast<char*>(*p)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) { return cudaMallocHost(p, bytes); }
cudaError_t cudaFreeHost(void* p) {
  if (p == nullptr) return cudaSuccess;
  Queues::Get().DrainAll(current_device);
  const std::lock_guard lock(pinned_mutex);
  if (Pinned().erase(static_cast<char*>(p)) == 0) return Fail(cudaErrorInvalidValue);
  ::operator delete (p, std::align_val_t{64});
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t handle) {
  const auto stream = Queues::Get().Find(handle);
  if (stream == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  if (bytes == 0) return cudaSuccess;
  return CopyAsync(target, source, bytes, kind, stream);
}
cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  if (const cudaError_t error = cudaMemcpyAsync(target, source, bytes, kind, nullptr)) return error;
  return cudaStreamSynchronize(nullptr);
}
cudaError_t cudaMemsetAsync(void* target, int byte, size_t bytes, cudaStream_t handle) {
  const auto stream = Queues::Get().Find(handle);
  if (stream == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  if (bytes == 0) return cudaSuccess;
  if (!IsDeviceMemory(target, bytes)) return Fail(cudaErrorInvalidValue);
  Queues::Get().Push(stream, [=] {
    const DeviceAccess access;
    memset(target, byte, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* target, int byte, size_t bytes) {
  if (const cudaError_t error = cudaMemsetAsync(target, byte, bytes, nullptr)) return error;
  return cudaStreamSynchronize(nullptr);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  const bool waits = (flags & cudaStreamNonBlocking) == 0;
  *stream = reinterpret_cast<cudaStream_t>(Queues::Get().Create(current_device, waits));
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  const auto stream = Queues::Get().Find(handle);
  if (handle == nullptr || stream == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  Queues::Get().Drain(stream);
  Queues::Get().Remove(stream.get());
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  const auto stream = Queues::Get().Find(handle);
  if (stream == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  if (const cudaError_t error = RefuseInCapture(stream.get())) return error;
  Queues::Get().Drain(stream);
  return waits_until_error.fetch_sub(1) == 1 ? Fail(cudaErrorIllegalAddress) : cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  const auto stream = Queues::Get().Find(handle);
  if (stream == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  if (const cudaError_t error = RefuseInCapture(stream.get())) return error;
  return Queues::Get().Progress(stream) ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t handle, void (*function)(void*), void* argument) {
  const auto stream = Queues::Get().Find(handle);
  if (stream == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  Queues::Get().Push(stream, [=] { function(argument); });
  return cudaSuccess;
}

struct CUevent_st {
  std::shared_ptr<EventState> state = std::make_shared<EventState>();
};

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return cudaEventCreate(event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  const auto stream = Queues::Get().Find(handle);
  if (stream == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  Queues::Get().Record(event->state, stream);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  const auto stream = Queues::Get().Find(handle);
  if (stream == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  Queues::Get().WaitFor(stream, event->state);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Queues& queues = Queues::Get();
  std::shared_ptr<StreamState> stream;
  {
    const std::lock_guard lock(queues.mutex);
    if (event->state->done == event->state->recorded) return cudaSuccess;
    stream = event->state->stream;
  }
  queues.Progress(stream);
  return cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Queues::Get().DrainEvent(event->state);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end) {
  const std::lock_guard lock(Queues::Get().mutex);
  for (const cudaEvent_t event : {begin, end}) {
    if (event->state->recorded == 0) return Fail(cudaErrorInvalidResourceHandle);
    if (event->state->done < event->state->recorded) return Fail(cudaErrorNotReady);
  }
  *ms = std::chrono::duration<float, std::milli>(end->state->time - begin->state->time).count();
  return cudaSuccess;
}
