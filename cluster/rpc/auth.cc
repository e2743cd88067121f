#include "cluster/rpc/auth.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

namespace trireme {
namespace {

constexpr size_t kNonceBytes = 32;
constexpr size_t kMacBytes = 32;

std::string RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  const int drawn =
      RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(count));
  CHECK_EQ(drawn, 1) << "the system gave no random bytes";
  return bytes;
}

std::string Mac(const std::string& secret, std::string_view role, std::string_view server_nonce,
                std::string_view client_nonce) {
  const std::string text = StrCat(role, server_nonce, client_nonce);
  std::string mac(kMacBytes, '\0');
  unsigned int length = 0;
  const unsigned char* done = HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
                                   reinterpret_cast<const unsigned char*>(text.data()), text.size(),
                                   reinterpret_cast<unsigned char*>(mac.data()), &length);
  CHECK(done != nullptr && length == kMacBytes) << "HMAC-SHA256 failed";
  return mac;
}

// In constant time, so that a stranger learns nothing from how long a refusal takes.
bool Same(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace

std::string NewSecret() {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string secret;
  for (const char c : RandomBytes(32)) {
    secret += kDigits[(static_cast<unsigned char>(c) >> 4) & 15];
    secret += kDigits[static_cast<unsigned char>(c) & 15];
  }
  return secret;
}

ServerHandshake::ServerHandshake(std::string secret)
    : secret_(std::move(secret)), nonce_(RandomBytes(kNonceBytes)) {}

Result<std::string> ServerHandshake::Accept(std::string_view proof) const {
  if (proof.size() != kNonceBytes + kMacBytes) {
    return UnavailableError(
        StrCat("a proof of ", proof.size(), " bytes, expected ", kNonceBytes + kMacBytes));
  }
  const std::string_view client_nonce = proof.substr(0, kNonceBytes);
  if (!Same(proof.substr(kNonceBytes), Mac(secret_, "client", nonce_, client_nonce))) {
    return UnavailableError("wrong secret: the peer belongs to another run");
  }
  return Mac(secret_, "server", nonce_, client_nonce);
}

ClientHandshake::ClientHandshake(std::string secret)
    : secret_(std::move(secret)), nonce_(RandomBytes(kNonceBytes)) {}

Result<std::string> ClientHandshake::Prove(std::string_view challenge) {
  if (challenge.size() != kNonceBytes) {
    return UnavailableError(
        StrCat("a challenge of ", challenge.size(), " bytes, expected ", kNonceBytes));
  }
  challenge_ = challenge;
  return nonce_ + Mac(secret_, "client", challenge_, nonce_);
}

Status ClientHandshake::Verify(std::string_view accept) const {
  if (challenge_.empty() || !Same(accept, Mac(secret_, "server", challenge_, nonce_))) {
    return UnavailableError("wrong secret: the server belongs to another run");
  }
  return OkStatus();
}

}  // namespace trireme
