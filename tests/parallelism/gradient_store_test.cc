#include "parallelism/gradient_store.h"

#include <gtest/gtest.h>

#include "tests/parallelism/toy_world.h"

namespace trireme {
namespace {

using toy::kTimeout;
using toy::OnMesh;

// A gradient that depends on parameter, role, microbatch, tensor rank and global element alone.
float SyntheticGradient(ParamId id, int role, int microbatch, int tensor, int64_t element) {
  const CounterRng rng(5, RngUse::kTest, ((id * 4 + role) * 100 + microbatch) * 8 + tensor);
  return rng.Normal(element);
}

void WriteGradients(ShardedParameterStore* store, const ProcessGroups& groups) {
  for (MicrobatchId microbatch : store->microbatches()) {
    for (const LocalParameter& local : store->layout().locals) {
      const Shape& shape = store->specs()[local.id].shape;
      for (int role : local.roles) {
        const GradientSink sink = store->Gradients(local.id, role, microbatch);
        std::vector<float> whole(ElementCount(shape)), own(local.elements());
        for (size_t i = 0; i < whole.size(); ++i) {
          whole[i] = SyntheticGradient(local.id, role, microbatch, groups.Index(Axis::kTensor),
                                       static_cast<int64_t>(i));
        }
        CopyRegion(local.region, Box::Whole(shape),
                   reinterpret_cast<const std::byte*>(whole.data()), local.region,
                   reinterpret_cast<std::byte*>(own.data()), 4);
        float* out = sink.accumulator.as<float>();
        for (size_t i = 0; i < own.size(); ++i) out[i] = sink.accumulate ? out[i] + own[i] : own[i];
        // The room behind a matrix may be written, and counts nowhere.
        for (int64_t i = local.elements(); i < local.padded_elements(); ++i) out[i] = 1e9f;
        store->GradientDone(local.id, role, microbatch);
      }
    }
  }
}

// The sum of an element as the documents say it: written down once more, by recursion.
float ReferenceNode(ParamId id, int role, SumTree::Node node, int leaf_size, int tensor,
                    int64_t element) {
  if (node.end - node.begin == 1) {
    float sum = SyntheticGradient(id, role, node.begin * leaf_size, tensor, element);
    for (int i = 1; i < leaf_size; ++i) {
      sum += SyntheticGradient(id, role, node.begin * leaf_size + i, tensor, element);
    }
    return sum;
  }
  const float left = ReferenceNode(id, role, SumTree::Left(node), leaf_size, tensor, element);
  return left + ReferenceNode(id, role, SumTree::Right(node), leaf_size, tensor, element);
}

constexpr int kMicrobatches = 16, kLeaves = 8;

float Reference(const ParameterSpec& spec, ParamId id, const std::vector<int>& sharers,
                int64_t element) {
  float total = 0;
  for (int role = 0; role < spec.roles; ++role) {
    // Ranks that share a piece, in rank order (here at most two).
    float sum = ReferenceNode(id, role, {0, kLeaves}, kMicrobatches / kLeaves, sharers[0], element);
    for (size_t i = 1; i < sharers.size(); ++i) {
      sum += ReferenceNode(id, role, {0, kLeaves}, kMicrobatches / kLeaves, sharers[i], element);
    }
    total = role == 0 ? sum : total + sum;
  }
  return total;
}

StoreOptions Options(int zero) {
  StoreOptions options;
  options.zero_level = zero;
  options.microbatches = kMicrobatches;
  options.leaves = kLeaves;
  options.bucket_bytes = 300;
  return options;
}

ParameterSpec Spec(const std::string& name, const Shape& shape, std::vector<int> stages) {
  ParameterSpec spec;
  spec.name = name;
  spec.shape = spec.published_shape = shape;
  spec.stages = std::move(stages);
  return spec;
}

// A table tied over three uses at two stages, a column cut, KV heads shared by pairs of ranks, and
// a tensor with fewer rows than data ranks.
std::vector<ParameterSpec> Zoo(int stages, int tensor) {
  const int last = stages - 1;
  std::vector<ParameterSpec> specs = {Spec("z.table", {9, 4}, {0, 0, last}),
                                      Spec("y.up", {6, 8}, {0}), Spec("x.key", {4, 5}, {last}),
                                      Spec("w.scale", {3}, {last})};
  specs[0].roles = 3;
  specs[1].placement.shards = {{Axis::kTensor, 1, 8}};
  specs[2].placement.shards = {{Axis::kTensor, 0, 2}};
  specs[2].replicas_sum = true;
  return specs;
}

std::vector<int> SharersOf(const ParameterSpec& spec, const Mesh& mesh, int rank) {
  if (!spec.replicas_sum) return {mesh.Index(rank, Axis::kTensor)};
  std::vector<int> sharers;
  for (int peer : mesh.Group(rank, Axis::kTensor)) {
    if (LocalRegion(spec.shape, spec.placement, mesh, peer) ==
        LocalRegion(spec.shape, spec.placement, mesh, rank)) {
      sharers.push_back(mesh.Index(peer, Axis::kTensor));
    }
  }
  return sharers;
}

TEST(GradientStoreTest, SumsFollowTheDocumentedOrder) {
  for (int data : {1, 2, 3, 5}) {
    for (int zero : {0, 1}) {
      for (int pipeline : {1, 2}) {
        for (int tensor : {1, 2, 4}) {
          const Mesh mesh(data, tensor, pipeline);
          OnMesh(mesh, nullptr, [&](ProcessGroups* groups) {
            Stream stream(1);
            ShardedParameterStore store(Zoo(pipeline, tensor), groups, &stream, Options(zero));
            for (int step = 0; step < 2; ++step) {  // the second overwrites the first's sums
              store.BeginStep();
              WriteGradients(&store, *groups);
              const Status done = store.FinishReduction(kTimeout);
              ASSERT_TRUE(done.ok()) << done.message();
            }
            for (const LocalParameter& local : store.layout().locals) {
              const ParameterSpec& spec = store.specs()[local.id];
              const std::vector<int> sharers = SharersOf(spec, mesh, groups->rank());
              Box box = local.region;
              box.offset[0] += local.updated.begin;
              box.extent[0] = local.updated.end - local.updated.begin;
              std::vector<float> whole(ElementCount(spec.shape)), expected(box.elements());
              for (size_t i = 0; i < whole.size(); ++i) {
                whole[i] = Reference(spec, local.id, sharers, static_cast<int64_t>(i));
              }
              CopyRegion(box, Box::Whole(spec.shape),
                         reinterpret_cast<const std::byte*>(whole.data()), box,
                         reinterpret_cast<std::byte*>(expected.data()), 4);
              const Tensor reduced = store.ReducedGradient(local.id);
              ASSERT_EQ(reduced.elements(), static_cast<int64_t>(expected.size()));
              EXPECT_EQ(std::memcmp(reduced.data(), expected.data(), expected.size() * 4), 0)
                  << spec.name << " on " << mesh.ToString() << " zero " << zero;
            }
          });
        }
      }
    }
  }
}

TEST(GradientStoreTest, BehindTheRowsOfAMatrixThereAreZeros) {
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    OnMesh(Mesh(1, 1, 1), nullptr, [&](ProcessGroups* groups) {
      Stream stream(1);
      StoreOptions options = Options(0);
      options.types.compute = compute;
      ShardedParameterStore store(Zoo(1, 1), groups, &stream, options);
      for (int step = 1; step <= 2; ++step) {
        WriteGradients(&store, *groups);
        ASSERT_TRUE(store.FinishReduction(kTimeout).ok());
        const auto update = [](std::span<const UpdateSlice> slices) {
          toy::AdamStep(slices, 1.0, 1);
        };
        ASSERT_TRUE(store.Update(update, kTimeout).ok());
        store.Commit(step);
        store.BeginStep();
        const Tensor table = store.Acquire(0);
        ASSERT_EQ(table.shape(), (Shape{9, 4}));
        const std::byte* behind = table.bytes_data() + table.bytes();
        const int64_t bytes = (PaddedRows(9) - 9) * 4 * ByteSize(compute);
        for (int64_t i = 0; i < bytes; ++i) ASSERT_EQ(behind[i], std::byte{0}) << i;
      }
    });
  }
}

TEST(GradientStoreTest, TheNormCountsEveryElementOnce) {
  double serial = 0;
  for (const auto& [data, zero, pipeline] :
       {std::tuple{1, 0, 1}, {2, 0, 1}, {3, 1, 1}, {5, 1, 2}, {2, 1, 2}}) {
    std::vector<double> norms(Mesh(data, 1, pipeline).size());
    OnMesh(Mesh(data, 1, pipeline), nullptr, [&](ProcessGroups* groups) {
      Stream stream(1);
      ShardedParameterStore store(Zoo(pipeline, 1), groups, &stream, Options(zero));
      WriteGradients(&store, *groups);
      ASSERT_TRUE(store.FinishReduction(kTimeout).ok());
      norms[groups->rank()] = *store.GlobalNorm(toy::SumSquares, kTimeout);
    });
    double reference = 0;
    const std::vector<ParameterSpec> specs = Zoo(1, 1);
    for (size_t id = 0; id < specs.size(); ++id) {
      for (int64_t i = 0; i < ElementCount(specs[id].shape); ++i) {
        const double g = Reference(specs[id], static_cast<ParamId>(id), {0}, i);
        reference += g * g;
      }
    }
    EXPECT_NEAR(norms[0], std::sqrt(reference), 1e-9);
    if (serial == 0) serial = norms[0];
    for (double norm : norms) EXPECT_EQ(norm, serial) << data << zero << pipeline;
  }
  // With tensor parallelism: shards that are copies count once.
  std::vector<double> norms(8);
  OnMesh(Mesh(2, 4, 1), nullptr, [&](ProcessGroups* groups) {
    Stream stream(1);
    ShardedParameterStore store(Zoo(1, 4), groups, &stream, Options(1));
    for (MicrobatchId microbatch : store.microbatches()) {
      for (const LocalParameter& local : store.layout().locals) {
        for (int role : local.roles) {
          const GradientSink sink = store.Gradients(local.id, role, microbatch);
          if (!sink.accumulate) {
            std::fill_n(sink.accumulator.as<float>(), local.elements(),
                        microbatch == 0 ? 1.0f : 0.0f);
          }
          store.GradientDone(local.id, role, microbatch);
        }
      }
    }
    ASSERT_TRUE(store.FinishReduction(kTimeout).ok());
    norms[groups->rank()] = *store.GlobalNorm(toy::SumSquares, kTimeout);
  });
  // Microbatch 0 alone brings ones: 36 elements of 3 (roles), 48 of 1, 20 of 2 (sharers), 3 of 1.
  EXPECT_EQ(norms[0], std::sqrt(36 * 9.0 + 48 + 20 * 4 + 3));
  for (double norm : norms) EXPECT_EQ(norm, norms[0]);
}

TEST(GradientStoreTest, EveryBoxIsSavedOnceAndWhatIsLoadedIsWhatIsUpdated) {
  for (int zero : {0, 1}) {
    const Mesh mesh(3, 4, 2);
    std::mutex mutex;
    std::map<std::string, std::vector<Box>> boxes;
    OnMesh(mesh, nullptr, [&](ProcessGroups* groups) {
      Stream stream(1);
      ShardedParameterStore store(Zoo(2, 4), groups, &stream, Options(zero));
      std::lock_guard<std::mutex> lock(mutex);
      for (const StateTensor& s : store.StateToSave()) boxes[s.name].push_back(s.box);
      for (const StateTensor& s : store.StateToLoad()) {
        EXPECT_TRUE(LocalRegion(s.shape, store.specs()[s.id].placement, mesh, groups->rank())
                        .Contains(s.box));
      }
    });
    ASSERT_EQ(boxes.size(), 12u);
    for (const ParameterSpec& spec : Zoo(2, 4)) {
      for (const char* prefix : {"", "optimizer.m.", "optimizer.v."}) {
        EXPECT_TRUE(TilesExactly(spec.shape, boxes[prefix + spec.name])) << prefix << spec.name;
      }
    }
  }
}

TEST(GradientStoreTest, ZeroOneHoldsAShareOfTheMoments) {
  const auto bytes = [](int zero, DType master) {
    int64_t total = 0;
    OnMesh(Mesh(4, 1, 1), nullptr, [&](ProcessGroups* groups) {
      Stream stream(1);
      StoreOptions options = Options(zero);
      options.types = {DType::kBF16, master};
      ShardedParameterStore store({Spec("w", {64, 64}, {0})}, groups, &stream, options);
      if (groups->rank() == 0) total = store.memory_bytes();
    });
    return total;
  };
  // 4096 elements: bf16 weights twice, master and two moments twice, two accumulators.
  EXPECT_EQ(bytes(0, DType::kF32), 4096 * (2 * 2 + 2 * 12 + 2 * 4));
  EXPECT_EQ(bytes(1, DType::kF32), 4096 * (2 * 2 + 2 * 12 / 4 + 2 * 4));
  EXPECT_EQ(bytes(0, DType::kBF16), 4096 * (2 * 2 + 2 * 8 + 2 * 4));
  EXPECT_EQ(bytes(1, DType::kBF16), 4096 * (2 * 2 + 2 * 8 / 4 + 2 * 4));
}

TEST(GradientStoreTest, DiscardLeavesTheCommittedState) {
  ProcessGroups groups;
  Stream stream(1);
  ShardedParameterStore store(Zoo(1, 1), &groups, &stream, Options(0));
  toy::FillInitial(store.StateToLoad());
  ASSERT_TRUE(store.FinishLoad(7, kTimeout).ok());
  const float before = store.Acquire(1).as<float>()[3];
  const auto write = [](std::span<const UpdateSlice> slices) {
    for (const UpdateSlice& s : slices) std::fill_n(s.p_next, s.n, 42.0f);
  };
  WriteGradients(&store, groups);
  ASSERT_TRUE(store.FinishReduction(kTimeout).ok());
  ASSERT_TRUE(store.Update(write, kTimeout).ok());
  store.Discard();
  EXPECT_EQ(store.Acquire(1).as<float>()[3], before);
  EXPECT_EQ(store.committed_step(), 7);
  ASSERT_TRUE(store.Update(write, kTimeout).ok());
  store.Commit(8);
  EXPECT_EQ(store.Acquire(1).as<float>()[3], 42.0f);
  EXPECT_EQ(store.committed_step(), 8);
}

TEST(GradientStoreTest, AMissingGradientIsNamed) {
  ProcessGroups groups;
  Stream stream(1);
  ShardedParameterStore store(Zoo(1, 1), &groups, &stream, Options(0));
  const Status status = store.FinishReduction(kTimeout);
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_EQ(status.message(), "z.table, role 0: gradients of 0 microbatches: expected 16");
}

// A rank that stays away: the others give up at their deadline, and their state is as before.
TEST(GradientStoreTest, ADeadlineAbandonsTheReduction) {
  OnMesh(Mesh(2, 1, 1), nullptr, [&](ProcessGroups* groups) {
    if (groups->rank() == 1) return;
    Stream stream(1);
    ShardedParameterStore store(Zoo(1, 1), groups, &stream, Options(1));
    WriteGradients(&store, *groups);
    const Status status = store.FinishReduction(1000);
    EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
    EXPECT_NE(status.message().find("reducing gradients"), std::string::npos) << status.message();
    store.AbandonStep();
    store.BeginStep();
  });
}

TEST(StepLossesTest, EveryMicrobatchComesFromOneRank) {
  const std::vector<MicrobatchLoss> own = {{0, 2.0, 3}, {1, 4.0, 5}};
  const Result<BatchLoss> loss = SumLosses(nullptr, 2, own, kTimeout);
  ASSERT_TRUE(loss.ok());
  EXPECT_EQ(loss->loss_sum, 6.0);
  EXPECT_EQ(loss->label_tokens, 8);
  EXPECT_EQ(loss->Mean(), 0.75);
  EXPECT_EQ(SumLosses(nullptr, 3, own, kTimeout).status().message(),
            "the loss of microbatch 2 came from 0 ranks: expected one");
}

}  // namespace
}  // namespace trireme
