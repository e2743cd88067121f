// Server and client over real sockets of this host. Waits are for callbacks, never for time.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>

#include "cluster/rpc/auth.h"
#include "cluster/rpc/frame.h"
#include "cluster/rpc/rpc_client.h"
#include "cluster/rpc/rpc_server.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

// Lines of what happened, in order; Wait blocks until one contains `text` and returns it.
class Record {
 public:
  void Add(const std::string& line) {
    const std::lock_guard lock(mutex_);
    lines_.push_back(line);
    changed_.notify_all();
  }
  std::string Wait(const std::string& text) {
    std::unique_lock lock(mutex_);
    std::string found;
    changed_.wait_for(lock, std::chrono::seconds(30), [&] {
      for (const std::string& line : lines_) {
        if (line.find(text) != std::string::npos) found = line;
      }
      return !found.empty();
    });
    EXPECT_FALSE(found.empty()) << "never happened: " << text;
    return found;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> lines_;
};

// Warnings and errors of the log, as lines of a Record.
class LogRecord final : public google::LogSink {
 public:
  explicit LogRecord(Record* record) : record_(record) { google::AddLogSink(this); }
  ~LogRecord() override { google::RemoveLogSink(this); }
  void send(google::LogSeverity severity, const char*, const char*, int, const struct tm*,
            const char* message, size_t length) override {
    if (severity >= google::GLOG_WARNING) record_->Add("log: " + std::string(message, length));
  }

 private:
  Record* record_;
};

// A server that echoes messages of type 1 with type 2 and does not answer others.
class RpcTest : public ::testing::Test {
 protected:
  void StartServer(const RpcLimits& limits = {}, int strangers_max = 100) {
    RpcServerOptions options;
    options.bind_address = "127.0.0.1";
    options.secret = "the secret";
    options.limits = limits;
    options.strangers_max = strangers_max;
    RpcServerCallbacks callbacks;
    callbacks.connected = [this](ConnectionId id, const std::string& peer) {
      record_.Add(StrCat("connected ", id));
    };
    callbacks.message = [this](ConnectionId id, uint16_t type, std::string payload) {
      record_.Add(StrCat("message ", type, " of ", payload.size(), " bytes"));
      if (type == 1) server_->Send(id, 2, payload);
      if (type == 3) server_->Close(id, "asked to");
      if (type == 4) server_->Send(id, 2, std::string(1 << 20, 'x'));
    };
    callbacks.closed = [this](ConnectionId id, const Status& reason) {
      record_.Add(StrCat("closed ", id, ": ", reason.message()));
    };
    auto server = RpcServer::Start(options, std::move(callbacks));
    ASSERT_TRUE(server.ok()) << server.status().message();
    server_ = std::move(*server);
  }

  Result<std::unique_ptr<RpcClient>> Connect(const std::string& secret = "the secret") {
    RpcClientOptions options;
    options.server = {StrCat("127.0.0.1:", server_->port()), secret};
    RpcClientCallbacks callbacks;
    callbacks.message = [this](uint16_t type, const std::string& payload) {
      record_.Add(StrCat("client got ", type, " '", payload.substr(0, 10), "'"));
    };
    callbacks.closed = [this](const Status& reason) {
      record_.Add("client closed: " + reason.message());
    };
    return RpcClient::Connect(options, std::move(callbacks));
  }

