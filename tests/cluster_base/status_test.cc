#include "cluster/base/status.h"

#include <gtest/gtest.h>

namespace trireme {
namespace {

// Messages quote what users bring; they stay one line that a terminal shows as it is.
TEST(StatusTest, MessagesAreOneLineWhateverTheyQuote) {
  const Status status = InvalidArgumentError("run.yaml: a\nb\r\tc\x1b[31m\x7f: expected \xc3\xa9");
  EXPECT_EQ(status.message(), "run.yaml: a\\nb\\r\\tc\\x1b[31m\\x7f: expected \xc3\xa9");
  EXPECT_EQ(status.WithContext("line\n1").message(), "line\\n1: " + status.message());
  EXPECT_EQ(DataLossError("as it is").message(), "as it is");
}

}  // namespace
}  // namespace trireme
