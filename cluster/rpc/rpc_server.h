// A server of framed messages for peers that know the run's secret.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "cluster/base/status.h"
#include "cluster/rpc/rpc_limits.h"

namespace google::protobuf {
class MessageLite;
}

namespace trireme {

// Never used twice by a server.
using ConnectionId = uint64_t;

struct RpcServerOptions {
  std::string bind_address = "0.0.0.0";
  uint16_t port = 0;  // 0: any free one
  std::string secret;
  RpcLimits limits;
  int connections_max = 65'536;
  // The most peers that have not proved the secret yet: strangers cannot crowd out members.
  int strangers_max = 4096;
};

// All run on the server's own thread, one at a time; none before `connected`, none after `closed`,
// and none for peers that never proved the secret: those are closed with one line in the log. They
// may call the server's methods except Stop().
struct RpcServerCallbacks {
  std::function<void(ConnectionId, const std::string& peer)> connected;
  std::function<void(ConnectionId, uint16_t type, std::string payload)> message;
  std::function<void(ConnectionId, const Status& reason)> closed;
};

// Every method may be called from any thread.
class RpcServer {
 public:
  // kUnavailable when the address cannot be bound.
  static Result<std::unique_ptr<RpcServer>> Start(const RpcServerOptions& options,
                                                  RpcServerCallbacks callbacks);
  ~RpcServer();  // Stop()

  uint16_t port() const;
  // Queued and written in order. Nothing happens when the connection is gone: `closed` says so.
  // `type` is below 0xff00.
  void Send(ConnectionId id, uint16_t type, std::string payload);
  void Send(ConnectionId id, uint16_t type, const google::protobuf::MessageLite& message);
  // Closes after what was queued is written.
  void Close(ConnectionId id, const std::string& reason);
  // Runs `task` on the server's thread after `delay_ms`: timers of the state machine behind it.
  void RunAfter(int64_t delay_ms, std::function<void()> task);
  // Closes all connections without callbacks and joins the thread.
  void Stop();

 private:
  class Impl;
  explicit RpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace trireme