  // A socket of a peer that does not follow the protocol.
  int RawSocket() {
    const int raw = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(server_->port());
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(raw, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return raw;
  }

  static void SendRaw(int raw, const std::string& bytes) {
    ASSERT_EQ(send(raw, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }

  static std::string ReadRaw(int raw, size_t bytes) {
    std::string text(bytes, '\0');
    EXPECT_EQ(recv(raw, text.data(), bytes, MSG_WAITALL), static_cast<ssize_t>(bytes));
    return text;
  }

  // A raw socket that has proved the secret.
  int AuthenticatedSocket() {
    const int raw = RawSocket();
    ClientHandshake handshake("the secret");
    const std::string challenge = ReadRaw(raw, kFrameHeaderBytes + 32).substr(kFrameHeaderBytes);
    SendRaw(raw, EncodeFrame(kProofFrame, *handshake.Prove(challenge)));
    EXPECT_TRUE(handshake.Verify(ReadRaw(raw, kFrameHeaderBytes + 32).substr(20)).ok());
    return raw;
  }

  void ExpectServerLives() {
    auto client = Connect();
    ASSERT_TRUE(client.ok()) << client.status().message();
    (*client)->Send(1, "alive");
    record_.Wait("client got 2 'alive'");
  }

  Record record_;
  std::unique_ptr<RpcServer> server_;
};

TEST_F(RpcTest, MessagesTravelBothWays) {
  StartServer();
  auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status().message();
  record_.Wait("connected 1");
  (*client)->Send(1, "hello");
  record_.Wait("client got 2 'hello'");
  EXPECT_TRUE((*client)->SendAndWait(1, std::string(3 << 20, 'y'), 30'000).ok());
  record_.Wait("client got 2 'yyyyyyyyyy'");
}

TEST_F(RpcTest, AClosedClientIsHeardAtOnce) {
  StartServer();
  auto client = Connect();
  record_.Wait("connected 1");
  client->reset();
  EXPECT_THAT(record_.Wait("closed 1"), HasSubstr("closed by the peer"));
}

TEST_F(RpcTest, TheServerClosesAndTheClientHears) {
  StartServer();
  auto client = Connect();
  (*client)->Send(3, "");
  record_.Wait("client closed: closed by the peer");
  EXPECT_EQ((*client)->SendAndWait(1, "late", 30'000).code(), StatusCode::kUnavailable);
}

TEST_F(RpcTest, GarbageIsClosedWithOneLineAndTheServerGoesOn) {
  StartServer();
  LogRecord log(&record_);
  const int raw = RawSocket();
  SendRaw(raw, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_THAT(record_.Wait("log: "), HasSubstr("not a Trireme peer: the frame starts with 'GET '"));
  close(raw);
  ExpectServerLives();
}

TEST_F(RpcTest, AWrongSecretIsRefusedOnBothSides) {
  StartServer();
  LogRecord log(&record_);
  const auto client = Connect("another secret");
  EXPECT_EQ(client.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(client.status().message(),
              HasSubstr("not admitted (is it the same run and secret?)"));
  EXPECT_THAT(record_.Wait("log: "), HasSubstr("wrong secret: the peer belongs to another run"));
  ExpectServerLives();
}

TEST_F(RpcTest, MessagesBeforeTheProofAreRefused) {
  StartServer();
  LogRecord log(&record_);
  const int raw = RawSocket();
  SendRaw(raw, EncodeFrame(1, "let me in"));
  EXPECT_THAT(record_.Wait("log: "), HasSubstr("a frame of type 1 before the secret was proved"));
  close(raw);
  ExpectServerLives();
}

TEST_F(RpcTest, StrangersMayNotSendLargeFrames) {
  StartServer();
  LogRecord log(&record_);
  const int raw = RawSocket();
  SendRaw(raw, EncodeFrame(kProofFrame, std::string(65, 'x')).substr(0, kFrameHeaderBytes));
  EXPECT_THAT(record_.Wait("log: "), HasSubstr("a frame of 65 bytes, the limit is 64"));
  close(raw);
}

TEST_F(RpcTest, OversizeFramesAreClosed) {
  RpcLimits limits;
  limits.frame_bytes_max = 1000;
  StartServer(limits);
  LogRecord log(&record_);
  auto client = Connect();
  (*client)->Send(1, std::string(1001, 'x'));
  EXPECT_THAT(record_.Wait("closed 1"), HasSubstr("a frame of 1001 bytes, the limit is 1000"));
  record_.Wait("log: ");
  ExpectServerLives();
}

TEST_F(RpcTest, ASilentStrangerRunsIntoTheDeadline) {
  RpcLimits limits;
  limits.handshake_ms = 30;
  StartServer(limits);
  LogRecord log(&record_);
  const int raw = RawSocket();
  EXPECT_THAT(record_.Wait("log: "), HasSubstr("no proof of the secret within 30 ms"));
  close(raw);
}

TEST_F(RpcTest, AFrameThatStopsHalfWayRunsIntoTheDeadline) {
  RpcLimits limits;
  limits.frame_ms = 30;
  StartServer(limits);
  const int raw = AuthenticatedSocket();
  SendRaw(raw, EncodeFrame(1, "whole") + EncodeFrame(1, "half").substr(0, 22));
  EXPECT_THAT(record_.Wait("closed 1"), HasSubstr("a frame was not complete within 30 ms"));
  record_.Wait("message 1 of 5 bytes");
  close(raw);
}

TEST_F(RpcTest, APeerThatDoesNotReadIsClosed) {
  RpcLimits limits;
  limits.queue_bytes_max = 8 << 20;
  StartServer(limits);
  const int raw = AuthenticatedSocket();
  for (int i = 0; i < 40; ++i) SendRaw(raw, EncodeFrame(4, ""));
  EXPECT_THAT(record_.Wait("closed 1"), HasSubstr("the peer does not read"));
  close(raw);
  ExpectServerLives();
}

TEST_F(RpcTest, StrangersCannotCrowdOutMembers) {
  StartServer({}, 2);
  LogRecord log(&record_);
  const int first = RawSocket();
  const int second = RawSocket();
  ReadRaw(first, 1);
  ReadRaw(second, 1);
  const int third = RawSocket();
  record_.Wait("2 of them not authenticated");
  close(first);
  close(second);
  close(third);
  record_.Wait("log: closed 127.0.0.1");
  ExpectServerLives();
}

TEST_F(RpcTest, NobodyListeningIsOneClearLine) {
  StartServer();
  RpcClientOptions options;
  options.server = {StrCat("127.0.0.1:", server_->port()), "the secret"};
  options.connect_ms = 60;
  server_.reset();
  const auto client = RpcClient::Connect(options, {});
  EXPECT_EQ(client.status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(client.status().message(), HasSubstr("no connection within 60 ms, last: "));
}

TEST_F(RpcTest, AServerThatAcceptsAndSaysNothingRunsIntoTheDeadline) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
  RpcClientOptions options;
  options.server = {StrCat("127.0.0.1:", ntohs(address.sin_port)), "the secret"};
  options.connect_ms = 50;
  EXPECT_EQ(RpcClient::Connect(options, {}).status().code(), StatusCode::kDeadlineExceeded);
  close(listener);
}

TEST_F(RpcTest, TimersRunOnTheServersThread) {
  StartServer();
  server_->RunAfter(1, [this] { record_.Add("timer"); });
  record_.Wait("timer");
}

TEST(EndpointTest, TheFileIsForItsOwnerAlone) {
  const std::string run_dir = StrCat(::testing::TempDir(), "/endpoint_", getpid());
  const std::string path = EndpointPath(run_dir);
  EXPECT_EQ(ReadEndpoint(path).status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(WriteEndpoint(path, {"10.0.0.1:4711", "abc"}).ok());
  ASSERT_TRUE(WriteEndpoint(path, {"[::1]:4712", "def"}).ok()) << "a second start overwrites";
  struct stat file {};
  ASSERT_EQ(stat(path.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
  const auto endpoint = ReadEndpoint(path);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status().message();
  EXPECT_EQ(endpoint->address, "[::1]:4712");
  EXPECT_EQ(endpoint->secret, "def");
}

TEST(EndpointTest, AddressesAreSplitOrRefused) {
  std::string host;
  uint16_t port = 0;
  ASSERT_TRUE(SplitAddress("node-7:4711", &host, &port).ok());
  EXPECT_EQ(host, "node-7");
  EXPECT_EQ(port, 4711);
  ASSERT_TRUE(SplitAddress("[fe80::1]:80", &host, &port).ok());
  EXPECT_EQ(host, "fe80::1");
  for (const char* bad : {"", "host", ":1", "host:", "host:70000", "host:12x"}) {
    EXPECT_EQ(SplitAddress(bad, &host, &port).code(), StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace trireme
