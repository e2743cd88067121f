#include "cluster/comm/nccl_channel.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

namespace trireme {

void NcclReaper::End(nccl::Comm comm, const std::string& what, bool finalize,
                     std::shared_ptr<Graveyard> graveyard) {
  auto ending = std::make_shared<Ending>();
  ending->what = what;
  ending->deadline = RealClock().NowMicros() + patience_;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    endings_.push_back(ending);
  }
  // Detached: a call that never returns must not keep anyone waiting, and keeps what it holds.
  std::thread([self = shared_from_this(), ending, comm, finalize,
               graveyard = std::move(graveyard)] {
    self->Run(comm, finalize, ending->deadline);
    graveyard->Clear();
    std::lock_guard<std::mutex> lock(self->mutex_);
    ending->over = true;
    self->news_.notify_all();
  }).detach();
}

void NcclReaper::Run(nccl::Comm comm, bool finalize, Micros deadline) {
  if (!finalize) {
    api_->CommAbort(comm);
    return;
  }
  int result = api_->CommFinalize(comm);
  while (result == nccl::kInProgress && RealClock().NowMicros() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (api_->CommGetAsyncError(comm, &result) != nccl::kSuccess) break;
  }
  if (result == nccl::kSuccess) {
    api_->CommDestroy(comm);
  } else {
    api_->CommAbort(comm);  // a peer has gone without a word
  }
}

Status NcclReaper::Health() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::erase_if(endings_, [](const auto& ending) { return ending->over; });
  for (const auto& ending : endings_) {
    if (RealClock().NowMicros() <= ending->deadline) continue;
    return UnavailableError(StrCat("NCCL's end of ", ending->what, " did not come within ",
                                   patience_ / 1000, " ms: this process' GPU is stuck, and the ",
                                   "process has to be replaced"));
  }
  return OkStatus();
}

bool NcclReaper::Pending() {
  std::lock_guard<std::mutex> lock(mutex_);
  const Micros now = RealClock().NowMicros();
  return std::any_of(endings_.begin(), endings_.end(), [now](const auto& ending) {
    return !ending->over && now <= ending->deadline;
  });
}

void NcclReaper::Drain() {
  std::unique_lock<std::mutex> lock(mutex_);
  news_.wait_for(lock, std::chrono::microseconds(patience_), [&] {
    return std::all_of(endings_.begin(), endings_.end(),
                       [](const auto& ending) { return ending->over; });
  });
}

NcclChannel::NcclChannel(const nccl::Api* api, std::shared_ptr<NcclReaper> reaper, Place place,
                         std::shared_ptr<Stream> stream, Exchange exchange)
    : api_(api),
      reaper_(std::move(reaper)),
      place_(std::move(place)),
      exchange_(std::move(exchange)),
      stream_(std::move(stream)),
      state_(place_.size == 1 ? State::kReady : State::kUnused) {}

NcclChannel::~NcclChannel() {
  if (busy()) End("its communicator is gone");
  if (state_ == State::kExchanging) exchanging_.Abandon(id_);
  if (comm_ != nullptr) Dispose(/*finalize=*/state_ == State::kReady && !in_progress_);
}

void NcclChannel::Add(std::shared_ptr<DeviceOperation> operation, StreamEvent called,
                      std::vector<Step> steps) {
  if (!status_.ok()) {
    operation->Finish(status_.WithContext(operation->Describe()));
    return;
  }
  tasks_.push_back({std::move(operation), std::move(called), std::move(steps)});
}

bool NcclChannel::Advance() {
  if (tasks_.empty() || state_ == State::kEnded) return false;
  if (state_ != State::kReady) return Connect();
  return AdvanceTasks();
}

// Begins, or goes on with, the way to a communicator that is ready. True if anything was done.
bool NcclChannel::Connect() {
  switch (state_) {
    case State::kUnused: {
      // The GPU's old communicators first: a stuck one would hang this one too.
      if (reaper_->Pending()) return false;
      if (Status health = reaper_->Health(); !health.ok()) {
        Fail(std::move(health));
        return true;
      }
      id_ = std::make_shared<nccl::UniqueId>();
      if (place_.rank == 0) {
        if (const int result = api_->GetUniqueId(id_.get()); result != nccl::kSuccess) {
          Fail(StatusOf(result, "ncclGetUniqueId"));
          return true;
        }
      }
      exchanging_ = exchange_(id_.get());
      state_ = State::kExchanging;
      return true;
    }
    case State::kExchanging: {
      if (!exchanging_.Test()) return false;
      if (Status status = exchanging_.Wait(0); !status.ok()) {
        Fail(std::move(status));
        return true;
      }
      nccl::Config config;
      config.ctas_max = place_.ctas_max;
      (void)stream_->native();  // this thread's GPU is the stream's
      state_ = State::kStarting;
      const int result = api_->CommInitRankConfig(&comm_, place_.size, *id_, place_.rank, &config);
      in_progress_ = result == nccl::kInProgress;
      if (result != nccl::kSuccess && result != nccl::kInProgress) {
        Fail(StatusOf(result, "ncclCommInitRankConfig"));
      }
      return true;
    }
    case State::kStarting:
      if (!Settled()) return state_ == State::kEnded;
      state_ = State::kReady;
      return true;
    default:
      return false;
  }
}

