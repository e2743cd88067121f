// NcclMessages: Send and Receive between GPUs.
//
// NCCL pairs the sends and receives of two ranks in the order of its calls and knows no tags; a
// kernel that waits for its peer holds up what is behind it. So each direction between two ranks
// has an NCCL communicator of its own, made when it is first needed, and the receiver says in which
// order messages go on it:
//   1. the sender announces (bytes) to the receiver, by the host communicator, under the tag;
//   2. the receiver, once it has the announcement and a Receive for it, and the sizes agree,
//   answers
//      "go" and calls ncclRecv;
//   3. the sender calls ncclSend in the order in which it hears "go".
// Messages up to kEagerBytes follow their announcement by the host communicator instead.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cluster/comm/nccl_channel.h"
#include "cluster/comm/staged_tasks.h"

namespace trireme {

// Tags of the control communicator that are not those of a message.
inline constexpr int kGoTag = -1;
inline constexpr int kIdTag = -2;
inline constexpr int kNoticeTag = -3;

// A plain object as what travels.
template <typename T>
BufferRef BytesOf(T* object) {
  return {object, sizeof(T), DType::kU8};
}

class NcclMessages {
 public:
  // `payload` carries small messages, `control` all that is about messages. Used under the engine's
  // lock.
  NcclMessages(const nccl::Api* api, std::shared_ptr<NcclReaper> reaper,
               std::shared_ptr<CommGroup> group, Communicator* payload, Communicator* control,
               std::shared_ptr<HostStage> stage);
  ~NcclMessages();

  void Send(std::shared_ptr<DeviceOperation> operation, StreamEvent called, BufferRef buffer,
            int peer, int tag);
  void Receive(std::shared_ptr<DeviceOperation> operation, StreamEvent called, BufferRef buffer,
               int peer, int tag);
  // A message of nothing that matters between two ranks, one of them this: what comes later on that
  // way finds it made. Both ranks call it, with no message between them under way.
  void Connect(std::shared_ptr<DeviceOperation> operation, StreamEvent called, BufferRef buffer,
               int sender, int receiver);
  bool Advance();
  bool busy() const;
  void End(const std::string& reason);

 private:
  struct Announcement {
    int64_t bytes;
  };
  struct Go {
    int32_t tag;
    uint32_t index;
    int32_t refused;
  };
  struct Message {
    std::shared_ptr<DeviceOperation> operation;
    StreamEvent called;
    BufferRef buffer;
    int peer;
    int tag;
    std::shared_ptr<Announcement> announcement;
    Work announcing;
    std::shared_ptr<std::byte> pinned;  // of a small message
    Work payload;
    StreamEvent copied;
    bool announced = false;  // received, and its consequences drawn
    bool unwanted = false;   // of another size: what comes is dropped
    bool small() const { return announcement->bytes <= kEagerBytes; }
  };
  struct Answers {  // of one peer, to what this rank announces
    std::shared_ptr<Go> go;
    Work receiving;
  };
  struct Loose {  // a control message under way
    Work work;
    std::shared_ptr<void> memory;
  };

  bool AdvanceOutgoing(Message& message);
  bool AdvanceIncoming(Message& message);
  void ReceiveAnnounced(Message& message);
  bool HearAnswers();
  void Answer(const Message& message, bool refused);
  NcclChannel& ChannelFor(int sender, int receiver);
  void AddTransfer(std::shared_ptr<DeviceOperation> operation, StreamEvent called, BufferRef buffer,
                   int sender, int receiver);
  std::string DescribeWait(const DeviceOperation* operation, int peer, Micros waited) const;
  void Drop(Message& message);

  const nccl::Api* api_;
  const std::shared_ptr<NcclReaper> reaper_;
  const std::shared_ptr<CommGroup> group_;
  Communicator* payload_;
  Communicator* control_;
  const std::shared_ptr<HostStage> stage_;
  std::list<Message> outgoing_, incoming_;
  std::map<int, Answers> answers_;
  std::vector<Loose> loose_;
  // Memory of copies that may wait on the GPU, behind what was ended, until they are done.
  std::vector<std::pair<StreamEvent, std::shared_ptr<void>>> draining_;
  std::map<std::pair<int, int>, std::unique_ptr<NcclChannel>> channels_;  // (sender, receiver)
};

}  // namespace trireme
