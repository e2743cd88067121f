#include "tests/harness/fake_nccl/fake_nccl.h"

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cluster/comm/nccl_api.h"
#include "cluster/device/dtype.h"

namespace trireme::nccl {
namespace {

struct FakeComm;

struct Group;

// One call of one rank.
struct Call {
  enum class Kind : uint8_t {
    kSend,
    kRecv,
    kAllReduce,
    kReduceScatter,
    kReduce,
    kAllGather,
    kBcast
  };
  Kind kind;
  const void* in;
  void* out;
  size_t count;
  int type;
  int root;  // the peer of a send or receive
  FakeComm* comm;
  void* stream;
  Group* group = nullptr;  // where calls go to a stream

  void End() const;
};

// Calls that one rank made together and that one work of its stream stands for.
struct Group {
  std::vector<Call> calls;
  bool begun = false;
  int open = 0;  // calls whose peers have not begun theirs
};

// What the ranks of one unique id share.
struct Shared {
  std::vector<FakeComm*> ranks;
  int joined = 0;
  std::map<std::pair<int, int>, std::deque<Call>> sends, receives;  // (from, to)
  std::map<uint64_t, std::vector<Call>> collectives;                // by number
};

struct FakeComm {
  std::shared_ptr<Shared> shared;
  int rank;
  int open_calls = 0;  // of the last group
  uint64_t collectives = 0;
  bool ended = false;
};

void Call::End() const {
  if (group != nullptr) {
    --group->open;
  } else {
    --comm->open_calls;
  }
}

struct World {
  std::mutex mutex;
  std::condition_variable news;
  std::map<uint64_t, std::shared_ptr<Shared>> by_id;
  uint64_t next_id = 1;
  std::map<std::string, int> calls;
  struct Failure {
    int result, after;
  };
  std::map<std::string, Failure> failures;
  int async_error = kSuccess;
  bool hang_in_abort = false;
  int alive = 0;
  int aborts = 0;
  void (*settle)(void*) = nullptr;
  void (*begin)() = nullptr;
  void (*end)() = nullptr;
  FakeNcclEnqueueFunction enqueue = nullptr;
};

World& world() {
  static auto* instance = new World;  // threads of the process may outlive main
  return *instance;
}

thread_local int group_depth = 0;
thread_local std::vector<Call> group_calls;

// Counts the call; not kSuccess when it has been told to fail.
int Enter(const char* name) {
  World& w = world();
  std::lock_guard<std::mutex> lock(w.mutex);
  ++w.calls[name];
  const auto failure = w.failures.find(name);
  if (failure == w.failures.end() || failure->second.after-- > 0) return kSuccess;
  const int result = failure->second.result;
  w.failures.erase(failure);
  return result;
}

size_t Width(int type) {
  switch (type) {
    case kUint8:
      return 1;
    case kBfloat16:
      return 2;
    case kFloat32:
      return 4;
    default:
      return 8;
  }
}

double Load(const void* data, int type, size_t i) {
  switch (type) {
    case kFloat32:
      return static_cast<const float*>(data)[i];
    case kFloat64:
      return static_cast<const double*>(data)[i];
    case kInt64:
      return static_cast<double>(static_cast<const int64_t*>(data)[i]);
    default:
      return ToFloat(static_cast<const BFloat16*>(data)[i]);
  }
}

void Store(void* data, int type, size_t i, double value) {
  switch (type) {
    case kFloat32:
      static_cast<float*>(data)[i] = static_cast<float>(value);
      break;
    case kFloat64:
      static_cast<double*>(data)[i] = value;
      break;
    case kInt64:
      static_cast<int64_t*>(data)[i] = static_cast<int64_t>(value);
      break;
    default:
      static_cast<BFloat16*>(data)[i] = ToBFloat16(static_cast<float>(value));
  }
}

// All ranks have come: moves the data. calls[r] is rank r's.
void RunCollective(std::vector<Call>& calls) {
  using Kind = Call::Kind;
  const Call& first = calls[0];
  const size_t ranks = calls.size();
  const int type = first.type;
  std::vector<std::byte> whole;  // what everyone, or the root, gets
  if (first.kind == Kind::kBcast) {
    const auto* from = static_cast<const std::byte*>(calls[first.root].in);
    whole.assign(from, from + first.count * Width(type));
  } else if (first.kind == Kind::kAllGather) {
    for (const Call& call : calls) {
      const auto* from = static_cast<const std::byte*>(call.in);
      whole.insert(whole.end(), from, from + call.count * Width(type));
    }
  } else {
    // Backwards: another order of sums than the program's own.
    const size_t count = first.count * (first.kind == Kind::kReduceScatter ? ranks : 1);
    whole.resize(count * Width(type));
    for (size_t i = 0; i < count; ++i) {
      double sum = 0;
      for (size_t r = ranks; r-- > 0;) sum += Load(calls[r].in, type, i);
      Store(whole.data(), type, i, sum);
    }
  }
  for (size_t r = 0; r < ranks; ++r) {
    const Call& call = calls[r];
    if (call.kind == Kind::kReduceScatter) {
      const size_t bytes = call.count * Width(type);
      std::memcpy(call.out, whole.data() + r * bytes, bytes);
    } else if (call.kind != Kind::kReduce || call.root == static_cast<int>(r)) {
      std::memcpy(call.out, whole.data(), whole.size());
    }
    call.End();
  }
}

// Under the world's lock.
void Match(Shared& shared, int from, int to) {
  auto& sends = shared.sends[{from, to}];
  auto& receives = shared.receives[{from, to}];
  while (!sends.empty() && !receives.empty()) {
    const Call &send = sends.front(), &receive = receives.front();
    const size_t bytes =
        std::min(send.count * Width(send.type), receive.count * Width(receive.type));
    std::memcpy(receive.out, send.in, bytes);
    send.End();
    receive.End();
    sends.pop_front();
    receives.pop_front();
  }
}

void Start(const Call& call) {
  Shared& shared = *call.comm->shared;
  const int rank = call.comm->rank;
  if (call.group == nullptr) ++call.comm->open_calls;
  if (call.kind == Call::Kind::kSend) {
    shared.sends[{rank, call.root}].push_back(call);
    Match(shared, rank, call.root);
  } else if (call.kind == Call::Kind::kRecv) {
    shared.receives[{call.root, rank}].push_back(call);
    Match(shared, call.root, rank);
  } else {
    const uint64_t number = call.comm->collectives++;
    auto& calls = shared.collectives[number];
    calls.push_back(call);
    if (calls.size() < shared.ranks.size()) return;
    std::sort(calls.begin(), calls.end(),
              [](const Call& a, const Call& b) { return a.comm->rank < b.comm->rank; });
    RunCollective(calls);
    shared.collectives.erase(number);
  }
}

int AsyncState(const FakeComm& comm) {
  if (world().async_error != kSuccess) return world().async_error;
  const bool connected = comm.shared->joined == static_cast<int>(comm.shared->ranks.size());
  return connected && comm.open_calls == 0 ? kSuccess : kInProgress;
}

// A work of a stream: true when it is over, and is not asked again then.
bool Over(void* work) {
  auto* group = static_cast<Group*>(work);
  World& w = world();
  std::lock_guard<std::mutex> lock(w.mutex);
  if (!std::exchange(group->begun, true)) {
    group->open = static_cast<int>(group->calls.size());
    if (w.begin != nullptr) w.begin();
    for (const Call& call : group->calls) {
      if (call.comm->ended) {
        call.End();
      } else {
        Start(call);
      }
    }
    if (w.end != nullptr) w.end();
  }
  const bool ended = std::any_of(group->calls.begin(), group->calls.end(),
                                 [](const Call& call) { return call.comm->ended; });
  if (group->open > 0 && !ended) return false;
  delete group;
  return true;
}

int RunGroup() {
  World& w = world();
  std::vector<Call> calls;
  calls.swap(group_calls);
  if (w.enqueue != nullptr) {
    if (calls.empty()) return kSuccess;
    {
      std::lock_guard<std::mutex> lock(w.mutex);
      for (const Call& call : calls) {
        if (call.comm->ended || AsyncState(*call.comm) == kInProgress) return kInvalidUsage;
      }
    }
    auto* group = new Group{calls};
    for (Call& call : group->calls) call.group = group;
    w.enqueue(calls[0].stream, Over, group);
    return kSuccess;
  }
  for (const Call& call : calls) {
    if (w.settle != nullptr) w.settle(call.stream);
  }
  std::lock_guard<std::mutex> lock(w.mutex);
  int result = kSuccess;
  for (const Call& call : calls) {
    if (call.comm->ended || AsyncState(*call.comm) == kInProgress) return kInvalidUsage;
  }
  if (w.begin != nullptr) w.begin();
  for (const Call& call : calls) Start(call);
  if (w.end != nullptr) w.end();
  for (const Call& call : calls) result = std::max(result, AsyncState(*call.comm));
  return result;
}

int Add(const char* name, Call call) {
  if (const int result = Enter(name); result != kSuccess) return result;
  group_calls.push_back(call);
  return group_depth > 0 ? static_cast<int>(kSuccess) : RunGroup();
}

// The communicator's own calls of others find it gone; its peers' stay open, as NCCL's do.
void Forget(FakeComm* comm) {
  comm->ended = true;
  Shared& shared = *comm->shared;
  const auto mine = [comm](const Call& call) { return call.comm == comm; };
  for (auto* queues : {&shared.sends, &shared.receives}) {
    for (auto& [pair, queue] : *queues) {
      queue.erase(std::remove_if(queue.begin(), queue.end(), mine), queue.end());
    }
  }
  for (auto& [number, calls] : shared.collectives) std::erase_if(calls, mine);
  --world().alive;
}

}  // namespace
}  // namespace trireme::nccl

