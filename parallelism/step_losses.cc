#include "parallelism/step_losses.h"

#include <vector>

namespace trireme {

Result<BatchLoss> SumLosses(Communicator* world, int microbatches,
                            std::span<const MicrobatchLoss> own, Micros timeout) {
  // (microbatches, 3): loss, label tokens, how many ranks brought it. Ranks fill disjoint rows, so
  // the sum adds nothing but zeros to each value.
  std::vector<double> table(static_cast<size_t>(microbatches) * 3, 0.0);
  for (const MicrobatchLoss& loss : own) {
    CHECK(loss.microbatch >= 0 && loss.microbatch < microbatches) << loss.microbatch;
    double* row = &table[static_cast<size_t>(loss.microbatch) * 3];
    row[0] += loss.loss_sum;
    row[1] += static_cast<double>(loss.label_tokens);
    row[2] += 1;
  }
  if (world != nullptr) {
    Work work = world->AllReduce({table.data(), static_cast<int64_t>(table.size()), DType::kF64});
    const Status done = work.Wait(timeout);
    if (!done.ok()) {
      work.Abandon(std::make_shared<std::vector<double>>(std::move(table)));
      return done.WithContext("summing losses");
    }
  }
  BatchLoss batch;
  for (int i = 0; i < microbatches; ++i) {
    const double* row = &table[static_cast<size_t>(i) * 3];
    if (row[2] != 1) {
      return InternalError(
          StrCat("the loss of microbatch ", i, " came from ", row[2], " ranks: expected one"));
    }
    batch.loss_sum += row[0];
    batch.label_tokens += static_cast<int64_t>(row[1]);
  }
  return batch;
}

}  // namespace trireme
