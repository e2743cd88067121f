// StagingArea: messages of some hundred kilobytes between the processes of one host. The sender
// copies one into memory that all of them have mapped, and is done with it; receivers copy it out.
// Two copies that stay in a cache cost half of one by the kernel, which looks up every page.
// What a process that died has not fetched stays taken; without room messages go another way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cluster/base/status.h"
#include "cluster/comm/message_transport.h"
#include "cluster/comm/shared_memory.h"

namespace trireme {

// memcpy, in pieces. From 2 KiB on, C libraries use the processor's own copying of strings, which
// on AMD's Zen 3 is twenty times slower where the target lies some bytes further into its
// page than the source.
void CopyInPieces(std::byte* target, const std::byte* source, int64_t bytes);

class StagingArea {
 public:
  static constexpr int64_t kBytes = 8 << 20;
  static constexpr int64_t kAlignment = 4096;

  // The area of one process of `size`. kUnavailable where the kernel gives no such memory.
  static Result<std::unique_ptr<StagingArea>> Make(int size);

  // What others open.
  int descriptor() const { return own_->memory.descriptor(); }
  // Maps the area of `peer`. kUnavailable when it cannot be opened.
  Status Connect(int peer, int64_t pid, int descriptor);

  // `bytes` of this process's area, the lowest that are free; null when there is no room. They are
  // free again when the last copy of the pointer goes, which may outlive this object.
  std::shared_ptr<std::byte> Take(int64_t bytes);
  // A block with the message in it; null when there is no room. A collective that sends the same
  // bytes to several peers has them copied once.
  std::shared_ptr<std::byte> Put(const Transfer& transfer);
  // Where a block lies in the area, for others.
  int32_t OffsetOf(const std::byte* block) const {
    return static_cast<int32_t>(block - own_->memory.data());
  }
  // A block of the area of `peer`. CHECKs that it is connected and the block in its area.
  std::byte* Of(int peer, int64_t offset, int64_t bytes) const;

 private:
  struct Block {
    int64_t begin;
    int64_t end;
  };
  struct Own {
    SharedMemory memory;
    std::vector<Block> taken;  // ascending
  };
  StagingArea(SharedMemory memory, int size);

  struct Last {
    MessageKey key;
    std::vector<StreamLayout::Segment> segments;
    std::weak_ptr<std::byte> block;
  };

  const std::shared_ptr<Own> own_;
  std::vector<SharedMemory> peers_;
  Last last_;  // what was put
};

}  // namespace trireme