bool NcclChannel::AdvanceTasks() {
  bool progressed = false;
  for (size_t i = 0; i < tasks_.size(); ++i) {
    Task& task = tasks_[i];
    if (task.recorded) continue;
    while (Settled() && task.begun < task.steps.size()) {
      if (task.begun == 0) stream_->Wait(task.called);
      (void)stream_->native();
      const int result = task.steps[task.begun++](comm_, *stream_);
      progressed = true;
      in_progress_ = result == nccl::kInProgress;
      if (result != nccl::kSuccess && result != nccl::kInProgress) {
        Fail(StatusOf(result, task.operation->Describe()));
        return true;
      }
    }
    if (state_ == State::kEnded) return true;
    if (in_progress_ || task.begun < task.steps.size()) break;
    task.done = stream_->Record();
    task.recorded = progressed = true;
    task.operation->results = task.done;
    task.operation->under_way = true;
  }
  // An error of the network or a peer shows here while the GPU still waits.
  if (!in_progress_ && comm_ != nullptr && !tasks_.empty()) {
    int result = nccl::kSuccess;
    api_->CommGetAsyncError(comm_, &result);
    if (result != nccl::kSuccess && result != nccl::kInProgress) {
      Fail(StatusOf(result, tasks_.front().operation->Describe()));
      return true;
    }
  }
  while (!tasks_.empty() && tasks_.front().recorded && tasks_.front().done.Reached()) {
    tasks_.front().operation->Finish(OkStatus());
    tasks_.front().operation->held.clear();
    tasks_.pop_front();
    progressed = true;
  }
  return progressed;
}

bool NcclChannel::Settled() {
  if (!in_progress_) return true;
  int result = nccl::kSuccess;
  const int call = api_->CommGetAsyncError(comm_, &result);
  if (call != nccl::kSuccess) result = call;
  if (result == nccl::kInProgress) return false;
  in_progress_ = false;
  if (result == nccl::kSuccess) return true;
  Fail(StatusOf(result, tasks_.front().operation->Describe()));
  return false;
}

Status NcclChannel::StatusOf(int result, const std::string& doing) const {
  std::string text = StrCat(doing, ": NCCL says: ", api_->GetErrorString(result));
  if (const char* detail = comm_ == nullptr ? nullptr : api_->GetLastError(comm_);
      detail != nullptr && *detail != '\0') {
    text += StrCat(" (", detail, ")");
  }
  const bool peer = result == nccl::kRemoteError || result == nccl::kSystemError;
  return peer ? UnavailableError(std::move(text)) : InternalError(std::move(text));
}

void NcclChannel::Fail(Status status) {
  if (!status_.ok()) return;
  status_ = std::move(status);
  for (const Task& task : tasks_) task.operation->Finish(status_);
  Dispose(/*finalize=*/false);
}

void NcclChannel::End(const std::string& reason) {
  if (status_.ok()) status_ = UnavailableError(reason);
  for (const Task& task : tasks_) {
    task.operation->Finish(UnavailableError(StrCat(task.operation->Describe(), ": ", reason)));
  }
  // With nothing in flight the communicator is left as it is: the last messages of operations that
  // are done may still be on their way to a peer.
  Dispose(/*finalize=*/tasks_.empty() && state_ == State::kReady && !in_progress_);
}

void NcclChannel::Dispose(bool finalize) {
  if (state_ == State::kExchanging) exchanging_.Abandon(id_);
  state_ = State::kEnded;
  // What the GPU may still touch lives until the communicator has ended, and so does the stream:
  // its destructor waits for the GPU.
  auto graveyard = std::make_shared<Graveyard>();
  graveyard->Bury({stream_});
  for (Task& task : tasks_) {
    graveyard->Bury(std::move(task.operation->held));
    task.operation->held.clear();
    task.operation->graveyard = graveyard;
  }
  tasks_.clear();
  if (comm_ == nullptr) return graveyard->Clear();
  reaper_->End(std::exchange(comm_, nullptr), place_.what, finalize, std::move(graveyard));
}

const char* NcclChannel::phase() const {
  switch (state_) {
    case State::kUnused:
    case State::kExchanging:
    case State::kStarting:
      return "while NCCL connects";
    default:
      return in_progress_ ? "while NCCL starts it" : "on the GPU";
  }
}

}  // namespace trireme
