// Products by cuBLASLt. Of the algorithms that the library proposes for a product, the fastest on
// this GPU is measured when the product is first met and kept on disk; a product that is first met
// while a graph is captured takes the library's first proposal. TRIREME_MATMUL_TUNE=0: always so.
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "cluster/device/buffer.h"
#include "cluster/device/cuda_device.h"
#include "cluster/device/cuda_error.cuh"
#include "worker/kernels/algorithm_cache.h"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/gpu_libraries.h"
#include "worker/kernels/stream_scratch.cuh"

namespace trireme::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what the library advises on Hopper
constexpr int kCandidates = 32;
constexpr int kTimedRuns = 3;  // of every candidate
constexpr int kFinalists = 4;
constexpr int kFinalRuns = 8;  // of those, by turns: clocks go up and down
static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(AlgorithmBits));

#define CHECK_BLAS(call)                                             \
  do {                                                               \
    const cublasStatus_t status_of_call = (call);                    \
    CHECK(status_of_call == CUBLAS_STATUS_SUCCESS)                   \
        << #call << ": " << cublasLtGetStatusString(status_of_call); \
  } while (false)

bool Enabled(const char* variable, bool otherwise) {
  const char* value = std::getenv(variable);
  return value == nullptr ? otherwise : std::string_view(value) == "1";
}

cudaDataType_t TypeOf(DType dtype) {
  CHECK(dtype == DType::kF32 || dtype == DType::kBF16) << DTypeName(dtype);
  return dtype == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
}

// Bytes, at most 16, that the matrix's rows are aligned to: what vector loads ask for.
uint32_t AlignmentOf(const Matrix& matrix) {
  const uint64_t bits =
      reinterpret_cast<uintptr_t>(matrix.data) | (matrix.row_stride * ByteSize(matrix.dtype)) | 16;
  return static_cast<uint32_t>(bits & -bits);
}

// What the library does to a sum before it is written. kGelu keeps the sum, with its bias, in
// `aux`; kGeluBackward multiplies by the slope of GELU there. GELU is the tanh form in both.
enum class Epilogue { kNone, kGelu, kGeluBackward };

// A row-major product as the library sees it, column-major: c^T = op(b)^T op(a)^T.
struct Product {
  Matrix a, b, c;
  bool transpose_a, transpose_b, accumulate;
  const void* bias = nullptr;
  DType bias_type = DType::kF32;
  Epilogue epilogue = Epilogue::kNone;
  void* aux = nullptr;  // of c's shape and dtype, rows dense, 16-byte aligned
  bool tf32 = false;

  cublasLtEpilogue_t BlasEpilogue() const;
  std::string Key() const;
};

cublasLtEpilogue_t Product::BlasEpilogue() const {
  if (epilogue == Epilogue::kGeluBackward) return CUBLASLT_EPILOGUE_DGELU;
  if (epilogue == Epilogue::kGelu) {
    return bias == nullptr ? CUBLASLT_EPILOGUE_GELU_AUX : CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
  }
  return bias == nullptr ? CUBLASLT_EPILOGUE_DEFAULT : CUBLASLT_EPILOGUE_BIAS;
}

std::string Product::Key() const {
  const auto operand = [](const Matrix& m) {
    return StrCat("_", m.row_stride, "a", AlignmentOf(m));
  };
  return StrCat(a.dtype == DType::kF32 ? (tf32 ? "tf32" : "f32") : "bf16",
                c.dtype == DType::kF32 ? "_f32" : "_bf16", "_m", c.rows, "_n", c.columns, "_k",
                transpose_a ? a.rows : a.columns, transpose_a ? "_T" : "_N",
                transpose_b ? "T" : "N", operand(a), operand(b), operand(c),
                accumulate ? "_add" : "", bias == nullptr ? "" : StrCat("_", DTypeName(bias_type)),
                epilogue == Epilogue::kGelu           ? "_gelu"
                : epilogue == Epilogue::kGeluBackward ? "_dgelu"
                                                      : "");
}

