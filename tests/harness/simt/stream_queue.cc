#include <glog/logging.h>
#include <simt/device_memory.h>
#include <simt/stream_queue.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

namespace trireme::simt {

GraphState::~GraphState() {
  for (void* p : memory) FreeDeviceMemory(p);
}

Queues& Queues::Get() {
  static auto* queues = new Queues;
  return *queues;
}

std::shared_ptr<StreamState> Queues::Find(void* handle) {
  const Lock lock(mutex);
  if (handle == nullptr) return null_stream_;
  const auto found = streams_.find(handle);
  return found == streams_.end() ? nullptr : found->second;
}

StreamState* Queues::Create(int device, bool waits_for_null_stream) {
  const Lock lock(mutex);
  auto stream = std::make_shared<StreamState>();
  stream->device = device;
  stream->waits_for_null_stream = waits_for_null_stream;
  streams_[stream.get()] = stream;
  return stream.get();
}

void Queues::Remove(StreamState* stream) {
  const Lock lock(mutex);
  streams_.erase(stream);
}

void Queues::PushLocked(const std::shared_ptr<StreamState>& stream, QueuedWork work) {
  if (stream->capture != nullptr) {
    stream->capture->works.push_back(std::move(work.run));
    ++stream->capture->members[stream.get()].works;
    return;
  }
  stream->queue.push_back(std::move(work));
  ++stream->queued;
}

// The null stream waits for the others and they for it, unless they were made not to.
void Queues::Push(const std::shared_ptr<StreamState>& stream, std::function<void()> work) {
  const Lock lock(mutex);
  const auto wait_for = [&](const std::shared_ptr<StreamState>& other) {
    if (other->completed == other->queued) return;
    PushLocked(stream, {[this, other, target = other->queued] {
                          Lock inner(mutex);
                          DrainTo(&inner, other, target);
                        },
                        {}});
  };
  if (stream == null_stream_) {
    for (const auto& [handle, other] : streams_) {
      if (other->waits_for_null_stream) wait_for(other);
    }
  } else if (stream->waits_for_null_stream && stream->capture == nullptr) {
    wait_for(null_stream_);
  }
  PushLocked(stream, {std::move(work), {}});
}

void Queues::PushWhenReady(const std::shared_ptr<StreamState>& stream, QueuedWork work) {
  const Lock lock(mutex);
  CHECK(stream->capture == nullptr) << "work of that kind in a capture";
  PushLocked(stream, std::move(work));
}

void Queues::Record(const std::shared_ptr<EventState>& event,
                    const std::shared_ptr<StreamState>& stream) {
  const Lock lock(mutex);
  if (stream->capture != nullptr) {
    event->graph = stream->capture;
    event->stream = stream;
    event->captured_works = stream->capture->members[stream.get()].works;
    return;
  }
  event->graph.reset();
  event->stream = stream;
  PushLocked(stream, {[this, event, number = ++event->recorded] {
                        const Lock inner(mutex);
                        event->done = number;
                        event->time = std::chrono::steady_clock::now();
                      },
                      {}});
}

void Queues::WaitFor(const std::shared_ptr<StreamState>& stream,
                     const std::shared_ptr<EventState>& event) {
  const Lock lock(mutex);
  if (const auto graph = event->graph.lock()) {
    // Waiting for a captured event draws the stream into the capture.
    stream->capture = graph;
    graph->members[stream.get()];
    GraphState::Member& source = graph->members[event->stream.get()];
    source.joined = std::max(source.joined, event->captured_works + 1);
    return;
  }
  if (event->done == event->recorded) return;
  PushLocked(stream,
             {[] {}, [this, event, source = event->stream,
                      number = event->recorded] { return WaitIsOver(event, source, number); }});
}

// What is waited for runs meanwhile.
bool Queues::WaitIsOver(const std::shared_ptr<EventState>& event,
                        const std::shared_ptr<StreamState>& source, uint64_t number) {
  Lock lock(mutex);
  while (event->done < number && !source->busy) {
    if (source->queue.empty()) return true;  // it fell to an error
    if (!RunOne(&lock, source)) return false;
  }
  return event->done >= number;
}

// False, and nothing done, when the first of the queue is not ready.
bool Queues::RunOne(Lock* lock, const std::shared_ptr<StreamState>& stream) {
  auto work = std::move(stream->queue.front());
  stream->queue.pop_front();
  stream->busy = true;
  const auto finish = [&] {
    lock->lock();
    stream->busy = false;
    ++stream->completed;
    moved_.notify_all();
  };
  lock->unlock();
  try {
    if (work.ready && !work.ready()) {
      lock->lock();
      stream->queue.push_front(std::move(work));
      stream->busy = false;
      return false;
    }
    work.run();
  } catch (...) {
    // As after a sticky error: nothing of the stream runs any more.
    finish();
    stream->queue.clear();
    stream->completed = stream->queued;
    throw;
  }
  finish();
  return true;
}

void Queues::RunUntil(Lock* lock, const std::shared_ptr<StreamState>& stream,
                      const std::function<bool()>& done) {
  while (!done()) {
    if (!stream->busy && stream->queue.empty()) return;  // what was waited for fell to an error
    if (!stream->busy && RunOne(lock, stream)) continue;
    // Another thread runs it, or makes it ready.
    moved_.wait_for(*lock, std::chrono::microseconds(200));
  }
}

void Queues::DrainTo(Lock* lock, const std::shared_ptr<StreamState>& stream, uint64_t target) {
  RunUntil(lock, stream, [&] { return stream->completed >= target; });
}

void Queues::Drain(const std::shared_ptr<StreamState>& stream) {
  Lock lock(mutex);
  DrainTo(&lock, stream, stream->queued);
}

void Queues::DrainAll(int device) {
  Lock lock(mutex);
  std::vector<std::pair<std::shared_ptr<StreamState>, uint64_t>> targets;
  targets.emplace_back(null_stream_, null_stream_->queued);
  for (const auto& [handle, stream] : streams_) {
    if (stream->device == device) targets.emplace_back(stream, stream->queued);
  }
  for (const auto& [stream, target] : targets) DrainTo(&lock, stream, target);
}

void Queues::DrainEvent(const std::shared_ptr<EventState>& event) {
  Lock lock(mutex);
  const auto stream = event->stream;
  if (stream == nullptr) return;
  RunUntil(&lock, stream, [&, number = event->recorded] { return event->done >= number; });
}

void Queues::RunAhead() {
  {
    const Lock lock(mutex);
    if (std::exchange(runs_ahead_, true)) return;
  }
  std::thread([this] {
    while (true) {
      RunWhatIsReady();
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }).detach();
}

void Queues::RunWhatIsReady() {
  Lock lock(mutex);
  std::vector<std::shared_ptr<StreamState>> streams;
  for (const auto& [handle, stream] : streams_) streams.push_back(stream);
  for (const auto& stream : streams) {
    while (!stream->busy && !stream->queue.empty() && RunOne(&lock, stream)) {
    }
  }
}

bool Queues::Progress(const std::shared_ptr<StreamState>& stream) {
  Lock lock(mutex);
  if (stream->completed == stream->queued) return false;
  if (!stream->busy && !stream->queue.empty()) RunOne(&lock, stream);
  return true;
}

}  // namespace trireme::simt
