// The MPI transport: non-blocking point-to-point on MPI_COMM_WORLD, nothing else.
//
// 1. Small messages travel whole, in one packet (tag 0) behind a header with their key; packets are
//    received into a pool, and wait in a table when their receive is not posted yet.
// 2. A large receive, once posted, takes an MPI tag of its own and grants it to the sender in a
//    packet; the sender then sends the chunks under that tag. So MPI's matching never sees a key,
//    and nothing large is ever sent that nobody has asked for: what a dead generation has left
//    behind are a few packets, dropped by their header.
// 3. A large Send announces its size, so that a receiver that expects a small one notices.
// 4. A dropped transfer's posted chunks stay posted, their memory alive in the graveyard: MPI
//    cannot take a send back, and a live peer may still read or write it.
#include <mpi.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <thread>
#include <unordered_map>
#include <utility>

#include "cluster/comm/group_communicator.h"

namespace trireme {
namespace {

constexpr int kPacketTag = 0;
constexpr int kPacketReceives = 16;
constexpr int kChunksInFlight = 4;  // of one transfer
constexpr int64_t kGraveyardBytesMax = int64_t{4} << 30;
constexpr Micros kFinalizePatience = 1'000'000;

enum class PacketType : uint8_t { kEager, kGrant, kAnnounce, kRefuse };

struct PacketHeader {
  PacketType type;
  uint8_t operation;
  uint8_t collective;
  uint8_t unused;
  int32_t slot;
  uint32_t sequence;
  int32_t tag;  // of the chunks that a grant asks for
  uint64_t generation;
  int64_t bytes;  // of the whole message
  uint16_t group;
  uint16_t unused2[3];
};
static_assert(sizeof(PacketHeader) == 40);

constexpr int64_t kPacketBytesMax = sizeof(PacketHeader) + kEagerBytes;
using Packet = std::vector<std::byte>;

struct ChunkNotes : Transfer::Notes {
  int tag = -1;        // -1: not granted yet
  int64_t posted = 0;  // the prefix that MPI has been asked to move
  struct Chunk {
    int64_t end;
    bool moved;
  };
  std::deque<Chunk> chunks;  // asked for, and not yet part of `done`
  int in_flight = 0;
  std::shared_ptr<void> holder;  // set when dropped
  bool dropped = false;
};

ChunkNotes& NotesOf(Transfer& transfer) { return static_cast<ChunkNotes&>(*transfer.notes); }

class MpiTransport final : public MessageTransport {
 public:
  MpiTransport(int rank, int size, int tag_max, bool finalize)
      : rank_(rank), size_(size), tag_max_(tag_max), finalize_(finalize) {
    for (int i = 0; i < kPacketReceives; ++i) PostPacketReceive(Packet(kPacketBytesMax));
  }
  ~MpiTransport() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  bool Busy() const override { return packet_sends_ > 0; }
  bool wakes() const override { return false; }

  void Post(Transfer* transfer) override;
  void Extend(Transfer* transfer) override;
  bool Poll() override;
  void Drop(Transfer* transfer, std::shared_ptr<void> holder) override;
  void BeginGeneration(uint64_t generation) override;

 private:
  struct Request {
    enum class What : uint8_t { kPacketReceive, kPacketSend, kChunk } what;
    Packet packet;
    Transfer* transfer = nullptr;
    int64_t end = 0;
  };
  // What a packet said that came before the operation it belongs to.
  struct Early {
    PacketHeader header;
    Packet packet;  // with the header in front; empty unless eager
  };
  using EarlyMap = std::unordered_map<PeerKey, Early, PeerKeyHash>;

