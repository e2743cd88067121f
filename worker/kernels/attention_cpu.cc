#include <algorithm>
#include <cmath>
#include <limits>

#include "worker/kernels/attention.h"
#include "worker/kernels/attention_tile.h"
#include "worker/kernels/vector.h"

namespace trireme {
namespace {

// A block of kQueries queries meets its keys in chunks of at most kKeys: one strip of scores
// [kQueries, kKeys], one product for the scores and one for the values. Strips start at multiples
// of kKeyAlign, so that documents do not make every strip another shape.
constexpr int64_t kQueries = 64;
constexpr int64_t kKeys = 512;
constexpr int64_t kKeyAlign = 64;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// One head of one sequence, q row t standing at position offset + t of the keys.
struct Problem {
  int64_t b, h, kv_head, offset;
  float scale;
  const int32_t* starts;  // of this sequence's documents, or null
  int64_t Start(int64_t position) const { return starts == nullptr ? 0 : starts[position]; }
};

// Keys that a block of queries [begin, end) can see, the first rounded down.
int64_t FirstKey(const Problem& problem, int64_t begin, int64_t end) {
  int64_t first = problem.offset + begin;
  for (int64_t t = begin; t < end; ++t) first = std::min(first, problem.Start(problem.offset + t));
  return first / kKeyAlign * kKeyAlign;
}

// Visible columns [low, high) of query t in the strip of keys [key, key + keys).
struct Range {
  int64_t low, high;
};
Range Visible(const Problem& problem, int64_t t, int64_t key, int64_t keys) {
  const int64_t position = problem.offset + t;
  const int64_t high = std::clamp<int64_t>(position + 1 - key, 0, keys);
  return {std::clamp<int64_t>(problem.Start(position) - key, 0, high), high};
}

float RowMaximum(const float* row, const Range& range) {
  Vec top = Broadcast(kMinusInfinity);
  ForLanes(range.high - range.low, [&](int64_t i, auto count) {
    top = Maximum(KeepLanes(Load(row + range.low + i, count), count, kMinusInfinity), top);
  });
  return Maximum(top);
}

// p[s] = exp(scale * score[s] - shift) over the range, zeros around it; returns their sum.
template <typename T>
float RowExponentials(const float* scores, T* p, const Range& range, int64_t keys, float scale,
                      float shift) {
  const auto zero = [p](int64_t begin, int64_t end) {
    ForLanes(end - begin, [&](int64_t i, auto count) { Store(p + begin + i, Vec{}, count); });
  };
  zero(0, range.low);
  Vec sum{};
  ForLanes(range.high - range.low, [&](int64_t i, auto count) {
    const Vec score = Load(scores + range.low + i, count);
    const Vec e = KeepLanes(Exp(Fma(score, Broadcast(scale), Broadcast(-shift))), count, 0.0f);
    sum += e;
    Store(p + range.low + i, e, count);
  });
  zero(range.high, keys);
  return Sum(sum);
}

// Running softmax of a block of queries.
struct BlockState {
  float top[kQueries];  // largest scaled score so far
  float sum[kQueries];  // of exp(scaled score - top)
};

// One strip: scores, exponentials, and the values' product added to sums [rows, D].
template <typename T>
void ForwardStrip(const Problem& problem, const Heads& q, const Heads& k, const Heads& v,
                  int64_t begin, int64_t rows, int64_t key, int64_t keys, float* scores, T* p,
                  BlockState& state, float* sums) {
  const int64_t d = q.head_dim;
  TileProduct(TileOf(HeadRow<T>(q, problem.b, begin, problem.h), q.row_stride), false,
              TileOf(HeadRow<T>(k, problem.b, key, problem.kv_head), k.row_stride), true, scores,
              kKeys, rows, keys, d, false);
  for (int64_t r = 0; r < rows; ++r) {
    const Range range = Visible(problem, begin + r, key, keys);
    float* row = scores + r * kKeys;
    const float largest = RowMaximum(row, range);
    // scale > 0, so the largest scaled score is the scaled largest score.
    const float top =
        range.low < range.high ? std::max(state.top[r], largest * problem.scale) : state.top[r];
    const float sum = RowExponentials(row, p + r * kKeys, range, keys, problem.scale,
                                      top == kMinusInfinity ? 0.0f : top);
    const float keep =
        state.top[r] == kMinusInfinity ? 0.0f : Exp(Broadcast(state.top[r] - top))[0];
    state.sum[r] = state.sum[r] * keep + sum;
    state.top[r] = top;
    if (keep != 1.0f) {
      ForLanes(d, [&](int64_t i, auto count) {
        Store(sums + r * d + i, Load(sums + r * d + i, count) * keep, count);
      });
    }
  }
  TileProduct(TileOf(p, kKeys), false,
              TileOf(HeadRow<T>(v, problem.b, key, problem.kv_head), v.row_stride), false, sums, d,
              rows, d, keys, true);
}

// A block of queries against all its keys. log_sum_exp: of this head, or null.
template <typename T>
void ForwardBlock(const Problem& problem, const Heads& q, const Heads& k, const Heads& v,
                  int64_t begin, int64_t end, const Heads& out, float* log_sum_exp) {
  const int64_t d = q.head_dim, rows = end - begin;
  TileScratch& scratch = ThreadScratch();
  scratch.Reset(kQueries * (kKeys * (sizeof(float) + sizeof(T)) + d * sizeof(float)) + 4096);
  float* scores = scratch.Take<float>(kQueries * kKeys);
  T* p = scratch.Take<T>(kQueries * kKeys);
  float* sums = scratch.Take<float>(kQueries * d);
  std::fill(sums, sums + rows * d, 0.0f);
  BlockState state;
  std::fill(state.top, state.top + rows, kMinusInfinity);
  std::fill(state.sum, state.sum + rows, 0.0f);
  const int64_t last = problem.offset + end;
  for (int64_t key = FirstKey(problem, begin, end); key < last; key += kKeys) {
    ForwardStrip<T>(problem, q, k, v, begin, rows, key, std::min(kKeys, last - key), scores, p,
                    state, sums);
  }
  for (int64_t r = 0; r < rows; ++r) {
    T* row = HeadRow<T>(out, problem.b, begin + r, problem.h);
    const float inverse = 1.0f / state.sum[r];
    ForLanes(d, [&](int64_t i, auto count) {
      Store(row + i, Load(sums + r * d + i, count) * inverse, count);
    });
    if (log_sum_exp != nullptr) log_sum_exp[begin + r] = state.top[r] + std::log(state.sum[r]);
  }
}

const int32_t* Starts(const Tensor& document_starts, const Heads& q) {
  if (!document_starts.defined()) return nullptr;
  CHECK_EQ(document_starts.elements(), q.batch * q.length);
  return document_starts.as<int32_t>();
}

}  // namespace

void AttentionForward(Stream& stream, const Heads& q, const Heads& k, const Heads& v, float scale,
                      const Tensor& document_starts, const Heads& out, const Tensor& log_sum_exp) {
  CheckSameHeads(k, v, "v");
  CheckSameHeads(q, out, "out");
  CHECK(q.dtype == k.dtype && q.batch == k.batch && q.length == k.length &&
        q.head_dim == k.head_dim);
  CHECK(k.heads > 0 && q.heads % k.heads == 0) << q.heads << " query heads, " << k.heads;
  CHECK_GT(scale, 0);
  CHECK_EQ(log_sum_exp.elements(), q.batch * q.heads * q.length);
  const int64_t length = q.length, blocks = CeilDivide(length, kQueries);
  const int32_t* starts = Starts(document_starts, q);
  float* saved = log_sum_exp.as<float>();
  WithFloatType(q.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    stream.ParallelFor(q.batch * q.heads * blocks, [&](int64_t task) {
      // The longest blocks first: the tail of the call is short.
      const int64_t block = blocks - 1 - task / (q.batch * q.heads);
      const int64_t head = task % (q.batch * q.heads), b = head / q.heads, h = head % q.heads;
      const Problem problem{b, h,     h / (q.heads / k.heads),
                            0, scale, starts == nullptr ? nullptr : starts + b * length};
      ForwardBlock<T>(problem, q, k, v, block * kQueries, std::min(length, (block + 1) * kQueries),
                      out, saved + head * length);
    });
  });
}

