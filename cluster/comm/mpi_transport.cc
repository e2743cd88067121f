// The MPI transport: non-blocking point-to-point on MPI_COMM_WORLD, nothing else.
//
// 1. Small messages travel whole, in one packet (tag 0) behind a header with their key; packets are
//    received into a pool, and wait in a table when their receive is not posted yet.
// 2. Between processes of one host a large send is announced with its addresses. The receiver reads
//    the sender's memory when it likes, and says how far it is: no hop but the announcement lies
//    between the two, and the sender's core is not needed.
// 3. Between hosts a large receive, once posted, takes an MPI tag of its own and grants it to the
//    sender in a packet; the sender then sends the chunks under that tag. So MPI's matching never
//    sees a key, and nothing large is ever sent that nobody has asked for: what a dead generation
//    leaves behind are a few packets, dropped by their header.
// 4. A dropped transfer's memory stays alive in the graveyard until the peer has said that it is
//    done with it, or MPI that its requests are over: neither can be taken back.
#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <thread>
#include <unordered_map>
#include <utility>

#include "cluster/comm/group_communicator.h"
#include "cluster/comm/packet.h"
#include "cluster/comm/process_memory.h"

namespace trireme {
namespace {

constexpr int kPacketTag = 0;
constexpr int kPacketReceives = 16;
constexpr int kChunksInFlight = 4;  // of one transfer
constexpr int64_t kGraveyardBytesMax = int64_t{4} << 30;
constexpr int64_t kPullBytesMax = 512 << 10;  // a turn's reading: others wait for the lock
constexpr int kRoundsWithoutMpiMax = 16;
constexpr int kSpinRounds = 10;
// Open MPI's shared memory takes 4 KiB with its and our headers without a handshake of its own.
constexpr int64_t kEagerBytesLocal = 3968;
constexpr Micros kFinalizePatience = 1'000'000;

// Steps by which the two ends of an announced message report to each other.
constexpr int64_t kReportBytes = 512 << 10;

struct ChunkNotes : Transfer::Notes {
  // Of announced messages.
  StreamLayout remote;    // receive: the sender's memory, empty until announced
  int64_t ready = 0;      // receive: the prefix that may be read
  int64_t reported = 0;   // what the peer was told last: done of a receive, limit of a send
  bool given_up = false;  // send: the receiver will not read on
  // Of granted messages.
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

Status RefusedError(const Transfer& send) {
  return InternalError(StrCat("world rank ", send.peer, " expects a message of another size or ",
                              "operation, not ", send.layout.bytes(), " bytes"));
}

ChunkNotes& NotesOf(Transfer& transfer) { return static_cast<ChunkNotes&>(*transfer.notes); }

class MpiTransport final : public MessageTransport {
 public:
  // readable[r]: the process of rank r, if its memory may be read; else its host is 0.
  MpiTransport(int rank, std::vector<ProcessIdentity> readable, int tag_max, bool finalize)
      : rank_(rank), readable_(std::move(readable)), tag_max_(tag_max), finalize_(finalize) {
    const auto local = std::count_if(readable_.begin(), readable_.end(),
                                     [](const auto& process) { return process.host != 0; });
    crowded_ = local > static_cast<int64_t>(std::thread::hardware_concurrency());
    for (int i = 0; i < kPacketReceives; ++i) PostPacketReceive(Packet(kPacketBytesMax));
  }
  ~MpiTransport() override;

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(readable_.size()); }
  bool Busy() const override { return packet_sends_ > 0; }
  bool wakes() const override { return false; }
  int spin_rounds() const override { return crowded_ ? 2000 : kSpinRounds; }

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

