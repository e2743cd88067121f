#include "cluster/rpc/rpc_server.h"

#include <google/protobuf/message_lite.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <thread>
#include <unordered_map>

#include "cluster/rpc/asio_connection.h"

namespace trireme {
namespace {

using boost::asio::ip::tcp;
using ErrorCode = boost::system::error_code;

constexpr auto kAcceptRetry = std::chrono::milliseconds(100);

std::string PeerName(const tcp::socket& socket) {
  ErrorCode error;
  const tcp::endpoint peer = socket.remote_endpoint(error);
  if (error) return "unknown peer";
  return StrCat(peer.address().to_string(), ":", peer.port());
}

}  // namespace

class RpcServer::Impl {
 public:
  Impl(const RpcServerOptions& options, RpcServerCallbacks callbacks)
      : options_(options),
        callbacks_(std::move(callbacks)),
        acceptor_(context_),
        retry_(context_) {}

  Status Listen() {
    ErrorCode error;
    const auto address = boost::asio::ip::make_address(options_.bind_address, error);
    if (error) {
      return InvalidArgumentError(
          StrCat("cannot listen on '", options_.bind_address, "': expected an IP address"));
    }
    const tcp::endpoint endpoint(address, options_.port);
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(boost::asio::socket_base::max_listen_connections, error);
    if (error) {
      return UnavailableError(StrCat("cannot listen on ", options_.bind_address, ":", options_.port,
                                     ": ", error.message()));
    }
    port_ = acceptor_.local_endpoint(error).port();
    return OkStatus();
  }

  void Run() {
    Accept();
    thread_ = std::thread([this] { context_.run(); });
  }

  void Stop() {
    if (!thread_.joinable()) return;
    boost::asio::post(context_, [this] {
      stopping_ = true;
      ErrorCode ignored;
      acceptor_.close(ignored);
      retry_.cancel();
      const auto connections = std::move(connections_);
      connections_.clear();
      for (const auto& [id, connection] : connections) {
        connection->Close(UnavailableError("the server stops"));
      }
      context_.stop();
    });
    thread_.join();
  }

  template <typename Task>
  void Post(Task task) {
    boost::asio::post(context_, std::move(task));
  }

  AsioConnection* Find(ConnectionId id) {
    const auto found = connections_.find(id);
    return found == connections_.end() ? nullptr : found->second.get();
  }

  void RunAfter(int64_t delay_ms, std::function<void()> task) {
    Post([this, delay_ms, task = std::move(task)] {
      const auto timer = std::make_shared<boost::asio::steady_timer>(context_);
      timer->expires_after(std::chrono::milliseconds(delay_ms));
      timer->async_wait([this, timer, task](const ErrorCode& error) {
        if (!error && !stopping_) task();
      });
    });
  }

  uint16_t port() const { return port_; }

 private:
  void Accept() {
    acceptor_.async_accept([this](const ErrorCode& error, tcp::socket socket) {
      if (stopping_) return;
      if (error) {
        // Out of descriptors, most likely: those that are connected go on, newcomers wait.
        LOG(ERROR) << "accepting a connection: " << error.message();
        retry_.expires_after(kAcceptRetry);
        retry_.async_wait([this](const ErrorCode& cancelled) {
          if (!cancelled) Accept();
        });
        return;
      }
      Admit(std::move(socket));
      Accept();
    });
  }

  void Admit(tcp::socket socket) {
    const std::string peer = PeerName(socket);
    if (static_cast<int>(connections_.size()) >= options_.connections_max ||
        strangers_ >= options_.strangers_max) {
      LOG(ERROR) << "refused " << peer << ": " << connections_.size() << " connections, "
                 << strangers_ << " of them not authenticated, are open already";
      return;
    }
    const ConnectionId id = next_id_++;
    ++strangers_;
    const auto known = std::make_shared<bool>(false);
    AsioConnection::Events events;
    events.ready = [this, id, peer, known] {
      *known = true;
      --strangers_;
      if (callbacks_.connected) callbacks_.connected(id, peer);
    };
    events.message = [this, id](Frame frame) {
      if (callbacks_.message) callbacks_.message(id, frame.type, std::move(frame.payload));
    };
    events.closed = [this, id, peer, known](const Status& reason) {
      connections_.erase(id);
      if (stopping_) return;
      if (!*known) {
        --strangers_;
        LOG(WARNING) << "closed " << peer << ": " << reason.message();
        return;
      }
      if (reason.code() != StatusCode::kUnavailable) {
        LOG(WARNING) << "closed " << peer << ": " << reason.message();
      }
      if (callbacks_.closed) callbacks_.closed(id, reason);
    };
    const auto connection =
        std::make_shared<AsioConnection>(std::move(socket), options_.limits, std::move(events));
    connections_[id] = connection;
    connection->StartAsServer(options_.secret);
  }

  const RpcServerOptions options_;
  const RpcServerCallbacks callbacks_;
  boost::asio::io_context context_{1};
  tcp::acceptor acceptor_;
  boost::asio::steady_timer retry_;
  uint16_t port_ = 0;
  bool stopping_ = false;
  ConnectionId next_id_ = 1;
  int strangers_ = 0;
  std::unordered_map<ConnectionId, std::shared_ptr<AsioConnection>> connections_;
  std::thread thread_;
};

RpcServer::RpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RpcServer::~RpcServer() { Stop(); }

Result<std::unique_ptr<RpcServer>> RpcServer::Start(const RpcServerOptions& options,
                                                    RpcServerCallbacks callbacks) {
  if (options.secret.empty()) return InvalidArgumentError("the run's secret is empty");
  auto impl = std::make_unique<Impl>(options, std::move(callbacks));
  RETURN_IF_ERROR(impl->Listen());
  impl->Run();
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(impl)));
}

uint16_t RpcServer::port() const { return impl_->port(); }

void RpcServer::Send(ConnectionId id, uint16_t type, std::string payload) {
  CHECK_LT(type, kFirstReservedFrameType);
  std::string frame = EncodeFrame(type, payload);
  impl_->Post([impl = impl_.get(), id, frame = std::move(frame)]() mutable {
    if (AsioConnection* connection = impl->Find(id)) connection->Send(std::move(frame));
  });
}

void RpcServer::Send(ConnectionId id, uint16_t type, const google::protobuf::MessageLite& message) {
  Send(id, type, message.SerializeAsString());
}

void RpcServer::Close(ConnectionId id, const std::string& reason) {
  impl_->Post([impl = impl_.get(), id, reason] {
    if (AsioConnection* connection = impl->Find(id)) {
      connection->CloseWhenSent(UnavailableError(reason));
    }
  });
}

void RpcServer::RunAfter(int64_t delay_ms, std::function<void()> task) {
  impl_->RunAfter(delay_ms, std::move(task));
}

void RpcServer::Stop() { impl_->Stop(); }

}  // namespace trireme