namespace {

// Scratch of the backward pass of one key head: sums over its query heads, and strips.
template <typename T>
struct BackwardScratch {
  float *dk, *dv;  // [T, D]
  float* dq;       // [kQueries, D]
  float *scores, *dp;
  T *p, *ds;

  BackwardScratch(int64_t length, int64_t d) {
    TileScratch& scratch = ThreadScratch();
    scratch.Reset((2 * length + kQueries) * d * sizeof(float) +
                  kQueries * kKeys * 2 * (sizeof(float) + sizeof(T)) + 4096);
    dk = scratch.Take<float>(length * d);
    dv = scratch.Take<float>(length * d);
    dq = scratch.Take<float>(kQueries * d);
    scores = scratch.Take<float>(kQueries * kKeys);
    dp = scratch.Take<float>(kQueries * kKeys);
    p = scratch.Take<T>(kQueries * kKeys);
    ds = scratch.Take<T>(kQueries * kKeys);
    std::fill(dk, dk + length * d, 0.0f);
    std::fill(dv, dv + length * d, 0.0f);
  }
};

// ds[s] = p[s] (dp[s] - delta) * scale; p is zero outside the visible range, and so is ds.
template <typename T>
void ScoreGradients(const float* dp, const float* scores, T* ds, const Range& range, int64_t keys,
                    float delta, float scale) {
  const auto zero = [ds](int64_t begin, int64_t end) {
    ForLanes(end - begin, [&](int64_t i, auto count) { Store(ds + begin + i, Vec{}, count); });
  };
  zero(0, range.low);
  ForLanes(range.high - range.low, [&](int64_t i, auto count) {
    const int64_t s = range.low + i;
    const Vec p = Load(scores + s, count);
    Store(ds + s, p * ((Load(dp + s, count) - delta) * scale), count);
  });
  zero(range.high, keys);
}

// p, rounded to T for the products, and unrounded in place of the scores for ds.
template <typename T>
void Probabilities(float* scores, T* p, const Range& range, int64_t keys, float scale,
                   float log_sum_exp) {
  RowExponentials(scores, scores, range, keys, scale, log_sum_exp);
  ForLanes(keys, [&](int64_t i, auto count) { Store(p + i, Load(scores + i, count), count); });
}

struct Gradients {
  const Heads &dout, &q, &k, &v, &out, &dq, &dk, &dv;
};

// One block of queries of one head against one strip of keys.
template <typename T>
void BackwardStrip(const Problem& problem, const Gradients& g, int64_t begin, int64_t rows,
                   int64_t key, int64_t keys, const float* log_sum_exp, const float* delta,
                   const BackwardScratch<T>& s) {
  const int64_t d = g.q.head_dim;
  const auto rows_of = [&](const Heads& heads, int64_t t, int64_t h) {
    return TileOf(HeadRow<T>(heads, problem.b, t, h), heads.row_stride);
  };
  const Tile q = rows_of(g.q, begin, problem.h), dout = rows_of(g.dout, begin, problem.h);
  const Tile k = rows_of(g.k, key, problem.kv_head), v = rows_of(g.v, key, problem.kv_head);
  TileProduct(q, false, k, true, s.scores, kKeys, rows, keys, d, false);
  TileProduct(dout, false, v, true, s.dp, kKeys, rows, keys, d, false);
  for (int64_t r = 0; r < rows; ++r) {
    const Range range = Visible(problem, begin + r, key, keys);
    const int64_t at = r * kKeys;
    Probabilities(s.scores + at, s.p + at, range, keys, problem.scale, log_sum_exp[begin + r]);
    ScoreGradients(s.dp + at, s.scores + at, s.ds + at, range, keys, delta[r], problem.scale);
  }
  const Tile p = TileOf(s.p, kKeys), ds = TileOf(s.ds, kKeys);
  TileProduct(p, true, dout, false, s.dv + key * d, d, keys, d, rows, true);
  TileProduct(ds, true, q, false, s.dk + key * d, d, keys, d, rows, true);
  TileProduct(ds, false, k, false, s.dq, d, rows, d, keys, true);
}

template <typename T>
void BackwardBlock(const Problem& problem, const Gradients& g, int64_t begin, int64_t end,
                   const float* log_sum_exp, const BackwardScratch<T>& s) {
  const int64_t d = g.q.head_dim, rows = end - begin;
  float delta[kQueries];
  for (int64_t r = 0; r < rows; ++r) {
    const T* dout = HeadRow<T>(g.dout, problem.b, begin + r, problem.h);
    const T* out = HeadRow<T>(g.out, problem.b, begin + r, problem.h);
    Vec sum{};
    ForLanes(d, [&](int64_t i, auto count) {
      sum = Fma(Load(dout + i, count), Load(out + i, count), sum);
    });
    delta[r] = Sum(sum);
  }
  std::fill(s.dq, s.dq + rows * d, 0.0f);
  for (int64_t key = FirstKey(problem, begin, end); key < end; key += kKeys) {
    BackwardStrip(problem, g, begin, rows, key, std::min(kKeys, end - key), log_sum_exp, delta, s);
  }
  for (int64_t r = 0; r < rows; ++r) {
    T* row = HeadRow<T>(g.dq, problem.b, begin + r, problem.h);
    ForLanes(d,
             [&](int64_t i, auto count) { Store(row + i, Load(s.dq + r * d + i, count), count); });
  }
}

}  // namespace

