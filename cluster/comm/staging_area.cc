#include "cluster/comm/staging_area.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace trireme {

void CopyInPieces(std::byte* target, const std::byte* source, int64_t bytes) {
  constexpr int64_t kPiece = 1984;  // whole cache lines, below 2 KiB
  for (int64_t at = 0; at < bytes; at += kPiece) {
    std::memcpy(target + at, source + at, std::min(kPiece, bytes - at));
  }
}

StagingArea::StagingArea(SharedMemory memory, int size)
    : own_(std::make_shared<Own>()), peers_(size) {
  own_->memory = std::move(memory);
}

Result<std::unique_ptr<StagingArea>> StagingArea::Make(int size) {
  auto memory = SharedMemory::Make("trireme-staging", kBytes);
  if (!memory.ok()) return memory.status();
  return std::unique_ptr<StagingArea>(new StagingArea(std::move(*memory), size));
}

Status StagingArea::Connect(int peer, int64_t pid, int descriptor) {
  auto memory = SharedMemory::Open(pid, descriptor, kBytes);
  if (!memory.ok()) return memory.status();
  peers_[peer] = std::move(*memory);
  return OkStatus();
}

std::shared_ptr<std::byte> StagingArea::Take(int64_t bytes) {
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  std::vector<Block>& taken = own_->taken;
  int64_t begin = 0;
  size_t at = 0;
  while (at < taken.size() && taken[at].begin - begin < bytes) begin = taken[at++].end;
  if (begin + bytes > kBytes) return nullptr;
  taken.insert(taken.begin() + static_cast<int64_t>(at), {begin, begin + bytes});
  return {own_->memory.data() + begin, [own = own_, begin](std::byte*) {
            std::erase_if(own->taken, [&](const Block& block) { return block.begin == begin; });
          }};
}

std::shared_ptr<std::byte> StagingArea::Put(const Transfer& transfer) {
  const StreamLayout& layout = transfer.layout;
  MessageKey operation = transfer.key;
  operation.slot = 0;
  std::shared_ptr<std::byte> block = last_.block.lock();
  if (block != nullptr && operation.collective && last_.key == operation &&
      last_.segments == layout.segments()) {
    return block;
  }
  block = Take(layout.bytes());
  if (block == nullptr) return nullptr;
  for (int64_t offset = 0; offset < layout.bytes();) {
    const int64_t end = layout.ContiguousEnd(offset);
    CopyInPieces(block.get() + offset, layout.At(offset), end - offset);
    offset = end;
  }
  last_ = {operation, layout.segments(), block};
  return block;
}

std::byte* StagingArea::Of(int peer, int64_t offset, int64_t bytes) const {
  CHECK(offset >= 0 && bytes >= 0 && offset + bytes <= peers_[peer].bytes())
      << "bytes [" << offset << ", " << offset + bytes << ") of the staging area of process "
      << peer << ", which has " << peers_[peer].bytes();
  return peers_[peer].data() + offset;
}

}  // namespace trireme
