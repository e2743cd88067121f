// A stage's row, action by action:
//   F: wait for the input (posted ahead), Forward, copy the output into a send slab, send it.
//   B: wait for the output's gradient, BackwardInput, copy the input's gradient, send it.
//   W: BackwardWeight, unless B did it; the microbatch's receive buffers are free again.
// Sends wait for no neighbour: a stage has so many slabs for them that the one whose turn it is has
// been received for certain (PeakUnconfirmedSends). So the only waits are those that the validator
// played on paper.
#include "parallelism/pipeline_executor.h"

#include <algorithm>
#include <deque>
#include <vector>

#include "cluster/device/buffer.h"

namespace trireme {
namespace {

enum Direction : int { kDown = 0, kUp = 1 };  // activations to the next stage, gradients back

int TagOf(int microbatch, Direction direction) { return microbatch * 2 + direction; }

// Memory for one carry.
using Slab = std::shared_ptr<Buffer>;

int64_t CarryBytes(const CarrySpec& spec) {
  int64_t total = 0;
  for (const CarrySpec::Item& item : spec.items) {
    total += Arena::RoundUp(ElementCount(item.shape) * ByteSize(item.dtype));
  }
  return total;
}

// The carry's tensors in the slab, one after the other.
Carry CarryIn(const CarrySpec& spec, const Slab& slab) {
  Carry carry;
  std::byte* data = slab->data();
  for (const CarrySpec::Item& item : spec.items) {
    carry.items.push_back({item.name, Tensor(data, item.dtype, item.shape)});
    data += Arena::RoundUp(carry.items.back().tensor.bytes());
  }
  return carry;
}

// Slabs of one size on one device, used again.
class SlabPool {
 public:
  explicit SlabPool(DeviceKind device) : device_(device) {}
  Slab Take(int64_t bytes) {
    if (free_.empty()) return std::make_shared<Buffer>(bytes, device_);
    Slab slab = std::move(free_.back());
    free_.pop_back();
    return slab->bytes() == bytes ? slab : std::make_shared<Buffer>(bytes, device_);
  }
  void Give(Slab slab) { free_.push_back(std::move(slab)); }

 private:
  DeviceKind device_;
  std::vector<Slab> free_;
};

// Messages of one carry, on their way.
struct CarryTransfer {
  int microbatch = -1;  // of the schedule
  Slab slab;
  std::vector<Work> works;

  // follower: goes on behind the messages; without one they are waited for.
  Status Finish(Stream* follower, Micros timeout) {
    for (Work& work : works) {
      if (!work.valid()) continue;
      RETURN_IF_ERROR(work.WaitOrFollow(follower, timeout));
    }
    works.clear();
    return OkStatus();
  }
  void Abandon() {
    for (Work& work : works) {
      if (work.valid()) work.Abandon(slab);
    }
    works.clear();
  }
};

// What a stage sends to one neighbour: copies in slabs that are used in turn.
class Sends {
 public:
  // At least two, for forward passes alone: there a message may be waited for whenever one has gone
  // on since.
  Sends(int unconfirmed, DeviceKind device)
      : device_(device), transfers_(std::max(unconfirmed, 2)) {}

  // The one whose turn it is, its last messages over (or followed), in a slab of `bytes`.
  Result<CarryTransfer*> Next(int64_t bytes, Stream* follower, Micros timeout) {
    CarryTransfer& transfer = transfers_[turn_];
    RETURN_IF_ERROR(Finish(&transfer, follower, timeout));
    turn_ = (turn_ + 1) % transfers_.size();
    if (transfer.slab == nullptr || transfer.slab->bytes() != bytes) {
      transfer.slab = std::make_shared<Buffer>(bytes, device_);
    }
    return &transfer;
  }
  // All of them, the oldest first.
  Status FinishAll(Stream* follower, Micros timeout) {
    for (size_t i = 0; i < transfers_.size(); ++i) {
      RETURN_IF_ERROR(Finish(&transfers_[(turn_ + i) % transfers_.size()], follower, timeout));
    }
    return OkStatus();
  }
  void Abandon() {
    for (CarryTransfer& transfer : transfers_) {
      if (!transfer.works.empty()) transfer.Abandon(), transfer.slab = nullptr;
    }
  }

