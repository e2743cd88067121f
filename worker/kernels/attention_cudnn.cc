// Attention by cuDNN's fused kernels. TRIREME_ATTENTION says which:
//   deterministic  the default: reruns give the same bits. The backward pass takes workspace of
//                  2 B Hq T^2 bytes on some GPUs.
//   fast           dQ is summed by atomics: memory linear in T, bits differ from run to run.
//   own            no cuDNN: the bits of a sequence depend on nothing but the sequence.
// What would take more workspace than TRIREME_ATTENTION_WORKSPACE (bytes; 4 GiB) goes in parts.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
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

// Up to this version the backward pass is wrong in lengths that no tile divides.
constexpr int kVersionOfPaddingFix = 91600;
constexpr int64_t kTileKeys = 128;
// Statistics of a part begin where the library wants them: at a multiple of 16 bytes.
constexpr int64_t kLengthStepOfParts = 4;

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

int64_t WorkspaceBytesMax() {
  static const int64_t bytes = [] {
    const char* text = std::getenv("TRIREME_ATTENTION_WORKSPACE");
    if (text == nullptr || *text == '\0') return kAttentionWorkspaceMax;
    char* end = nullptr;
    const int64_t wanted = std::strtoll(text, &end, 10);
    CHECK(*end == '\0' && wanted > 0)
        << "TRIREME_ATTENTION_WORKSPACE: " << text << ": expected bytes, 1 or more";
    return wanted;
  }();
  return bytes;
}

