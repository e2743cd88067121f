#include "cluster/comm/host_mailbox.h"

#include <atomic>
#include <cstring>
#include <utility>

namespace trireme {
namespace {

constexpr uint32_t kSlots = 16;

}  // namespace

// Counters wrap; differences do not mind. The reader's and the writer's lie on lines of their own.
struct HostMailbox::Lane {
  struct alignas(64) Slot {
    std::atomic<uint32_t> turn;  // of the packet in it: 1 for the lane's first, 0 for none yet
    uint32_t bytes;
    std::byte packet[kPacketBytesMax];
  };
  alignas(64) std::atomic<uint32_t> read;  // packets that the reader is done with
  Slot slots[kSlots];
};

HostMailbox::HostMailbox(int rank, SharedMemory inbox, int size)
    : rank_(rank), inbox_(std::move(inbox)), peers_(size), sent_(size), read_(size) {}

int64_t HostMailbox::BytesOf(int size) { return static_cast<int64_t>(sizeof(Lane)) * size; }

HostMailbox::Lane& HostMailbox::LaneOf(const SharedMemory& inbox, int source) {
  return reinterpret_cast<Lane*>(inbox.data())[source];
}

Result<std::unique_ptr<HostMailbox>> HostMailbox::Make(int rank, int size) {
  static_assert(std::atomic<uint32_t>::is_always_lock_free);
  auto inbox = SharedMemory::Make("trireme-mailbox", BytesOf(size));
  if (!inbox.ok()) return inbox.status();
  return std::unique_ptr<HostMailbox>(new HostMailbox(rank, std::move(*inbox), size));
}

Status HostMailbox::Connect(int peer, int64_t pid, int descriptor) {
  sources_.push_back(peer);
  auto inbox = SharedMemory::Open(pid, descriptor, inbox_.bytes());
  if (!inbox.ok()) return inbox.status();
  peers_[peer] = std::move(*inbox);
  return OkStatus();
}

bool HostMailbox::Send(int peer, std::span<const std::byte> packet) {
  if (peers_[peer].data() == nullptr || std::ssize(packet) > kPacketBytesMax) return false;
  Lane& lane = LaneOf(peers_[peer], rank_);
  const uint32_t turn = sent_[peer];
  if (turn - lane.read.load(std::memory_order_acquire) >= kSlots) return false;
  Lane::Slot& slot = lane.slots[turn % kSlots];
  slot.bytes = static_cast<uint32_t>(packet.size());
  std::memcpy(slot.packet, packet.data(), packet.size());
  slot.turn.store(turn + 1, std::memory_order_release);
  sent_[peer] = turn + 1;
  return true;
}

bool HostMailbox::Receive(const std::function<void(int, std::span<const std::byte>)>& take) {
  bool any = false;
  for (const int source : sources_) {
    Lane& lane = LaneOf(inbox_, source);
    for (uint32_t i = 0; i < kSlots; ++i) {
      const uint32_t turn = read_[source];
      const Lane::Slot& slot = lane.slots[turn % kSlots];
      if (slot.turn.load(std::memory_order_acquire) != turn + 1) break;
      CHECK_LE(slot.bytes, kPacketBytesMax) << "a packet of process " << source;
      take(source, {slot.packet, slot.bytes});
      read_[source] = turn + 1;
      lane.read.store(turn + 1, std::memory_order_release);
      any = true;
    }
  }
  return any;
}

}  // namespace trireme
