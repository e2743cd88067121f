// B sequences, T positions, Hq query heads, Hk key/value heads, D head dim. Which graphs the
// library fuses is told by its documentation's support surface of scaled dot product attention.
#include "worker/kernels/attention_plan.h"

namespace trireme::cudnn {
namespace {

using Shape = GraphBuilder::Shape;

constexpr int64_t kHeadDimStep = 8, kHeadDimMax = 256, kRowElements = 8;  // 16 bytes of bf16

bool Fits(const Heads& x, const Heads& like, int64_t heads) {
  const bool aligned =
      reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.row_stride % kRowElements == 0;
  return aligned && x.dtype == DType::kBF16 && x.batch == like.batch && x.length == like.length &&
         x.heads == heads && x.head_dim == like.head_dim;
}

// The graph of one problem, and the tensors that both directions have.
class AttentionGraph {
 public:
  AttentionGraph(const Api& api, const AttentionProblem& p) : p_(p), graph_(api) {
    q_ = Rows(kQ, p.query_heads, p.q_stride);
    scale_ = graph_.Scalar(kScale, CUDNN_DATA_FLOAT);
    minus_infinity_ = graph_.Scalar(kMinusInfinity, CUDNN_DATA_FLOAT);
    log_sum_exp_ = Statistics(kLogSumExp);
    k_transposed_ = Columns(kK, p.k_stride);
  }

  void Forward();
  void Backward(bool deterministic);
  GraphBuilder& builder() { return graph_; }

 private:
  // [B, heads, T, D] and [B, heads, D, T] of Heads in memory.
  int Rows(int64_t uid, int64_t heads, int64_t stride) {
    return graph_.Memory(uid, CUDNN_DATA_BFLOAT16, {p_.batch, heads, p_.length, p_.head_dim},
                         {p_.length * stride, p_.head_dim, stride, 1});
  }
  int Columns(int64_t uid, int64_t stride) {
    return graph_.Memory(uid, CUDNN_DATA_BFLOAT16, {p_.batch, p_.key_heads, p_.head_dim, p_.length},
                         {p_.length * stride, p_.head_dim, 1, stride});
  }
  // [B, Hq, T, 1] in memory.
  int Statistics(int64_t uid) {
    return graph_.Memory(uid, CUDNN_DATA_FLOAT, StatisticsShape(),
                         {p_.query_heads * p_.length, p_.length, 1, 1});
  }
  Shape StatisticsShape() const { return {p_.batch, p_.query_heads, p_.length, 1}; }
  int Row() { return graph_.Virtual(CUDNN_DATA_FLOAT, StatisticsShape()); }
  // [B, Hq, T, T], between operations.
  int Scores(cudnnDataType_t type = CUDNN_DATA_FLOAT) {
    return graph_.Virtual(type, {p_.batch, p_.query_heads, p_.length, p_.length});
  }
  int ScoresTransposed() {
    const int64_t t = p_.length;
    return graph_.Virtual(CUDNN_DATA_BFLOAT16, {p_.batch, p_.query_heads, t, t},
                          {p_.query_heads * t * t, t * t, 1, t});
  }

  int Apply(cudnnPointwiseMode_t mode, int x, int b) {
    const int y = Scores();
    graph_.Pointwise(mode, x, b, y);
    return y;
  }
  int ScaledScores() {
    const int scores = Scores();
    graph_.MatMul(q_, k_transposed_, scores);
    return Apply(CUDNN_POINTWISE_MUL, scores, scale_);
  }
  int Masked(int scores);
  // Gradients of keys or values: a^T b, summed over the query heads of a key head.
  void KeyGradient(int a, int b, int64_t uid, int64_t stride);

