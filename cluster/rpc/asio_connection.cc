#include "cluster/rpc/asio_connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/write.hpp>
#include <utility>

namespace trireme {
namespace {

using boost::asio::ip::tcp;
using ErrorCode = boost::system::error_code;

// Heartbeats and leases are small and urgent: no Nagle. A host that vanished without a word is told
// by unanswered data (TCP_USER_TIMEOUT) or by keep-alive probes.
void SetSocketOptions(tcp::socket& socket) {
  ErrorCode ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(boost::asio::socket_base::keep_alive(true), ignored);
  const unsigned int timeout_ms = 30'000;
  setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms,
             sizeof(timeout_ms));
}

}  // namespace

AsioConnection::AsioConnection(tcp::socket socket, const RpcLimits& limits, Events events)
    : socket_(std::move(socket)),
      limits_(limits),
      events_(std::move(events)),
      read_deadline_(socket_.get_executor()),
      write_deadline_(socket_.get_executor()) {}

void AsioConnection::StartAsServer(const std::string& secret) {
  server_.emplace(secret);
  Start();
  Send(EncodeFrame(kChallengeFrame, server_->challenge()));
}

void AsioConnection::StartAsClient(const std::string& secret) {
  client_.emplace(secret);
  Start();
}

void AsioConnection::Start() {
  SetSocketOptions(socket_);
  read_deadline_.expires_after(std::chrono::milliseconds(limits_.handshake_ms));
  read_deadline_.async_wait([self = shared_from_this()](const ErrorCode& error) {
    if (!error && !self->ready_) {
      self->Close(DeadlineExceededError(
          StrCat("no proof of the secret within ", self->limits_.handshake_ms, " ms")));
    }
  });
  Read();
}

void AsioConnection::Read() {
  socket_.async_read_some(boost::asio::buffer(bytes_), [self = shared_from_this()](
                                                           const ErrorCode& error, size_t count) {
    if (self->closed_) return;
    if (error) {
      const bool inside = !self->parser_.AtBoundary();
      self->Close(UnavailableError(
          error == boost::asio::error::eof
              ? (inside ? "closed by the peer inside a frame" : "closed by the peer")
              : error.message()));
      return;
    }
    self->OnBytes(count);
  });
}

void AsioConnection::OnBytes(size_t count) {
  std::string_view bytes(bytes_.data(), count);
  // During the handshake a frame's consequences (a larger limit) come before the bytes after it, so
  // those bytes must be held back until it was handled: feed one frame's worth at a time.
  while (!bytes.empty() && !closed_) {
    const size_t piece = ready_ ? bytes.size() : std::min<size_t>(bytes.size(), 1);
    std::vector<Frame> frames;
    const Status status = parser_.Feed(bytes.substr(0, piece), &frames);
    bytes.remove_prefix(piece);
    for (Frame& frame : frames) {
      if (!closed_) OnFrame(std::move(frame));
    }
    if (!status.ok()) Close(status);
  }
  if (closed_) return;
  WatchFrame();
  Read();
}

void AsioConnection::OnFrame(Frame frame) {
  if (!ready_) {
    const Status status = OnHandshake(frame);
    if (!status.ok()) Close(status);
    return;
  }
  if (frame.type >= kFirstReservedFrameType) {
    Close(DataLossError(StrCat("an unexpected frame of type ", frame.type)));
    return;
  }
  events_.message(std::move(frame));
}

Status AsioConnection::OnHandshake(const Frame& frame) {
  if (server_ && frame.type == kProofFrame) {
    ASSIGN_OR_RETURN(const std::string accept, server_->Accept(frame.payload));
    Send(EncodeFrame(kAcceptFrame, accept));
    BecomeReady();
    return OkStatus();
  }
  if (client_ && frame.type == kChallengeFrame && !proved_) {
    ASSIGN_OR_RETURN(const std::string proof, client_->Prove(frame.payload));
    Send(EncodeFrame(kProofFrame, proof));
    proved_ = true;
    return OkStatus();
  }
  if (client_ && frame.type == kAcceptFrame && proved_) {
    RETURN_IF_ERROR(client_->Verify(frame.payload));
    BecomeReady();
    return OkStatus();
  }
  return DataLossError(StrCat("a frame of type ", frame.type, " before the secret was proved"));
}