struct Description {
  explicit Description(const Product& p) {
    const auto compute = p.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    CHECK_BLAS(cublasLtMatmulDescInit(&desc, compute, CUDA_R_32F));
    Set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    Set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    Set(CUBLASLT_MATMUL_DESC_EPILOGUE, p.BlasEpilogue());
    if (p.epilogue != Epilogue::kNone) {
      Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.aux);
      Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.c.columns);
      Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, TypeOf(p.c.dtype));
    }
    if (p.bias != nullptr) {
      Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
      Set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, TypeOf(p.bias_type));
    }
    Lay(&a, p.b);
    Lay(&b, p.a);
    Lay(&c, p.c);
  }

  template <typename T>
  void Set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    CHECK_BLAS(cublasLtMatmulDescSetAttribute(&desc, attribute, &value, sizeof(value)));
  }
  static void Lay(cublasLtMatrixLayoutOpaque_t* layout, const Matrix& m) {
    CHECK_BLAS(cublasLtMatrixLayoutInit(layout, TypeOf(m.dtype), m.columns, m.rows, m.row_stride));
  }

  cublasLtMatmulDescOpaque_t desc;
  cublasLtMatrixLayoutOpaque_t a, b, c;
};

// The library's state on one GPU. Never destroyed: the driver may be gone first.
class Library {
 public:
  explicit Library(int gpu);
  static Library& Of(int gpu);

  // False, with nothing done, where the library has no algorithm for the product.
  bool Run(Stream& stream, Product product);
  bool gelu() const { return gelu_; }

 private:
  struct Candidates {
    int count = 0;
    cublasLtMatmulHeuristicResult_t results[kCandidates];
  };
  Candidates Propose(Description& description, const Product& product);
  bool Takes(Description& description, const cublasLtMatmulAlgo_t& algorithm);
  std::optional<cublasLtMatmulAlgo_t> Find(Stream& stream, Description& description,
                                           const Product& product, const std::string& key,
                                           void* space);
  cublasLtMatmulAlgo_t Choose(Stream& stream, Description& description, const Product& product,
                              const Candidates& candidates, void* space);
  void Multiply(cudaStream_t stream, Description& description, const Product& product, void* out,
                const cublasLtMatmulAlgo_t& algorithm, void* space);
  void* Workspace(void* stream);

  const int gpu_;
  const bool tune_ = Enabled("TRIREME_MATMUL_TUNE", true);
  const bool gelu_ = Enabled("TRIREME_GELU_EPILOGUE", true);
  const bool tf32_ = Enabled("TRIREME_TF32", false);
  cublasLtHandle_t handle_;
  std::mutex mutex_;  // of all below
  std::unique_ptr<AlgorithmCache> measured_;
  std::map<std::string, std::optional<cublasLtMatmulAlgo_t>> chosen_;
  std::map<void*, Buffer> workspaces_;
};

// A file a GPU model and library version: neither's choices are good for another.
std::string CacheFile(int gpu) {
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, gpu), gpu, "asking for its name");
  const std::string folder = CacheFolder();
  if (folder.empty()) return "";
  std::string name = StrCat("cublaslt_", cublasLtGetVersion(), "_", properties.name, "_sm",
                            properties.major, properties.minor, ".txt");
  for (char& c : name) {
    if (c == ' ' || c == '/') c = '-';
  }
  return folder + "/" + name;
}

Library::Library(int gpu) : gpu_(gpu) {
  MakeCurrent(gpu);
  CHECK_BLAS(cublasLtCreate(&handle_));
  measured_ = std::make_unique<AlgorithmCache>(CacheFile(gpu));
}

Library& Library::Of(int gpu) {
  static std::mutex& mutex = *new std::mutex;
  static auto& libraries = *new std::map<int, std::unique_ptr<Library>>;
  std::lock_guard lock(mutex);
  std::unique_ptr<Library>& library = libraries[gpu];
  if (library == nullptr) library = std::make_unique<Library>(gpu);
  return *library;
}

// One a stream, since products of two streams run at once.
void* Library::Workspace(void* stream) {
  Buffer& buffer = workspaces_[stream];
  if (buffer.bytes() == 0) {
    // Memory may be made while this thread captures: it is no part of the graph.
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    Check(cudaThreadExchangeStreamCaptureMode(&mode), gpu_, "leaving the capture mode");
    buffer = Buffer(kWorkspaceBytes, DeviceKind::kCuda, "matmul workspace");
    Check(cudaThreadExchangeStreamCaptureMode(&mode), gpu_, "taking up the capture mode");
  }
  return buffer.data();
}

