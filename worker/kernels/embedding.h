// Token and position embeddings. N tokens, H hidden size, V rows of the local part of the table.
#pragma once

#include "cluster/device/stream.h"
#include "cluster/device/tensor.h"

namespace trireme {

// y[n, :] = table[ids[n] - first_row, :], or zeros where the id is not in this rank's rows
// (vocabulary-parallel; the tensor group sums).
// ids: [N] i32. table: [V, H] f32 or bf16. y: [N, H] f32 or bf16.
void EmbeddingForward(Stream& stream, const Tensor& ids, const Tensor& table, int64_t first_row,
                      const Tensor& y);
// dtable[ids[n] - first_row, :] += dy[n, :], added in token order whatever the threads.
// dy: [N, H] f32 or bf16. dtable: [V, H] f32, zeroed first unless `accumulate`.
void EmbeddingBackward(Stream& stream, const Tensor& ids, const Tensor& dy, int64_t first_row,
                       const Tensor& dtable, bool accumulate);

// y[n, :] += table[positions[n], :]. positions: [N] i32.
void PositionEmbeddingForward(Stream& stream, const Tensor& positions, const Tensor& table,
                              const Tensor& y);
// The same as EmbeddingBackward with positions for ids.

}  // namespace trireme