void AttentionBackward(Stream& stream, const Heads& dout, const Heads& q, const Heads& k,
                       const Heads& v, const Heads& out, const Tensor& log_sum_exp, float scale,
                       const Tensor& document_starts, const Heads& dq, const Heads& dk,
                       const Heads& dv) {
  for (const Heads* heads : {&dout, &out, &dq}) CheckSameHeads(q, *heads, "query heads");
  for (const Heads* heads : {&v, &dk, &dv}) CheckSameHeads(k, *heads, "key heads");
  CHECK(q.dtype == k.dtype && q.batch == k.batch && q.length == k.length &&
        q.head_dim == k.head_dim);
  CHECK(k.heads > 0 && q.heads % k.heads == 0) << q.heads << " query heads, " << k.heads;
  const int64_t length = q.length, d = q.head_dim, group = q.heads / k.heads;
  const int32_t* starts = Starts(document_starts, q);
  const float* saved = log_sum_exp.as<float>();
  const Gradients gradients{dout, q, k, v, out, dq, dk, dv};
  WithFloatType(q.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    stream.ParallelFor(k.batch * k.heads, [&](int64_t task) {
      const int64_t b = task / k.heads, kv_head = task % k.heads;
      const BackwardScratch<T> scratch(length, d);
      for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        const Problem problem{b, h,     kv_head,
                              0, scale, starts == nullptr ? nullptr : starts + b * length};
        for (int64_t begin = 0; begin < length; begin += kQueries) {
          BackwardBlock(problem, gradients, begin, std::min(length, begin + kQueries),
                        saved + (b * q.heads + h) * length, scratch);
        }
      }
      for (int64_t t = 0; t < length; ++t) {
        T *dk_row = HeadRow<T>(dk, b, t, kv_head), *dv_row = HeadRow<T>(dv, b, t, kv_head);
        ForLanes(d, [&](int64_t i, auto count) {
          Store(dk_row + i, Load(scratch.dk + t * d + i, count), count);
          Store(dv_row + i, Load(scratch.dv + t * d + i, count), count);
        });
      }
    });
  });
}

