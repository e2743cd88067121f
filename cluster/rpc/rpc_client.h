// The client's end of a connection to an RpcServer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "cluster/base/status.h"
#include "cluster/rpc/endpoint.h"
#include "cluster/rpc/rpc_limits.h"

namespace google::protobuf {
class MessageLite;
}

namespace trireme {

struct RpcClientOptions {
  Endpoint server;
  RpcLimits limits;
  // For resolving, connecting (tried again while it is refused, with growing pauses) and the
  // handshake together.
  int64_t connect_ms = 10'000;
};

// Both run on the client's own thread; `closed` is the last and comes once, unless Stop() came
// first. They may call Send, not Stop.
struct RpcClientCallbacks {
  std::function<void(uint16_t type, std::string payload)> message;
  std::function<void(const Status& reason)> closed;
};

// Every method may be called from any thread.
class RpcClient {
 public:
  // Blocks until both sides have proved the secret. kUnavailable (refused, wrong secret) or
  // kDeadlineExceeded.
  static Result<std::unique_ptr<RpcClient>> Connect(const RpcClientOptions& options,
                                                    RpcClientCallbacks callbacks);
  ~RpcClient();  // Stop()

  // Queued and written in order; a lost connection is told by `closed`.
  void Send(uint16_t type, std::string payload);
  void Send(uint16_t type, const google::protobuf::MessageLite& message);
  // Returns when the kernel has taken the message: kUnavailable, or kDeadlineExceeded. Never from a
  // callback.
  Status SendAndWait(uint16_t type, std::string payload, int64_t timeout_ms);
  // Runs `task` on the client's thread after `delay_ms`.
  void RunAfter(int64_t delay_ms, std::function<void()> task);
  void Stop();

 private:
  class Impl;
  explicit RpcClient(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace trireme