 private:
  static Status Finish(CarryTransfer* transfer, Stream* follower, Micros timeout) {
    const Status status = transfer->Finish(follower, timeout);
    return status.ok() ? status
                       : status.WithContext(StrCat("send of microbatch ", transfer->microbatch));
  }

  DeviceKind device_;
  std::vector<CarryTransfer> transfers_;
  size_t turn_ = 0;
};

}  // namespace

// What outlives a run: slabs, and the messages in flight.
struct PipelineExecutor::Buffers {
  Buffers(UnconfirmedSends unconfirmed, DeviceKind device)
      : input(device),
        output_gradient(device),
        down(unconfirmed.down, device),
        up(unconfirmed.up, device) {}

  void Abandon() {
    down.Abandon();
    up.Abandon();
    for (const auto& transfer : posted) transfer->Abandon();
    posted.clear();
  }

  SlabPool input, output_gradient;
  Sends down, up;
  std::vector<std::shared_ptr<CarryTransfer>> posted;  // receives that nobody has waited for yet
};

// One call of RunStep or RunForwardOnly.
class PipelineExecutor::Run {
 public:
  Run(PipelineExecutor* executor, StageModel* model, std::span<const MicrobatchId> ids)
      : executor_(*executor),
        options_(executor->options_),
        buffers_(*executor->buffers_),
        stage_(executor->stage_),
        model_(*model),
        ids_(ids),
        inputs_(model->InputSpec(), kDown, stage_ - 1, &buffers_.input),
        gradients_(model->OutputSpec(), kUp, stage_ + 1, &buffers_.output_gradient) {}

  Status Step() {
    const std::vector<Action>& row = executor_.schedule_.rows[stage_];
    PlanReceives(row);
    for (size_t c = 0; c < row.size(); ++c) {
      const bool fused_weight = c > 0 && FusedWithNext(row, c - 1);
      Status status;
      switch (row[c].kind) {
        case ActionKind::kForward:
          status = Forward(row[c].microbatch, "pipeline.forward");
          break;
        case ActionKind::kBackward:
          status = Backward(row[c].microbatch, FusedWithNext(row, c));
          break;
        case ActionKind::kWeight:
          if (!fused_weight) status = Weight(row[c].microbatch);
          if (status.ok()) End(row[c].microbatch);
          break;
      }
      if (!status.ok()) return GiveUp(status, ActionToString(stage_, row[c]));
    }
    const Status sent = FinishSends();
    return sent.ok() ? sent : GiveUp(sent, "");
  }

  Status ForwardOnly() {
    const int count = static_cast<int>(ids_.size());
    for (int i = 0; i < count; ++i) inputs_.order.push_back(i);
    inputs_.buffers = std::min(count, 2);
    for (int i = 0; i < count; ++i) {
      const Status status = Forward(i, "pipeline.evaluate");
      if (!status.ok()) return GiveUp(status, ActionToString(stage_, {ActionKind::kForward, i}));
      model_.Forget(ids_[i]);
      End(i);
    }
    const Status sent = FinishSends();
    return sent.ok() ? sent : GiveUp(sent, "");
  }

 private:
  // What a neighbour sends during the run, received in the order of use into a fixed number of
  // slabs, as early as one is free.
  struct Receives {
    Receives(CarrySpec spec, Direction direction, int peer, SlabPool* pool)
        : spec(std::move(spec)), direction(direction), peer(peer), pool(pool) {}
    CarrySpec spec;
    Direction direction;
    int peer;
    SlabPool* pool;
    int buffers = 0;
    std::vector<int> order;  // microbatches by use
    size_t posted = 0;
    std::deque<std::shared_ptr<CarryTransfer>> transfers;  // posted, and in use until End
  };