namespace {

// One new query of all heads of a group: the cache is read once.
template <typename T>
void DecodeGroup(const Problem& problem, const Heads& q, const Heads& keys, const Heads& values,
                 int64_t t, int64_t group, const Heads& out) {
  const int64_t d = q.head_dim, visible = problem.offset + t + 1;
  TileScratch& scratch = ThreadScratch();
  scratch.Reset(group * (visible + d + 32) * sizeof(float) + 4096);
  float* scores = scratch.Take<float>(group * visible);
  float* sums = scratch.Take<float>(group * d);
  for (int64_t s = 0; s < visible; ++s) {
    const T* key = HeadRow<T>(keys, problem.b, s, problem.kv_head);
    for (int64_t g = 0; g < group; ++g) {
      const T* query = HeadRow<T>(q, problem.b, t, problem.h + g);
      Vec dot{};
      ForLanes(d, [&](int64_t i, auto count) {
        dot = Fma(Load(query + i, count), Load(key + i, count), dot);
      });
      scores[g * visible + s] = Sum(dot);
    }
  }
  std::fill(sums, sums + group * d, 0.0f);
  const Range all{0, visible};
  float inverse[64];
  CHECK_LE(group, 64);
  for (int64_t g = 0; g < group; ++g) {
    float* row = scores + g * visible;
    const float top = RowMaximum(row, all) * problem.scale;
    inverse[g] = 1.0f / RowExponentials(row, row, all, visible, problem.scale, top);
  }
  for (int64_t s = 0; s < visible; ++s) {
    const T* value = HeadRow<T>(values, problem.b, s, problem.kv_head);
    for (int64_t g = 0; g < group; ++g) {
      const Vec p = Broadcast(scores[g * visible + s]);
      ForLanes(d, [&](int64_t i, auto count) {
        float* sum = sums + g * d + i;
        Store(sum, Fma(p, Load(value + i, count), Load(sum, count)), count);
      });
    }
  }
  for (int64_t g = 0; g < group; ++g) {
    T* row = HeadRow<T>(out, problem.b, t, problem.h + g);
    ForLanes(d, [&](int64_t i, auto count) {
      Store(row + i, Load(sums + g * d + i, count) * inverse[g], count);
    });
  }
}

}  // namespace

