#include <algorithm>
#include <iterator>
#include <utility>

#include "worker/kernels/cudnn_plan.h"

namespace trireme::cudnn {
namespace {

constexpr int64_t kAlignmentBytes = 16;
constexpr int64_t kProposalsMax = 16;
constexpr cudnnBackendAttributeName_t kInMemory = CUDNN_ATTR_TENSOR_UNIQUE_ID;

GraphBuilder::Shape RowMajor(const GraphBuilder::Shape& shape) {
  return {shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1};
}

}  // namespace

Descriptor::~Descriptor() {
  if (descriptor_ != nullptr) api_->DestroyDescriptor(descriptor_);
}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(api_, other.api_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

Result<Descriptor> Descriptor::Make(const Api& api, cudnnBackendDescriptorType_t type) {
  Descriptor made;
  RETURN_IF_ERROR(
      StatusOf(api, api.CreateDescriptor(type, &made.descriptor_), "making a descriptor"));
  made.api_ = &api;
  return made;
}

Status Descriptor::Set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                       int64_t count, const void* values) {
  return StatusOf(*api_, api_->SetAttribute(descriptor_, name, type, count, values),
                  "setting an attribute");
}

Status Descriptor::Set(cudnnBackendAttributeName_t name, const Descriptor& value) {
  return Set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value.descriptor_);
}

Status Descriptor::Finalize() {
  return StatusOf(*api_, api_->Finalize(descriptor_), "completing a descriptor");
}

Result<Descriptor> DeviceOf(const Api& api, int gpu) {
  ASSIGN_OR_RETURN(Descriptor device, Descriptor::Make(api, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR));
  const int32_t id = gpu;
  RETURN_IF_ERROR(device.Set(CUDNN_ATTR_DEVICEPROP_DEVICE_ID, CUDNN_TYPE_INT32, 1, &id));
  RETURN_IF_ERROR(device.Finalize());
  return device;
}

Result<Descriptor> DeviceFrom(const Api& api, const std::string& json) {
  ASSIGN_OR_RETURN(Descriptor device, Descriptor::Make(api, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR));
  // With the terminating zero: the library reads up to it.
  RETURN_IF_ERROR(device.Set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                             static_cast<int64_t>(json.size()) + 1, json.c_str()));
  RETURN_IF_ERROR(device.Finalize());
  return device;
}

int GraphBuilder::AddTensor(int64_t uid, cudnnDataType_t type, const Shape& shape,
                            const Shape& strides, cudnnBackendAttributeName_t kind) {
  const int number = static_cast<int>(tensors_.size());
  tensors_.emplace_back();
  types_.push_back(type);
  const auto make = [&]() -> Status {
    ASSIGN_OR_RETURN(Descriptor tensor, Descriptor::Make(api_, CUDNN_BACKEND_TENSOR_DESCRIPTOR));
    const bool yes = true;
    RETURN_IF_ERROR(tensor.Set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type));
    RETURN_IF_ERROR(tensor.Set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, shape.data()));
    RETURN_IF_ERROR(tensor.Set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides.data()));
    RETURN_IF_ERROR(tensor.Set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid));
    RETURN_IF_ERROR(
        tensor.Set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &kAlignmentBytes));
    if (kind != kInMemory) RETURN_IF_ERROR(tensor.Set(kind, CUDNN_TYPE_BOOLEAN, 1, &yes));
    RETURN_IF_ERROR(tensor.Finalize());
    tensors_[number] = std::move(tensor);
    return OkStatus();
  };
  if (status_.ok()) status_ = make();
  return number;
}

int GraphBuilder::Memory(int64_t uid, cudnnDataType_t type, const Shape& shape,
                         const Shape& strides) {
  return AddTensor(uid, type, shape, strides, kInMemory);
}

int GraphBuilder::Scalar(int64_t uid, cudnnDataType_t type) {
  return AddTensor(uid, type, {1, 1, 1, 1}, {1, 1, 1, 1}, CUDNN_ATTR_TENSOR_IS_BY_VALUE);
}

int GraphBuilder::Virtual(cudnnDataType_t type, const Shape& shape, const Shape& strides) {
  return AddTensor(next_virtual_++, type, shape, strides, CUDNN_ATTR_TENSOR_IS_VIRTUAL);
}

int GraphBuilder::Virtual(cudnnDataType_t type, const Shape& shape) {
  return Virtual(type, shape, RowMajor(shape));
}

template <typename Fill>
void GraphBuilder::Add(cudnnBackendDescriptorType_t type, const Fill& fill) {
  const auto add = [&]() -> Status {
    ASSIGN_OR_RETURN(Descriptor operation, Descriptor::Make(api_, type));
    RETURN_IF_ERROR(fill(operation));
    RETURN_IF_ERROR(operation.Finalize());
    operations_.push_back(std::move(operation));
    return OkStatus();
  };
  if (status_.ok()) status_ = add();
}