  // As many slabs as microbatches are live at once, and one to receive ahead.
  void PlanReceives(const std::vector<Action>& row) {
    int live_inputs = 0, live_gradients = 0, inputs = 0, gradients = 0;
    for (const Action& action : row) {
      if (action.kind == ActionKind::kForward) {
        inputs_.order.push_back(action.microbatch);
        inputs = std::max(inputs, ++live_inputs);
      } else if (action.kind == ActionKind::kBackward) {
        gradients_.order.push_back(action.microbatch);
        gradients = std::max(gradients, ++live_gradients);
      } else {
        --live_inputs;
        --live_gradients;
      }
    }
    inputs_.buffers = inputs + 1;
    gradients_.buffers = gradients + 1;
  }

  Status Do(Recording::HostCall call) {
    return CallOrRecord(executor_.recording_, std::move(call));
  }
  Stream* follower() const { return executor_.recording_ == nullptr ? nullptr : options_.stream; }

  void PostReceives(Receives* receives) {
    if (receives->spec.items.empty()) return;
    CHECK(options_.pipeline != nullptr) << "a stage with neighbours needs a communicator";
    const int64_t bytes = CarryBytes(receives->spec);
    while (receives->posted < receives->order.size() &&
           static_cast<int>(receives->transfers.size()) < receives->buffers) {
      auto transfer = std::make_shared<CarryTransfer>();
      transfer->microbatch = receives->order[receives->posted++];
      transfer->slab = receives->pool->Take(bytes);
      receives->transfers.push_back(transfer);
      const int tag = TagOf(transfer->microbatch, receives->direction);
      // A start does not fail; what becomes of it, Received tells.
      (void)Do([pipeline = options_.pipeline, &buffers = buffers_, spec = receives->spec,
                peer = receives->peer, transfer, tag] {
        for (const Carry::Item& item : CarryIn(spec, transfer->slab).items) {
          const BufferRef ref{item.tensor.data(), item.tensor.elements(), item.tensor.dtype()};
          transfer->works.push_back(pipeline->Receive(ref, peer, tag));
        }
        buffers.posted.push_back(transfer);
        return OkStatus();
      });
    }
  }

  Result<Carry> Received(Receives* receives, int microbatch) {
    if (receives->spec.items.empty()) return Carry{};
    for (const auto& transfer : receives->transfers) {
      if (transfer->microbatch != microbatch) continue;
      RETURN_IF_ERROR(Do([&buffers = buffers_, timeout = options_.timeout, transfer,
                          follower = follower()]() -> Status {
        RETURN_IF_ERROR(transfer->Finish(follower, timeout));
        std::erase(buffers.posted, transfer);
        return OkStatus();
      }));
      return CarryIn(receives->spec, transfer->slab);
    }
    return InternalError("a carry that was never received");
  }

  Status Send(const Carry& carry, const CarrySpec& spec, int microbatch, Direction direction) {
    CHECK_EQ(carry.items.size(), spec.items.size()) << "a carry that is not what the model said";
    if (spec.items.empty()) return OkStatus();
    const int peer = direction == kDown ? stage_ + 1 : stage_ - 1;
    Sends* sends = direction == kDown ? &buffers_.down : &buffers_.up;
    return Do([&options = options_, sends, carry, spec, microbatch, peer, follower = follower(),
               tag = TagOf(microbatch, direction)]() -> Status {
      ASSIGN_OR_RETURN(CarryTransfer* const transfer,
                       sends->Next(CarryBytes(spec), follower, options.timeout));
      transfer->microbatch = microbatch;
      SendCopy(options, carry, spec, peer, tag, transfer);
      return OkStatus();
    });
  }

  static void SendCopy(const PipelineOptions& options, const Carry& carry, const CarrySpec& spec,
                       int peer, int tag, CarryTransfer* transfer) {
    const Carry copy = CarryIn(spec, transfer->slab);
    for (size_t i = 0; i < copy.items.size(); ++i) {
      const Tensor& target = copy.items[i].tensor;
      const Tensor& source = carry.items[i].tensor;
      CHECK(source.dtype() == target.dtype() && source.elements() == target.elements())
          << copy.items[i].name;
      options.stream->Copy(target.data(), source.data(), target.bytes());
    }
    for (const Carry::Item& item : copy.items) {
      const BufferRef ref{item.tensor.data(), item.tensor.elements(), item.tensor.dtype()};
      transfer->works.push_back(options.pipeline->Send(ref, peer, tag));
    }
  }