using trireme::nccl::Call;
using trireme::nccl::FakeComm;
using trireme::nccl::world;
namespace nccl = trireme::nccl;

extern "C" {

void FakeNcclReset() {
  std::lock_guard<std::mutex> lock(world().mutex);
  world().calls.clear();
  world().failures.clear();
  world().async_error = nccl::kSuccess;
  world().hang_in_abort = false;
  world().aborts = 0;
  world().news.notify_all();
}
void FakeNcclFailCall(const char* call, int result, int after) {
  std::lock_guard<std::mutex> lock(world().mutex);
  world().failures[call] = {result, after};
}
void FakeNcclAsyncError(int result) {
  std::lock_guard<std::mutex> lock(world().mutex);
  world().async_error = result;
}
void FakeNcclHangInAbort(bool hang) {
  std::lock_guard<std::mutex> lock(world().mutex);
  world().hang_in_abort = hang;
  world().news.notify_all();
}
void FakeNcclDevice(void (*settle)(void*), void (*begin)(), void (*end)()) {
  std::lock_guard<std::mutex> lock(world().mutex);
  world().settle = settle;
  world().begin = begin;
  world().end = end;
}
void FakeNcclEnqueue(FakeNcclEnqueueFunction enqueue) {
  std::lock_guard<std::mutex> lock(world().mutex);
  world().enqueue = enqueue;
}
int FakeNcclAlive() {
  std::lock_guard<std::mutex> lock(world().mutex);
  return world().alive;
}
int FakeNcclAborts() {
  std::lock_guard<std::mutex> lock(world().mutex);
  return world().aborts;
}
int FakeNcclCalls(const char* call) {
  std::lock_guard<std::mutex> lock(world().mutex);
  return world().calls[call];
}

int ncclGetVersion(int* version) {
  *version = 22809;
  return nccl::kSuccess;
}
int ncclGetUniqueId(nccl::UniqueId* id) {
  if (const int result = nccl::Enter("ncclGetUniqueId"); result != nccl::kSuccess) return result;
  std::lock_guard<std::mutex> lock(world().mutex);
  const uint64_t number = world().next_id++;
  std::memset(id, 0, sizeof(*id));
  std::memcpy(id, &number, sizeof(number));
  return nccl::kSuccess;
}
int ncclCommInitRankConfig(nccl::Comm* comm, int ranks, nccl::UniqueId id, int rank,
                           nccl::Config* config) {
  if (const int result = nccl::Enter("ncclCommInitRankConfig"); result != nccl::kSuccess) {
    return result;
  }
  if (config->magic != 0xcafebeef || config->blocking != 0) return nccl::kInvalidArgument;
  uint64_t number = 0;
  std::memcpy(&number, &id, sizeof(number));
  std::lock_guard<std::mutex> lock(world().mutex);
  if (number == 0 || number >= world().next_id) return nccl::kInvalidArgument;
  auto& shared = world().by_id[number];
  if (shared == nullptr) {
    shared = std::make_shared<nccl::Shared>();
    shared->ranks.resize(ranks);
  }
  if (static_cast<int>(shared->ranks.size()) != ranks || shared->ranks[rank] != nullptr) {
    return nccl::kInvalidUsage;
  }
  auto* made = new FakeComm{shared, rank};
  shared->ranks[rank] = made;
  ++shared->joined;
  ++world().alive;
  *comm = made;
  return nccl::AsyncState(*made);
}
int ncclCommGetAsyncError(nccl::Comm comm, int* result) {
  std::lock_guard<std::mutex> lock(world().mutex);
  *result = nccl::AsyncState(*static_cast<FakeComm*>(comm));
  return nccl::kSuccess;
}
int ncclCommFinalize(nccl::Comm comm) {
  if (const int result = nccl::Enter("ncclCommFinalize"); result != nccl::kSuccess) return result;
  std::lock_guard<std::mutex> lock(world().mutex);
  return nccl::AsyncState(*static_cast<FakeComm*>(comm));
}
int ncclCommDestroy(nccl::Comm comm) {
  if (const int result = nccl::Enter("ncclCommDestroy"); result != nccl::kSuccess) return result;
  std::lock_guard<std::mutex> lock(world().mutex);
  nccl::Forget(static_cast<FakeComm*>(comm));
  return nccl::kSuccess;
}
int ncclCommAbort(nccl::Comm comm) {
  (void)nccl::Enter("ncclCommAbort");
  std::unique_lock<std::mutex> lock(world().mutex);
  world().news.wait(lock, [] { return !world().hang_in_abort; });
  ++world().aborts;
  nccl::Forget(static_cast<FakeComm*>(comm));
  return nccl::kSuccess;
}
const char* ncclGetErrorString(int result) {
  constexpr const char* kNames[] = {"no error",       "unhandled cuda error", "system error",
                                    "internal error", "invalid argument",     "invalid usage",
                                    "remote error",   "in progress"};
  return kNames[result];
}
const char* ncclGetLastError(nccl::Comm) { return "as the test wants it"; }
int ncclGroupStart() {
  ++nccl::group_depth;
  return nccl::kSuccess;
}
int ncclGroupEnd() {
  if (const int result = nccl::Enter("ncclGroupEnd"); result != nccl::kSuccess) {
    --nccl::group_depth;
    nccl::group_calls.clear();
    return result;
  }
  return --nccl::group_depth > 0 ? static_cast<int>(nccl::kSuccess) : nccl::RunGroup();
}
int ncclSend(const void* data, size_t count, int type, int peer, nccl::Comm comm,
             nccl::Stream stream) {
  return nccl::Add("ncclSend", {Call::Kind::kSend, data, nullptr, count, type, peer,
                                static_cast<FakeComm*>(comm), stream});
}
int ncclRecv(void* data, size_t count, int type, int peer, nccl::Comm comm, nccl::Stream stream) {
  return nccl::Add("ncclRecv", {Call::Kind::kRecv, nullptr, data, count, type, peer,
                                static_cast<FakeComm*>(comm), stream});
}
int ncclAllReduce(const void* in, void* out, size_t count, int type, int, nccl::Comm comm,
                  nccl::Stream stream) {
  return nccl::Add("ncclAllReduce", {Call::Kind::kAllReduce, in, out, count, type, 0,
                                     static_cast<FakeComm*>(comm), stream});
}
int ncclReduceScatter(const void* in, void* out, size_t count, int type, int, nccl::Comm comm,
                      nccl::Stream stream) {
  return nccl::Add("ncclReduceScatter", {Call::Kind::kReduceScatter, in, out, count, type, 0,
                                         static_cast<FakeComm*>(comm), stream});
}
int ncclReduce(const void* in, void* out, size_t count, int type, int, int root, nccl::Comm comm,
               nccl::Stream stream) {
  return nccl::Add("ncclReduce", {Call::Kind::kReduce, in, out, count, type, root,
                                  static_cast<FakeComm*>(comm), stream});
}
int ncclAllGather(const void* in, void* out, size_t count, int type, nccl::Comm comm,
                  nccl::Stream stream) {
  return nccl::Add("ncclAllGather", {Call::Kind::kAllGather, in, out, count, type, 0,
                                     static_cast<FakeComm*>(comm), stream});
}
int ncclBroadcast(const void* in, void* out, size_t count, int type, int root, nccl::Comm comm,
                  nccl::Stream stream) {
  return nccl::Add("ncclBroadcast", {Call::Kind::kBcast, in, out, count, type, root,
                                     static_cast<FakeComm*>(comm), stream});
}
}
