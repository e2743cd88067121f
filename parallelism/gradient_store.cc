#include "parallelism/gradient_store.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "cluster/device/elementwise.h"

namespace trireme {
namespace {

constexpr uint16_t kNormGroup = ProcessGroups::kFirstFreeId + 128;  // behind the reducer's

// Where there are none: a gathering that failed has taken them.
void MakeWeights(const ParameterLayout& layout, DeviceKind device, StateSlot* slot) {
  if (slot->weights_f32.bytes() != layout.weights_f32 * 4) {
    slot->weights_f32 = Buffer(layout.weights_f32 * 4, device, "weights");
  }
  if (slot->weights_bf16.bytes() != layout.weights_bf16 * 2) {
    slot->weights_bf16 = Buffer(layout.weights_bf16 * 2, device, "weights");
  }
}

StateSlot MakeSlot(const ParameterLayout& layout, DeviceKind device) {
  StateSlot slot;
  MakeWeights(layout, device, &slot);
  slot.masters = Buffer(layout.masters * 4, device, "weights");
  slot.first_moments = Buffer(layout.moments * 4, device, "moments");
  slot.second_moments = Buffer(layout.moments * 4, device, "moments");
  return slot;
}

float* Floats(const Buffer& buffer) { return reinterpret_cast<float*>(buffer.data()); }
BFloat16* Halves(const Buffer& buffer) { return reinterpret_cast<BFloat16*>(buffer.data()); }

// The f32 values of a parameter that updates and checkpoints see, at row updated.begin; or null.
float* Masters(const StateSlot& slot, const LocalParameter& local) {
  if (local.has_master) return Floats(slot.masters) + local.master_offset;
  if (local.bf16) return nullptr;
  return Floats(slot.weights_f32) + local.weight_offset + local.updated.begin * local.row_elements;
}

// The bf16 weights at row updated.begin.
BFloat16* ComputeCopy(const StateSlot& slot, const LocalParameter& local) {
  if (!local.bf16) return nullptr;
  return Halves(slot.weights_bf16) + local.weight_offset + local.updated.begin * local.row_elements;
}

}  // namespace

ShardedParameterStore::ShardedParameterStore(std::vector<ParameterSpec> specs,
                                             ProcessGroups* groups, Stream* stream,
                                             StoreOptions options)
    : specs_(std::move(specs)),
      groups_(groups),
      stream_(stream),
      options_(std::move(options)),
      plan_(options_.microbatches, options_.leaves, groups->mesh().size(Axis::kData),
            groups->Index(Axis::kData)),
      layout_(MakeParameterLayout(specs_, groups->mesh(), groups->rank(), options_.zero_level,
                                  options_.types, options_.bucket_bytes)),
      first_elements_(FirstElements(specs_, layout_)),
      slots_(MakeSlot(layout_, stream->device()), MakeSlot(layout_, stream->device())),
      reducer_(specs_, layout_, plan_, options_.zero_level, groups, stream, options_.phase) {
  CHECK(options_.zero_level == 0 || options_.zero_level == 1) << options_.zero_level;
  const auto& [compute, master] = options_.types;
  CHECK(compute == DType::kF32 || compute == DType::kBF16);
  CHECK(master == DType::kF32 || master == compute);
  CHECK_EQ(groups->mesh().size(Axis::kContext), 1) << "context parallelism";
  MakeNormTable();
}

ShardedParameterStore::~ShardedParameterStore() = default;

int ShardedParameterStore::LocalOf(ParamId id) const {
  CHECK(id >= 0 && id < static_cast<int>(specs_.size())) << id;
  CHECK_GE(layout_.local_of[id], 0) << specs_[id].name << " is of another pipeline stage";
  return layout_.local_of[id];
}

Tensor ShardedParameterStore::Acquire(ParamId id) {
  const LocalParameter& local = layout_.locals[LocalOf(id)];
  const StateSlot& slot = slots_.Committed();
  if (local.bf16) {
    return Tensor(Halves(slot.weights_bf16) + local.weight_offset, DType::kBF16,
                  local.region.extent);
  }
  return Tensor(Floats(slot.weights_f32) + local.weight_offset, DType::kF32, local.region.extent);
}

namespace {

int EntryOf(const LocalParameter& local, int role, const std::string& name) {
  const auto it = std::find(local.roles.begin(), local.roles.end(), role);
  CHECK(it != local.roles.end()) << name << ": role " << role << " is not of this stage";
  return local.entries[it - local.roles.begin()];
}

}  // namespace

GradientSink ShardedParameterStore::Gradients(ParamId id, int role, MicrobatchId microbatch) {
  const int entry = EntryOf(layout_.locals[LocalOf(id)], role, specs_[id].name);
  return reducer_.Sink(entry, microbatch);
}

void ShardedParameterStore::GradientDone(ParamId id, int role, MicrobatchId microbatch) {
  reducer_.Done(EntryOf(layout_.locals[LocalOf(id)], role, specs_[id].name), microbatch);
}

void ShardedParameterStore::BeginStep() { reducer_.BeginStep(); }

Status ShardedParameterStore::FinishReduction(Micros timeout) { return reducer_.Finish(timeout); }

void ShardedParameterStore::AbandonStep() {
  reducer_.Abandon();
  slots_.Discard();
}

void ShardedParameterStore::MakeNormTable() {
  const Mesh& mesh = groups_->mesh();
  std::vector<int> by_name(specs_.size());
  std::iota(by_name.begin(), by_name.end(), 0);
  std::sort(by_name.begin(), by_name.end(),
            [&](int a, int b) { return specs_[a].name < specs_[b].name; });
  for (int id : by_name) {
    const ParameterSpec& spec = specs_[id];
    const NormRow& row = norm_rows_.emplace_back(NormRow{norm_table_size_, 0});
    int64_t own_first = -1;
    // The shards of the tensor axis that are not copies, in rank order.
    for (int t = 0; t < mesh.size(Axis::kTensor); ++t) {
      const int peer = mesh.RankOf({t, 0, 0, 0});
      if (!IsFirstHolder(spec.placement, mesh, peer)) continue;
      if (t == groups_->Index(Axis::kTensor)) own_first = norm_table_size_;
      norm_table_size_ += RowBlocks(LocalRegion(spec.shape, spec.placement, mesh, peer).extent[0]);
    }
    norm_rows_.back().count = norm_table_size_ - row.first;
    // Each block is summed by one rank: the first stage that has the tensor, and of it the data
    // rank that owns (or with ZeRO would own) the rows.
    const int local_index = layout_.local_of[id];
    if (local_index < 0 || own_first < 0) continue;
    if (StageOfRole(spec, 0) != groups_->Index(Axis::kPipeline)) continue;
    const LocalParameter& local = layout_.locals[local_index];
    const RowRange own = local.owned_by[groups_->Index(Axis::kData)];
    if (own.empty()) continue;
    const int64_t blocks = RowBlocks(local.rows);
    NormBlocks norm{local_index, -1, {}};
    for (int64_t b = 0; b <= blocks; ++b) {
      const int64_t edge = b * local.rows / blocks;
      if (edge < own.begin || edge > own.end) continue;
      if (norm.first < 0) norm.first = own_first + b;
      norm.edges.push_back((edge - local.updated.begin) * local.row_elements);
    }
    norm_blocks_.push_back(std::move(norm));
  }
  norm_table_ = Buffer(norm_table_size_ * ByteSize(DType::kF64), stream_->device(), "norm");
  std::vector<int64_t> ends;
  for (const NormRow& row : norm_rows_) ends.push_back(row.first + row.count);
  norm_row_ends_ = Buffer(std::ssize(ends) * int64_t{8}, stream_->device(), "norm");
  stream_->Copy(norm_row_ends_.data(), ends.data(), norm_row_ends_.bytes());
  stream_->Synchronize();
  if (stream_->device() == DeviceKind::kCpu) return;
  std::vector<int> all(mesh.size());
  std::iota(all.begin(), all.end(), 0);
  norm_group_ = groups_->Among("norm", all, kNormGroup);
}

Result<double> ShardedParameterStore::GlobalNorm(const SumsOfSquaresFunction& sums_of_squares,
                                                 Micros timeout) {
  if (options_.phase) options_.phase("reduce.norm", -1);
  auto table = std::make_shared<std::vector<double>>(norm_table_size_, 0.0);
  // One copy to the host and one wait for it, however many tensors there are.
  stream_->Copy(table->data(), FillNormTable(sums_of_squares), norm_table_.bytes());
  stream_->Synchronize();
  if (Communicator* world = groups_->World()) {
    // Every value is one rank's and zero elsewhere: whatever the order, the sum is exact.
    Work work = world->AllReduce({table->data(), norm_table_size_, DType::kF64});
    const Status status = work.Wait(timeout);
    if (!status.ok()) {
      work.Abandon(table);
      return status.WithContext("gathering the norm of the gradients");
    }
  }
  double total = 0;
  for (const NormRow& row : norm_rows_) {
    double tensor = 0;
    for (int64_t i = row.first; i < row.first + row.count; ++i) tensor += (*table)[i];
    total += tensor;
  }
  return std::sqrt(total);
}

// Accumulators are others after a step that was abandoned.
void ShardedParameterStore::MakeNormRanges() {
  if (norm_ranges_of_ == reducer_.address()) return;
  norm_ranges_of_ = reducer_.address();
  auto* sums = reinterpret_cast<double*>(norm_table_.data());
  std::vector<NormRange> ranges;
  for (const NormBlocks& blocks : norm_blocks_) {
    const float* gradient = reducer_.Reduced(layout_.locals[blocks.local]);
    for (size_t i = 0; i + 1 < blocks.edges.size(); ++i) {
      const int64_t begin = blocks.edges[i];
      ranges.push_back({gradient + begin, blocks.edges[i + 1] - begin,
                        sums + blocks.first + static_cast<int64_t>(i)});
    }
  }
  // The largest first: the GPU is not left waiting for a few of them. Each has its own place.
  std::stable_sort(ranges.begin(), ranges.end(),
                   [](const auto& a, const auto& b) { return a.elements > b.elements; });
  const auto bytes = static_cast<int64_t>(ranges.size() * sizeof(NormRange));
  if (norm_ranges_.bytes() != bytes) norm_ranges_ = Buffer(bytes, stream_->device(), "norm");
  stream_->Copy(norm_ranges_.data(), ranges.data(), bytes);
  stream_->Synchronize();
}

const double* ShardedParameterStore::FillNormTable(const SumsOfSquaresFunction& sums_of_squares) {
  MakeNormRanges();
  sums_of_squares(reinterpret_cast<const NormRange*>(norm_ranges_.data()),
                  norm_ranges_.bytes() / static_cast<int64_t>(sizeof(NormRange)));
  return reinterpret_cast<const double*>(norm_table_.data());
}

Status ShardedParameterStore::EnqueueNorm(const SumsOfSquaresFunction& sums_of_squares,
                                          const FinishNormFunction& finish, Micros timeout) {
  const double* table = FillNormTable(sums_of_squares);
  if (norm_group_ != nullptr) {
    if (norm_sum_.bytes() == 0) {
      norm_sum_ = Buffer(norm_table_.bytes(), stream_->device(), "norm");
    }
    RETURN_IF_ERROR(CallOrRecord(recording_, [this, timeout, follower = follower()] {
      return GatherNormTable(follower, timeout);
    }));
    table = reinterpret_cast<const double*>(norm_sum_.data());
  }
  finish(table, reinterpret_cast<const int64_t*>(norm_row_ends_.data()), std::ssize(norm_rows_));
  return OkStatus();
}

// As in GlobalNorm the sum is exact. Into another table: what is not this rank's stays zero in its
// own.
Status ShardedParameterStore::GatherNormTable(Stream* follower, Micros timeout) {
  if (options_.phase) options_.phase("reduce.norm", -1);
  const BufferRef own[] = {{norm_table_.data(), norm_table_size_, DType::kF64}};
  const int ranks = norm_group_->size();
  Work work = norm_group_->AllReduce(own, {norm_sum_.data(), norm_table_size_, DType::kF64},
                                     SumTree::Even(ranks, ranks));
  const Status status = work.WaitOrFollow(follower, timeout);
  if (status.ok()) return status;
  work.Abandon(std::make_shared<Buffer>(std::exchange(norm_sum_, Buffer())));
  return status.WithContext("gathering the norm of the gradients");
}

std::vector<const void*> ShardedParameterStore::Addresses() const {
  const StateSlot& now = slots_.Committed();
  return {now.weights_f32.data(), now.weights_bf16.data(), reducer_.address()};
}

UpdateSlice ShardedParameterStore::SliceOf(const LocalParameter& local) {
  const StateSlot& now = slots_.Committed();
  StateSlot& next = slots_.Next();
  UpdateSlice slice;
  slice.id = local.id;
  slice.gradient = reducer_.Reduced(local);
  slice.p = Masters(now, local);
  slice.m = Floats(now.first_moments) + local.moment_offset;
  slice.v = Floats(now.second_moments) + local.moment_offset;
  slice.p_next = Masters(next, local);
  slice.m_next = Floats(next.first_moments) + local.moment_offset;
  slice.v_next = Floats(next.second_moments) + local.moment_offset;
  slice.p_compute = ComputeCopy(next, local);
  slice.p_rounded = local.has_master ? nullptr : ComputeCopy(now, local);
  slice.n = local.updated_elements();
  slice.first_element = first_elements_[local.id] + local.updated.begin * local.row_elements;
  slice.decay = specs_[local.id].decay;
  return slice;
}

Status ShardedParameterStore::Update(const UpdateFunction& update, Micros timeout) {
  if (options_.phase) options_.phase("update.before_write", -1);
  MakeWeights(layout_, stream_->device(), &slots_.Next());
  std::vector<UpdateSlice> slices;
  for (const LocalParameter& local : layout_.locals) {
    if (local.updated_elements() > 0) slices.push_back(SliceOf(local));
  }
  update(slices);
  if (options_.phase) options_.phase("update.before_gather", -1);
  RETURN_IF_ERROR(CallOrRecord(recording_, [this, timeout, follower = follower()] {
    return GatherWeights(slots_.Next(), follower, timeout);
  }));
  if (options_.phase) options_.phase("update.before_commit", -1);
  return OkStatus();
}

void ShardedParameterStore::Commit(int64_t step) { slots_.Commit(step); }
void ShardedParameterStore::Discard() { slots_.Discard(); }

Status ShardedParameterStore::GatherWeights(StateSlot& slot, Stream* follower, Micros timeout) {
  Communicator* data = groups_->Along(Axis::kData);
  if (options_.zero_level == 0 || data == nullptr) return OkStatus();
  std::vector<Piece> pieces[2];  // f32, bf16
  for (const LocalParameter& local : layout_.locals) {
    for (size_t owner = 0; owner < local.owned_by.size(); ++owner) {
      const RowRange rows = local.owned_by[owner];
      if (rows.empty() || local.row_elements == 0) continue;
      pieces[local.bf16].push_back({static_cast<int>(owner),
                                    local.weight_offset + rows.begin * local.row_elements,
                                    local.weight_offset + rows.end * local.row_elements});
    }
  }
  Work works[2];
  const BufferRef buffers[2] = {{slot.weights_f32.data(), layout_.weights_f32, DType::kF32},
                                {slot.weights_bf16.data(), layout_.weights_bf16, DType::kBF16}};
  Status status;
  for (int k = 0; k < 2; ++k) {
    if (!pieces[k].empty()) works[k] = data->AllGather(buffers[k], pieces[k]);
  }
  for (Work& work : works) {
    if (!work.valid() || !status.ok()) continue;
    status = work.WaitOrFollow(follower, timeout);
  }
  if (status.ok()) return status;
  // The slot's weights may still be written to; they go with the operations.
  auto keep_alive = std::make_shared<std::pair<Buffer, Buffer>>(std::move(slot.weights_f32),
                                                                std::move(slot.weights_bf16));
  for (Work& work : works) {
    if (work.valid()) work.Abandon(keep_alive);
  }
  return status.WithContext("gathering the new weights");
}

std::vector<StateTensor> ShardedParameterStore::StateOf(const LocalParameter& local, RowRange rows,
                                                        bool moments) const {
  const ParameterSpec& spec = specs_[local.id];
  const StateSlot& slot = slots_.Committed();
  Box box = local.region;
  box.offset[0] += rows.begin;
  box.extent[0] = rows.end - rows.begin;
  const int64_t skip = (rows.begin - local.updated.begin) * local.row_elements;
  const auto tensor = [&](float* base) { return Tensor(base + skip, DType::kF32, box.extent); };
  const Tensor weights = local.bf16 && !local.has_master
                             ? Tensor(ComputeCopy(slot, local) + skip, DType::kBF16, box.extent)
                             : tensor(Masters(slot, local));
  std::vector<StateTensor> state;
  state.push_back({StateTensor::Kind::kWeight, local.id, spec.name, spec.shape, box, weights});
  if (!moments) return state;
  state.push_back({StateTensor::Kind::kFirstMoment, local.id, "optimizer.m." + spec.name,
                   spec.shape, box, tensor(Floats(slot.first_moments) + local.moment_offset)});
  state.push_back({StateTensor::Kind::kSecondMoment, local.id, "optimizer.v." + spec.name,
                   spec.shape, box, tensor(Floats(slot.second_moments) + local.moment_offset)});
  return state;
}

std::vector<StateTensor> ShardedParameterStore::StateToSave() const {
  std::vector<StateTensor> all;
  const Mesh& mesh = groups_->mesh();
  for (const LocalParameter& local : layout_.locals) {
    const ParameterSpec& spec = specs_[local.id];
    if (StageOfRole(spec, 0) != groups_->Index(Axis::kPipeline)) continue;
    // With the data cut, also at level 0: the ranks that hold copies share the writing.
    const Placement cut = WithDataCut(spec.shape, spec.placement, mesh, groups_->rank());
    if (!IsFirstHolder(cut, mesh, groups_->rank())) continue;
    const RowRange rows = local.owned_by[groups_->Index(Axis::kData)];
    if (rows.empty() || local.row_elements == 0) continue;
    for (StateTensor& state : StateOf(local, rows, true)) all.push_back(std::move(state));
  }
  return all;
}

std::vector<StateTensor> ShardedParameterStore::StateToLoad() {
  MakeWeights(layout_, stream_->device(), &slots_.Committed());
  std::vector<StateTensor> all;
  for (const LocalParameter& local : layout_.locals) {
    if (local.updated_elements() == 0) continue;
    for (StateTensor& state : StateOf(local, local.updated, true)) all.push_back(std::move(state));
  }
  return all;
}

Status ShardedParameterStore::FinishLoad(int64_t step, Micros timeout) {
  StateSlot& slot = slots_.Committed();
  for (const LocalParameter& local : layout_.locals) {
    if (!local.has_master) continue;
    CastToBFloat16(*stream_, ComputeCopy(slot, local), Masters(slot, local),
                   local.updated_elements());
  }
  stream_->Synchronize();
  RETURN_IF_ERROR(GatherWeights(slot, nullptr, timeout));
  slot.step = step;
  return OkStatus();
}

std::vector<Tensor> ShardedParameterStore::Replicated() {
  std::vector<Tensor> tensors;
  for (const LocalParameter& local : layout_.locals) {
    tensors.push_back(Acquire(local.id));
    if (options_.zero_level > 0) continue;
    for (const StateTensor& state : StateOf(local, local.updated, true)) {
      // Weights without masters are their own.
      if (state.kind == StateTensor::Kind::kWeight && !local.has_master) continue;
      tensors.push_back(state.tensor);
    }
  }
  return tensors;
}

Tensor ShardedParameterStore::ReducedGradient(ParamId id) const {
  const LocalParameter& local = layout_.locals[LocalOf(id)];
  Shape extent = local.region.extent;
  extent[0] = local.updated.end - local.updated.begin;
  return Tensor(const_cast<float*>(reducer_.Reduced(local)), DType::kF32, extent);
}

int64_t ShardedParameterStore::memory_bytes() const {
  return 2 * slots_.Committed().bytes() + reducer_.bytes();
}

}  // namespace trireme
