// ParameterLayout: where the local regions of a rank's parameters, gradients and optimizer state
// lie in flat arrays.
#pragma once

#include <cstdint>
#include <vector>

#include "parallelism/mesh.h"
#include "parallelism/parameters.h"

namespace trireme {

// Bytes of gradients that are reduced together: a CPU's caches, or the links of GPUs, set them.
inline constexpr int64_t kBucketBytes = 8 << 20;
inline constexpr int64_t kGpuBucketBytes = 32 << 20;

// Rows of dim 0 of a local region.
struct RowRange {
  int64_t begin = 0;
  int64_t end = 0;
  bool empty() const { return begin >= end; }
};

// A parameter of this rank's pipeline stage. Offsets count elements and are multiples of 16.
struct LocalParameter {
  ParamId id;
  Box region;               // of the global tensor
  int64_t rows = 0;         // of the region
  int64_t padded_rows = 0;  // with the room behind them: see kRowStep
  int64_t row_elements = 0;
  std::vector<RowRange> owned_by;  // rows by data index: OwnedRegion
  RowRange updated;                // rows that this rank updates: owned with ZeRO, else all
  bool bf16 = false;               // computed in bf16
  bool has_master = false;         // with a master copy in f32
  int64_t weight_offset = 0;       // in weights_bf16 or weights_f32
  int64_t master_offset = 0;       // in masters, of row updated.begin
  int64_t moment_offset = 0;       // in the moments, of row updated.begin
  std::vector<int> roles;          // used at this stage, ascending
  std::vector<int> entries;        // gradient entry of each of these roles

  int64_t elements() const { return rows * row_elements; }
  int64_t padded_elements() const { return padded_rows * row_elements; }
  int64_t updated_elements() const { return (updated.end - updated.begin) * row_elements; }
};

// Accumulated gradients of one parameter and role.
struct GradientEntry {
  int local;  // index of the LocalParameter
  int role;
  int64_t offset;  // in a flat f32 accumulator
  int64_t elements;
  int bucket;
};

// A run of entries that is reduced at once. Bucket 0 is the last in the flat array: backward
// completes the last layers first.
struct GradientBucket {
  int64_t begin, end;  // elements of the flat accumulator
  std::vector<int> entries;
};

// What matrices are kept in; vectors are f32.
struct WeightTypes {
  DType compute = DType::kF32;  // or kBF16
  DType master = DType::kF32;   // kBF16, where compute is kBF16: there are no others
};

struct ParameterLayout {
  std::vector<LocalParameter> locals;  // in the order of ids
  std::vector<int> local_of;           // by ParamId; -1 when another stage holds it
  std::vector<GradientEntry> entries;
  std::vector<GradientBucket> buckets;
  // Sizes of the flat arrays in elements.
  int64_t weights_f32 = 0, weights_bf16 = 0, masters = 0, moments = 0, gradients = 0;
};

// The pipeline stage where a role of the parameter is used.
int StageOfRole(const ParameterSpec& spec, int role);
bool IsMatrix(const ParameterSpec& spec);  // two or more published dims

// zero_level: 0 or 1.
ParameterLayout MakeParameterLayout(const std::vector<ParameterSpec>& specs, const Mesh& mesh,
                                    int rank, int zero_level, WeightTypes types,
                                    int64_t bucket_bytes);

// Where the elements of local regions lie when all parameters are laid end to end, by ParamId: that
// of a region's first one. Elements of a region follow one another. Equal for ranks that hold the
// same elements, apart for those that hold others, and the same for every data and pipeline degree.
std::vector<int64_t> FirstElements(const std::vector<ParameterSpec>& specs,
                                   const ParameterLayout& layout);

}  // namespace trireme