// Of the current GPU; 0 where it does not say.
int64_t MemoryBytes() {
  size_t free = 0, all = 0;
  return cudaMemGetInfo(&free, &all) == cudaSuccess ? static_cast<int64_t>(all) : 0;
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

// Where a part of a problem begins.
struct PartPlace {
  int64_t sequence, query_head, key_head;
};
using OperandsOfPart = std::function<Operands(const PartPlace&)>;

// The library's state on one GPU. Never destroyed: the driver may be gone first.
class Library {
 public:
  // Null where there is no library; says so once.
  static Library* Of(int gpu);

  // How a problem is run: what a plan refers to lives as long as the plan.
  struct Kept {
    cudnn::Proposals proposals;
    cudnn::Plan plan;
    AttentionPart part;  // of the problem, that the plan is for
  };
  // Made when the problem is first met; null where there is no way. Good for ever.
  const Kept* PlanOf(const AttentionProblem& problem);
  // One part after the other. `operands`: pointers by uid.
  void Run(Stream& stream, const AttentionProblem& problem, const Kept& kept,
           const OperandsOfPart& operands);

 private:
  explicit Library(int gpu) : gpu_(gpu) {}
  Status Open();
  Result<Kept> Make(const AttentionProblem& problem);
  // takes_too_much: set where the fastest engine would take too much workspace, whose turn is then
  // with a smaller part. Null: any engine will do.
  Result<Kept> MakePart(const AttentionProblem& problem, const AttentionPart& part,
                        int64_t bytes_max, bool* takes_too_much);
  void RunPart(Stream& stream, const cudnn::Plan& plan, const Operands& operands);
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

Result<Library::Kept> Library::MakePart(const AttentionProblem& problem, const AttentionPart& part,
                                        int64_t bytes_max, bool* takes_too_much) {
  const bool deterministic = ChosenForm() == Form::kDeterministic;
  ASSIGN_OR_RETURN(
      cudnn::Proposals proposals,
      cudnn::ProposeAttention(*api_, device_, cudnn::PartOf(problem, part), deterministic));
  Status reason;
  for (const cudnn::Descriptor& engine : proposals.engines) {
    auto plan = cudnn::MakePlan(*api_, device_, engine);
    if (plan.ok() && plan->workspace_bytes <= bytes_max) {
      return Kept{std::move(proposals), std::move(*plan), part};
    }
    reason = plan.ok() ? NotFoundError(StrCat("workspace of ", plan->workspace_bytes, " bytes"))
                       : plan.status();
    if (!plan.ok() || takes_too_much == nullptr) continue;
    *takes_too_much = true;
    break;
  }
  return reason;
}

Result<Library::Kept> Library::Make(const AttentionProblem& problem) {
  if (problem.backward() && problem.length % kTileKeys != 0 &&
      api_->version < kVersionOfPaddingFix) {
    return NotFoundError("lengths that are no multiple of 128 need cuDNN 9.16");
  }
  const OutsideCapture outside(gpu_);
  Status reason;
  const AttentionPart whole = {problem.batch, problem.key_heads};
  for (std::optional<AttentionPart> part = whole; part; part = SmallerPart(*part)) {
    bool takes_too_much = false;
    const int64_t bytes_max = PartBytesMax(*part, WorkspaceBytesMax(), MemoryBytes());
    auto kept = MakePart(problem, *part, bytes_max, &takes_too_much);
    if (kept.ok()) {
      const int64_t parts = problem.batch / part->sequences * (problem.key_heads / part->key_heads);
      LOG_IF(INFO, parts > 1) << "attention of " << problem.length << " positions goes in " << parts
                              << " parts: a larger one needs " << reason.message();
      return kept;
    }
    reason = kept.status();
    if (!takes_too_much || problem.length % kLengthStepOfParts != 0) break;
  }
  return MakePart(problem, whole, WorkspaceBytesMax(), nullptr);
}

const Library::Kept* Library::PlanOf(const AttentionProblem& problem) {
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
  return found->second.get();
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

void Library::Run(Stream& stream, const AttentionProblem& problem, const Kept& kept,
                  const OperandsOfPart& operands) {
  const int64_t group = problem.query_heads / problem.key_heads;
  for (int64_t b = 0; b < problem.batch; b += kept.part.sequences) {
    for (int64_t h = 0; h < problem.key_heads; h += kept.part.key_heads) {
      RunPart(stream, kept.plan, operands({b, h * group, h}));
    }
  }
}

void Library::RunPart(Stream& stream, const cudnn::Plan& plan, const Operands& operands) {
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

const void* At(const Heads& x, int64_t sequence, int64_t head) {
  const int64_t elements = sequence * x.length * x.row_stride + head * x.head_dim;
  return static_cast<const std::byte*>(x.data) + elements * ByteSize(x.dtype);
}
// Of [B, Hq, T].
const float* At(const Tensor& statistics, const Heads& q, const PartPlace& at) {
  return statistics.as<float>() + (at.sequence * q.heads + at.query_head) * q.length;
}

void AddDocumentStarts(const Tensor& starts, const Heads& q, const PartPlace& at, Operands* to) {
  if (!starts.defined()) return;
  to->emplace_back(cudnn::kDocumentStarts, starts.as<int32_t>() + at.sequence * q.length);
}

}  // namespace

bool FusedAttentionForward(Stream& stream, const Heads& q, const Heads& k, const Heads& v,
                           float scale, const Tensor& document_starts, const Heads& out,
                           const Tensor& log_sum_exp) {
  if (ChosenForm() == Form::kOwn) return false;
  const auto problem = cudnn::ForwardProblem(q, k, v, document_starts, out);
  if (!problem) return false;
  Library* library = Library::Of(stream.gpu());
  const Library::Kept* kept = library == nullptr ? nullptr : library->PlanOf(*problem);
  if (kept == nullptr) return false;
  library->Run(stream, *problem, *kept, [&](const PartPlace& at) {
    Operands operands = {{cudnn::kQ, At(q, at.sequence, at.query_head)},
                         {cudnn::kK, At(k, at.sequence, at.key_head)},
                         {cudnn::kV, At(v, at.sequence, at.key_head)},
                         {cudnn::kOut, At(out, at.sequence, at.query_head)},
                         {cudnn::kLogSumExp, At(log_sum_exp, q, at)},
                         {cudnn::kScale, &scale},
                         {cudnn::kMinusInfinity, &kMasked}};
    AddDocumentStarts(document_starts, q, at, &operands);
    return operands;
  });
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
  const Library::Kept* kept = library == nullptr ? nullptr : library->PlanOf(*problem);
  if (kept == nullptr) return false;
  const AttentionProblem part = cudnn::PartOf(*problem, kept->part);
  const int64_t rows = part.batch * part.query_heads * part.length;
  const bool sums = ChosenForm() == Form::kFast;
  const gpu::StreamScratch<float> delta(stream, rows), dq_sum(stream, sums ? rows * q.head_dim : 0);
  library->Run(stream, *problem, *kept, [&](const PartPlace& at) {
    Operands operands = {{cudnn::kDOut, At(dout, at.sequence, at.query_head)},
                         {cudnn::kQ, At(q, at.sequence, at.query_head)},
                         {cudnn::kK, At(k, at.sequence, at.key_head)},
                         {cudnn::kV, At(v, at.sequence, at.key_head)},
                         {cudnn::kOut, At(out, at.sequence, at.query_head)},
                         {cudnn::kLogSumExp, At(log_sum_exp, q, at)},
                         {cudnn::kScale, &scale},
                         {cudnn::kMinusInfinity, &kMasked},
                         {cudnn::kOne, &kUnit},
                         {cudnn::kDelta, delta.data()},
                         {cudnn::kDQ, At(dq, at.sequence, at.query_head)},
                         {cudnn::kDK, At(dk, at.sequence, at.key_head)},
                         {cudnn::kDV, At(dv, at.sequence, at.key_head)}};
    if (sums) operands.emplace_back(cudnn::kDQSum, dq_sum.data());
    AddDocumentStarts(document_starts, q, at, &operands);
    return operands;
  });
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
