#include "cluster/comm/process_transport.h"

#include <algorithm>
#include <cstring>

namespace trireme {
namespace {

constexpr int kChunksInFlight = 4;  // of one transfer
constexpr int64_t kGraveyardBytesMax = int64_t{4} << 30;
constexpr int64_t kPullBytesMax = 2 << 20;  // a turn's reading: others wait for the lock
constexpr Micros kCheckEvery = 100'000;     // that a peer's process is still the same
constexpr int kRoundsWithoutMpiMax = 16;
constexpr int kSpinRounds = 100;
// Where MPI yields the core in each of its rounds, to yield once more is to wait twice.
constexpr int kSpinRoundsOfYieldingMpi = 2000;
// Open MPI's shared memory takes 4 KiB with its and our headers without a handshake of its own.
constexpr int64_t kEagerBytesLocal = 3968;

// Up to here two copies within caches take less than the kernel's one.
constexpr int64_t kStagedBytesMax = 1 << 20;

// Steps by which the two ends of an announced message report to each other.
constexpr int64_t kReportBytes = 512 << 10;

struct ChunkNotes : Transfer::Notes {
  // Of announced messages.
  StreamLayout remote;    // receive: the sender's memory, empty until announced
  bool staged = false;    // receive: it is mapped here
  int64_t ready = 0;      // receive: the prefix that may be read
  Micros copying = 0;     // receive: so far
  int64_t reported = 0;   // what the peer was told last: done of a receive, limit of a send
  bool timed = false;     // send: another way was there
  bool given_up = false;  // send: the receiver will not read on
  // Of granted messages.
  int tag = -1;        // -1: not granted yet
  int64_t posted = 0;  // the prefix that MPI has been asked to move
  struct Chunk {
    int64_t end;
    bool moved;
  };
  std::vector<Chunk> chunks;  // asked for, and not yet part of `done`
  int in_flight = 0;
  std::shared_ptr<void> holder;  // set when dropped
  bool dropped = false;
};

Status RefusedError(const Transfer& send) {
  return InternalError(StrCat("world rank ", send.peer, " expects a message of another size or ",
                              "operation, not ", send.layout.bytes(), " bytes"));
}

// Whether the sender keeps the message until it hears of it.
bool IsHeld(const PacketHeader& header) {
  return header.type == PacketType::kAnnounce || header.type == PacketType::kStaged;
}

ChunkNotes& NotesOf(const Transfer& transfer) { return static_cast<ChunkNotes&>(*transfer.notes); }

}  // namespace

ProcessTransport::ProcessTransport(int rank, std::vector<ProcessIdentity> readable, int tag_max,
                                   std::unique_ptr<HostMailbox> mailbox,
                                   std::unique_ptr<StagingArea> staging,
                                   std::unique_ptr<MpiRequests> mpi)
    : rank_(rank),
      readable_(std::move(readable)),
      checked_(readable_.size(), -kCheckEvery),
      tag_max_(tag_max),
      mailbox_(std::move(mailbox)),
      staging_(std::move(staging)),
      choices_(readable_.size()),
      mpi_(std::move(mpi)) {}

int ProcessTransport::spin_rounds() const {
  static const bool yields = MpiRequests::Yields();
  return yields ? kSpinRoundsOfYieldingMpi : kSpinRounds;
}

int64_t ProcessTransport::chunks_ahead(int peer) const {
  return readable_[peer].host != 0 ? 1 : kChunksInFlight;
}

bool ProcessTransport::IsEager(const Transfer& transfer) const {
  const bool local = readable_[transfer.peer].host != 0;
  return transfer.layout.bytes() <= (local ? kEagerBytesLocal : kEagerBytes);
}

bool ProcessTransport::IsPulled(const Transfer& transfer) const {
  return readable_[transfer.peer].host != 0 && SegmentsFitPacket(transfer);
}

void ProcessTransport::Send(int peer, Packet packet) {
  if (mailbox_ != nullptr && mailbox_->Send(peer, packet)) {
    mpi_->KeepPacket(std::move(packet));
  } else {
    mpi_->SendPacket(peer, std::move(packet));
  }
}

void ProcessTransport::SendHeader(int peer, const PacketHeader& header) {
  Packet packet = mpi_->TakePacket();
  packet.resize(sizeof(header));
  WriteHeader(header, &packet);
  Send(peer, std::move(packet));
}

void ProcessTransport::SendControl(const Transfer& transfer, PacketType type, int64_t prefix,
                                   int tag) {
  PacketHeader header = HeaderOf(transfer, type);
  header.prefix = prefix;
  header.tag = tag;
  SendHeader(transfer.peer, header);
}

void ProcessTransport::SendEager(Transfer* transfer) {
  Send(transfer->peer, EagerPacket(*transfer, mpi_->TakePacket()));
  transfer->done = transfer->layout.bytes();
  transfer->complete = true;
}

// Through the staging area, when all of the message is there, there is room, and that way is
// quicker.
bool ProcessTransport::SendStaged(Transfer* transfer) {
  const int64_t bytes = transfer->layout.bytes();
  if (staging_ == nullptr || bytes > kStagedBytesMax || transfer->limit < bytes) return false;
  if (choices_[transfer->peer].Next(bytes) != CopyChoice::kStaged) {
    NotesOf(*transfer).timed = true;
    return false;
  }
  const Micros begin = RealClock().NowMicros();
  std::shared_ptr<std::byte> block = staging_->Put(*transfer);
  if (block == nullptr) return false;
  const Micros copying = RealClock().NowMicros() - begin;
  SendControl(*transfer, PacketType::kStaged, bytes, staging_->OffsetOf(block.get()));
  buried_[{transfer->peer, transfer->key}] = {std::move(block), 0, copying};
  transfer->done = bytes;
  transfer->complete = true;
  return true;
}

void ProcessTransport::Post(Transfer* transfer) {
  transfer->notes = std::make_unique<ChunkNotes>();
  if (!transfer->send) return PostReceive(transfer);
  if (IsEager(*transfer)) {
    if (transfer->limit == transfer->layout.bytes()) SendEager(transfer);
    return;
  }
  const PeerKey key{transfer->peer, transfer->key};
  const bool pulled = IsPulled(*transfer);
  if (pulled && SendStaged(transfer)) return;
  // Without addresses an announcement only tells a receiver that expects something small.
  if (pulled || !transfer->key.collective) {
    Send(transfer->peer, AnnouncePacket(*transfer, pulled, mpi_->TakePacket()));
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

void ProcessTransport::PostReceive(Transfer* transfer) {
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

void ProcessTransport::Extend(Transfer* transfer) {
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

bool ProcessTransport::CheckIsDue(int peer) {
  const Micros now = RealClock().NowMicros();
  if (now - checked_[peer] < kCheckEvery) return false;
  checked_[peer] = now;
  return true;
}

// Brings [done, end) of an announced message, which is contiguous here.
Status ProcessTransport::Fetch(Transfer* receive, int64_t end) {
  const ChunkNotes& notes = NotesOf(*receive);
  std::byte* target = receive->layout.At(receive->done);
  if (notes.staged) {
    CopyInPieces(target, notes.remote.At(receive->done), end - receive->done);
    return OkStatus();
  }
  return ReadProcessMemory(readable_[receive->peer], notes.remote, receive->done, end, target,
                           CheckIsDue(receive->peer));
}

// Reads what may be read of the announced messages, one chunk of each; true if there was any.
bool ProcessTransport::Pull() {
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
      const Micros begin = RealClock().NowMicros();
      receive->status = Fetch(receive, end);
      notes.copying += RealClock().NowMicros() - begin;
      if (receive->status.ok()) {
        receive->done = end;
      } else {
        receive->status =
            receive->status.WithContext(StrCat("world rank ", receive->peer, " is lost"));
      }
      receive->complete = receive->done == receive->layout.bytes();
      progressed = true;
      if (receive->complete || receive->done - notes.reported >= kReportBytes) {
        notes.reported = receive->done;
        SendControl(*receive, PacketType::kDone, receive->done, static_cast<int>(notes.copying));
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

void ProcessTransport::PostChunks(Transfer* transfer) {
  ChunkNotes& notes = NotesOf(*transfer);
  const StreamLayout& layout = transfer->layout;
  while (notes.tag > 0 && !notes.dropped && notes.in_flight < kChunksInFlight &&
         notes.posted < layout.bytes()) {
    const int64_t end = layout.ChunkEnd(notes.posted);
    if (end > transfer->limit) return;
    mpi_->MoveChunk(transfer, notes.posted, end, notes.tag);
    notes.posted = end;
    notes.chunks.push_back({end, false});
    ++notes.in_flight;
  }
}

void ProcessTransport::Grant(Transfer* send, const PacketHeader& header) {
  send->heard = true;
  if (header.bytes != send->layout.bytes() || header.operation != send->operation) {
    SendControl(*send, PacketType::kRefuseReceive);
    send->status = RefusedError(*send);
    return;
  }
  NotesOf(*send).tag = header.tag;
  PostChunks(send);
}

void ProcessTransport::Deliver(Transfer* receive, const PacketHeader& header,
                               std::span<const std::byte> packet) {
  receive->heard = true;
  const PeerKey key{receive->peer, receive->key};
  if (header.bytes != receive->layout.bytes() || header.operation != receive->operation) {
    receive->status = MismatchError(*receive, header.operation, header.bytes);
    if (IsHeld(header)) SendControl(*receive, PacketType::kRefuseSend);
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
    notes.staged = header.type == PacketType::kStaged;
    CHECK(!notes.staged || staging_ != nullptr) << "a staged message, and no staging area";
    notes.remote =
        notes.staged
            ? StreamLayout({{staging_->Of(receive->peer, header.tag, header.bytes), header.bytes}})
            : AnnouncedSegments(packet);
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

void ProcessTransport::OnPacket(int source, std::span<const std::byte> packet) {
  const Status good = CheckPacket(packet, source);
  CHECK(good.ok()) << good.message();  // memory of this job is damaged: nothing can be trusted
  const PacketHeader header = ReadHeader(packet);
  const PeerKey key{source, header.key()};
  if (header.type == PacketType::kGrant || header.type == PacketType::kDone ||
      header.type == PacketType::kRefuseSend || header.type == PacketType::kGivenUp) {
    ToSender(key, header);
  } else {
    ToReceiver(key, header, packet);
  }
}

void ProcessTransport::ToSender(const PeerKey& key, const PacketHeader& header) {
  if (const auto grave = buried_.find(key); grave != buried_.end()) {
    if (header.type == PacketType::kDone && header.prefix < header.bytes) return;
    if (header.type == PacketType::kDone && grave->second.copying >= 0) {
      choices_[key.peer].Took(CopyChoice::kStaged, header.bytes,
                              grave->second.copying + header.tag);
    }
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
    if (NotesOf(*send).timed) {
      choices_[key.peer].Took(CopyChoice::kRead, header.bytes, header.tag);
    }
  }
  sends_.erase(found);
  if (header.type == PacketType::kGrant) Grant(send, header);
  if (header.type == PacketType::kRefuseSend) send->status = RefusedError(*send);
}

void ProcessTransport::ToReceiver(const PeerKey& key, const PacketHeader& header,
                                  std::span<const std::byte> packet) {
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
      early_messages_[key] = {header, Packet(packet.begin(), packet.end())};
    }
    return;
  }
  Transfer* receive = found->second;
  if (header.type != PacketType::kReady) {
    Deliver(receive, header, packet);
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
void ProcessTransport::GiveUp(const PeerKey& key, const PacketHeader& announced) {
  if (!IsHeld(announced)) return;
  PacketHeader header = announced;
  header.type = PacketType::kGivenUp;
  SendHeader(key.peer, header);
}

void ProcessTransport::OnChunk(Transfer* transfer, int64_t end, const std::string& error) {
  ChunkNotes& notes = NotesOf(*transfer);
  --notes.in_flight;
  if (notes.dropped) {
    if (notes.in_flight == 0) {
      graveyard_bytes_ -= transfer->layout.bytes();
      const auto last_hold = std::move(notes.holder);  // the transfer ends with it
    }
    return;
  }
  if (!error.empty()) {
    // An MPI that reports a dead peer: news for the operation, never a reason to stop.
    transfer->status = UnavailableError(StrCat("world rank ", transfer->peer, " is lost: ", error));
    return;
  }
  transfer->heard = true;
  for (auto& chunk : notes.chunks) chunk.moved = chunk.moved || chunk.end == end;
  while (!notes.chunks.empty() && notes.chunks.front().moved) {
    transfer->done = notes.chunks.front().end;
    notes.chunks.erase(notes.chunks.begin());  // of kChunksInFlight at most
  }
  PostChunks(transfer);
  if (transfer->done < transfer->layout.bytes()) return;
  transfer->complete = true;
  if (!transfer->send) receives_.erase({transfer->peer, transfer->key});
}

bool ProcessTransport::Poll() {
  // MPI may yield the core to another rank of it, while there is work in our caches.
  const auto take = [this](int source, std::span<const std::byte> packet) {
    OnPacket(source, packet);
  };
  const bool taken = mailbox_ != nullptr && mailbox_->Receive(take);
  const bool pulled = Pull() || taken;
  if (pulled && ++rounds_without_mpi_ < kRoundsWithoutMpiMax) return true;
  rounds_without_mpi_ = 0;
  std::vector<MpiRequests::News> all_news = mpi_->Test();
  for (MpiRequests::News& news : all_news) {
    if (news.transfer != nullptr) {
      OnChunk(news.transfer, news.end, news.error);
    } else {
      OnPacket(news.source, std::span(news.packet).first(news.packet_bytes));
      mpi_->Recycle(std::move(news.packet));
    }
  }
  return pulled || !all_news.empty();
}

void ProcessTransport::Drop(Transfer* transfer, std::shared_ptr<void> holder) {
  if (transfer->notes == nullptr) return;
  const PeerKey key{transfer->peer, transfer->key};
  ChunkNotes& notes = NotesOf(*transfer);
  notes.dropped = true;
  auto& table = transfer->send ? sends_ : receives_;
  if (const auto found = table.find(key); found != table.end() && found->second == transfer) {
    table.erase(found);
    if (transfer->send && IsPulled(*transfer) && !notes.given_up) {
      graveyard_bytes_ += transfer->layout.bytes();
      buried_[key] = {holder, transfer->layout.bytes(), -1};
    }
  }
  if (std::erase(pulls_, transfer) > 0) SendControl(*transfer, PacketType::kGivenUp);
  if (notes.in_flight > 0) {
    notes.holder = std::move(holder);
    graveyard_bytes_ += transfer->layout.bytes();
  }
  LimitGraveyard();
}

void ProcessTransport::LimitGraveyard() {
  if (graveyard_bytes_ <= kGraveyardBytesMax) return;
  mpi_->CancelReceives([](const Transfer& transfer) { return NotesOf(transfer).dropped; });
  Poll();
  CHECK_LE(graveyard_bytes_, kGraveyardBytesMax)
      << "too much memory is held by abandoned messages: only a new process frees it";
}

void ProcessTransport::BeginGeneration(uint64_t generation) {
  generation_ = generation;
  for (EarlyMap* early : {&early_messages_, &early_ready_, &early_grants_}) {
    std::erase_if(*early, [&](const auto& entry) {
      if (entry.first.key.generation >= generation) return false;
      GiveUp(entry.first, entry.second.header);
      return true;
    });
  }
}

}  // namespace trireme