  Status Forward(int microbatch, const char* phase) {
    if (options_.phase) options_.phase(phase, ids_[microbatch]);
    PostReceives(&inputs_);
    ASSIGN_OR_RETURN(const Carry input, Received(&inputs_, microbatch));
    live_.push_back(microbatch);
    const Carry output = model_.Forward(ids_[microbatch], input);
    RETURN_IF_ERROR(model_.status());
    return Send(output, gradients_.spec, microbatch, kDown);
  }

  Status Backward(int microbatch, bool fused) {
    if (options_.phase) options_.phase("pipeline.backward", ids_[microbatch]);
    PostReceives(&gradients_);
    ASSIGN_OR_RETURN(const Carry gradient, Received(&gradients_, microbatch));
    const Carry input_gradient = model_.BackwardInput(
        ids_[microbatch], gradient, fused ? WeightGradients::kWithInput : WeightGradients::kLater);
    RETURN_IF_ERROR(model_.status());
    return Send(input_gradient, inputs_.spec, microbatch, kUp);
  }

  Status Weight(int microbatch) {
    if (options_.phase) options_.phase("pipeline.weight", ids_[microbatch]);
    model_.BackwardWeight(ids_[microbatch]);
    return model_.status();
  }

  // The microbatch's buffers are free: those of what comes next are posted at once.
  void End(int microbatch) {
    std::erase(live_, microbatch);
    for (Receives* receives : {&inputs_, &gradients_}) {
      std::erase_if(receives->transfers, [&](const std::shared_ptr<CarryTransfer>& transfer) {
        if (transfer->microbatch != microbatch) return false;
        receives->pool->Give(transfer->slab);
        return true;
      });
      if (!receives->order.empty()) PostReceives(receives);
    }
  }

  Status FinishSends() {
    return Do([&buffers = buffers_, timeout = options_.timeout, stage = stage_,
               follower = follower()]() -> Status {
      for (Sends* sends : {&buffers.down, &buffers.up}) {
        const Status status = sends->FinishAll(follower, timeout);
        if (!status.ok()) return status.WithContext(StrCat("pipeline stage ", stage));
      }
      return OkStatus();
    });
  }

  Status GiveUp(const Status& status, const std::string& action) {
    buffers_.Abandon();
    for (int microbatch : live_) model_.Forget(ids_[microbatch]);
    return action.empty() ? status
                          : status.WithContext(StrCat("pipeline stage ", stage_, ", ", action));
  }

  PipelineExecutor& executor_;
  const PipelineOptions& options_;
  Buffers& buffers_;
  const int stage_;
  StageModel& model_;
  std::span<const MicrobatchId> ids_;
  Receives inputs_;
  Receives gradients_;
  std::vector<int> live_;
};

PipelineExecutor::PipelineExecutor(Schedule schedule, int stage, PipelineOptions options)
    : schedule_(std::move(schedule)),
      stage_(stage),
      options_(std::move(options)),
      buffers_(std::make_unique<Buffers>(PeakUnconfirmedSends(schedule_)[stage_],
                                         options_.stream->device())) {
  CHECK(stage_ >= 0 && stage_ < schedule_.stages);
}

PipelineExecutor::~PipelineExecutor() { Abandon(); }

void PipelineExecutor::Abandon() { buffers_->Abandon(); }

int PipelineExecutor::live_microbatches() const { return PeakLiveMicrobatches(schedule_)[stage_]; }

Status PipelineExecutor::RunStep(StageModel& model, std::span<const MicrobatchId> ids) {
  CHECK_EQ(static_cast<int>(ids.size()), schedule_.microbatches);
  CHECK(std::is_sorted(ids.begin(), ids.end()));
  if (!reserved_) model.Reserve(live_microbatches());
  reserved_ = true;
  return Run(this, &model, ids).Step();
}

Status PipelineExecutor::RunForwardOnly(StageModel& model, std::span<const MicrobatchId> ids) {
  return Run(this, &model, ids).ForwardOnly();
}

}  // namespace trireme
