// How two processes of a run prove to each other that they know its secret, which never travels.
//
//   server -> client   kChallenge  nonce_s
//   client -> server   kProof      nonce_c | HMAC(secret, "client" | nonce_s | nonce_c)
//   server -> client   kAccept     HMAC(secret, "server" | nonce_s | nonce_c)
//
// HMAC-SHA256, nonces of 32 random bytes. It keeps strangers and other runs out; it does not
// encrypt, and a relay in the middle of the network is not its concern.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "cluster/base/status.h"

namespace trireme {

// Frame types of the handshake; messages use types below kFirstReservedFrameType.
inline constexpr uint16_t kFirstReservedFrameType = 0xff00;
inline constexpr uint16_t kChallengeFrame = 0xff01;
inline constexpr uint16_t kProofFrame = 0xff02;
inline constexpr uint16_t kAcceptFrame = 0xff03;
// The largest payload that a peer may send before it has proved itself.
inline constexpr size_t kHandshakeBytesMax = 64;

// 64 hexadecimal digits from the system's random source: a run's secret.
std::string NewSecret();

// The server's side of one connection.
class ServerHandshake {
 public:
  explicit ServerHandshake(std::string secret);
  // The payload of kChallenge.
  const std::string& challenge() const { return nonce_; }
  // The payload of kAccept, or kUnavailable when the proof was made with another secret.
  Result<std::string> Accept(std::string_view proof) const;

 private:
  std::string secret_;
  std::string nonce_;
};

// The client's side of one connection.
class ClientHandshake {
 public:
  explicit ClientHandshake(std::string secret);
  // The payload of kProof.
  Result<std::string> Prove(std::string_view challenge);
  // Whether the server knows the secret too.
  Status Verify(std::string_view accept) const;

 private:
  std::string secret_;
  std::string nonce_;
  std::string challenge_;
};

}  // namespace trireme
