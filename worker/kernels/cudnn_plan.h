// Graphs of cuDNN's operations, and the plans that run them. The library fuses a graph into one
// kernel or a few when it knows its pattern.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "worker/kernels/cudnn_library.h"

namespace trireme::cudnn {

// A descriptor of the library, destroyed with this object.
class Descriptor {
 public:
  Descriptor() = default;
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept { *this = std::move(other); }
  Descriptor& operator=(Descriptor&& other) noexcept;

  static Result<Descriptor> Make(const Api& api, cudnnBackendDescriptorType_t type);
  Status Set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
             const void* values);
  Status Set(cudnnBackendAttributeName_t name, const Descriptor& value);
  Status Finalize();
  cudnnBackendDescriptor_t get() const { return descriptor_; }

 private:
  const Api* api_ = nullptr;
  cudnnBackendDescriptor_t descriptor_ = nullptr;
};

// What plans are made for: a GPU of this machine, or one that is only described.
Result<Descriptor> DeviceOf(const Api& api, int gpu);
// `json`: the library's own representation of a device's properties.
Result<Descriptor> DeviceFrom(const Api& api, const std::string& json);

// Ways in which the library would run a graph.
struct Proposals {
  std::vector<Descriptor> engines;  // with their settings; the expected fastest first
  std::vector<Descriptor> parts;    // what they refer to; the last is the graph
};

struct EngineSetting {
  cudnnBackendKnobType_t knob;
  int64_t value;
};
// Puts an engine that the library has and did not propose before those that it did. An error where
// it has none of this number and settings for the graph on the device; the proposals stay then.
Status Prefer(const Api& api, const Descriptor& device, int64_t engine,
              std::span<const EngineSetting> settings, Proposals* proposals);

// Ready to run any number of times.
struct Plan {
  Descriptor descriptor;
  int64_t workspace_bytes = 0;
};
// Compiles for one of the proposed engines. kNotFound when it does not take the device after all.
Result<Plan> MakePlan(const Api& api, const Descriptor& device, const Descriptor& engine);

// Builds a graph operation by operation. The first error stays, and Propose() returns it; operands
// are numbers that the functions for tensors return.
class GraphBuilder {
 public:
  using Shape = std::array<int64_t, 4>;
  explicit GraphBuilder(const Api& api) : api_(api) {}

  // In device memory, 16-byte aligned; `uid` names it when the plan runs. Strides in elements.
  int Memory(int64_t uid, cudnnDataType_t type, const Shape& shape, const Shape& strides);
  // A number that the host passes when the plan runs.
  int Scalar(int64_t uid, cudnnDataType_t type);
  // Between two operations; never in memory, as far as the library can.
  int Virtual(cudnnDataType_t type, const Shape& shape, const Shape& strides);
  int Virtual(cudnnDataType_t type, const Shape& shape);  // row-major

  // c = a b over the last two dims; heads of b are shared by groups of heads of a.
  void MatMul(int a, int b, int c);
  void Pointwise(cudnnPointwiseMode_t mode, int x, int y);
  void Pointwise(cudnnPointwiseMode_t mode, int x, int b, int y);
  // y = where ? x : b.
  void Select(int x, int b, int where, int y);
  // The index of each element along a dim.
  void Index(int like, int64_t dim, int y);
  // Over the dims in which y is 1 and x is not, or over the heads of a group.
  void Reduce(cudnnReduceTensorOp_t operation, int x, int y);
  void Reshape(int x, int y);

  // What the library would run the graph with on the device, nothing where it does not support it;
  // the builder is empty afterwards.
  Result<Proposals> Propose(const Descriptor& device);

 private:
  int AddTensor(int64_t uid, cudnnDataType_t type, const Shape& shape, const Shape& strides,
                cudnnBackendAttributeName_t kind);
  // Adds the operation `type`; `fill` sets its attributes.
  template <typename Fill>
  void Add(cudnnBackendDescriptorType_t type, const Fill& fill);
  void AddPointwise(cudnnPointwiseMode_t mode, cudnnDataType_t compute, int64_t axis,
                    std::initializer_list<std::pair<cudnnBackendAttributeName_t, int>> operands);
  cudnnDataType_t ComputeTypeOf(int y) const;

  const Api& api_;
  Status status_;
  std::vector<Descriptor> tensors_;
  std::vector<cudnnDataType_t> types_;
  std::vector<Descriptor> details_, operations_;
  int64_t next_virtual_ = 1000;
};

}  // namespace trireme::cudnn