  bool IsEager(const Transfer& transfer) const {
    return transfer.layout.bytes() <=
           (readable_[transfer.peer].host != 0 ? kEagerBytesLocal : kEagerBytes);
  }
  // True when the receiver reads the sender's memory: the same at both ends.
  bool IsPulled(const Transfer& transfer) const {
    return readable_[transfer.peer].host != 0 && SegmentsFitPacket(transfer);
  }
  void AddRequest(MPI_Request request, Request what);
  void PostPacketReceive(Packet packet);
  void SendPacket(int peer, Packet packet);
  void KeepPacket(Packet packet);
  void SendHeader(int peer, const PacketHeader& header);
  void SendControl(const Transfer& transfer, PacketType type, int64_t prefix = 0, int tag = 0);
  void SendEager(Transfer* transfer);
  void PostReceive(Transfer* transfer);
  void PostChunks(Transfer* transfer);
  void Grant(Transfer* send, const PacketHeader& header);
  // What a packet means for a posted receive: the message, its announcement, or a mismatch.
  void Deliver(Transfer* receive, const PacketHeader& header, const Packet& packet);
  void OnPacket(int source, Packet packet, int64_t bytes);
  void ToReceiver(const PeerKey& key, const PacketHeader& header, const Packet& packet,
                  int64_t bytes);
  void ToSender(const PeerKey& key, const PacketHeader& header);
  bool Pull();
  void GiveUp(const PeerKey& key, const PacketHeader& announced);
  void LimitGraveyard();
  void OnChunk(Transfer* transfer, int64_t end);
  void OnError(Request& request, int error);
  bool CancelReceives();

