// Attention by cuDNN's fused kernels. TRIREME_ATTENTION says which:
//   deterministic  the default: reruns give the same bits. The backward pass takes workspace of
//                  2 B Hq T^2 bytes on some GPUs.
//   fast           dQ is summed by atomics: memory linear in T, bits differ from run to run.
//   own            no cuDNN: the bits of a sequence depend on nothing but the sequence.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "cluster/device/cuda_device.h"
#include "cluster/device/cuda_error.cuh"
#include "worker/kernels/attention_plan.h"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/gpu_libraries.h"
#include "worker/kernels/stream_scratch.cuh"

namespace trireme::cuda {
namespace {

using cudnn::AttentionProblem;

// Beyond this a deterministic backward pass is left to the own kernel.
constexpr int64_t kWorkspaceBytesMax = int64_t{4} << 30;
// Up to this version the backward pass is wrong in lengths that no tile divides.
constexpr int kVersionOfPaddingFix = 91600;
constexpr int64_t kTileKeys = 128;

enum class Form { kDeterministic, kFast, kOwn };

Form ChosenForm() {
  static const Form form = [] {
    const char* text = std::getenv("TRIREME_ATTENTION");
    const std::string_view name = text == nullptr ? "" : text;
    if (name.empty() || name == "deterministic") return Form::kDeterministic;
    if (name == "fast") return Form::kFast;
    CHECK(name == "own") << "TRIREME_ATTENTION: " << name
                         << ": expected deterministic, fast or own";
    return Form::kOwn;
  }();
  return form;
}

// Libraries make memory and load kernels when they are first used, which is no part of a graph that
// this thread may be capturing.
class OutsideCapture {
 public:
  explicit OutsideCapture(int gpu) : gpu_(gpu) { Exchange("leaving the capture mode"); }
  ~OutsideCapture() { Exchange("taking up the capture mode"); }
  OutsideCapture(const OutsideCapture&) = delete;
  OutsideCapture& operator=(const OutsideCapture&) = delete;

 private:
  void Exchange(const char* what) {
    Check(cudaThreadExchangeStreamCaptureMode(&mode_), gpu_, what);
  }
  const int gpu_;
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

using Operands = std::vector<std::pair<int64_t, const void*>>;

// The library's state on one GPU. Never destroyed: the driver may be gone first.
class Library {
 public:
  // Null where there is no library; says so once.
  static Library* Of(int gpu);

  // The problem's plan, made when it is first met; null where there is none. Good for ever.
  const cudnn::Plan* PlanOf(const AttentionProblem& problem);
  // `operands`: pointers by uid.
  void Run(Stream& stream, const cudnn::Plan& plan, const Operands& operands);

 private:
  explicit Library(int gpu) : gpu_(gpu) {}
  Status Open();
  // What a plan refers to lives as long as the plan.
  struct Kept {
    cudnn::Proposals proposals;
    cudnn::Plan plan;
  };
  Result<Kept> Make(const AttentionProblem& problem);
  Status Execute(const cudnn::Plan& plan, const Operands& operands, void* workspace);

  const int gpu_;
  const cudnn::Api* api_ = nullptr;
  cudnnHandle_t handle_ = nullptr;
  cudnn::Descriptor device_;
  std::mutex mutex_;                                         // of the handle and the plans
  std::map<AttentionProblem, std::unique_ptr<Kept>> plans_;  // null: there is none
};

Library* Library::Of(int gpu) {
  static std::mutex& mutex = *new std::mutex;
  static auto& libraries = *new std::map<int, std::unique_ptr<Library>>;
  std::lock_guard lock(mutex);
  const auto [found, is_new] = libraries.try_emplace(gpu);
  if (is_new) {
    std::unique_ptr<Library> library(new Library(gpu));
    const Status status = library->Open();
    if (status.ok()) {
      found->second = std::move(library);
    } else {
      LOG(WARNING) << "attention runs on the program's own kernel: " << status.message();
    }
  }
  return found->second.get();
}

Status Library::Open() {
  const OutsideCapture outside(gpu_);
  ASSIGN_OR_RETURN(api_, cudnn::Load());
  RETURN_IF_ERROR(cudnn::StatusOf(*api_, api_->Create(&handle_), "opening the library"));
  ASSIGN_OR_RETURN(device_, cudnn::DeviceOf(*api_, gpu_));
  return OkStatus();
}

Result<Library::Kept> Library::Make(const AttentionProblem& problem) {
  if (problem.backward() && problem.length % kTileKeys != 0 &&
      api_->version < kVersionOfPaddingFix) {
    return NotFoundError("lengths that are no multiple of 128 need cuDNN 9.16");
  }
  const OutsideCapture outside(gpu_);
  const bool deterministic = ChosenForm() == Form::kDeterministic;
  ASSIGN_OR_RETURN(cudnn::Proposals proposals,
                   cudnn::ProposeAttention(*api_, device_, problem, deterministic));
  Status reason;
  for (const cudnn::Descriptor& engine : proposals.engines) {
    auto plan = cudnn::MakePlan(*api_, device_, engine);
    if (plan.ok() && plan->workspace_bytes <= kWorkspaceBytesMax) {
      return Kept{std::move(proposals), std::move(*plan)};
    }
    reason = plan.ok() ? NotFoundError(StrCat("workspace of ", plan->workspace_bytes, " bytes"))
                       : plan.status();
  }
  return reason;
}

const cudnn::Plan* Library::PlanOf(const AttentionProblem& problem) {
  std::lock_guard lock(mutex_);
  const auto [found, is_new] = plans_.try_emplace(problem);
  if (is_new) {
    auto made = Make(problem);
    if (made.ok()) {
      found->second = std::make_unique<Kept>(std::move(*made));
    } else {
      LOG(WARNING) << "attention of " << problem.length << " positions, " << problem.query_heads
                   << " heads of " << problem.head_dim
                   << " runs on the program's own kernel: " << made.status().message();
    }
  }
  return found->second == nullptr ? nullptr : &found->second->plan;
}

Status Library::Execute(const cudnn::Plan& plan, const Operands& operands, void* workspace) {
  std::vector<int64_t> uids;
  std::vector<const void*> pointers;
  for (const auto& [uid, pointer] : operands) {
    uids.push_back(uid);
    pointers.push_back(pointer);
  }
  const auto count = static_cast<int64_t>(uids.size());
  ASSIGN_OR_RETURN(cudnn::Descriptor pack,
                   cudnn::Descriptor::Make(*api_, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR));
  RETURN_IF_ERROR(
      pack.Set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, uids.data()));
  RETURN_IF_ERROR(
      pack.Set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, pointers.data()));
  RETURN_IF_ERROR(pack.Set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace));
  RETURN_IF_ERROR(pack.Finalize());
  return cudnn::StatusOf(*api_, api_->Execute(handle_, plan.descriptor.get(), pack.get()),
                         "running attention");
}