void AttentionDecode(Stream& stream, const Heads& q, const Heads& keys, const Heads& values,
                     const Tensor& lengths, float scale, const Heads& out) {
  CheckSameHeads(keys, values, "values");
  CheckSameHeads(q, out, "out");
  CHECK(q.dtype == keys.dtype && q.batch == keys.batch && q.head_dim == keys.head_dim);
  CHECK(keys.heads > 0 && q.heads % keys.heads == 0) << q.heads << " query heads, " << keys.heads;
  CHECK_GT(scale, 0);
  CHECK_EQ(lengths.elements(), q.batch);
  const int32_t* length = lengths.as<int32_t>();
  const int64_t group = q.heads / keys.heads;
  for (int64_t b = 0; b < q.batch; ++b) {
    CHECK(length[b] >= q.length && length[b] <= keys.length) << length[b];
  }
  // Prompts go the way of training, a strip of keys at a time; a token or a few one by one.
  constexpr int64_t kPromptTokens = 16;
  WithFloatType(q.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (q.length < kPromptTokens) {
      stream.ParallelFor(q.batch * keys.heads, [&](int64_t task) {
        const int64_t b = task / keys.heads, kv_head = task % keys.heads;
        const Problem problem{b, kv_head * group, kv_head, length[b] - q.length, scale, nullptr};
        for (int64_t t = 0; t < q.length; ++t) {
          DecodeGroup<T>(problem, q, keys, values, t, group, out);
        }
      });
      return;
    }
    const int64_t blocks = CeilDivide(q.length, kQueries);
    stream.ParallelFor(q.batch * q.heads * blocks, [&](int64_t task) {
      const int64_t block = blocks - 1 - task / (q.batch * q.heads);
      const int64_t head = task % (q.batch * q.heads), b = head / q.heads, h = head % q.heads;
      const Problem problem{b, h, h / group, length[b] - q.length, scale, nullptr};
      ForwardBlock<T>(problem, q, keys, values, block * kQueries,
                      std::min(q.length, (block + 1) * kQueries), out, nullptr);
    });
  });
}

}  // namespace trireme
