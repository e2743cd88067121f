// The blocked forward pass, shared by training and by prompts over a cache.
#pragma once

#include "worker/kernels/attention.h"

namespace trireme {

// As AttentionForward, or, where lengths [B] is given, as AttentionDecode: q's rows are the last
// of lengths[b] keys. starts [B, T] and log_sum_exp [B, Hq, T] may be null.
void AttentionBlocks(Stream& stream, const Heads& q, const Heads& k, const Heads& v, float scale,
                     const int32_t* lengths, const int32_t* starts, const Heads& out,
                     float* log_sum_exp);

}  // namespace trireme