void GraphBuilder::MatMul(int a, int b, int c) {
  Add(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, [&](Descriptor& operation) -> Status {
    const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    ASSIGN_OR_RETURN(Descriptor detail, Descriptor::Make(api_, CUDNN_BACKEND_MATMUL_DESCRIPTOR));
    RETURN_IF_ERROR(detail.Set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute));
    RETURN_IF_ERROR(detail.Finalize());
    RETURN_IF_ERROR(operation.Set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, tensors_[a]));
    RETURN_IF_ERROR(operation.Set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, tensors_[b]));
    RETURN_IF_ERROR(operation.Set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, tensors_[c]));
    RETURN_IF_ERROR(operation.Set(CUDNN_ATTR_OPERATION_MATMUL_DESC, detail));
    details_.push_back(std::move(detail));
    return OkStatus();
  });
}

void GraphBuilder::AddPointwise(
    cudnnPointwiseMode_t mode, cudnnDataType_t compute, int64_t axis,
    std::initializer_list<std::pair<cudnnBackendAttributeName_t, int>> operands) {
  Add(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, [&](Descriptor& operation) -> Status {
    ASSIGN_OR_RETURN(Descriptor detail, Descriptor::Make(api_, CUDNN_BACKEND_POINTWISE_DESCRIPTOR));
    RETURN_IF_ERROR(detail.Set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode));
    RETURN_IF_ERROR(detail.Set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute));
    if (axis >= 0) {
      RETURN_IF_ERROR(detail.Set(CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis));
    }
    RETURN_IF_ERROR(detail.Finalize());
    RETURN_IF_ERROR(operation.Set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, detail));
    for (const auto& [name, tensor] : operands) {
      RETURN_IF_ERROR(operation.Set(name, tensors_[tensor]));
    }
    details_.push_back(std::move(detail));
    return OkStatus();
  });
}

// Comparisons are computed as what they give, all else in f32.
cudnnDataType_t GraphBuilder::ComputeTypeOf(int y) const {
  return types_[y] == CUDNN_DATA_BOOLEAN ? CUDNN_DATA_BOOLEAN : CUDNN_DATA_FLOAT;
}

void GraphBuilder::Pointwise(cudnnPointwiseMode_t mode, int x, int y) {
  AddPointwise(
      mode, ComputeTypeOf(y), -1,
      {{CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x}, {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y}});
}

void GraphBuilder::Pointwise(cudnnPointwiseMode_t mode, int x, int b, int y) {
  AddPointwise(mode, ComputeTypeOf(y), -1,
               {{CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x},
                {CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b},
                {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y}});
}

void GraphBuilder::Select(int x, int b, int where, int y) {
  AddPointwise(CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, -1,
               {{CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x},
                {CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b},
                {CUDNN_ATTR_OPERATION_POINTWISE_TDESC, where},
                {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y}});
}

void GraphBuilder::Index(int like, int64_t dim, int y) {
  AddPointwise(
      CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT, dim,
      {{CUDNN_ATTR_OPERATION_POINTWISE_XDESC, like}, {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y}});
}

void GraphBuilder::Reduce(cudnnReduceTensorOp_t operation, int x, int y) {
  Add(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, [&](Descriptor& reduction) -> Status {
    const cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    ASSIGN_OR_RETURN(Descriptor detail, Descriptor::Make(api_, CUDNN_BACKEND_REDUCTION_DESCRIPTOR));
    RETURN_IF_ERROR(detail.Set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1,
                               &operation));
    RETURN_IF_ERROR(detail.Set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute));
    RETURN_IF_ERROR(detail.Finalize());
    RETURN_IF_ERROR(reduction.Set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, tensors_[x]));
    RETURN_IF_ERROR(reduction.Set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, tensors_[y]));
    RETURN_IF_ERROR(reduction.Set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, detail));
    details_.push_back(std::move(detail));
    return OkStatus();
  });
}

void GraphBuilder::Reshape(int x, int y) {
  Add(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, [&](Descriptor& reshape) -> Status {
    RETURN_IF_ERROR(reshape.Set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, tensors_[x]));
    return reshape.Set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, tensors_[y]);
  });
}

