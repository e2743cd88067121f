// MessageTransport: what the collectives ask of threads or MPI. Keyed byte streams between two
// world ranks, driven by polling. Everything here is called under the engine's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cluster/base/status.h"

namespace trireme {

// What a message is for. Sender and receiver meet when all of it agrees, at any distance in time.
struct MessageKey {
  uint64_t generation = 0;
  uint16_t group = 0;
  bool collective = true;  // else Send and Receive
  int32_t slot = 0;        // which message of a collective; the tag of Send and Receive
  uint32_t sequence = 0;   // of the group's collectives, or of this (peer, tag)
  friend bool operator==(const MessageKey&, const MessageKey&) = default;
};

// A message's place among all of one rank: (the other world rank, key).
struct PeerKey {
  int peer;
  MessageKey key;
  friend bool operator==(const PeerKey&, const PeerKey&) = default;
};

struct PeerKeyHash {
  size_t operator()(const PeerKey& k) const {
    uint64_t h = k.key.generation * 0x9e3779b97f4a7c15u;
    h ^= (uint64_t{k.key.sequence} << 32) | (uint64_t{k.key.group} << 16) | k.key.collective;
    h *= 0xff51afd7ed558ccdu;
    h ^= (static_cast<uint64_t>(k.peer) << 32) ^ static_cast<uint32_t>(k.key.slot);
    h *= 0xc4ceb9fe1a85ec53u;
    return h ^ (h >> 33);
  }
};

// The memory of a message: segments that follow one another as one stream of bytes. With a ring,
// the stream wraps around in it and the segments' addresses are not used.
class StreamLayout {
 public:
  struct Segment {
    std::byte* data;
    int64_t bytes;
    friend bool operator==(const Segment&, const Segment&) = default;
  };

  StreamLayout() = default;
  explicit StreamLayout(std::vector<Segment> segments);
  void UseRing(std::byte* ring, int64_t ring_bytes);

  int64_t bytes() const { return bytes_; }
  bool has_ring() const { return ring_ != nullptr; }
  int64_t ring_bytes() const { return ring_bytes_; }
  const std::vector<Segment>& segments() const { return segments_; }
  // The address of stream offset `offset`.
  std::byte* At(int64_t offset) const;
  // The end of the contiguous memory that holds `offset`.
  int64_t ContiguousEnd(int64_t offset) const;
  // The end of the chunk that begins at `offset`: chunks end at segment ends and at multiples of
  // ChunkBytes(bytes()), so that sender and receiver cut alike.
  int64_t ChunkEnd(int64_t offset) const;

 private:
  size_t SegmentOf(int64_t offset) const;

  std::vector<Segment> segments_;
  std::vector<int64_t> ends_;
  int64_t bytes_ = 0;
  std::byte* ring_ = nullptr;
  int64_t ring_bytes_ = 0;
};

// How a message of `bytes` is cut for pipelining.
int64_t ChunkBytes(int64_t bytes);
// Messages up to this size are copied when posted, and are done at once for the sender.
inline constexpr int64_t kEagerBytes = 16 << 10;

// One message in flight. Owned by its operation, which outlives the transport's use of it.
struct Transfer {
  virtual ~Transfer() = default;
  int peer = 0;  // world rank
  MessageKey key;
  uint8_t operation = 0;  // must agree at both ends: else kInternal
  bool send = false;
  StreamLayout layout;
  // The prefix that may be read (send) or written (receive) now. Only grows; see Extend.
  int64_t limit = 0;
  // The prefix that the memory is no longer needed for (send), or that has arrived (receive).
  int64_t done = 0;
  bool complete = false;
  bool heard = false;  // the peer has shown any sign of this message
  Status status;       // not OK: the transfer has failed, for good
  // The transport's own notes.
  struct Notes {
    virtual ~Notes() = default;
  };
  std::unique_ptr<Notes> notes;
};

// kInternal: the two ends of `receive` disagree about the operation or its size.
Status MismatchError(const Transfer& receive, uint8_t operation_sent, int64_t bytes_sent);

class MessageTransport {
 public:
  virtual ~MessageTransport() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void Post(Transfer* transfer) = 0;
  // transfer->limit has grown.
  virtual void Extend(Transfer* transfer) = 0;
  // Moves bytes; true if anything happened. Never blocks.
  virtual bool Poll() = 0;
  // Gives up a posted transfer. `holder` owns its memory and is released when nothing can touch it.
  virtual void Drop(Transfer* transfer, std::shared_ptr<void> holder) = 0;
  // True when something needs Poll though no operation is in flight.
  virtual bool Busy() const = 0;
  // Messages of older generations are dropped from now on.
  virtual void BeginGeneration(uint64_t generation) = 0;
  // True when arrivals call the engine's Waker, so that drivers may sleep instead of polling.
  virtual bool wakes() const = 0;
  // How many chunks a message from `peer` may usefully arrive ahead of their use: one, where this
  // side fetches them itself.
  virtual int64_t chunks_ahead(int peer) const { return 1; }
  // Polling transports: rounds without news before a driver yields its core.
  virtual int spin_rounds() const { return 0; }
};

}  // namespace trireme