  const int rank_;
  const std::vector<ProcessIdentity> readable_;
  bool crowded_ = false;  // more processes than cores
  const int tag_max_;
  const bool finalize_;
  int next_tag_ = 1;
  uint64_t generation_ = 0;
  std::vector<MPI_Request> requests_;
  std::vector<Request> what_;  // of requests_, index by index
  std::vector<int> completed_;
  std::vector<MPI_Status> statuses_;
  int64_t packet_sends_ = 0;
  int rounds_without_mpi_ = 0;
  std::vector<Packet> idle_packets_;
  std::unordered_map<PeerKey, Transfer*, PeerKeyHash> receives_;  // posted, not complete
  std::unordered_map<PeerKey, Transfer*, PeerKeyHash> sends_;     // ungranted, or being read
  std::vector<Transfer*> pulls_;                                  // announced receives
  EarlyMap early_messages_;                                       // eager or announced
  EarlyMap early_ready_;                                          // overtook the announcement
  EarlyMap early_grants_;
  struct Buried {
    std::shared_ptr<void> holder;
    int64_t bytes;
  };
  std::unordered_map<PeerKey, Buried, PeerKeyHash> buried_;  // announced sends, dropped here alone
  int64_t graveyard_bytes_ = 0;
};

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
  int gone = 0;  // most are, at once
  MPI_Test(&request, &gone, MPI_STATUS_IGNORE);
  if (gone) {
    KeepPacket(std::move(packet));
    return;
  }
  ++packet_sends_;
  AddRequest(request, {Request::What::kPacketSend, std::move(packet)});
}

void MpiTransport::KeepPacket(Packet packet) {
  if (idle_packets_.size() < 2 * kPacketReceives) idle_packets_.push_back(std::move(packet));
}

void MpiTransport::SendHeader(int peer, const PacketHeader& header) {
  Packet packet(sizeof(header));
  WriteHeader(header, &packet);
  SendPacket(peer, std::move(packet));
}

void MpiTransport::SendControl(const Transfer& transfer, PacketType type, int64_t prefix, int tag) {
  PacketHeader header = HeaderOf(transfer, type);
  header.prefix = prefix;
  header.tag = tag;
  SendHeader(transfer.peer, header);
}

void MpiTransport::SendEager(Transfer* transfer) {
  Packet packet;
  if (!idle_packets_.empty()) {
    packet = std::move(idle_packets_.back());
    idle_packets_.pop_back();
  }
  SendPacket(transfer->peer, EagerPacket(*transfer, std::move(packet)));
  transfer->done = transfer->layout.bytes();
  transfer->complete = true;
}

void MpiTransport::Post(Transfer* transfer) {
  transfer->notes = std::make_unique<ChunkNotes>();
  if (!transfer->send) return PostReceive(transfer);
  if (IsEager(*transfer)) {
    if (transfer->limit == transfer->layout.bytes()) SendEager(transfer);
    return;
  }
  const PeerKey key{transfer->peer, transfer->key};
  const bool pulled = IsPulled(*transfer);
  // Without addresses an announcement only tells a receiver that expects something small.
  if (pulled || !transfer->key.collective) {
    SendPacket(transfer->peer, AnnouncePacket(*transfer, pulled));
    NotesOf(*transfer).reported = transfer->limit;
  }
  const auto early = early_grants_.find(key);
  if (early == early_grants_.end()) {
    sends_[key] = transfer;
    return;
  }
  const PacketHeader header = early->second.header;
  early_grants_.erase(early);
  Grant(transfer, header);
}

void MpiTransport::PostReceive(Transfer* transfer) {
  const PeerKey key{transfer->peer, transfer->key};
  receives_[key] = transfer;
  if (const auto early = early_messages_.find(key); early != early_messages_.end()) {
    const Early message = std::move(early->second);
    early_messages_.erase(early);
    Deliver(transfer, message.header, message.packet);
    if (transfer->complete || !transfer->status.ok()) return;
  }
  if (IsEager(*transfer) || IsPulled(*transfer)) return;
  NotesOf(*transfer).tag = next_tag_;
  next_tag_ = next_tag_ == tag_max_ ? 1 : next_tag_ + 1;
  SendControl(*transfer, PacketType::kGrant, 0, NotesOf(*transfer).tag);
  PostChunks(transfer);
}

void MpiTransport::Extend(Transfer* transfer) {
  if (transfer->complete || transfer->notes == nullptr) return;
  const bool all = transfer->limit == transfer->layout.bytes();
  if (IsEager(*transfer)) {
    if (transfer->send && all) SendEager(transfer);
  } else if (!IsPulled(*transfer)) {
    PostChunks(transfer);
  } else if (ChunkNotes& notes = NotesOf(*transfer);
             transfer->send && (all || transfer->limit - notes.reported >= kReportBytes)) {
    notes.reported = transfer->limit;
    SendControl(*transfer, PacketType::kReady, transfer->limit);
  }
}

// Reads what may be read of the announced messages, one chunk of each; true if there was any.
bool MpiTransport::Pull() {
  bool progressed = false;
  for (size_t i = 0; i < pulls_.size();) {
    Transfer* receive = pulls_[i];
    ChunkNotes& notes = NotesOf(*receive);
    const int64_t allowed = std::min(notes.ready, receive->limit);
    if (receive->done < allowed) {
      const int64_t end = std::min(
          {allowed, receive->layout.ContiguousEnd(receive->done),
           receive->done +
               (receive->layout.has_ring() ? ChunkBytes(receive->layout.bytes()) : kPullBytesMax)});
      receive->status = ReadProcessMemory(readable_[receive->peer], notes.remote, receive->done,
                                          end, receive->layout.At(receive->done))
                            .WithContext(StrCat("world rank ", receive->peer, " is lost"));
      if (receive->status.ok()) receive->done = end;
      receive->complete = receive->done == receive->layout.bytes();
      progressed = true;
      if (receive->complete || receive->done - notes.reported >= kReportBytes) {
        notes.reported = receive->done;
        SendControl(*receive, PacketType::kDone, receive->done);
      }
    }
    if (receive->complete) receives_.erase({receive->peer, receive->key});
    if (receive->complete || !receive->status.ok()) {
      pulls_.erase(pulls_.begin() + i);
    } else {
      ++i;
    }
    if (progressed && !receive->layout.has_ring()) break;
  }
  return progressed;
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
    SendControl(*send, PacketType::kRefuseReceive);
    send->status = RefusedError(*send);
    return;
  }
  NotesOf(*send).tag = header.tag;
  PostChunks(send);
}