  const AttentionProblem& p_;
  GraphBuilder graph_;
  int q_, k_transposed_, scale_, minus_infinity_, log_sum_exp_;
};

int AttentionGraph::Masked(int scores) {
  const int row = Scores(CUDNN_DATA_INT32), column = Scores(CUDNN_DATA_INT32);
  graph_.Index(scores, 2, row);
  graph_.Index(scores, 3, column);
  const int past = Scores(CUDNN_DATA_BOOLEAN), masked = Scores();
  graph_.Pointwise(CUDNN_POINTWISE_CMP_GE, row, column, past);
  graph_.Select(scores, minus_infinity_, past, masked);
  if (!p_.documents) return masked;
  const int starts = graph_.Memory(kDocumentStarts, CUDNN_DATA_INT32, {p_.batch, 1, p_.length, 1},
                                   {p_.length, p_.length, 1, 1});
  const int within = Scores(CUDNN_DATA_BOOLEAN), isolated = Scores();
  graph_.Pointwise(CUDNN_POINTWISE_CMP_GE, column, starts, within);
  graph_.Select(masked, minus_infinity_, within, isolated);
  return isolated;
}

void AttentionGraph::Forward() {
  const int v = Rows(kV, p_.key_heads, p_.v_stride);
  const int out = Rows(kOut, p_.query_heads, p_.out_stride);
  const int scores = Masked(ScaledScores());
  const int top = Row(), sum = Row(), log = Row(), exponentials = Scores();
  graph_.Reduce(CUDNN_REDUCE_TENSOR_MAX, scores, top);
  const int below = Apply(CUDNN_POINTWISE_SUB, scores, top);
  graph_.Pointwise(CUDNN_POINTWISE_EXP, below, exponentials);
  graph_.Reduce(CUDNN_REDUCE_TENSOR_ADD, exponentials, sum);
  graph_.Pointwise(CUDNN_POINTWISE_LOG, sum, log);
  graph_.Pointwise(CUDNN_POINTWISE_ADD, top, log, log_sum_exp_);
  const int p = Scores(CUDNN_DATA_BFLOAT16);
  graph_.Pointwise(CUDNN_POINTWISE_DIV, exponentials, sum, p);
  graph_.MatMul(p, v, out);
}

void AttentionGraph::KeyGradient(int a, int b, int64_t uid, int64_t stride) {
  const int a_transposed = ScoresTransposed(), gradient = Rows(uid, p_.key_heads, stride);
  graph_.Reshape(a, a_transposed);
  if (p_.query_heads == p_.key_heads) return graph_.MatMul(a_transposed, b, gradient);
  const int of_queries =
      graph_.Virtual(CUDNN_DATA_BFLOAT16, {p_.batch, p_.query_heads, p_.length, p_.head_dim});
  graph_.MatMul(a_transposed, b, of_queries);
  graph_.Reduce(CUDNN_REDUCE_TENSOR_ADD, of_queries, gradient);
}

// dQ is summed by atomics over blocks of keys in kDQSum, or, deterministic, in a fixed order.
void AttentionGraph::Backward(bool deterministic) {
  const Shape rows = {p_.batch, p_.query_heads, p_.length, p_.head_dim};
  const int dout = Rows(kDOut, p_.query_heads, p_.dout_stride);
  const int out = Rows(kOut, p_.query_heads, p_.out_stride);
  const int v_transposed = Columns(kV, p_.v_stride);
  const int one = graph_.Scalar(kOne, CUDNN_DATA_FLOAT);
  // delta = sum over D of dout * out; the pattern asks for a factor (of dropout elsewhere).
  const int product = graph_.Virtual(CUDNN_DATA_FLOAT, rows), delta = Statistics(kDelta);
  const int product_sum = Row();
  graph_.Pointwise(CUDNN_POINTWISE_MUL, dout, out, product);
  graph_.Reduce(CUDNN_REDUCE_TENSOR_ADD, product, product_sum);
  graph_.Pointwise(CUDNN_POINTWISE_MUL, product_sum, one, delta);
  // P = exp(S - log_sum_exp); dV = P^T dout.
  const int below = Masked(Apply(CUDNN_POINTWISE_SUB, ScaledScores(), log_sum_exp_)), p = Scores();
  graph_.Pointwise(CUDNN_POINTWISE_EXP, below, p);
  KeyGradient(p, dout, kDV, p_.dv_stride);
  // dS = P (dout V^T - delta) scale; dK = dS^T Q; dQ = dS K.
  const int dp = Scores();
  graph_.MatMul(dout, v_transposed, dp);
  const int centered = Apply(CUDNN_POINTWISE_SUB, dp, delta);
  const int ds = Apply(CUDNN_POINTWISE_MUL, Apply(CUDNN_POINTWISE_MUL, centered, p), scale_);
  KeyGradient(ds, q_, kDK, p_.dk_stride);
  const int k =
      graph_.Virtual(CUDNN_DATA_BFLOAT16, {p_.batch, p_.key_heads, p_.length, p_.head_dim},
                     {p_.length * p_.k_stride, p_.head_dim, p_.k_stride, 1});
  graph_.Reshape(k_transposed_, k);
  const int dq = Rows(kDQ, p_.query_heads, p_.dq_stride);
  if (deterministic) return graph_.MatMul(ds, k, dq);
  const int64_t t = p_.length, d = p_.head_dim;
  const int sum =
      graph_.Memory(kDQSum, CUDNN_DATA_FLOAT, rows, {p_.query_heads * t * d, t * d, d, 1});
  graph_.MatMul(ds, k, sum);
  graph_.Pointwise(CUDNN_POINTWISE_IDENTITY, sum, dq);
}

}  // namespace

std::optional<AttentionProblem> ForwardProblem(const Heads& q, const Heads& k, const Heads& v,
                                               const Tensor& document_starts, const Heads& out) {
  if (q.head_dim % kHeadDimStep != 0 || q.head_dim > kHeadDimMax) return std::nullopt;
  if (k.heads <= 0 || q.heads % k.heads != 0) return std::nullopt;
  if (!Fits(q, q, q.heads) || !Fits(out, q, q.heads) || !Fits(k, q, k.heads) ||
      !Fits(v, q, k.heads)) {
    return std::nullopt;
  }
  AttentionProblem p = {q.batch, q.length, q.heads, k.heads, q.head_dim};
  p.q_stride = q.row_stride;
  p.k_stride = k.row_stride;
  p.v_stride = v.row_stride;
  p.out_stride = out.row_stride;
  p.documents = document_starts.defined();
  if (p.documents && document_starts.elements() != q.batch * q.length) return std::nullopt;
  return p;
}

std::optional<AttentionProblem> BackwardProblem(const Heads& dout, const Heads& q, const Heads& k,
                                                const Heads& v, const Heads& out,
                                                const Tensor& document_starts, const Heads& dq,
                                                const Heads& dk, const Heads& dv) {
  std::optional<AttentionProblem> p = ForwardProblem(q, k, v, document_starts, out);
  if (!p || !Fits(dout, q, q.heads) || !Fits(dq, q, q.heads) || !Fits(dk, q, k.heads) ||
      !Fits(dv, q, k.heads)) {
    return std::nullopt;
  }
  p->dout_stride = dout.row_stride;
  p->dq_stride = dq.row_stride;
  p->dk_stride = dk.row_stride;
  p->dv_stride = dv.row_stride;
  return p;
}

AttentionProblem PartOf(const AttentionProblem& whole, const AttentionPart& part) {
  AttentionProblem problem = whole;
  problem.batch = part.sequences;
  problem.key_heads = part.key_heads;
  problem.query_heads = part.key_heads * (whole.query_heads / whole.key_heads);
  return problem;
}

Result<Proposals> ProposeAttention(const Api& api, const Descriptor& device,
                                   const AttentionProblem& problem, bool deterministic) {
  AttentionGraph graph(api, problem);
  if (problem.backward()) {
    graph.Backward(deterministic);
  } else {
    graph.Forward();
  }
  ASSIGN_OR_RETURN(Proposals proposals, graph.builder().Propose(device));
  if (problem.backward() && deterministic) {
    // Blackwell's engine takes this graph with two stages alone, in which it sums dQ in a fixed
    // order (cudnn-frontend 1.19, its node of flash attention's backward pass), and is not proposed
    // for it. Other generations do not have it.
    constexpr int64_t kBlackwellBackward = 5;
    constexpr EngineSetting kFixedOrder[] = {{CUDNN_KNOB_TYPE_KERNEL_CFG, 31},
                                             {CUDNN_KNOB_TYPE_STAGES, 2}};
    (void)Prefer(api, device, kBlackwellBackward, kFixedOrder, &proposals);
  }
  if (proposals.engines.empty()) return NotFoundError("cuDNN has no engine for the graph");
  return proposals;
}

}  // namespace trireme::cudnn