Library::Candidates Library::Propose(Description& description, const Product& product) {
  cublasLtMatmulPreferenceOpaque_t preference;
  CHECK_BLAS(cublasLtMatmulPreferenceInit(&preference));
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    CHECK_BLAS(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspaceBytes));
  // Parts of a split sum are added in f32: results are rounded once.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, AlignmentOf(product.b));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, AlignmentOf(product.a));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, AlignmentOf(product.c));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, AlignmentOf(product.c));
  Candidates candidates;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, &description.desc, &description.a, &description.b, &description.c, &description.c,
      &preference, kCandidates, candidates.results, &candidates.count);
  const bool none = status == CUBLAS_STATUS_NOT_SUPPORTED ||
                    (status == CUBLAS_STATUS_INVALID_VALUE && product.epilogue != Epilogue::kNone);
  if (none) candidates.count = 0;
  CHECK(status == CUBLAS_STATUS_SUCCESS || none)
      << product.Key() << ": " << cublasLtGetStatusString(status);
  return candidates;
}

void Library::Multiply(cudaStream_t stream, Description& description, const Product& product,
                       void* out, const cublasLtMatmulAlgo_t& algorithm, void* space) {
  const float alpha = 1, beta = product.accumulate ? 1 : 0;
  CHECK_BLAS(cublasLtMatmul(handle_, &description.desc, &alpha, product.b.data, &description.a,
                            product.a.data, &description.b, &beta, product.c.data, &description.c,
                            out, &description.c, &algorithm, space, kWorkspaceBytes, stream));
}

// A file that was damaged may hold anything.
bool Library::Takes(Description& description, const cublasLtMatmulAlgo_t& algorithm) {
  cublasLtMatmulHeuristicResult_t needs;
  return cublasLtMatmulAlgoCheck(handle_, &description.desc, &description.a, &description.b,
                                 &description.c, &description.c, &algorithm,
                                 &needs) == CUBLAS_STATUS_SUCCESS &&
         needs.workspaceSize <= static_cast<size_t>(kWorkspaceBytes);
}

// The fastest candidate: of the few whose best run was best the one with the least time over more
// runs. What c holds stays: sums go to memory beside it, and a product that does not add writes the
// same each time.
cublasLtMatmulAlgo_t Library::Choose(Stream& stream, Description& description,
                                     const Product& product, const Candidates& candidates,
                                     void* space) {
  auto* native = static_cast<cudaStream_t>(stream.native());
  Buffer beside;
  if (product.accumulate) {
    beside = Buffer(product.c.rows * product.c.row_stride * ByteSize(product.c.dtype),
                    DeviceKind::kCuda, "matmul tuning");
  }
  void* out = product.accumulate ? beside.data() : product.c.data;
  const auto run = [&](int i) {
    const StreamEvent begin = stream.Record(/*timed=*/true);
    Multiply(native, description, product, out, candidates.results[i].algo, space);
    return stream.Record(/*timed=*/true).MillisecondsSince(begin);
  };
  std::vector<std::pair<double, int>> finalists;  // milliseconds, candidate
  for (int i = 0; i < candidates.count; ++i) {
    double best = run(i);  // loads the kernel
    for (int more = 0; more < kTimedRuns; ++more) best = std::min(best, run(i));
    finalists.emplace_back(best, i);
  }
  std::sort(finalists.begin(), finalists.end());
  finalists.resize(std::min<size_t>(finalists.size(), kFinalists));
  for (auto& [ms, i] : finalists) ms = 0;
  for (int turn = 0; turn < kFinalRuns; ++turn) {
    for (auto& [ms, i] : finalists) ms += run(i);
  }
  stream.Synchronize();
  return candidates.results[std::min_element(finalists.begin(), finalists.end())->second].algo;
}

