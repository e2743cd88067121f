#include "cluster/rpc/auth.h"

#include <gtest/gtest.h>

namespace trireme {
namespace {

TEST(AuthTest, BothSidesProveTheSameSecret) {
  const ServerHandshake server("s3cret");
  ClientHandshake client("s3cret");
  auto proof = client.Prove(server.challenge());
  ASSERT_TRUE(proof.ok());
  auto accept = server.Accept(*proof);
  ASSERT_TRUE(accept.ok()) << accept.status().message();
  EXPECT_TRUE(client.Verify(*accept).ok());
  EXPECT_EQ(proof->find("s3cret"), std::string::npos);
}

TEST(AuthTest, AnotherSecretIsRefused) {
  const ServerHandshake server("ours");
  ClientHandshake client("theirs");
  const auto refused = server.Accept(*client.Prove(server.challenge()));
  EXPECT_EQ(refused.status().message(), "wrong secret: the peer belongs to another run");
}

TEST(AuthTest, AServerWithoutTheSecretIsRefused) {
  const ServerHandshake impostor("guess");
  ClientHandshake client("ours");
  ASSERT_TRUE(client.Prove(impostor.challenge()).ok());
  // It may echo what it saw, or make up an answer.
  ClientHandshake other("guess");
  const std::string answer = *impostor.Accept(*other.Prove(impostor.challenge()));
  EXPECT_EQ(client.Verify(answer).message(), "wrong secret: the server belongs to another run");
}

TEST(AuthTest, AProofIsGoodForOneChallengeOnly) {
  const ServerHandshake first("ours");
  const ServerHandshake second("ours");
  ClientHandshake client("ours");
  const std::string proof = *client.Prove(first.challenge());
  EXPECT_TRUE(first.Accept(proof).ok());
  EXPECT_FALSE(second.Accept(proof).ok());
}

TEST(AuthTest, WrongSizesAreRefused) {
  const ServerHandshake server("ours");
  ClientHandshake client("ours");
  EXPECT_FALSE(client.Prove("short").ok());
  EXPECT_FALSE(server.Accept("").ok());
  EXPECT_FALSE(client.Verify("").ok()) << "no challenge was answered yet";
}

TEST(AuthTest, SecretsAreLongAndDiffer) {
  EXPECT_EQ(NewSecret().size(), 64u);
  EXPECT_NE(NewSecret(), NewSecret());
}

}  // namespace
}  // namespace trireme
