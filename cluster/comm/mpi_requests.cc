#include "cluster/comm/mpi_requests.h"

#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string_view>
#include <thread>
#include <utility>

#include "cluster/base/clock.h"

namespace trireme {
namespace {

constexpr int kPacketTag = 0;
constexpr int kPacketReceives = 16;
constexpr size_t kIdlePacketsMax = 32;
constexpr Micros kFinalizePatience = 1'000'000;

enum class What : uint8_t { kPacketReceive, kPacketSend, kChunk };

struct Request {
  What what;
  Packet packet;
  Transfer* transfer = nullptr;
  int64_t end = 0;
};

std::string ErrorText(int error) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(error, text, &length);
  return std::string(text, length);
}

}  // namespace

struct MpiRequests::State {
  bool finalize = false;
  std::vector<MPI_Request> handles;
  std::vector<Request> requests;  // of `handles`, index by index
  std::vector<int> completed;
  std::vector<MPI_Status> statuses;
  int64_t packet_sends = 0;
  std::vector<Packet> idle_packets;

  void Add(MPI_Request handle, Request request) {
    handles.push_back(handle);
    requests.push_back(std::move(request));
  }
  void Keep(Packet packet) {
    if (idle_packets.size() < kIdlePacketsMax) idle_packets.push_back(std::move(packet));
  }
  // Removes the first `count` of `completed` and returns them.
  std::vector<Request> TakeCompleted(int count) {
    std::vector<Request> taken;
    taken.reserve(count);
    for (int i = 0; i < count; ++i) taken.push_back(std::move(requests[completed[i]]));
    std::sort(completed.begin(), completed.begin() + count, std::greater<>());
    for (int i = 0; i < count; ++i) {
      handles[completed[i]] = handles.back();
      requests[completed[i]] = std::move(requests.back());
      handles.pop_back();
      requests.pop_back();
    }
    return taken;
  }
};

MpiRequests::MpiRequests(bool finalize) : state_(std::make_unique<State>()) {
  state_->finalize = finalize;
  for (int i = 0; i < kPacketReceives; ++i) Recycle(Packet());
}

Packet MpiRequests::TakePacket() {
  if (state_->idle_packets.empty()) return Packet();
  Packet packet = std::move(state_->idle_packets.back());
  state_->idle_packets.pop_back();
  return packet;
}

void MpiRequests::KeepPacket(Packet packet) { state_->Keep(std::move(packet)); }

void MpiRequests::SendPacket(int peer, Packet packet) {
  MPI_Request handle;
  MPI_Isend(packet.data(), static_cast<int>(packet.size()), MPI_BYTE, peer, kPacketTag,
            MPI_COMM_WORLD, &handle);
  int gone = 0;  // most are, at once
  MPI_Test(&handle, &gone, MPI_STATUS_IGNORE);
  if (gone) {
    state_->Keep(std::move(packet));
    return;
  }
  ++state_->packet_sends;
  state_->Add(handle, {What::kPacketSend, std::move(packet)});
}

void MpiRequests::MoveChunk(Transfer* transfer, int64_t begin, int64_t end, int tag) {
  MPI_Request handle;
  std::byte* data = transfer->layout.At(begin);
  const int bytes = static_cast<int>(end - begin);
  if (transfer->send) {
    MPI_Isend(data, bytes, MPI_BYTE, transfer->peer, tag, MPI_COMM_WORLD, &handle);
  } else {
    MPI_Irecv(data, bytes, MPI_BYTE, transfer->peer, tag, MPI_COMM_WORLD, &handle);
  }
  state_->Add(handle, {What::kChunk, {}, transfer, end});
}

void MpiRequests::Recycle(Packet packet) {
  packet.resize(kPacketBytesMax);
  MPI_Request handle;
  MPI_Irecv(packet.data(), kPacketBytesMax, MPI_BYTE, MPI_ANY_SOURCE, kPacketTag, MPI_COMM_WORLD,
            &handle);
  state_->Add(handle, {What::kPacketReceive, std::move(packet)});
}

std::vector<MpiRequests::News> MpiRequests::Test() {
  State& s = *state_;
  std::vector<News> news;
  int count = 0;
  s.completed.resize(s.handles.size());
  s.statuses.resize(s.handles.size());
  const int result = MPI_Testsome(static_cast<int>(s.handles.size()), s.handles.data(), &count,
                                  s.completed.data(), s.statuses.data());
  if (count == MPI_UNDEFINED || count <= 0) return news;
  std::vector<Request> taken = s.TakeCompleted(count);
  for (int i = 0; i < count; ++i) {
    Request& request = taken[i];
    const MPI_Status& status = s.statuses[i];
    const bool failed = result == MPI_ERR_IN_STATUS && status.MPI_ERROR != MPI_SUCCESS;
    if (failed) LOG(WARNING) << "MPI: " << ErrorText(status.MPI_ERROR);
    if (request.what == What::kPacketSend) {
      --s.packet_sends;
      s.Keep(std::move(request.packet));
    } else if (request.what == What::kChunk) {
      news.push_back({{},
                      0,
                      0,
                      request.transfer,
                      request.end,
                      failed ? ErrorText(status.MPI_ERROR) : std::string()});
    } else if (failed) {
      Recycle(std::move(request.packet));
    } else {
      int bytes = 0;
      MPI_Get_count(&status, MPI_BYTE, &bytes);
      news.push_back({std::move(request.packet), status.MPI_SOURCE, bytes});
    }
  }
  return news;
}

void MpiRequests::CancelReceives(bool (*unwanted)(const Transfer&)) {
  for (size_t i = 0; i < state_->handles.size(); ++i) {
    const Transfer* transfer = state_->requests[i].transfer;
    if (transfer != nullptr && !transfer->send && unwanted(*transfer)) {
      MPI_Cancel(&state_->handles[i]);
    }
  }
}

bool MpiRequests::sending() const { return state_->packet_sends > 0; }

bool MpiRequests::Yields() {
  const char* oversubscribed = std::getenv("OMPI_MCA_mpi_oversubscribe");
  return oversubscribed != nullptr && std::string_view(oversubscribed) == "1";
}

MpiRequests::~MpiRequests() {
  State& s = *state_;
  CancelReceives([](const Transfer&) { return true; });
  const Micros begin = RealClock().NowMicros();
  const auto pending = [&] {
    return std::count_if(s.requests.begin(), s.requests.end(), [](const Request& request) {
      return request.what != What::kPacketReceive;
    });
  };
  while (pending() > 0 && RealClock().NowMicros() - begin < kFinalizePatience) {
    for (News& news : Test()) {
      if (news.transfer == nullptr) Recycle(std::move(news.packet));
    }
    std::this_thread::yield();
  }
  const auto left = pending();
  for (size_t i = 0; i < s.requests.size(); ++i) {
    if (s.requests[i].what == What::kPacketReceive) MPI_Cancel(&s.handles[i]);
  }
  int done = 0;
  while (!done && left == 0 && RealClock().NowMicros() - begin < 2 * kFinalizePatience) {
    MPI_Testall(static_cast<int>(s.handles.size()), s.handles.data(), &done, MPI_STATUSES_IGNORE);
  }
  if (!done) {
    LOG(WARNING) << "MPI is not finalized: " << left << " requests of lost peers are pending";
    state_.release();  // MPI may still write to the packets
    return;
  }
  if (s.finalize) MPI_Finalize();
}

}  // namespace trireme
