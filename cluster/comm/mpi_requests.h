// MpiRequests: every MPI call after the start, and the requests in flight. MPI's types stay inside.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cluster/comm/message_transport.h"
#include "cluster/comm/packet.h"

namespace trireme {

// Called by one thread at a time.
class MpiRequests {
 public:
  // Something that has happened: a packet came, or a chunk of a transfer has moved or failed.
  struct News {
    Packet packet;  // to be given to Recycle
    int source = 0;
    int64_t packet_bytes = 0;
    Transfer* transfer = nullptr;  // not null: a chunk
    int64_t end = 0;
    std::string error;  // MPI's, of a chunk that failed
  };

  // finalize: the destructor calls MPI_Finalize.
  explicit MpiRequests(bool finalize);
  // Brings every request to its end, or says that lost peers have left some; MPI_Finalize would
  // then hang, and is not called: such a process leaves by _exit.
  ~MpiRequests();

  // Memory to make a packet in, and back when it was sent another way.
  Packet TakePacket();
  void KeepPacket(Packet packet);
  void SendPacket(int peer, Packet packet);
  // Sends or receives bytes [begin, end) of a transfer, contiguous, under `tag`. Chunks of one tag
  // move in the order of calls.
  void MoveChunk(Transfer* transfer, int64_t begin, int64_t end, int tag);
  // Progress of MPI, and what came of it. Never blocks.
  std::vector<News> Test();
  void Recycle(Packet packet);
  // Asks for the end of all receives of chunks whose transfer `unwanted` says true of.
  void CancelReceives(bool (*unwanted)(const Transfer&));
  // Packets that MPI has not taken yet.
  bool sending() const;
  // True when MPI gives the core away by itself while it has nothing to do.
  static bool Yields();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace trireme