void MpiTransport::Deliver(Transfer* receive, const PacketHeader& header, const Packet& packet) {
  receive->heard = true;
  const PeerKey key{receive->peer, receive->key};
  if (header.bytes != receive->layout.bytes() || header.operation != receive->operation) {
    receive->status = MismatchError(*receive, header.operation, header.bytes);
    if (header.type == PacketType::kAnnounce) SendControl(*receive, PacketType::kRefuseSend);
    receives_.erase(key);
    return;
  }
  if (header.type == PacketType::kEager) {
    const std::byte* payload = packet.data() + sizeof(header);
    for (int64_t offset = 0; offset < header.bytes;) {
      const int64_t end = receive->layout.ContiguousEnd(offset);
      std::memcpy(receive->layout.At(offset), payload + offset, end - offset);
      offset = end;
    }
    receive->done = header.bytes;
    receive->complete = true;
    receives_.erase(key);
  } else if (IsPulled(*receive)) {
    ChunkNotes& notes = NotesOf(*receive);
    notes.remote = AnnouncedSegments(packet);
    notes.ready = header.prefix;
    if (const auto early = early_ready_.find(key); early != early_ready_.end()) {
      notes.ready = std::max(notes.ready, early->second.header.prefix);
      early_ready_.erase(early);
    }
    CHECK_EQ(notes.remote.bytes(), header.bytes);
    const auto before =
        std::upper_bound(pulls_.begin(), pulls_.end(), receive,
                         [](const Transfer* a, const Transfer* b) { return a->peer < b->peer; });
    pulls_.insert(before, receive);
  }
}

void MpiTransport::OnPacket(int source, Packet packet, int64_t bytes) {
  const PacketHeader header = ReadHeader(packet, bytes, source);
  const PeerKey key{source, header.key()};
  if (header.type == PacketType::kGrant || header.type == PacketType::kDone ||
      header.type == PacketType::kRefuseSend || header.type == PacketType::kGivenUp) {
    ToSender(key, header);
  } else {
    ToReceiver(key, header, packet, bytes);
  }
  packet.resize(kPacketBytesMax);
  PostPacketReceive(std::move(packet));
}

void MpiTransport::ToSender(const PeerKey& key, const PacketHeader& header) {
  if (const auto grave = buried_.find(key); grave != buried_.end()) {
    if (header.type == PacketType::kDone && header.prefix < header.bytes) return;
    graveyard_bytes_ -= grave->second.bytes;
    buried_.erase(grave);
    return;
  }
  const auto found = sends_.find(key);
  if (found == sends_.end()) {
    if (header.type == PacketType::kGrant && header.generation >= generation_) {
      early_grants_[key] = {header, {}};
    }
    return;
  }
  Transfer* send = found->second;
  send->heard = true;
  if (header.type == PacketType::kGivenUp) {
    NotesOf(*send).given_up = true;
    return;
  }
  if (header.type == PacketType::kDone) {
    send->done = std::max(send->done, header.prefix);
    send->complete = send->done == send->layout.bytes();
    if (!send->complete) return;
  }
  sends_.erase(found);
  if (header.type == PacketType::kGrant) Grant(send, header);
  if (header.type == PacketType::kRefuseSend) send->status = RefusedError(*send);
}

void MpiTransport::ToReceiver(const PeerKey& key, const PacketHeader& header, const Packet& packet,
                              int64_t bytes) {
  if (header.generation < generation_) {
    GiveUp(key, header);
    return;
  }
  const auto found = receives_.find(key);
  if (found == receives_.end()) {
    if (header.type == PacketType::kReady) {
      Early& early = early_ready_[key];
      if (header.prefix > early.header.prefix) early.header = header;
    } else if (header.type != PacketType::kRefuseReceive) {
      early_messages_[key] = {header, Packet(packet.begin(), packet.begin() + bytes)};
    }
    return;
  }
  Transfer* receive = found->second;
  if (header.type != PacketType::kReady) {
    Deliver(receive, header, Packet(packet.begin(), packet.begin() + bytes));
    return;
  }
  if (ChunkNotes& notes = NotesOf(*receive); notes.remote.bytes() > 0) {
    notes.ready = std::max(notes.ready, header.prefix);
  } else {
    Early& early = early_ready_[key];
    if (header.prefix > early.header.prefix) early.header = header;
  }
}