  static bool IsEager(const Transfer& transfer) { return transfer.layout.bytes() <= kEagerBytes; }
  static PacketHeader HeaderOf(const Transfer& transfer, PacketType type);
  void AddRequest(MPI_Request request, Request what);
  void PostPacketReceive(Packet packet);
  void SendPacket(int peer, Packet packet);
  void SendControl(const Transfer& transfer, PacketType type, int tag);
  void SendEager(Transfer* transfer);
  void PostReceive(Transfer* transfer);
  void PostChunks(Transfer* transfer);
  void Grant(Transfer* send, const PacketHeader& header);
  void DeliverEager(Transfer* receive, const PacketHeader& header, const std::byte* payload);
  void OnPacket(int source, Packet packet, int64_t bytes);
  void OnChunk(Transfer* transfer, int64_t end);
  void OnError(Request& request, int error);
  bool CancelReceives();

  const int rank_;
  const int size_;
  const int tag_max_;
  const bool finalize_;
  int next_tag_ = 1;
  uint64_t generation_ = 0;
  std::vector<MPI_Request> requests_;
  std::vector<Request> what_;  // of requests_, index by index
  std::vector<int> completed_;
  std::vector<MPI_Status> statuses_;
  int64_t packet_sends_ = 0;
  std::vector<Packet> idle_packets_;
  std::unordered_map<PeerKey, Transfer*, PeerKeyHash> receives_;  // posted, not complete
  std::unordered_map<PeerKey, Transfer*, PeerKeyHash> sends_;     // large ones without a grant
  EarlyMap early_messages_;                                       // eager or announced
  EarlyMap early_grants_;
  int64_t graveyard_bytes_ = 0;
};

PacketHeader MpiTransport::HeaderOf(const Transfer& transfer, PacketType type) {
  PacketHeader header = {};
  header.type = type;
  header.operation = transfer.operation;
  header.collective = transfer.key.collective;
  header.slot = transfer.key.slot;
  header.sequence = transfer.key.sequence;
  header.generation = transfer.key.generation;
  header.bytes = transfer.layout.bytes();
  header.group = transfer.key.group;
  return header;
}

void MpiTransport::AddRequest(MPI_Request request, Request what) {
  requests_.push_back(request);
  what_.push_back(std::move(what));
}

void MpiTransport::PostPacketReceive(Packet packet) {
  MPI_Request request;
  MPI_Irecv(packet.data(), kPacketBytesMax, MPI_BYTE, MPI_ANY_SOURCE, kPacketTag, MPI_COMM_WORLD,
            &request);
  AddRequest(request, {Request::What::kPacketReceive, std::move(packet)});
}

void MpiTransport::SendPacket(int peer, Packet packet) {
  MPI_Request request;
  MPI_Isend(packet.data(), static_cast<int>(packet.size()), MPI_BYTE, peer, kPacketTag,
            MPI_COMM_WORLD, &request);
  if (request == MPI_REQUEST_NULL) return;
  ++packet_sends_;
  AddRequest(request, {Request::What::kPacketSend, std::move(packet)});
}

void MpiTransport::SendControl(const Transfer& transfer, PacketType type, int tag) {
  PacketHeader header = HeaderOf(transfer, type);
  header.tag = tag;
  Packet packet(sizeof(header));
  std::memcpy(packet.data(), &header, sizeof(header));
  SendPacket(transfer.peer, std::move(packet));
}

void MpiTransport::SendEager(Transfer* transfer) {
  Packet packet;
  if (!idle_packets_.empty()) {
    packet = std::move(idle_packets_.back());
    idle_packets_.pop_back();
  }
  packet.resize(sizeof(PacketHeader) + transfer->layout.bytes());
  const PacketHeader header = HeaderOf(*transfer, PacketType::kEager);
  std::memcpy(packet.data(), &header, sizeof(header));
  for (int64_t offset = 0; offset < header.bytes;) {
    const int64_t end = transfer->layout.ContiguousEnd(offset);
    std::memcpy(packet.data() + sizeof(header) + offset, transfer->layout.At(offset), end - offset);
    offset = end;
  }
  SendPacket(transfer->peer, std::move(packet));
  transfer->done = header.bytes;
  transfer->complete = true;
}

void MpiTransport::Post(Transfer* transfer) {
  transfer->notes = std::make_unique<ChunkNotes>();
  if (!transfer->send) return PostReceive(transfer);
  if (IsEager(*transfer)) {
    if (transfer->limit == transfer->layout.bytes()) SendEager(transfer);
    return;
  }
  if (!transfer->key.collective) SendControl(*transfer, PacketType::kAnnounce, 0);
  const PeerKey key{transfer->peer, transfer->key};
  if (const auto early = early_grants_.find(key); early != early_grants_.end()) {
    const PacketHeader header = early->second.header;
    early_grants_.erase(early);
    Grant(transfer, header);
  } else {
    sends_[key] = transfer;
  }
}

void MpiTransport::PostReceive(Transfer* transfer) {
  const PeerKey key{transfer->peer, transfer->key};
  if (const auto early = early_messages_.find(key); early != early_messages_.end()) {
    const Early message = std::move(early->second);
    early_messages_.erase(early);
    if (message.header.type == PacketType::kEager || IsEager(*transfer) ||
        message.header.bytes != transfer->layout.bytes()) {
      DeliverEager(transfer, message.header, message.packet.data() + sizeof(PacketHeader));
      return;
    }
  }
  receives_[key] = transfer;
  if (IsEager(*transfer)) return;
  NotesOf(*transfer).tag = next_tag_;
  next_tag_ = next_tag_ == tag_max_ ? 1 : next_tag_ + 1;
  SendControl(*transfer, PacketType::kGrant, NotesOf(*transfer).tag);
  PostChunks(transfer);
}

void MpiTransport::Extend(Transfer* transfer) {
  if (transfer->complete || transfer->notes == nullptr) return;
  if (!IsEager(*transfer)) {
    PostChunks(transfer);
  } else if (transfer->send && transfer->limit == transfer->layout.bytes()) {
    SendEager(transfer);
  }
}

void MpiTransport::PostChunks(Transfer* transfer) {
  ChunkNotes& notes = NotesOf(*transfer);
  const StreamLayout& layout = transfer->layout;
  while (notes.tag > 0 && !notes.dropped && notes.in_flight < kChunksInFlight &&
         notes.posted < layout.bytes()) {
    const int64_t end = layout.ChunkEnd(notes.posted);
    if (end > transfer->limit) return;
    MPI_Request request;
    const int bytes = static_cast<int>(end - notes.posted);
    if (transfer->send) {
      MPI_Isend(layout.At(notes.posted), bytes, MPI_BYTE, transfer->peer, notes.tag, MPI_COMM_WORLD,
                &request);
    } else {
      MPI_Irecv(layout.At(notes.posted), bytes, MPI_BYTE, transfer->peer, notes.tag, MPI_COMM_WORLD,
                &request);
    }
    notes.posted = end;
    notes.chunks.push_back({end, false});
    ++notes.in_flight;
    AddRequest(request, {Request::What::kChunk, {}, transfer, end});
  }
}

void MpiTransport::Grant(Transfer* send, const PacketHeader& header) {
  send->heard = true;
  if (header.bytes != send->layout.bytes() || header.operation != send->operation) {
    SendControl(*send, PacketType::kRefuse, 0);
    send->status = InternalError(StrCat("world rank ", send->peer, " expects a message of ",
                                        header.bytes, " bytes in another operation or size, not ",
                                        send->layout.bytes(), " bytes"));
    return;
  }
  NotesOf(*send).tag = header.tag;
  PostChunks(send);
}

void MpiTransport::DeliverEager(Transfer* receive, const PacketHeader& header,
                                const std::byte* payload) {
  receive->heard = true;
  if (header.bytes != receive->layout.bytes() || header.operation != receive->operation) {
    receive->status = MismatchError(*receive, header.operation, header.bytes);
    return;
  }
  for (int64_t offset = 0; offset < header.bytes;) {
    const int64_t end = receive->layout.ContiguousEnd(offset);
    std::memcpy(receive->layout.At(offset), payload + offset, end - offset);
    offset = end;
  }
  receive->done = header.bytes;
  receive->complete = true;
}

void MpiTransport::OnPacket(int source, Packet packet, int64_t bytes) {
  PacketHeader header;
  CHECK_GE(bytes, static_cast<int64_t>(sizeof(header))) << "a packet from world rank " << source;
  std::memcpy(&header, packet.data(), sizeof(header));
  const PeerKey key{
      source,
      {header.generation, header.group, header.collective != 0, header.slot, header.sequence}};
  if (header.generation < generation_) {
    // Nobody waits for it any more.
  } else if (header.type == PacketType::kGrant) {
    if (const auto found = sends_.find(key); found != sends_.end()) {
      Transfer* send = found->second;
      sends_.erase(found);
      Grant(send, header);
    } else {
      early_grants_[key] = {header, {}};
    }
  } else if (const auto found = receives_.find(key); found != receives_.end()) {
    Transfer* receive = found->second;
    const bool mismatch = header.bytes != receive->layout.bytes() ||
                          (header.type == PacketType::kEager) != IsEager(*receive);
    receive->heard = true;
    if (header.type != PacketType::kAnnounce || mismatch) {
      receives_.erase(found);
      DeliverEager(receive, header, packet.data() + sizeof(header));
    }
  } else if (header.type != PacketType::kRefuse) {
    const int64_t kept = header.type == PacketType::kEager ? bytes : 0;
    early_messages_[key] = {header, Packet(packet.begin(), packet.begin() + kept)};
  }
  PostPacketReceive(std::move(packet));
}

void MpiTransport::OnChunk(Transfer* transfer, int64_t end) {
  ChunkNotes& notes = NotesOf(*transfer);
  --notes.in_flight;
  if (notes.dropped) {
    if (notes.in_flight == 0) {
      graveyard_bytes_ -= transfer->layout.bytes();
      const auto last_hold = std::move(notes.holder);  // the transfer ends with it
    }
    return;
  }
  transfer->heard = true;
  for (auto& chunk : notes.chunks) chunk.moved = chunk.moved || chunk.end == end;
  while (!notes.chunks.empty() && notes.chunks.front().moved) {
    transfer->done = notes.chunks.front().end;
    notes.chunks.pop_front();
  }
  PostChunks(transfer);
  if (transfer->done < transfer->layout.bytes()) return;
  transfer->complete = true;
  if (!transfer->send) receives_.erase({transfer->peer, transfer->key});
}

// An MPI that reports a dead peer: news for the operation, never a reason to stop.
void MpiTransport::OnError(Request& request, int error) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(error, text, &length);
  LOG(WARNING) << "MPI: " << std::string(text, length);
  if (request.what == Request::What::kPacketReceive) {
    PostPacketReceive(std::move(request.packet));
  } else if (request.what == Request::What::kChunk) {
    Transfer* transfer = request.transfer;
    if (!NotesOf(*transfer).dropped) {
      transfer->status = UnavailableError(
          StrCat("world rank ", transfer->peer, " is lost: ", std::string(text, length)));
    }
    OnChunk(transfer, -1);
  }
}

bool MpiTransport::Poll() {
  int count = 0;
  completed_.resize(requests_.size());
  statuses_.resize(requests_.size());
  const int result = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count,
                                  completed_.data(), statuses_.data());
  if (count == MPI_UNDEFINED || count <= 0) return false;
  // Taken out first, from the back: what the handlers post is appended.
  std::vector<std::pair<Request, MPI_Status>> news;
  news.reserve(count);
  for (int i = 0; i < count; ++i) {
    if (result != MPI_ERR_IN_STATUS) statuses_[i].MPI_ERROR = MPI_SUCCESS;
    news.emplace_back(std::move(what_[completed_[i]]), statuses_[i]);
  }
  std::sort(completed_.begin(), completed_.begin() + count, std::greater<>());
  for (int i = 0; i < count; ++i) {
    requests_[completed_[i]] = requests_.back();
    what_[completed_[i]] = std::move(what_.back());
    requests_.pop_back();
    what_.pop_back();
  }
  for (auto& [request, status] : news) {
    if (request.what == Request::What::kPacketSend) {
      --packet_sends_;
      if (idle_packets_.size() < 2 * kPacketReceives) {
        idle_packets_.push_back(std::move(request.packet));
      }
    } else if (status.MPI_ERROR != MPI_SUCCESS) {
      OnError(request, status.MPI_ERROR);
    } else if (request.what == Request::What::kChunk) {
      OnChunk(request.transfer, request.end);
    } else {
      int bytes = 0;
      MPI_Get_count(&status, MPI_BYTE, &bytes);
      OnPacket(status.MPI_SOURCE, std::move(request.packet), bytes);
    }
  }
  return true;
}