void Library::Run(Stream& stream, const cudnn::Plan& plan, const Operands& operands) {
  auto* native = static_cast<cudaStream_t>(stream.native());
  const gpu::StreamScratch<char> workspace(stream, plan.workspace_bytes);
  std::lock_guard lock(mutex_);
  Status status = cudnn::StatusOf(*api_, api_->SetStream(handle_, native), "choosing a stream");
  if (status.ok()) status = Execute(plan, operands, workspace.data());
  CHECK(status.ok()) << "GPU " << gpu_ << ": " << status.message();
}

// Masked scores. Every row sees its own key, so that none is masked as a whole.
const float kMasked = -std::numeric_limits<float>::infinity();
const float kUnit = 1;

}  // namespace

bool FusedAttentionForward(Stream& stream, const Heads& q, const Heads& k, const Heads& v,
                           float scale, const Tensor& document_starts, const Heads& out,
                           const Tensor& log_sum_exp) {
  if (ChosenForm() == Form::kOwn) return false;
  const auto problem = cudnn::ForwardProblem(q, k, v, document_starts, out);
  if (!problem) return false;
  Library* library = Library::Of(stream.gpu());
  const cudnn::Plan* plan = library == nullptr ? nullptr : library->PlanOf(*problem);
  if (plan == nullptr) return false;
  Operands operands = {{cudnn::kQ, q.data},
                       {cudnn::kK, k.data},
                       {cudnn::kV, v.data},
                       {cudnn::kOut, out.data},
                       {cudnn::kLogSumExp, log_sum_exp.as<float>()},
                       {cudnn::kScale, &scale},
                       {cudnn::kMinusInfinity, &kMasked}};
  if (problem->documents) {
    operands.emplace_back(cudnn::kDocumentStarts, document_starts.as<int32_t>());
  }
  library->Run(stream, *plan, operands);
  return true;
}

bool FusedAttentionBackward(Stream& stream, const Heads& dout, const Heads& q, const Heads& k,
                            const Heads& v, const Heads& out, const Tensor& log_sum_exp,
                            float scale, const Tensor& document_starts, const Heads& dq,
                            const Heads& dk, const Heads& dv) {
  if (ChosenForm() == Form::kOwn) return false;
  const auto problem = cudnn::BackwardProblem(dout, q, k, v, out, document_starts, dq, dk, dv);
  if (!problem) return false;
  Library* library = Library::Of(stream.gpu());
  const cudnn::Plan* plan = library == nullptr ? nullptr : library->PlanOf(*problem);
  if (plan == nullptr) return false;
  const int64_t rows = q.batch * q.heads * q.length;
  const bool sums = ChosenForm() == Form::kFast;
  const gpu::StreamScratch<float> delta(stream, rows), dq_sum(stream, sums ? rows * q.head_dim : 0);
  Operands operands = {{cudnn::kDOut, dout.data}, {cudnn::kQ, q.data},
                       {cudnn::kK, k.data},       {cudnn::kV, v.data},
                       {cudnn::kOut, out.data},   {cudnn::kLogSumExp, log_sum_exp.as<float>()},
                       {cudnn::kScale, &scale},   {cudnn::kMinusInfinity, &kMasked},
                       {cudnn::kOne, &kUnit},     {cudnn::kDelta, delta.data()},
                       {cudnn::kDQ, dq.data},     {cudnn::kDK, dk.data},
                       {cudnn::kDV, dv.data}};
  if (sums) operands.emplace_back(cudnn::kDQSum, dq_sum.data());
  if (problem->documents) {
    operands.emplace_back(cudnn::kDocumentStarts, document_starts.as<int32_t>());
  }
  library->Run(stream, *plan, operands);
  return true;
}

}  // namespace trireme::cuda

namespace trireme {

Result<std::string> GpuAttentionLibrary() {
  ASSIGN_OR_RETURN(const cudnn::Api* api, cudnn::Load());
  return StrCat("cuDNN ", api->version / 10000, ".", api->version / 100 % 100, ".",
                api->version % 100, ", ", api->path);
}

}  // namespace trireme