// Tells the sender of a message that nobody will read that it may forget it.
void MpiTransport::GiveUp(const PeerKey& key, const PacketHeader& announced) {
  if (announced.type != PacketType::kAnnounce) return;
  PacketHeader header = announced;
  header.type = PacketType::kGivenUp;
  SendHeader(key.peer, header);
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
  // MPI may yield the core to another rank of it, while there is work in our caches.
  const bool pulled = Pull();
  if (pulled && ++rounds_without_mpi_ < kRoundsWithoutMpiMax) return true;
  rounds_without_mpi_ = 0;
  int count = 0;
  completed_.resize(requests_.size());
  statuses_.resize(requests_.size());
  const int result = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count,
                                  completed_.data(), statuses_.data());
  if (count == MPI_UNDEFINED || count <= 0) return pulled;
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
      KeepPacket(std::move(request.packet));
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
  ChunkNotes& notes = NotesOf(*transfer);
  notes.dropped = true;
  auto& table = transfer->send ? sends_ : receives_;
  if (const auto found = table.find(key); found != table.end() && found->second == transfer) {
    table.erase(found);
    if (transfer->send && IsPulled(*transfer) && !notes.given_up) {
      graveyard_bytes_ += transfer->layout.bytes();
      buried_[key] = {holder, transfer->layout.bytes()};
    }
  }
  if (std::erase(pulls_, transfer) > 0) SendControl(*transfer, PacketType::kGivenUp);
  if (notes.in_flight > 0) {
    notes.holder = std::move(holder);
    graveyard_bytes_ += transfer->layout.bytes();
  }
  LimitGraveyard();
}

void MpiTransport::LimitGraveyard() {
  if (graveyard_bytes_ <= kGraveyardBytesMax) return;
  CancelReceives();
  Poll();
  CHECK_LE(graveyard_bytes_, kGraveyardBytesMax)
      << "too much memory is held by abandoned messages: only a new process frees it";
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
  for (EarlyMap* early : {&early_messages_, &early_ready_, &early_grants_}) {
    std::erase_if(*early, [&](const auto& entry) {
      if (entry.first.key.generation >= generation) return false;
      GiveUp(entry.first, entry.second.header);
      return true;
    });
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

// Who may be read by this process: all of its host, if every process of the job can read its
// neighbours; else nobody. Both ends of a message must judge alike, so the verdict is common.
// Collective over MPI_COMM_WORLD: part of the start of MPI.
std::vector<ProcessIdentity> ReadableProcesses(int size) {
  const ProcessIdentity mine = MyProcessIdentity();
  std::vector<ProcessIdentity> all(size);
  MPI_Allgather(&mine, sizeof(mine), MPI_BYTE, all.data(), sizeof(mine), MPI_BYTE, MPI_COMM_WORLD);
  const char* wish = std::getenv("TRIREME_COMM_PULL");
  int works = wish == nullptr || std::string(wish) != "0";
  for (const ProcessIdentity& process : all) {
    if (!works || process.host != mine.host) continue;
    uint64_t cookie = 0;
    const StreamLayout remote({{reinterpret_cast<std::byte*>(process.cookie_address),
                                static_cast<int64_t>(sizeof(cookie))}});
    works =
        ReadProcessMemory(process, remote, 0, sizeof(cookie), reinterpret_cast<std::byte*>(&cookie))
            .ok();
  }
  int all_work = 0;
  MPI_Allreduce(&works, &all_work, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  for (ProcessIdentity& process : all) {
    if (!all_work || process.host != mine.host) process.host = 0;
  }
  return all;
}

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
          std::make_unique<MpiTransport>(rank, ReadableProcesses(size), std::min(*tag_max, 1 << 30),
                                         !initialized),
          std::make_shared<Waker>()));
  return factory;
}

}  // namespace trireme
