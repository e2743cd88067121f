#include "cluster/rpc/rpc_client.h"

#include <google/protobuf/message_lite.h>

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <future>
#include <thread>

#include "cluster/rpc/asio_connection.h"

namespace trireme {
namespace {

using boost::asio::ip::tcp;
using ErrorCode = boost::system::error_code;

constexpr std::chrono::milliseconds kFirstPause{20};
constexpr std::chrono::milliseconds kLongestPause{1000};

// Errors that mend themselves when the server is only just starting or its host is busy.
bool WorthAnotherTry(const ErrorCode& error) {
  return error == boost::asio::error::connection_refused ||
         error == boost::asio::error::host_unreachable ||
         error == boost::asio::error::network_unreachable ||
         error == boost::asio::error::timed_out ||
         error == boost::asio::error::host_not_found_try_again;
}

}  // namespace

class RpcClient::Impl {
 public:
  Impl(const RpcClientOptions& options, RpcClientCallbacks callbacks)
      : options_(options),
        callbacks_(std::move(callbacks)),
        resolver_(context_),
        socket_(context_),
        deadline_(context_),
        pause_(context_) {}

  Status Connect() {
    RETURN_IF_ERROR(SplitAddress(options_.server.address, &host_, &port_));
    if (options_.server.secret.empty()) return InvalidArgumentError("the run's secret is empty");
    std::future<Status> connected = connected_.get_future();
    boost::asio::post(context_, [this] {
      deadline_.expires_after(std::chrono::milliseconds(options_.connect_ms));
      deadline_.async_wait([this](const ErrorCode& error) {
        if (!error) {
          Finish(DeadlineExceededError(StrCat("no connection within ", options_.connect_ms, " ms",
                                              last_error_.empty() ? "" : ", last: ", last_error_)));
        }
      });
      Resolve();
    });
    thread_ = std::thread([this] { context_.run(); });
    const Status status = connected.get();
    if (!status.ok()) Stop();
    return status.WithContext(StrCat("coordinator at ", options_.server.address));
  }

  void Send(std::string frame, AsioConnection::Written written = nullptr) {
    boost::asio::post(context_, [this, frame = std::move(frame), written]() mutable {
      connection_->Send(std::move(frame), written);
    });
  }

  void RunAfter(int64_t delay_ms, std::function<void()> task) {
    boost::asio::post(context_, [this, delay_ms, task = std::move(task)] {
      const auto timer = std::make_shared<boost::asio::steady_timer>(context_);
      timer->expires_after(std::chrono::milliseconds(delay_ms));
      timer->async_wait([this, timer, task](const ErrorCode& error) {
        if (!error && !stopping_) task();
      });
    });
  }

  void Stop() {
    if (!thread_.joinable()) return;
    boost::asio::post(context_, [this] {
      stopping_ = true;
      if (connection_) connection_->Close(UnavailableError("the client stops"));
      context_.stop();
    });
    thread_.join();
  }

 private:
  void Resolve() {
    resolver_.async_resolve(
        host_, std::to_string(port_),
        [this](const ErrorCode& error, tcp::resolver::results_type results) {
          if (finished_) return;
          if (error) {
            Retry(error, StrCat("cannot resolve '", host_, "': ", error.message()));
            return;
          }
          boost::asio::async_connect(socket_, results,
                                     [this](const ErrorCode& failed, const tcp::endpoint&) {
                                       if (finished_) return;
                                       if (failed) {
                                         Retry(failed, failed.message());
                                       } else {
                                         Authenticate();
                                       }
                                     });
        });
  }

  void Retry(const ErrorCode& error, const std::string& text) {
    last_error_ = text;
    if (!WorthAnotherTry(error)) {
      Finish(UnavailableError(text));
      return;
    }
    pause_.expires_after(next_pause_);
    next_pause_ = std::min(next_pause_ * 2, kLongestPause);
    pause_.async_wait([this](const ErrorCode& cancelled) {
      if (!cancelled && !finished_) Resolve();
    });
  }

  void Authenticate() {
    AsioConnection::Events events;
    events.ready = [this] { Finish(OkStatus()); };
    events.message = [this](Frame frame) {
      if (callbacks_.message) callbacks_.message(frame.type, std::move(frame.payload));
    };
    events.closed = [this](const Status& reason) {
      if (!finished_) {
        // A server that refuses the proof only closes: say what that most likely means.
        Finish(reason.WithContext("not admitted (is it the same run and secret?)"));
      } else if (callbacks_.closed && !stopping_ && admitted_) {
        callbacks_.closed(reason);
      }
    };
    connection_ =
        std::make_shared<AsioConnection>(std::move(socket_), options_.limits, std::move(events));
    connection_->StartAsClient(options_.server.secret);
  }

  void Finish(const Status& status) {
    if (finished_) return;
    finished_ = true;
    admitted_ = status.ok();
    deadline_.cancel();
    pause_.cancel();
    resolver_.cancel();
    if (!status.ok()) {
      ErrorCode ignored;
      socket_.close(ignored);
    }
    connected_.set_value(status);
  }

  const RpcClientOptions options_;
  const RpcClientCallbacks callbacks_;
  boost::asio::io_context context_{1};
  // Keeps run() going between the handshake and the first message.
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{
      context_.get_executor()};
  tcp::resolver resolver_;
  tcp::socket socket_;
  boost::asio::steady_timer deadline_;
  boost::asio::steady_timer pause_;
  std::chrono::milliseconds next_pause_ = kFirstPause;
  std::string host_;
  uint16_t port_ = 0;
  std::string last_error_;
  bool finished_ = false;
  bool admitted_ = false;
  bool stopping_ = false;
  std::promise<Status> connected_;
  std::shared_ptr<AsioConnection> connection_;
  std::thread thread_;
};

RpcClient::RpcClient(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
RpcClient::~RpcClient() { Stop(); }

Result<std::unique_ptr<RpcClient>> RpcClient::Connect(const RpcClientOptions& options,
                                                      RpcClientCallbacks callbacks) {
  auto impl = std::make_shared<Impl>(options, std::move(callbacks));
  RETURN_IF_ERROR(impl->Connect());
  return std::unique_ptr<RpcClient>(new RpcClient(std::move(impl)));
}

void RpcClient::Send(uint16_t type, std::string payload) {
  CHECK_LT(type, kFirstReservedFrameType);
  impl_->Send(EncodeFrame(type, payload));
}

void RpcClient::Send(uint16_t type, const google::protobuf::MessageLite& message) {
  Send(type, message.SerializeAsString());
}

Status RpcClient::SendAndWait(uint16_t type, std::string payload, int64_t timeout_ms) {
  CHECK_LT(type, kFirstReservedFrameType);
  const auto promise = std::make_shared<std::promise<Status>>();
  std::future<Status> written = promise->get_future();
  impl_->Send(EncodeFrame(type, payload),
              [promise](const Status& status) { promise->set_value(status); });
  if (written.wait_for(std::chrono::milliseconds(timeout_ms)) != std::future_status::ready) {
    return DeadlineExceededError(StrCat("a message was not taken within ", timeout_ms, " ms"));
  }
  return written.get();
}

void RpcClient::RunAfter(int64_t delay_ms, std::function<void()> task) {
  impl_->RunAfter(delay_ms, std::move(task));
}

void RpcClient::Stop() { impl_->Stop(); }

}  // namespace trireme