void MpiTransport::Drop(Transfer* transfer, std::shared_ptr<void> holder) {
  if (transfer->notes == nullptr) return;
  const PeerKey key{transfer->peer, transfer->key};
  auto& table = transfer->send ? sends_ : receives_;
  if (const auto found = table.find(key); found != table.end() && found->second == transfer) {
    table.erase(found);
  }
  ChunkNotes& notes = NotesOf(*transfer);
  notes.dropped = true;
  if (notes.in_flight == 0) return;
  notes.holder = std::move(holder);
  graveyard_bytes_ += transfer->layout.bytes();
  if (graveyard_bytes_ <= kGraveyardBytesMax) return;
  CancelReceives();
  Poll();
  CHECK_LE(graveyard_bytes_, kGraveyardBytesMax)
      << "too much memory is held by abandoned MPI requests: only a new process frees it";
}

// Asks MPI to give back receives that nobody has matched, those of dropped transfers alone unless
// the transport ends. True if there were any.
bool MpiTransport::CancelReceives() {
  bool any = false;
  for (size_t i = 0; i < requests_.size(); ++i) {
    const Transfer* transfer = what_[i].transfer;
    if (transfer == nullptr || transfer->send) continue;
    if (!NotesOf(*what_[i].transfer).dropped) continue;
    MPI_Cancel(&requests_[i]);
    any = true;
  }
  return any;
}

