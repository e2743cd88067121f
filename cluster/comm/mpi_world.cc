// The start of MPI, and what every rank learns of the others there.
#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>

#include "cluster/comm/group_communicator.h"
#include "cluster/comm/process_transport.h"

namespace trireme {
namespace {

// Who may be read by this process: all of its host, if every process of the job can read its
// neighbours; else nobody. Both ends of a message must judge alike, so the verdict is common.
// Collective over MPI_COMM_WORLD: part of the start of MPI. TRIREME_COMM_PULL=0 forbids it.
std::vector<ProcessIdentity> ReadableProcesses(int size, int mailbox, int staging) {
  ProcessIdentity mine = MyProcessIdentity();
  mine.mailbox = mailbox;
  mine.staging = staging;
  std::vector<ProcessIdentity> all(size);
  MPI_Allgather(&mine, sizeof(mine), MPI_BYTE, all.data(), sizeof(mine), MPI_BYTE, MPI_COMM_WORLD);
  const char* wish = std::getenv("TRIREME_COMM_PULL");
  int works = wish == nullptr || std::string(wish) != "0";
  for (const ProcessIdentity& process : all) {
    if (!works || process.host != mine.host) continue;
    uint64_t cookie = 0;
    const StreamLayout remote({{reinterpret_cast<std::byte*>(process.cookie_address),
                                static_cast<int64_t>(sizeof(cookie))}});
    works = ReadProcessMemory(process, remote, 0, sizeof(cookie),
                              reinterpret_cast<std::byte*>(&cookie), /*check=*/true)
                .ok();
  }
  int all_work = 0;
  MPI_Allreduce(&works, &all_work, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  for (ProcessIdentity& process : all) {
    if (!all_work || process.host != mine.host) process.host = 0;
  }
  return all;
}

template <typename Shared>
std::unique_ptr<Shared> OrNone(Result<std::unique_ptr<Shared>> made) {
  if (made.ok()) return std::move(*made);
  VLOG(1) << made.status().message();
  return nullptr;
}

// Connects the staging area, or takes it away: all processes of the job have mapped those of their
// neighbours, or nobody stages. Collective.
void ConnectStaging(int rank, const std::vector<ProcessIdentity>& readable,
                    std::unique_ptr<StagingArea>* staging) {
  int works = *staging != nullptr;
  for (int peer = 0; works && peer < static_cast<int>(readable.size()); ++peer) {
    const ProcessIdentity& process = readable[peer];
    if (peer == rank || process.host == 0) continue;
    const Status status = (*staging)->Connect(peer, process.pid, process.staging);
    if (!status.ok()) VLOG(1) << status.message();
    works = status.ok();
  }
  int all_work = 0;
  MPI_Allreduce(&works, &all_work, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  if (!all_work) staging->reset();
}

// The transport over MPI_COMM_WORLD, with shared memory where the kernel gives some. Collective.
std::unique_ptr<ProcessTransport> MakeTransport(int rank, int size, int tag_max, bool finalize) {
  auto mailbox = OrNone(HostMailbox::Make(rank, size));
  auto staging = OrNone(StagingArea::Make(size));
  std::vector<ProcessIdentity> readable =
      ReadableProcesses(size, mailbox == nullptr ? -1 : mailbox->descriptor(),
                        staging == nullptr ? -1 : staging->descriptor());
  for (int peer = 0; mailbox != nullptr && peer < size; ++peer) {
    const ProcessIdentity& process = readable[peer];
    if (peer == rank || process.host == 0 || process.mailbox < 0) continue;
    const Status status = mailbox->Connect(peer, process.pid, process.mailbox);
    if (!status.ok()) VLOG(1) << status.message();  // packets go by MPI
  }
  ConnectStaging(rank, readable, &staging);
  return std::make_unique<ProcessTransport>(rank, std::move(readable), tag_max, std::move(mailbox),
                                            std::move(staging),
                                            std::make_unique<MpiRequests>(finalize));
}

}  // namespace

Result<std::unique_ptr<CommunicatorFactory>> MpiWorld() {
  const LaunchInfo launch = DetectLaunch();
  if (!launch.launched) {
    return InvalidArgumentError("MPI: this process was not started by mpirun or srun");
  }
  static bool made = false;
  if (std::exchange(made, true)) return InternalError("MPI: a process has one world only");
  int initialized = 0;
  int provided = 0;
  MPI_Initialized(&initialized);
  if (initialized) {
    MPI_Query_thread(&provided);
  } else {
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
  }
  if (provided < MPI_THREAD_SERIALIZED) {
    return InternalError("MPI: this library was built without support of threads");
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (size != launch.size) {
    return InvalidArgumentError(StrCat("MPI: the launcher started ", launch.size,
                                       " processes, but MPI sees ", size,
                                       " (with srun, --mpi=pmix is needed)"));
  }
  int* tag_max = nullptr;
  int found = 0;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &tag_max, &found);
  CHECK(found) << "MPI without a largest tag";
  std::unique_ptr<CommunicatorFactory> factory =
      std::make_unique<EngineFactory>(std::make_shared<CommEngine>(
          MakeTransport(rank, size, std::min(*tag_max, 1 << 30), /*finalize=*/!initialized),
          std::make_shared<Waker>()));
  return factory;
}

}  // namespace trireme
