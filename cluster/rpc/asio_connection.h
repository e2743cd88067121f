// One authenticated connection over a socket. Private to this room: the only header that sees Asio.
#pragma once

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cluster/rpc/auth.h"
#include "cluster/rpc/frame.h"
#include "cluster/rpc/rpc_limits.h"

namespace trireme {

// Everything runs on the one thread of its io_context. Holds itself alive while an operation is in
// flight; Close() ends them all.
class AsioConnection : public std::enable_shared_from_this<AsioConnection> {
 public:
  struct Events {
    std::function<void()> ready;  // the handshake is done; messages may be sent
    std::function<void(Frame)> message;
    std::function<void(const Status&)> closed;  // once, and nothing after it
  };
  using Written = std::function<void(const Status&)>;

  // Exactly one of the two sides opens with a challenge.
  AsioConnection(boost::asio::ip::tcp::socket socket, const RpcLimits& limits, Events events);
  void StartAsServer(const std::string& secret);
  void StartAsClient(const std::string& secret);

  // Queues an encoded frame; `written` (may be empty) hears when the kernel has all of it. A peer
  // that does not read for longer than the limits allow is closed.
  void Send(std::string frame, Written written = nullptr);
  // Cancels everything and reports `reason` to Events::closed. Later calls do nothing.
  void Close(const Status& reason);
  // Closes once what is queued has been written, or at the write deadline.
  void CloseWhenSent(const Status& reason);

 private:
  struct Outgoing {
    std::string frame;
    Written written;
  };

  void Start();
  void Read();
  void OnBytes(size_t count);
  void OnFrame(Frame frame);
  Status OnHandshake(const Frame& frame);
  void BecomeReady();
  void WatchFrame();
  void Write();

  boost::asio::ip::tcp::socket socket_;
  RpcLimits limits_;
  Events events_;
  FrameParser parser_{kHandshakeBytesMax};
  std::optional<ServerHandshake> server_;
  std::optional<ClientHandshake> client_;
  bool ready_ = false;
  bool proved_ = false;
  bool closed_ = false;
  std::optional<Status> close_when_sent_;
  bool frame_watched_ = false;
  std::deque<Outgoing> queue_;
  size_t queued_bytes_ = 0;
  std::array<char, 64 * 1024> bytes_;
  boost::asio::steady_timer read_deadline_;
  boost::asio::steady_timer write_deadline_;
};

}  // namespace trireme
