// The one file that knows oneDNN, whose way to describe a product differs between 2.x and 3.x.
#include <glog/logging.h>
#include <omp.h>

#include <bit>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "worker/kernels/gemm.h"
#include "worker/kernels/matmul.h"
#include "worker/kernels/scratch.h"

namespace trireme {
namespace {

using Dims = dnnl::memory::dims;

dnnl::engine& Engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::memory::data_type TypeOf(DType dtype) {
  CHECK(dtype == DType::kF32 || dtype == DType::kBF16) << DTypeName(dtype);
  return dtype == DType::kF32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

// What a compiled product depends on: everything of the call but its addresses.
struct Key {
  int64_t m, n, k, lda, ldb, ldc;
  uint8_t input, output;
  bool transpose_a, transpose_b, accumulate, bias;
  bool operator==(const Key&) const = default;
};

Key KeyOf(const GemmCall& call) {
  return {call.m,
          call.n,
          call.k,
          call.lda,
          call.ldb,
          call.ldc,
          static_cast<uint8_t>(call.input),
          static_cast<uint8_t>(call.output),
          call.transpose_a,
          call.transpose_b,
          call.accumulate,
          call.bias != nullptr};
}

struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t h = 0;
    const auto mix = [&h](uint64_t x) { h = std::rotl(h ^ x, 23) * 0x9e3779b97f4a7c15u; };
    for (int64_t x : {key.m, key.n, key.k, key.lda, key.ldb, key.ldc}) mix(x);
    mix(key.input * 32 + key.output * 16 + key.transpose_a * 8 + key.transpose_b * 4 +
        key.accumulate * 2 + key.bias);
    return h ^ (h >> 32);
  }
};

struct Product {
  dnnl::matmul primitive;
  dnnl::memory a, b, c, bias, scratch;
  std::unordered_map<int, dnnl::memory> arguments;
  size_t scratch_bytes = 0;
};

dnnl::matmul::primitive_desc Describe(const dnnl::memory::desc& a, const dnnl::memory::desc& b,
                                      const dnnl::memory::desc* bias, const dnnl::memory::desc& c,
                                      const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  if (bias != nullptr) return {Engine(), a, b, *bias, c, attributes};
  return {Engine(), a, b, c, attributes};
#else
  if (bias != nullptr) return {dnnl::matmul::desc(a, b, *bias, c), attributes, Engine()};
  return {dnnl::matmul::desc(a, b, c), attributes, Engine()};
#endif
}

Product Compile(const Key& key) {
  const auto input = TypeOf(static_cast<DType>(key.input));
  const dnnl::memory::desc a({key.m, key.k}, input,
                             key.transpose_a ? Dims{1, key.lda} : Dims{key.lda, 1});
  const dnnl::memory::desc b({key.k, key.n}, input,
                             key.transpose_b ? Dims{1, key.ldb} : Dims{key.ldb, 1});
  const dnnl::memory::desc c({key.m, key.n}, TypeOf(static_cast<DType>(key.output)),
                             Dims{key.ldc, 1});
  const dnnl::memory::desc bias({1, key.n}, dnnl::memory::data_type::f32, Dims{key.n, 1});
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (key.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  const auto description = Describe(a, b, key.bias ? &bias : nullptr, c, attributes);
  Product product;
  product.primitive = dnnl::matmul(description);
  product.a = dnnl::memory(a, Engine(), nullptr);
  product.b = dnnl::memory(b, Engine(), nullptr);
  product.c = dnnl::memory(c, Engine(), nullptr);
  product.scratch = dnnl::memory(description.scratchpad_desc(), Engine(), nullptr);
  product.scratch_bytes = description.scratchpad_desc().get_size();
  product.arguments = {{DNNL_ARG_SRC, product.a},
                       {DNNL_ARG_WEIGHTS, product.b},
                       {DNNL_ARG_DST, product.c},
                       {DNNL_ARG_SCRATCHPAD, product.scratch}};
  if (key.bias) {
    product.bias = dnnl::memory(bias, Engine(), nullptr);
    product.arguments.emplace(DNNL_ARG_BIAS, product.bias);
  }
  return product;
}

// A thread's own compiled products. Bounded: shapes of prompts come and go.
constexpr size_t kProductsMax = 2048;

struct ThreadState {
  dnnl::stream stream{Engine()};
  std::unordered_map<Key, Product, KeyHash> products;
  ThreadScratch onednn, a, b, sums;
};

ThreadState& State() {
  thread_local ThreadState state;
  return state;
}

// Machines without AVX-512 have no bf16 products: bf16 widens to f32 exactly, and the f32 product
// does the rest.
bool HasBFloat16() {
  static const bool has = [] {
    GemmCall call;
    call.m = call.n = call.k = call.lda = call.ldb = call.ldc = 16;
    call.input = DType::kBF16;
    try {
      Compile(KeyOf(call));
      return true;
    } catch (const dnnl::error&) {
      return false;
    }
  }();
  return has;
}

const void* Widen(const void* source, int64_t rows, int64_t columns, int64_t stride,
                  ThreadScratch& scratch) {
  scratch.Reset(rows * columns * sizeof(float));
  float* target = scratch.Take<float>(rows * columns);
  for (int64_t r = 0; r < rows; ++r) {
    const BFloat16* row = static_cast<const BFloat16*>(source) + r * stride;
    for (int64_t i = 0; i < columns; ++i) target[r * columns + i] = ToFloat(row[i]);
  }
  return target;
}

void GemmWidened(GemmCall call) {
  ThreadState& state = State();
  const int64_t a_rows = call.transpose_a ? call.k : call.m;
  const int64_t a_columns = call.transpose_a ? call.m : call.k;
  const int64_t b_rows = call.transpose_b ? call.n : call.k;
  const int64_t b_columns = call.transpose_b ? call.k : call.n;
  call.a = Widen(call.a, a_rows, a_columns, call.lda, state.a);
  call.b = Widen(call.b, b_rows, b_columns, call.ldb, state.b);
  call.lda = a_columns;
  call.ldb = b_columns;
  call.input = DType::kF32;
  Gemm(call);
}

// The library rounds to bf16 only what came from bf16: f32 sums are rounded here.
void GemmRounded(GemmCall call) {
  auto* out = static_cast<BFloat16*>(call.c);
  const int64_t stride = call.ldc;
  ThreadScratch& scratch = State().sums;
  scratch.Reset(call.m * call.n * sizeof(float));
  float* sums = scratch.Take<float>(call.m * call.n);
  call.c = sums;
  call.ldc = call.n;
  call.output = DType::kF32;
  Gemm(call);
  for (int64_t r = 0; r < call.m; ++r) {
    for (int64_t i = 0; i < call.n; ++i) out[r * stride + i] = ToBFloat16(sums[r * call.n + i]);
  }
}

// The library's plain f32 product: the faster of its two where b is not transposed, by far on the
// small tiles of attention.
void RunPlain(const GemmCall& call) {
  const dnnl_status_t status = dnnl_sgemm(
      call.transpose_a ? 'T' : 'N', call.transpose_b ? 'T' : 'N', call.m, call.n, call.k, 1.0f,
      static_cast<const float*>(call.a), call.lda, static_cast<const float*>(call.b), call.ldb,
      call.accumulate ? 1.0f : 0.0f, static_cast<float*>(call.c), call.ldc);
  CHECK(status == dnnl_success) << "oneDNN refused a product of " << call.m << " x " << call.n
                                << " x " << call.k << ": " << status;
}

void RunPrimitive(const GemmCall& call) {
  ThreadState& state = State();
  const Key key = KeyOf(call);
  auto found = state.products.find(key);
  if (found == state.products.end()) {
    if (state.products.size() >= kProductsMax) state.products.clear();
    found = state.products.emplace(key, Compile(key)).first;
  }
  Product& product = found->second;
  product.a.set_data_handle(const_cast<void*>(call.a));
  product.b.set_data_handle(const_cast<void*>(call.b));
  product.c.set_data_handle(call.c);
  if (call.bias != nullptr) product.bias.set_data_handle(const_cast<float*>(call.bias));
  state.onednn.Reset(product.scratch_bytes);
  product.scratch.set_data_handle(state.onednn.Take<std::byte>(product.scratch_bytes));
  product.primitive.execute(state.stream, product.arguments);
}

}  // namespace

void Gemm(const GemmCall& call) {
  // The library splits K and panels by the threads it may use; here it may use this one.
  if (omp_get_max_threads() != 1) omp_set_num_threads(1);
  if (call.input == DType::kBF16 && !HasBFloat16()) return GemmWidened(call);
  if (call.input == DType::kF32 && call.output == DType::kBF16) return GemmRounded(call);
  if (call.input == DType::kF32 && !call.transpose_b && call.bias == nullptr) return RunPlain(call);
  try {
    RunPrimitive(call);
  } catch (const dnnl::error& error) {
    LOG(FATAL) << "oneDNN refused a product of " << call.m << " x " << call.n << " x " << call.k
               << ": " << error.what();
  }
}

bool GemmReadsInPlace() {
  static const bool in_place = [] {
    // Sets of bits: what has AVX-512 has all of this one's.
    const auto bits = [](dnnl::cpu_isa isa) { return static_cast<unsigned>(isa); };
    const unsigned avx512 = bits(dnnl::cpu_isa::avx512_core);
    return (bits(dnnl::get_effective_cpu_isa()) & avx512) != avx512;
  }();
  return in_place;
}

const char* MatMulLibrary() {
  static const std::string name = [] {
    const dnnl::version_t* version = dnnl::version();
    return "oneDNN " + std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
           std::to_string(version->patch);
  }();
  return name.c_str();
}

}  // namespace trireme
