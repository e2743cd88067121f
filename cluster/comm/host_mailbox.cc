#include "cluster/comm/host_mailbox.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

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

namespace {

void* Map(int descriptor, int64_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

Status KernelError(const std::string& what) {
  return UnavailableError(StrCat(what, ": ", std::strerror(errno)));
}

}  // namespace

HostMailbox::HostMailbox(int rank, int size)
    : rank_(rank), size_(size), peers_(size), sent_(size), read_(size) {}

Result<std::unique_ptr<HostMailbox>> HostMailbox::Make(int rank, int size) {
  static_assert(std::atomic<uint32_t>::is_always_lock_free);
  std::unique_ptr<HostMailbox> made(new HostMailbox(rank, size));
  const auto bytes = static_cast<int64_t>(sizeof(Lane)) * size;
  made->descriptor_ = memfd_create("trireme-mailbox", MFD_CLOEXEC);
  // Zeros, and pages only where lanes are used.
  if (made->descriptor_ < 0 || ftruncate(made->descriptor_, bytes) != 0) {
    return KernelError("memory for a mailbox");
  }
  made->inbox_ = static_cast<Lane*>(Map(made->descriptor_, bytes));
  if (made->inbox_ == nullptr) return KernelError("mapping a mailbox");
  return made;
}

HostMailbox::~HostMailbox() {
  const size_t bytes = sizeof(Lane) * static_cast<size_t>(size_);
  for (Lane* peer : peers_) {
    if (peer != nullptr) munmap(peer, bytes);
  }
  if (inbox_ != nullptr) munmap(inbox_, bytes);
  if (descriptor_ >= 0) close(descriptor_);
}

Status HostMailbox::Connect(int peer, int64_t pid, int descriptor) {
  sources_.push_back(peer);
  const std::string path = StrCat("/proc/", pid, "/fd/", descriptor);
  const int opened = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (opened < 0) return KernelError(path);
  const auto bytes = static_cast<int64_t>(sizeof(Lane)) * size_;
  void* memory = lseek(opened, 0, SEEK_END) == bytes ? Map(opened, bytes) : nullptr;
  close(opened);
  if (memory == nullptr) return KernelError(StrCat(path, " is no mailbox of this job"));
  peers_[peer] = static_cast<Lane*>(memory);
  return OkStatus();
}

bool HostMailbox::Send(int peer, std::span<const std::byte> packet) {
  if (peers_[peer] == nullptr || std::ssize(packet) > kPacketBytesMax) return false;
  Lane& lane = peers_[peer][rank_];
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
    Lane& lane = inbox_[source];
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