void AsioConnection::BecomeReady() {
  ready_ = true;
  read_deadline_.cancel();
  parser_.set_payload_bytes_max(limits_.frame_bytes_max);
  events_.ready();
}

// The deadline counts from a frame's first byte, so that a peer that drips bytes gains nothing.
void AsioConnection::WatchFrame() {
  if (!ready_) return;
  if (parser_.AtBoundary()) {
    if (frame_watched_) read_deadline_.cancel();
    frame_watched_ = false;
    return;
  }
  if (frame_watched_) return;
  frame_watched_ = true;
  read_deadline_.expires_after(std::chrono::milliseconds(limits_.frame_ms));
  read_deadline_.async_wait([self = shared_from_this()](const ErrorCode& error) {
    if (!error && self->frame_watched_) {
      self->Close(DeadlineExceededError(
          StrCat("a frame was not complete within ", self->limits_.frame_ms, " ms")));
    }
  });
}

void AsioConnection::Send(std::string frame, Written written) {
  if (closed_ || close_when_sent_) {
    if (written) written(UnavailableError("the connection is closed"));
    return;
  }
  queued_bytes_ += frame.size();
  queue_.push_back({std::move(frame), std::move(written)});
  if (queued_bytes_ > limits_.queue_bytes_max) {
    Close(UnavailableError(StrCat("the peer does not read: ", queued_bytes_,
                                  " bytes wait, the limit is ", limits_.queue_bytes_max)));
    return;
  }
  if (queue_.size() == 1) Write();
}

void AsioConnection::Write() {
  write_deadline_.expires_after(std::chrono::milliseconds(limits_.write_ms));
  write_deadline_.async_wait([self = shared_from_this()](const ErrorCode& error) {
    // A timer that fired just as a write ended was moved ahead by the next write.
    if (error || self->queue_.empty() ||
        self->write_deadline_.expiry() > std::chrono::steady_clock::now()) {
      return;
    }
    self->Close(DeadlineExceededError(
        StrCat("the peer did not take a message within ", self->limits_.write_ms, " ms")));
  });
  boost::asio::async_write(socket_, boost::asio::buffer(queue_.front().frame),
                           [self = shared_from_this()](const ErrorCode& error, size_t) {
                             if (self->closed_) {
                               self->queue_.clear();
                               return;
                             }
                             if (error) {
                               self->Close(UnavailableError(error.message()));
                               return;
                             }
                             Outgoing done = std::move(self->queue_.front());
                             self->queue_.pop_front();
                             self->queued_bytes_ -= done.frame.size();
                             self->write_deadline_.cancel();
                             if (done.written) done.written(OkStatus());
                             if (self->closed_) return;
                             if (!self->queue_.empty()) {
                               self->Write();
                             } else if (self->close_when_sent_) {
                               self->Close(Status(*self->close_when_sent_));
                             }
                           });
}

void AsioConnection::Close(const Status& reason) {
  if (closed_) return;
  closed_ = true;
  const auto self = shared_from_this();  // events_ may drop the last other reference
  read_deadline_.cancel();
  write_deadline_.cancel();
  ErrorCode ignored;
  socket_.shutdown(tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
  for (Outgoing& waiting : queue_) {
    if (waiting.written) waiting.written(reason);
    waiting.written = nullptr;
  }
  // The buffers stay until the aborted write's handler has run.
  if (events_.closed) events_.closed(reason);
  events_ = {};
}

void AsioConnection::CloseWhenSent(const Status& reason) {
  if (closed_ || close_when_sent_) return;
  if (queue_.empty()) {
    Close(reason);
    return;
  }
  close_when_sent_ = reason;
}

}  // namespace trireme