// What was measured before, or the best of the library's proposals; nothing where it has none.
std::optional<cublasLtMatmulAlgo_t> Library::Find(Stream& stream, Description& description,
                                                  const Product& product, const std::string& key,
                                                  void* space) {
  cublasLtMatmulAlgo_t algorithm;
  const AlgorithmBits* known = tune_ ? measured_->Find(key) : nullptr;
  if (known != nullptr) {
    std::memcpy(&algorithm, known, sizeof(algorithm));
    if (Takes(description, algorithm)) return algorithm;
  }
  const Candidates candidates = Propose(description, product);
  if (candidates.count == 0) return std::nullopt;
  if (!tune_ || IsCapturing(static_cast<cudaStream_t>(stream.native()))) {
    return candidates.results[0].algo;
  }
  algorithm = Choose(stream, description, product, candidates, space);
  AlgorithmBits bits;
  std::memcpy(&bits, &algorithm, sizeof(bits));
  std::memcpy(&algorithm, &measured_->Add(key, bits), sizeof(bits));
  return algorithm;
}

bool Library::Run(Stream& stream, Product product) {
  product.tf32 = tf32_ && product.a.dtype == DType::kF32;
  auto* native = static_cast<cudaStream_t>(stream.native());
  Description description(product);
  const std::string key = product.Key();
  std::lock_guard lock(mutex_);
  void* space = Workspace(native);
  auto found = chosen_.find(key);
  if (found == chosen_.end()) {
    found = chosen_.emplace(key, Find(stream, description, product, key, space)).first;
  }
  if (!found->second.has_value()) return false;
  Multiply(native, description, product, product.c.data, *found->second, space);
  return true;
}

// Library::Run with a bias, which may be undefined. The library adds a bias of the result's type
// alone: for a bf16 result it is rounded first.
bool RunWithBias(Stream& stream, Product product, const Tensor& bias) {
  Library& library = Library::Of(stream.gpu());
  if (!bias.defined()) return library.Run(stream, product);
  if (product.c.dtype == DType::kF32) {
    product.bias = bias.as<float>();
    return library.Run(stream, product);
  }
  gpu::StreamScratch<BFloat16> rounded(stream, bias.elements());
  cuda::CastToBFloat16(stream, rounded.data(), bias.as<float>(), bias.elements());
  product.bias = rounded.data();
  product.bias_type = DType::kBF16;
  return library.Run(stream, product);
}

}  // namespace

void MatMul(Stream& stream, const Matrix& a, Transpose transpose_a, const Matrix& b,
            Transpose transpose_b, const Matrix& c, bool accumulate, const Tensor& bias) {
  const Product product{
      a, b, c, transpose_a == Transpose::kYes, transpose_b == Transpose::kYes, accumulate};
  const bool ran = RunWithBias(stream, product, bias);
  CHECK(ran) << "cuBLASLt has no algorithm for the product " << product.Key();
}

void MatMulGelu(Stream& stream, const Matrix& a, const Matrix& b, Transpose transpose_b,
                const Tensor& bias, const Tensor& pre, const Tensor& y) {
  if (Library::Of(stream.gpu()).gelu() && FitsGeluEpilogue(a.dtype, pre, y)) {
    Product product{a, b, Matrix::Of(y), false, transpose_b == Transpose::kYes, false};
    product.epilogue = Epilogue::kGelu;
    product.aux = pre.data();
    if (RunWithBias(stream, product, bias)) return;
  }
  cuda::MatMul(stream, a, Transpose::kNo, b, transpose_b, Matrix::Of(pre), false, bias);
  cuda::GeluForward(stream, pre, y);
}

void MatMulGeluBackward(Stream& stream, const Matrix& dy, const Matrix& b, Transpose transpose_b,
                        const Tensor& pre, const Tensor& dpre) {
  if (Library::Of(stream.gpu()).gelu() && FitsGeluEpilogue(dy.dtype, pre, dpre)) {
    Product product{dy, b, Matrix::Of(dpre), false, transpose_b == Transpose::kYes, false};
    product.epilogue = Epilogue::kGeluBackward;
    product.aux = pre.data();
    if (RunWithBias(stream, product, Tensor())) return;
  }
  cuda::MatMul(stream, dy, Transpose::kNo, b, transpose_b, Matrix::Of(dpre), false, Tensor());
  cuda::GeluBackward(stream, dpre, pre, dpre);
}

}  // namespace trireme::cuda

namespace trireme {

Result<std::string> GpuProductLibrary() {
  const size_t version = cublasLtGetVersion();
  return StrCat("cuBLASLt ", version / 10000, ".", version / 100 % 100, ".", version % 100);
}

}  // namespace trireme