void MpiTransport::BeginGeneration(uint64_t generation) {
  generation_ = generation;
  for (EarlyMap* early : {&early_messages_, &early_grants_}) {
    std::erase_if(*early, [&](const auto& e) { return e.first.key.generation < generation; });
  }
}

// Every request is brought to its end, within limits: what a lost peer has left cannot be.
MpiTransport::~MpiTransport() {
  CancelReceives();
  const Micros begin = RealClock().NowMicros();
  const auto pending = [this] {
    return std::count_if(what_.begin(), what_.end(), [](const Request& request) {
      return request.what != Request::What::kPacketReceive;
    });
  };
  while (pending() > 0 && RealClock().NowMicros() - begin < kFinalizePatience) {
    if (!Poll()) std::this_thread::yield();
  }
  const auto left = pending();
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (what_[i].what == Request::What::kPacketReceive) MPI_Cancel(&requests_[i]);
  }
  int done = 0;
  while (!done && left == 0 && RealClock().NowMicros() - begin < 2 * kFinalizePatience) {
    MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE);
  }
  if (!done) {
    LOG(WARNING) << "MPI is not finalized: " << left << " requests of lost peers are pending";
    for (Request& request : what_) new Packet(std::move(request.packet));  // MPI may write to it
    return;
  }
  if (finalize_) MPI_Finalize();
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
          std::make_unique<MpiTransport>(rank, size, std::min(*tag_max, 1 << 30), !initialized),
          std::make_shared<Waker>()));
  return factory;
}

}  // namespace trireme
