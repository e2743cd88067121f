#include "cluster/comm/nccl_messages.h"

#include <algorithm>

namespace trireme {
namespace {

// A receive that is posted ahead waits on the GPU beside the products that it is to overlap with,
// and each of its blocks takes a multiprocessor from them.
constexpr int kMessageCtas = 4;

}  // namespace

NcclMessages::NcclMessages(const nccl::Api* api, std::shared_ptr<NcclReaper> reaper,
                           std::shared_ptr<CommGroup> group, Communicator* payload,
                           Communicator* control, std::shared_ptr<HostStage> stage)
    : api_(api),
      reaper_(std::move(reaper)),
      group_(std::move(group)),
      payload_(payload),
      control_(control),
      stage_(std::move(stage)) {}

NcclMessages::~NcclMessages() { End("its communicator is gone"); }

void NcclMessages::Send(std::shared_ptr<DeviceOperation> operation, StreamEvent called,
                        BufferRef buffer, int peer, int tag) {
  Message message{std::move(operation), std::move(called), buffer, peer, tag};
  message.announcement = std::make_shared<Announcement>(Announcement{buffer.bytes()});
  message.announcing = control_->Send(BytesOf(message.announcement.get()), peer, tag);
  if (message.small()) {
    message.pinned = stage_->Pinned(buffer.bytes());
    stage_->copies->Wait(message.called);
    stage_->copies->Copy(message.pinned.get(), buffer.data, buffer.bytes());
    message.copied = stage_->copies->Record();
  } else if (Answers& answers = answers_[peer]; !answers.receiving.valid()) {
    answers.go = std::make_shared<Go>();
    answers.receiving = control_->Receive(BytesOf(answers.go.get()), peer, kGoTag);
  }
  message.operation->describe_wait = [this, peer, id = message.operation.get()](Micros waited) {
    return DescribeWait(id, peer, waited);
  };
  outgoing_.push_back(std::move(message));
}

void NcclMessages::Receive(std::shared_ptr<DeviceOperation> operation, StreamEvent called,
                           BufferRef buffer, int peer, int tag) {
  Message message{std::move(operation), std::move(called), buffer, peer, tag};
  message.announcement = std::make_shared<Announcement>();
  message.announcing = control_->Receive(BytesOf(message.announcement.get()), peer, tag);
  message.operation->describe_wait = [this, peer, id = message.operation.get()](Micros waited) {
    return DescribeWait(id, peer, waited);
  };
  incoming_.push_back(std::move(message));
}

bool NcclMessages::busy() const {
  if (!outgoing_.empty() || !incoming_.empty() || !loose_.empty() || !draining_.empty())
    return true;
  return std::any_of(channels_.begin(), channels_.end(),
                     [](const auto& entry) { return entry.second->busy(); });
}

bool NcclMessages::Advance() {
  bool progressed = HearAnswers();
  const auto drive = [&](std::list<Message>& messages, auto advance) {
    for (auto message = messages.begin(); message != messages.end();) {
      const bool over = (this->*advance)(*message);
      progressed |= over;
      message = over ? messages.erase(message) : std::next(message);
    }
  };
  drive(outgoing_, &NcclMessages::AdvanceOutgoing);
  drive(incoming_, &NcclMessages::AdvanceIncoming);
  std::erase_if(loose_, [](Loose& loose) { return loose.work.Test(); });
  std::erase_if(draining_, [](const auto& entry) { return entry.first.Reached(); });
  for (const auto& [pair, channel] : channels_) progressed |= channel->Advance();
  return progressed;
}

// True when there is nothing more to do for it here. A large one ends in HearAnswers.
bool NcclMessages::AdvanceOutgoing(Message& message) {
  if (!message.announcing.Test()) return false;
  if (Status status = message.announcing.Wait(0); !status.ok()) {
    message.operation->Finish(std::move(status));
    return true;
  }
  if (!message.small() || !message.copied.Reached()) return false;
  if (!message.payload.valid()) {
    // In the order of calls: an earlier one of this tag may have become ready since it was asked.
    for (const Message& other : outgoing_) {
      if (&other == &message) break;
      const bool same = other.peer == message.peer && other.tag == message.tag;
      if (same && other.small() && !other.payload.valid()) return false;
    }
    message.payload = payload_->Send({message.pinned.get(), message.buffer.bytes(), DType::kU8},
                                     message.peer, message.tag);
  }
  if (!message.payload.Test()) return false;
  message.operation->Finish(message.payload.Wait(0));
  return true;
}

// The next "go" of each peer: a message that it is ready to receive.
bool NcclMessages::HearAnswers() {
  bool progressed = false;
  for (auto& [peer, answers] : answers_) {
    while (answers.receiving.valid() && answers.receiving.Test()) {
      progressed = true;
      const Status status = answers.receiving.Wait(0);
      if (!status.ok()) break;  // the group is over: End has been called or will be
      const Go go = *answers.go;
      const auto message =
          std::find_if(outgoing_.begin(), outgoing_.end(), [&, to = peer](const Message& m) {
            return m.peer == to && m.tag == go.tag && m.operation->sequence == go.index;
          });
      CHECK(message != outgoing_.end())
          << group_->Describe() << ": rank " << peer << " asks for message " << go.index
          << " of tag " << go.tag << ", which was not sent";
      if (go.refused != 0) {
        message->operation->Finish(
            InternalError(StrCat(message->operation->Describe(), ": world rank ",
                                 group_->members[peer], " refused a message of another size")));
      } else {
        AddTransfer(message->operation, message->called, message->buffer, group_->rank, peer);
      }
      outgoing_.erase(message);
      const bool more = std::any_of(outgoing_.begin(), outgoing_.end(),
                                    [&, to = peer](auto& m) { return m.peer == to && !m.small(); });
      answers.receiving = Work();
      if (more) answers.receiving = control_->Receive(BytesOf(answers.go.get()), peer, kGoTag);
    }
  }
  return progressed;
}

bool NcclMessages::AdvanceIncoming(Message& message) {
  if (!message.announced) {
    // In the order of calls: an earlier one of this tag may be announced and not yet be seen.
    for (const Message& other : incoming_) {
      if (&other == &message) break;
      if (other.peer == message.peer && other.tag == message.tag && !other.announced) return false;
    }
    if (!message.announcing.Test()) return false;
    if (Status status = message.announcing.Wait(0); !status.ok()) {
      message.operation->Finish(std::move(status));
      return true;
    }
    ReceiveAnnounced(message);
    if (!message.small()) return true;
  }
  if (!message.payload.Test()) return false;
  if (Status status = message.payload.Wait(0); !status.ok() || message.unwanted) {
    message.operation->Finish(std::move(status));
    return true;
  }
  if (message.pinned != nullptr && message.operation->held.empty()) {
    message.operation->held.push_back(message.pinned);
    stage_->copies->Wait(message.called);
    stage_->copies->Copy(message.buffer.data, message.pinned.get(), message.buffer.bytes());
    message.copied = stage_->copies->Record();
    message.operation->results = message.copied;
    message.operation->under_way = true;
  }
  if (!message.copied.Reached()) return false;
  message.operation->Finish(OkStatus());
  return true;
}

void NcclMessages::ReceiveAnnounced(Message& message) {
  message.announced = true;
  const int64_t bytes = message.announcement->bytes;
  message.unwanted = bytes != message.buffer.bytes();
  if (message.unwanted) {
    message.operation->Finish(InternalError(
        StrCat(message.operation->Describe(), ": world rank ", group_->members[message.peer],
               ": it sent ", bytes, " bytes in Send, expected ", message.buffer.bytes())));
  }
  if (message.small()) {
    message.pinned = stage_->Pinned(bytes);
    message.payload =
        payload_->Receive({message.pinned.get(), bytes, DType::kU8}, message.peer, message.tag);
    return;
  }
  Answer(message, message.unwanted);
  if (message.unwanted) return;
  AddTransfer(message.operation, message.called, message.buffer, message.peer, group_->rank);
}

void NcclMessages::Answer(const Message& message, bool refused) {
  auto go = std::make_shared<Go>(Go{message.tag, message.operation->sequence, refused ? 1 : 0});
  Work work = control_->Send(BytesOf(go.get()), message.peer, kGoTag);
  loose_.push_back({std::move(work), std::move(go)});
}

// On the channel of the two ranks; the sender is its rank 0.
void NcclMessages::AddTransfer(std::shared_ptr<DeviceOperation> operation, StreamEvent called,
                               BufferRef buffer, int sender, int receiver) {
  const auto transfer = [api = api_, buffer, sends = sender == group_->rank](
                            nccl::Comm comm, Stream& stream) -> int {
    return sends ? api->Send(buffer.data, buffer.bytes(), nccl::kUint8, 1, comm, stream.native())
                 : api->Recv(buffer.data, buffer.bytes(), nccl::kUint8, 0, comm, stream.native());
  };
  ChannelFor(sender, receiver).Add(std::move(operation), std::move(called), {transfer});
}

void NcclMessages::Connect(std::shared_ptr<DeviceOperation> operation, StreamEvent called,
                           BufferRef buffer, int sender, int receiver) {
  const int peer = sender == group_->rank ? receiver : sender;
  operation->describe_wait = [group = group_, peer](Micros waited) {
    return group->DescribeWait(waited, {peer}, {});
  };
  AddTransfer(std::move(operation), std::move(called), buffer, sender, receiver);
}

NcclChannel& NcclMessages::ChannelFor(int sender, int receiver) {
  auto& channel = channels_[{sender, receiver}];
  if (channel == nullptr) {
    const bool sends = sender == group_->rank;
    const NcclChannel::Place place{
        StrCat("messages from rank ", sender, " to ", receiver, " of ", group_->Describe()),
        sends ? 0 : 1, 2, kMessageCtas};
    const auto exchange = [control = control_, sends, sender, receiver](nccl::UniqueId* id) {
      return sends ? control->Send(BytesOf(id), receiver, kIdTag)
                   : control->Receive(BytesOf(id), sender, kIdTag);
    };
    channel =
        std::make_unique<NcclChannel>(api_, reaper_, place, SideStream(*stage_->compute), exchange);
  }
  return *channel;
}

std::string NcclMessages::DescribeWait(const DeviceOperation* operation, int peer,
                                       Micros waited) const {
  bool heard = true;
  for (const auto* messages : {&outgoing_, &incoming_}) {
    for (const Message& message : *messages) {
      if (message.operation.get() == operation) heard = message.announced;
    }
  }
  return group_->DescribeWait(waited, {peer}, heard ? std::vector<int>{} : std::vector<int>{peer});
}

void NcclMessages::Drop(Message& message) {
  auto held = std::make_shared<std::vector<std::shared_ptr<void>>>(
      std::vector<std::shared_ptr<void>>{message.announcement, message.pinned});
  message.announcing.Abandon(held);
  if (message.payload.valid()) message.payload.Abandon(held);
  if (message.pinned != nullptr) draining_.emplace_back(message.copied, held);
}

void NcclMessages::End(const std::string& reason) {
  for (const auto& [pair, channel] : channels_) channel->End(reason);
  for (auto* messages : {&outgoing_, &incoming_}) {
    for (Message& message : *messages) {
      message.operation->Finish(
          UnavailableError(StrCat(message.operation->Describe(), ": ", reason)));
      Drop(message);
    }
    messages->clear();
  }
  for (auto& [peer, answers] : answers_) {
    if (answers.receiving.valid()) answers.receiving.Abandon(answers.go);
  }
  answers_.clear();
  for (Loose& loose : loose_) loose.work.Abandon(loose.memory);
  loose_.clear();
}

}  // namespace trireme
