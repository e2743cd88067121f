#include "parallelism/parameter_layout.h"

#include <algorithm>

namespace trireme {
namespace {

constexpr int64_t kAlignment = 16;  // elements

// Takes `count` elements at the end of a flat array of `*size`.
int64_t Take(int64_t* size, int64_t count) {
  const int64_t offset = *size;
  *size += (count + kAlignment - 1) / kAlignment * kAlignment;
  return offset;
}

std::vector<RowRange> OwnersOf(const ParameterSpec& spec, const Box& region, const Mesh& mesh,
                               int rank) {
  std::vector<RowRange> owned;
  for (int peer : mesh.Group(rank, Axis::kData)) {
    const Box box = OwnedRegion(spec.shape, spec.placement, mesh, peer);
    const int64_t begin = box.offset[0] - region.offset[0];
    owned.push_back({begin, begin + box.extent[0]});
  }
  return owned;
}

void AddEntries(ParameterLayout* layout) {
  // First uses in the order of parameters, then the other uses of tied tensors: those (the head)
  // are complete first in the backward pass.
  for (const bool later_roles : {false, true}) {
    for (size_t i = 0; i < layout->locals.size(); ++i) {
      LocalParameter& local = layout->locals[i];
      for (int role : local.roles) {
        if ((role > 0) != later_roles) continue;
        local.entries.push_back(static_cast<int>(layout->entries.size()));
        const int64_t offset = Take(&layout->gradients, local.padded_elements());
        layout->entries.push_back({static_cast<int>(i), role, offset, local.elements(), 0});
      }
    }
  }
}

void AddBuckets(ParameterLayout* layout, int64_t bucket_bytes) {
  for (int e = static_cast<int>(layout->entries.size()) - 1; e >= 0; --e) {
    GradientEntry& entry = layout->entries[e];
    const int64_t end = entry.offset + entry.elements;
    const auto full = [&](const GradientBucket& bucket) {
      return (bucket.end - entry.offset) * int64_t{4} > bucket_bytes;
    };
    if (layout->buckets.empty() || full(layout->buckets.back())) {
      layout->buckets.push_back({entry.offset, end, {}});
    }
    layout->buckets.back().begin = entry.offset;
    layout->buckets.back().entries.push_back(e);
    entry.bucket = static_cast<int>(layout->buckets.size()) - 1;
  }
}

}  // namespace

int StageOfRole(const ParameterSpec& spec, int role) {
  CHECK(!spec.stages.empty()) << spec.name;
  return spec.stages.size() > 1 ? spec.stages[role] : spec.stages[0];
}

bool IsMatrix(const ParameterSpec& spec) { return spec.published_shape.size() >= 2; }

ParameterLayout MakeParameterLayout(const std::vector<ParameterSpec>& specs, const Mesh& mesh,
                                    int rank, int zero_level, WeightTypes types,
                                    int64_t bucket_bytes) {
  const int stage = mesh.Index(rank, Axis::kPipeline);
  const int data_index = mesh.Index(rank, Axis::kData);
  ParameterLayout layout;
  layout.local_of.assign(specs.size(), -1);
  for (size_t id = 0; id < specs.size(); ++id) {
    const ParameterSpec& spec = specs[id];
    CHECK(spec.stages.size() <= 1 || static_cast<int>(spec.stages.size()) == spec.roles)
        << spec.name << ": a stage for each role";
    LocalParameter local;
    local.id = static_cast<ParamId>(id);
    for (int role = 0; role < spec.roles; ++role) {
      if (StageOfRole(spec, role) == stage) local.roles.push_back(role);
    }
    if (local.roles.empty()) continue;
    local.region = LocalRegion(spec.shape, spec.placement, mesh, rank);
    local.rows = local.region.extent[0];
    local.row_elements = ElementCount({local.region.extent.begin() + 1, local.region.extent.end()});
    local.owned_by = OwnersOf(spec, local.region, mesh, rank);
    local.updated = zero_level > 0 ? local.owned_by[data_index] : RowRange{0, local.rows};
    local.padded_rows = IsMatrix(spec) ? PaddedRows(local.rows) : local.rows;
    local.bf16 = types.compute == DType::kBF16 && IsMatrix(spec);
    local.has_master = local.bf16 && types.master == DType::kF32;
    local.weight_offset =
        Take(local.bf16 ? &layout.weights_bf16 : &layout.weights_f32, local.padded_elements());
    if (local.has_master) local.master_offset = Take(&layout.masters, local.updated_elements());
    local.moment_offset = Take(&layout.moments, local.updated_elements());
    layout.local_of[id] = static_cast<int>(layout.locals.size());
    layout.locals.push_back(std::move(local));
  }
  AddEntries(&layout);
  AddBuckets(&layout, bucket_bytes);
  return layout;
}

std::vector<int64_t> FirstElements(const std::vector<ParameterSpec>& specs,
                                   const ParameterLayout& layout) {
  std::vector<int64_t> first(specs.size(), 0);
  int64_t end = 0;
  for (size_t id = 0; id < specs.size(); ++id) {
    const Shape& shape = specs[id].shape;
    const int64_t elements = ElementCount(shape);
    first[id] = Take(&end, elements);
    if (layout.local_of[id] < 0 || elements == 0) continue;
    // A region is cut along one dim at most: those before it along that dim are laid before it.
    const Box& region = layout.locals[layout.local_of[id]].region;
    for (size_t d = 0; d < shape.size(); ++d) first[id] += region.offset[d] * (elements / shape[d]);
  }
  return first;
}

}  // namespace trireme
