#include "worker/optimizer/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "storage/object_store.h"
#include "storage/safetensors.h"

namespace trireme {
namespace {

// Aligned as the program's buffers are, which is where the kernel writes past the caches.
template <typename T>
struct AlignedAllocator {
  using value_type = T;
  AlignedAllocator() = default;
  template <typename U>
  AlignedAllocator(const AlignedAllocator<U>&) {}  // NOLINT: implicit on purpose
  T* allocate(size_t n) {
    return static_cast<T*>(std::aligned_alloc(64, (n * sizeof(T) + 63) / 64 * 64));
  }
  void deallocate(T* p, size_t) { std::free(p); }
  bool operator==(const AlignedAllocator&) const { return true; }
};
using Floats = std::vector<float, AlignedAllocator<float>>;

Floats Random(int64_t n, uint32_t seed, float low = -1, float high = 1) {
  std::mt19937 bits(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  Floats x(n);
  for (float& v : x) v = uniform(bits);
  return x;
}

struct State {
  Floats p, m, v;
  std::vector<BFloat16> compute;
  explicit State(int64_t n) : p(n), m(n), v(n), compute(n) {}
};

State Start(int64_t n) {
  State s(n);
  s.p = Random(n, 1);
  s.m = Random(n, 2, -0.1f, 0.1f);
  s.v = Random(n, 3, 0, 0.01f);
  return s;
}

AdamWSlice Slice(const Floats& gradient, const State& from, State* to, int64_t begin, int64_t end,
                 bool decay) {
  return {gradient.data() + begin,
          from.p.data() + begin,
          from.m.data() + begin,
          from.v.data() + begin,
          to->p.data() + begin,
          to->m.data() + begin,
          to->v.data() + begin,
          to->compute.data() + begin,
          end - begin,
          decay};
}

bool SameBits(const State& a, const State& b) {
  const auto same = [](const auto& x, const auto& y) {
    return std::memcmp(x.data(), y.data(), x.size() * sizeof(x[0])) == 0;
  };
  return same(a.p, b.p) && same(a.m, b.m) && same(a.v, b.v) && same(a.compute, b.compute);
}

constexpr int64_t kElements = 40003;
const AdamWStep kStep = {3e-3, 0.9, 0.95, 1e-8, 0.1, 7, 0.25};

TEST(AdamWTest, EqualsTheDoubleReference) {
  const State start = Start(kElements);
  const Floats gradient = Random(kElements, 4);
  for (const bool decay : {false, true}) {
    State next(kElements);
    Stream stream(2);
    const AdamWSlice slice = Slice(gradient, start, &next, 0, kElements, decay);
    AdamW(stream, {&slice, 1}, kStep);
    for (int64_t i = 0; i < kElements; ++i) {
      const double g = gradient[i] * kStep.gradient_scale;
      const double m = 0.9 * start.m[i] + 0.1 * g, v = 0.95 * start.v[i] + 0.05 * g * g;
      double p = start.p[i] * (decay ? 1 - kStep.lr * kStep.weight_decay : 1);
      p -= kStep.lr * (m / (1 - std::pow(0.9, 7))) /
           (std::sqrt(v / (1 - std::pow(0.95, 7))) + kStep.eps);
      ASSERT_NEAR(next.m[i], m, 3e-8) << i;
      ASSERT_NEAR(next.v[i], v, 1e-8) << i;
      ASSERT_NEAR(next.p[i], p, 1.2e-7) << i;
      ASSERT_EQ(next.compute[i].bits, ToBFloat16(next.p[i]).bits) << i;
    }
  }
}

TEST(AdamWTest, BitsDoNotDependOnCutsThreadsOrPlace) {
  const State start = Start(kElements);
  const Floats gradient = Random(kElements, 4);
  State whole(kElements);
  Stream one(1);
  const AdamWSlice all = Slice(gradient, start, &whole, 0, kElements, true);
  AdamW(one, {&all, 1}, kStep);
  for (int threads = 1; threads <= 3; ++threads) {
    Stream stream(threads);
    State cut(kElements), in_place = start;
    std::vector<AdamWSlice> slices, own;
    const int64_t edges[] = {0, 1, 18, 16400, 16400, 39990, kElements};
    for (int i = 0; i + 1 < 7; ++i) {
      slices.push_back(Slice(gradient, start, &cut, edges[i], edges[i + 1], true));
      own.push_back(Slice(gradient, in_place, &in_place, edges[i], edges[i + 1], true));
    }
    AdamW(stream, slices, kStep);
    AdamW(stream, own, kStep);
    EXPECT_TRUE(SameBits(whole, cut)) << threads;
    EXPECT_TRUE(SameBits(whole, in_place)) << threads;
  }
}

TEST(AdamWTest, AnElementWithoutGradientOnlyDecays) {
  State state(1);
  state.p[0] = 2;
  const Floats gradient(1, 0.0f);
  Stream stream(1);
  const AdamWSlice slice = Slice(gradient, state, &state, 0, 1, true);
  AdamW(stream, {&slice, 1}, {0.5, 0.9, 0.95, 1e-8, 0.5, 1, 1.0});
  EXPECT_EQ(state.p[0], 1.5f);
  EXPECT_EQ(state.m[0], 0.0f);
}

TEST(AdamWTest, EqualsTheFixture) {
  const char* shared = std::getenv("TRIREME_SHARED");
  if (shared == nullptr) GTEST_SKIP() << "TRIREME_SHARED is not set";
  const std::string folder = std::string(shared) + "/fixtures/optimizers";
  std::ifstream options_file(folder + "/options.json");
  ASSERT_TRUE(options_file.is_open()) << folder;
  const auto all_options = nlohmann::json::parse(options_file);
  const auto& options = all_options["optimizers"]["adamw"]["options"];
  auto store = OpenStore(folder);
  ASSERT_TRUE(store.ok()) << store.status().message();
  const auto open = [&](const char* key) {
    auto reader = SafetensorsReader::Open(**store, key);
    CHECK(reader.ok()) << reader.status().message();
    return std::move(*reader);
  };
  const auto params = open("params.safetensors"), grads = open("grads.safetensors"),
             expected = open("adamw.safetensors");
  const auto read = [](const SafetensorsReader& reader, const std::string& name) {
    const SafetensorsTensor* tensor = reader.Find(name);
    CHECK(tensor != nullptr) << name;
    const Box box = Box::Whole(tensor->shape);
    Floats x(box.elements());
    CHECK(reader.Read(name, box, DType::kF32, reinterpret_cast<std::byte*>(x.data())).ok());
    return x;
  };
  Stream stream(2);
  for (const SafetensorsTensor& tensor : params->header().tensors) {
    State state(0);
    state.p = read(*params, tensor.name);
    const int64_t n = state.p.size();
    state.m.resize(n);
    state.v.resize(n);
    state.compute.resize(n);
    for (int64_t k = 0; k < all_options["steps"].get<int64_t>(); ++k) {
      const std::string name = StrCat("step", k, ".", tensor.name);
      const Floats gradient = read(*grads, name), after = read(*expected, name);
      const AdamWSlice slice = Slice(gradient, state, &state, 0, n, true);
      AdamW(stream, {&slice, 1},
            {options["lr"], options["betas"][0], options["betas"][1], options["eps"],
             options["weight_decay"], k + 1, 1.0});
      for (int64_t i = 0; i < n; ++i) ASSERT_NEAR(state.p[i], after[i], 3e-6) << name << " " << i;
    }
  }
}

TEST(SumsOfSquaresTest, RangesAreSummedInDoubleWhateverTheThreads) {
  const Floats x = Random(kElements, 5);
  const std::vector<int64_t> edges = {0, 1, 17, 17, 5000, kElements};
  const auto sums_on = [&](int threads) {
    std::vector<double> sums(5, -1);
    std::vector<NormRange> ranges;
    for (size_t i = 0; i < sums.size(); ++i) {
      ranges.push_back({x.data() + edges[i], edges[i + 1] - edges[i], &sums[i]});
    }
    Stream stream(threads);
    SumsOfSquares(stream, ranges.data(), 5);
    return sums;
  };
  const std::vector<double> first = sums_on(1);
  for (size_t i = 0; i + 1 < edges.size(); ++i) {
    double sum = 0;
    for (int64_t j = edges[i]; j < edges[i + 1]; ++j) sum += static_cast<double>(x[j]) * x[j];
    EXPECT_NEAR(first[i], sum, 1e-12 * sum) << i;
  }
  EXPECT_EQ(sums_on(2), first);
  EXPECT_EQ(sums_on(3), first);
}

}  // namespace
}  // namespace trireme