namespace {

// Configurations of engines in the library's order of expected speed.
Result<std::vector<Descriptor>> Configurations(const Api& api, const Descriptor& graph,
                                               const Descriptor& device,
                                               cudnnBackendHeurMode_t mode) {
  ASSIGN_OR_RETURN(Descriptor heuristic,
                   Descriptor::Make(api, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR));
  RETURN_IF_ERROR(heuristic.Set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph));
  RETURN_IF_ERROR(heuristic.Set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode));
  RETURN_IF_ERROR(heuristic.Set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device));
  RETURN_IF_ERROR(heuristic.Finalize());
  std::vector<Descriptor> found;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (int64_t i = 0; i < kProposalsMax; ++i) {
    ASSIGN_OR_RETURN(Descriptor one, Descriptor::Make(api, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR));
    raw.push_back(one.get());
    found.push_back(std::move(one));
  }
  int64_t count = 0;
  RETURN_IF_ERROR(
      StatusOf(api,
               api.GetAttribute(heuristic.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                CUDNN_TYPE_BACKEND_DESCRIPTOR, kProposalsMax, &count, raw.data()),
               "reading proposals"));
  found.resize(std::min(count, kProposalsMax));
  return found;
}

}  // namespace

Result<Proposals> GraphBuilder::Propose(const Descriptor& device) {
  RETURN_IF_ERROR(status_);
  std::vector<cudnnBackendDescriptor_t> raw;
  for (const Descriptor& operation : operations_) raw.push_back(operation.get());
  ASSIGN_OR_RETURN(Descriptor graph,
                   Descriptor::Make(api_, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR));
  RETURN_IF_ERROR(graph.Set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                            static_cast<int64_t>(raw.size()), raw.data()));
  RETURN_IF_ERROR(graph.Finalize());
  Proposals proposals;
  for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    auto found = Configurations(api_, graph, device, mode);
    if (!found.ok() && found.status().code() == StatusCode::kNotFound) continue;
    if (!found.ok()) return found.status();
    for (Descriptor& engine : *found) proposals.engines.push_back(std::move(engine));
  }
  for (auto* part : {&tensors_, &details_, &operations_}) {
    for (Descriptor& one : *part) proposals.parts.push_back(std::move(one));
  }
  proposals.parts.push_back(std::move(graph));
  return proposals;
}

Status Prefer(const Api& api, const Descriptor& device, int64_t engine,
              std::span<const EngineSetting> settings, Proposals* proposals) {
  std::vector<Descriptor> parts;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (const EngineSetting& setting : settings) {
    ASSIGN_OR_RETURN(Descriptor choice,
                     Descriptor::Make(api, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR));
    RETURN_IF_ERROR(
        choice.Set(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &setting.knob));
    RETURN_IF_ERROR(
        choice.Set(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &setting.value));
    RETURN_IF_ERROR(choice.Finalize());
    raw.push_back(choice.get());
    parts.push_back(std::move(choice));
  }
  ASSIGN_OR_RETURN(Descriptor chosen, Descriptor::Make(api, CUDNN_BACKEND_ENGINE_DESCRIPTOR));
  RETURN_IF_ERROR(chosen.Set(CUDNN_ATTR_ENGINE_OPERATION_GRAPH, proposals->parts.back()));
  RETURN_IF_ERROR(chosen.Set(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &engine));
  RETURN_IF_ERROR(chosen.Set(CUDNN_ATTR_ENGINE_DEVICEPROP, device));
  RETURN_IF_ERROR(chosen.Finalize());
  ASSIGN_OR_RETURN(Descriptor configured,
                   Descriptor::Make(api, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR));
  RETURN_IF_ERROR(configured.Set(CUDNN_ATTR_ENGINECFG_ENGINE, chosen));
  RETURN_IF_ERROR(configured.Set(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                 static_cast<int64_t>(raw.size()), raw.data()));
  RETURN_IF_ERROR(configured.Finalize());
  parts.push_back(std::move(chosen));
  proposals->engines.insert(proposals->engines.begin(), std::move(configured));
  // Before the graph.
  proposals->parts.insert(proposals->parts.begin(), std::make_move_iterator(parts.begin()),
                          std::make_move_iterator(parts.end()));
  return OkStatus();
}

Result<Plan> MakePlan(const Api& api, const Descriptor& device, const Descriptor& engine) {
  Plan made;
  ASSIGN_OR_RETURN(made.descriptor, Descriptor::Make(api, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR));
  RETURN_IF_ERROR(made.descriptor.Set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, engine));
  RETURN_IF_ERROR(made.descriptor.Set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device));
  RETURN_IF_ERROR(made.descriptor.Finalize());
  int64_t count = 0;
  RETURN_IF_ERROR(
      StatusOf(api,
               api.GetAttribute(made.descriptor.get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                CUDNN_TYPE_INT64, 1, &count, &made.workspace_bytes),
               "reading a plan's workspace"));
  return made;
}

}  // namespace trireme::cudnn
