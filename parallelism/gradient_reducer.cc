// The way of a gradient through a step:
// 1. Sink: the model adds a microbatch to the accumulator of its leaf.
// 2. Done, last microbatch of a leaf: finished leaves that are siblings in the tree are added.
// 3. Done, last microbatch of a bucket's last entry: the bucket's reduction over data starts.
// 4. Finish: the reductions end; shared pieces and tied roles are exchanged and added.
#include "parallelism/gradient_reducer.h"

#include <algorithm>
#include <map>
#include <utility>

#include "cluster/device/elementwise.h"

namespace trireme {
namespace {

// Group ids: one for each purpose, and for shared pieces one for each way of sharing.
constexpr uint16_t kRolesGroup = ProcessGroups::kFirstFreeId;
constexpr uint16_t kReplicasGroup = kRolesGroup + 64;
constexpr int kRolesMax = 3;  // of up to three values the tree is the fold in role order

}  // namespace

GradientReducer::GradientReducer(const std::vector<ParameterSpec>& specs,
                                 const ParameterLayout& layout, const LeafPlan& plan,
                                 int zero_level, ProcessGroups* groups, Stream* stream,
                                 PhaseHook phase)
    : specs_(specs),
      layout_(layout),
      plan_(plan),
      zero_level_(zero_level),
      groups_(groups),
      stream_(stream),
      phase_(std::move(phase)) {
  accumulators_.resize(plan_.accumulators());
  MakeReplicaExchanges(specs);
  MakeRoleExchanges(specs);
  BeginStep();
}

GradientReducer::~GradientReducer() { Abandon(); }

// Shared key and value heads: ranks of the tensor axis with the same piece.
void GradientReducer::MakeReplicaExchanges(const std::vector<ParameterSpec>& specs) {
  const Mesh& mesh = groups_->mesh();
  const std::vector<int> peers = mesh.Group(groups_->rank(), Axis::kTensor);
  // A way of sharing: for each tensor index, the first index that has the same piece. All stages
  // and ranks number the ways alike, since they see the same specs.
  std::map<std::vector<int>, int> exchange_of;
  for (size_t id = 0; id < specs.size(); ++id) {
    const ParameterSpec& spec = specs[id];
    if (!spec.replicas_sum) continue;
    CHECK_EQ(spec.roles, 1) << spec.name << ": a tied tensor with shared pieces";
    std::vector<Box> boxes;
    std::vector<int> first_of;
    for (int peer : peers) {
      boxes.push_back(LocalRegion(spec.shape, spec.placement, mesh, peer));
      first_of.push_back(
          static_cast<int>(std::find(boxes.begin(), boxes.end(), boxes.back()) - boxes.begin()));
    }
    const auto [it, is_new] = exchange_of.insert({first_of, static_cast<int>(exchanges_.size())});
    if (is_new) {
      std::vector<int> members;
      for (size_t i = 0; i < peers.size(); ++i) {
        if (first_of[i] == first_of[groups_->Index(Axis::kTensor)]) members.push_back(peers[i]);
      }
      const int size = static_cast<int>(members.size());
      const uint16_t group_id = static_cast<uint16_t>(kReplicasGroup + exchange_of.size());
      exchanges_.push_back({"shared pieces",
                            groups_->Among("replicas", members, group_id),
                            SumTree::Even(size, size),
                            {},
                            nullptr});
    }
    const int local = layout_.local_of[id];
    if (local < 0) continue;
    exchanges_[it->second].parts.push_back({local, {{layout_.locals[local].entries[0]}}});
  }
}

// Tied tensors with roles at several stages: one group for each list of stages.
void GradientReducer::MakeRoleExchanges(const std::vector<ParameterSpec>& specs) {
  const Mesh& mesh = groups_->mesh();
  const int stage = groups_->Index(Axis::kPipeline);
  std::map<std::vector<int>, int> exchange_of;  // by stage of each role; -1: not this rank's
  for (size_t id = 0; id < specs.size(); ++id) {
    const ParameterSpec& spec = specs[id];
    CHECK_LE(spec.roles, kRolesMax) << spec.name;
    std::vector<int> stage_of_role;
    for (int role = 0; role < spec.roles; ++role) {
      stage_of_role.push_back(StageOfRole(spec, role));
    }
    std::vector<int> stages = stage_of_role;
    std::sort(stages.begin(), stages.end());
    stages.erase(std::unique(stages.begin(), stages.end()), stages.end());
    if (stages.size() < 2) continue;
    const auto [it, is_new] = exchange_of.insert({stage_of_role, -1});
    const int local = layout_.local_of[id];
    if (local < 0) continue;
    std::vector<int> owner_of_role;
    for (int s : stage_of_role) {
      owner_of_role.push_back(
          static_cast<int>(std::find(stages.begin(), stages.end(), s) - stages.begin()));
    }
    if (is_new) {
      const std::vector<int> pipeline = mesh.Group(groups_->rank(), Axis::kPipeline);
      std::vector<int> members;
      for (int s : stages) members.push_back(pipeline[s]);
      const uint16_t group_id = static_cast<uint16_t>(kRolesGroup + exchange_of.size());
      it->second = static_cast<int>(exchanges_.size());
      exchanges_.push_back({"tied tensors",
                            groups_->Among("tied", members, group_id),
                            SumTree(static_cast<int>(stages.size()), owner_of_role),
                            {},
                            nullptr});
    }
    Exchange& exchange = exchanges_[it->second];
    Exchange::Part part{local, {}};
    const LocalParameter& parameter = layout_.locals[local];
    const int own_rank =
        static_cast<int>(std::find(stages.begin(), stages.end(), stage) - stages.begin());
    for (const SumTree::Node node : exchange.tree.Partials(own_rank)) {
      std::vector<int> entries;
      for (size_t k = 0; k < parameter.roles.size(); ++k) {
        const int role = parameter.roles[k];
        if (role >= node.begin && role < node.end) entries.push_back(parameter.entries[k]);
      }
      part.own.push_back(std::move(entries));
    }
    exchange.parts.push_back(std::move(part));
  }
}

void GradientReducer::BeginStep() {
  CHECK(works_.empty()) << "the last step's reductions were neither finished nor abandoned";
  for (std::shared_ptr<Buffer>& buffer : accumulators_) {
    if (buffer != nullptr) continue;
    buffer =
        std::make_shared<Buffer>(layout_.gradients * int64_t{4}, stream_->device(), "gradients");
  }
  turn_.assign(layout_.entries.size(), 0);
  open_.assign(layout_.entries.size(), false);
  entries_left_.clear();
  for (const GradientBucket& bucket : layout_.buckets) {
    entries_left_.push_back(static_cast<int>(bucket.entries.size()));
  }
  next_bucket_ = 0;
}

float* GradientReducer::Accumulator(int slot) const {
  return reinterpret_cast<float*>(accumulators_[slot]->data());
}

float* GradientReducer::Updated(const LocalParameter& local, int entry) const {
  return Accumulator(0) + layout_.entries[entry].offset + local.updated.begin * local.row_elements;
}

const float* GradientReducer::Reduced(const LocalParameter& local) const {
  return Updated(local, local.entries[0]);
}

GradientSink GradientReducer::Sink(int entry_index, MicrobatchId microbatch) {
  const GradientEntry& entry = layout_.entries[entry_index];
  const LocalParameter& local = layout_.locals[entry.local];
  const std::string& name = specs_[local.id].name;
  const int turn = turn_[entry_index];
  CHECK_LT(turn, static_cast<int>(plan_.microbatches().size())) << name << ": the step is over";
  CHECK_EQ(microbatch, plan_.microbatches()[turn]) << name << ": microbatches come in order";
  CHECK(!open_[entry_index]) << name << ": a microbatch's gradient is asked for once";
  open_[entry_index] = true;
  const LeafPlan::Turn& plan = plan_.turn(turn);
  float* data = Accumulator(plan.accumulator) + entry.offset;
  return {Tensor(data, DType::kF32, local.region.extent), !plan.first};
}

void GradientReducer::Done(int entry_index, MicrobatchId microbatch) {
  const GradientEntry& entry = layout_.entries[entry_index];
  CHECK(open_[entry_index]) << specs_[layout_.locals[entry.local].id].name;
  const int turn = turn_[entry_index];
  CHECK_EQ(microbatch, plan_.microbatches()[turn]);
  open_[entry_index] = false;
  const LeafPlan::Turn& plan = plan_.turn(turn);
  for (int i = 0; i < plan.merges; ++i) {
    const int top = plan.accumulator - i;
    AddInPlace(*stream_, Accumulator(top - 1) + entry.offset, Accumulator(top) + entry.offset,
               entry.elements);
  }
  if (++turn_[entry_index] < static_cast<int>(plan_.microbatches().size())) return;
  if (--entries_left_[entry.bucket] == 0) StartReadyBuckets();
}

void GradientReducer::StartReadyBuckets() {
  // In the order of buckets, so that all data ranks start the same reductions in the same order.
  while (next_bucket_ < layout_.buckets.size() && entries_left_[next_bucket_] == 0) {
    const GradientBucket& bucket = layout_.buckets[next_bucket_++];
    if (groups_->Along(Axis::kData) == nullptr || bucket.begin == bucket.end) continue;
    // A start does not fail; what becomes of it, FinishBuckets tells.
    (void)CallOrRecord(recording_, [this, &bucket] {
      StartReduction(bucket);
      return OkStatus();
    });
  }
}

void GradientReducer::StartReduction(const GradientBucket& bucket) {
  if (phase_) phase_("reduce.bucket", -1);
  works_.push_back(Reduce(bucket));
}

Work GradientReducer::Reduce(const GradientBucket& bucket) {
  std::vector<BufferRef> partials;
  for (int i = 0; i < plan_.partials(); ++i) {
    partials.push_back({Accumulator(i) + bucket.begin, bucket.end - bucket.begin, DType::kF32});
  }
  Communicator* data = groups_->Along(Axis::kData);
  if (zero_level_ == 0) return data->AllReduce(partials, partials[0], plan_.tree());
  std::vector<Piece> pieces;
  for (int e : bucket.entries) {
    const GradientEntry& entry = layout_.entries[e];
    const LocalParameter& local = layout_.locals[entry.local];
    const int64_t base = entry.offset - bucket.begin;
    for (size_t owner = 0; owner < local.owned_by.size(); ++owner) {
      const RowRange rows = local.owned_by[owner];
      if (rows.empty() || local.row_elements == 0) continue;
      pieces.push_back({static_cast<int>(owner), base + rows.begin * local.row_elements,
                        base + rows.end * local.row_elements});
    }
  }
  return data->ReduceScatter(partials, pieces, partials[0], plan_.tree());
}

Status GradientReducer::CheckComplete() const {
  for (size_t e = 0; e < layout_.entries.size(); ++e) {
    if (turn_[e] == static_cast<int>(plan_.microbatches().size())) continue;
    const GradientEntry& entry = layout_.entries[e];
    return InternalError(StrCat(specs_[layout_.locals[entry.local].id].name, ", role ", entry.role,
                                ": gradients of ", turn_[e], " microbatches: expected ",
                                plan_.microbatches().size()));
  }
  return OkStatus();
}

Status GradientReducer::Finish(Micros timeout) {
  RETURN_IF_ERROR(CheckComplete());
  RETURN_IF_ERROR(CallOrRecord(recording_, [this, timeout, follower = follower()] {
    return FinishBuckets(follower, timeout);
  }));
  for (Exchange& exchange : exchanges_) RETURN_IF_ERROR(RunExchange(exchange, timeout));
  AddLocalRoles();
  return OkStatus();
}

// follower: goes on behind the reductions; without one they are waited for.
Status GradientReducer::FinishBuckets(Stream* follower, Micros timeout) {
  if (phase_) phase_("reduce.finish", -1);
  for (Work& work : works_) {
    const Status status = work.WaitOrFollow(follower, timeout);
    if (!status.ok()) {
      Abandon();
      return status.WithContext("reducing gradients");
    }
  }
  works_.clear();
  return OkStatus();
}

int64_t GradientReducer::PackedElements(const Exchange& exchange) const {
  int64_t count = 0;
  for (const Exchange::Part& part : exchange.parts) {
    count += layout_.locals[part.local].updated_elements();
  }
  return count;
}

Status GradientReducer::RunExchange(Exchange& exchange, Micros timeout) {
  if (exchange.group == nullptr || exchange.parts.empty()) return OkStatus();
  const int64_t count = PackedElements(exchange);
  const size_t partial_count = exchange.parts[0].own.size();
  if (exchange.packed == nullptr) {
    exchange.packed = std::make_shared<Buffer>(
        count * int64_t{4} * static_cast<int64_t>(partial_count), stream_->device(), "gradients");
  }
  auto* packed = reinterpret_cast<float*>(exchange.packed->data());
  for (size_t k = 0; k < partial_count; ++k) {
    float* target = packed + static_cast<int64_t>(k) * count;
    for (const Exchange::Part& part : exchange.parts) {
      const LocalParameter& local = layout_.locals[part.local];
      const std::vector<int>& entries = part.own[k];
      stream_->Copy(target, Updated(local, entries[0]), local.updated_elements() * 4);
      for (size_t e = 1; e < entries.size(); ++e) {
        AddInPlace(*stream_, target, Updated(local, entries[e]), local.updated_elements());
      }
      target += local.updated_elements();
    }
  }
  RETURN_IF_ERROR(CallOrRecord(recording_, [this, &exchange, timeout, follower = follower()] {
    return SumPacked(exchange, follower, timeout);
  }));
  const float* source = packed;
  for (const Exchange::Part& part : exchange.parts) {
    const LocalParameter& local = layout_.locals[part.local];
    stream_->Copy(Updated(local, local.entries[0]), source, local.updated_elements() * 4);
    source += local.updated_elements();
  }
  return OkStatus();
}

Status GradientReducer::SumPacked(Exchange& exchange, Stream* follower, Micros timeout) {
  const int64_t count = PackedElements(exchange);
  auto* packed = reinterpret_cast<float*>(exchange.packed->data());
  std::vector<BufferRef> partials;
  for (size_t k = 0; k < exchange.parts[0].own.size(); ++k) {
    partials.push_back({packed + static_cast<int64_t>(k) * count, count, DType::kF32});
  }
  Work work = exchange.group->AllReduce(partials, partials[0], exchange.tree);
  const Status status = work.WaitOrFollow(follower, timeout);
  if (status.ok()) return status;
  work.Abandon(std::exchange(exchange.packed, nullptr));
  return status.WithContext(StrCat("adding gradients of ", exchange.what));
}

// Tied tensors whose roles are all at this stage.
void GradientReducer::AddLocalRoles() {
  for (const LocalParameter& local : layout_.locals) {
    const size_t roles = static_cast<size_t>(specs_[local.id].roles);
    if (roles < 2 || local.entries.size() < roles) continue;
    for (size_t k = 1; k < roles; ++k) {
      AddInPlace(*stream_, Updated(local, local.entries[0]), Updated(local, local.entries[k]),
                 local.updated_elements());
    }
  }
}

void GradientReducer::Abandon() {
  if (works_.empty()) return;
  // Operations in flight may still touch the accumulators: they keep these, the next step gets
  // others.
  auto keep_alive = std::make_shared<std::vector<std::shared_ptr<Buffer>>>(accumulators_);
  for (Work& work : works_) {
    if (work.valid()) work.Abandon(keep_alive);
  }
  works_.clear();
  accumulators_.assign(accumulators_.size(), nullptr);
}

int64_t GradientReducer::bytes() const {
  int64_t total = 0;
  for (const auto& buffer : accumulators_) total += buffer == nullptr ? 0 : buffer->bytes();
  return total;
}

}  // namespace trireme
