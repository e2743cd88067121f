// The transport between processes, over non-blocking point-to-point messages of MPI_COMM_WORLD.
//
// Packets go through shared memory to processes of the same host (host_mailbox.h), by MPI to others
// and where there is no room; they may overtake each other.
//
// 1. Small messages travel whole, in one packet (tag 0) behind a header with their key; packets are
//    received into a pool, and wait in a table when their receive is not posted yet.
// 2. Between processes of one host a large send is announced with its addresses. The receiver reads
//    the sender's memory when it likes, and says how far it is: no hop but the announcement lies
//    between the two, and the sender's core is not needed.
// 3. What is neither small nor large is copied to shared memory at once, where it is all there,
//    there is room (staging_area.h) and that is the quicker way (copy_choice.h); the receiver
//    copies it out and says that it has.
// 4. Between hosts a large receive, once posted, takes an MPI tag of its own and grants it to the
//    sender in a packet; the sender then sends the chunks under that tag. So MPI's matching never
//    sees a key, and nothing large is ever sent that nobody has asked for: what a dead generation
//    leaves behind are a few packets, dropped by their header.
// 5. A dropped transfer's memory stays alive in the graveyard until the peer has said that it is
//    done with it, or MPI that its requests are over: neither can be taken back.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cluster/base/clock.h"
#include "cluster/comm/copy_choice.h"
#include "cluster/comm/host_mailbox.h"
#include "cluster/comm/message_transport.h"
#include "cluster/comm/mpi_requests.h"
#include "cluster/comm/packet.h"
#include "cluster/comm/process_memory.h"
#include "cluster/comm/staging_area.h"

namespace trireme {

class ProcessTransport final : public MessageTransport {
 public:
  // readable[r]: the process of rank r, if its memory may be read; else its host is 0.
  // Chunks use MPI's tags 1 .. tag_max. mailbox: connected to those that may be read, or null.
  // staging: every process has one, connected to those that may be read, or none has: null.
  ProcessTransport(int rank, std::vector<ProcessIdentity> readable, int tag_max,
                   std::unique_ptr<HostMailbox> mailbox, std::unique_ptr<StagingArea> staging,
                   std::unique_ptr<MpiRequests> mpi);

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(readable_.size()); }
  bool Busy() const override { return mpi_->sending(); }
  bool wakes() const override { return false; }
  int64_t chunks_ahead(int peer) const override;
  int spin_rounds() const override;

  void Post(Transfer* transfer) override;
  void Extend(Transfer* transfer) override;
  bool Poll() override;
  void Drop(Transfer* transfer, std::shared_ptr<void> holder) override;
  void BeginGeneration(uint64_t generation) override;

 private:
  // What a packet said that came before the operation it belongs to.
  struct Early {
    PacketHeader header;
    Packet packet;  // with the header in front; empty unless eager
  };
  using EarlyMap = std::unordered_map<PeerKey, Early, PeerKeyHash>;

  bool IsEager(const Transfer& transfer) const;
  // True when the receiver reads the sender's memory: the same at both ends.
  bool IsPulled(const Transfer& transfer) const;
  void Send(int peer, Packet packet);
  void SendHeader(int peer, const PacketHeader& header);
  void SendControl(const Transfer& transfer, PacketType type, int64_t prefix = 0, int tag = 0);
  void SendEager(Transfer* transfer);
  bool SendStaged(Transfer* transfer);
  void PostReceive(Transfer* transfer);
  void PostChunks(Transfer* transfer);
  void Grant(Transfer* send, const PacketHeader& header);
  // What a packet means for a posted receive: the message, its announcement, or a mismatch.
  void Deliver(Transfer* receive, const PacketHeader& header, std::span<const std::byte> packet);
  void OnPacket(int source, std::span<const std::byte> packet);
  void ToReceiver(const PeerKey& key, const PacketHeader& header,
                  std::span<const std::byte> packet);
  void ToSender(const PeerKey& key, const PacketHeader& header);
  bool Pull();
  Status Fetch(Transfer* receive, int64_t end);
  bool CheckIsDue(int peer);
  void GiveUp(const PeerKey& key, const PacketHeader& announced);
  void LimitGraveyard();
  void OnChunk(Transfer* transfer, int64_t end, const std::string& error);

  const int rank_;
  const std::vector<ProcessIdentity> readable_;
  std::vector<Micros> checked_;  // when each process was last seen to be the same
  const int tag_max_;
  const std::unique_ptr<HostMailbox> mailbox_;
  const std::unique_ptr<StagingArea> staging_;
  std::vector<CopyChoice> choices_;  // a process each
  const std::unique_ptr<MpiRequests> mpi_;
  int next_tag_ = 1;
  uint64_t generation_ = 0;
  int rounds_without_mpi_ = 0;
  std::unordered_map<PeerKey, Transfer*, PeerKeyHash> receives_;  // posted, not complete
  std::unordered_map<PeerKey, Transfer*, PeerKeyHash> sends_;     // ungranted, or being read
  std::vector<Transfer*> pulls_;                                  // announced receives
  EarlyMap early_messages_;                                       // eager or announced
  EarlyMap early_ready_;                                          // overtook the announcement
  EarlyMap early_grants_;
  struct Buried {
    std::shared_ptr<void> holder;
    int64_t bytes;
    Micros copying;  // of a staged message, here; else -1
  };
  // What peers may still read: announced sends, dropped here alone, and staged messages.
  std::unordered_map<PeerKey, Buried, PeerKeyHash> buried_;
  int64_t graveyard_bytes_ = 0;
};

}  // namespace trireme
