// What the design promises about memory: attention linear in the length, logits a chunk at a time.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "tests/harness/training_harness.h"
#include "worker/model/decoder_stage.h"

namespace trireme {
namespace {

ModelShape SmallShape(ModelFamily family, int64_t vocab_size, int64_t positions) {
  ModelShape shape;
  shape.family = family;
  shape.vocab_size = vocab_size;
  shape.hidden_size = 16;
  shape.intermediate_size = 16;
  shape.layers = 1;
  shape.heads = shape.kv_heads = 2;
  shape.head_dim = 8;
  shape.max_positions = positions;
  return shape;
}

struct MemoryCase {
  ModelFamily family;
  DType compute;
  Recompute recompute;
  DeviceKind device;
};

std::vector<MemoryCase> MemoryCases() {
  std::vector<MemoryCase> cases;
  for (const ModelFamily family : {ModelFamily::kLlama, ModelFamily::kGpt2}) {
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      for (const Recompute recompute :
           {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
        for (const DeviceKind device : {DeviceKind::kCpu, DeviceKind::kCuda}) {
          cases.push_back({family, compute, recompute, device});
        }
      }
    }
  }
  return cases;
}

// From the code that allocates: arenas that measure.
StageMemory MemoryOf(const MemoryCase& c, int64_t vocab_size, TokenShape tokens) {
  StageOptions options;
  options.shape = SmallShape(c.family, vocab_size, tokens.length);
  options.tokens = tokens;
  options.compute = c.compute;
  options.recompute = c.recompute;
  options.device = c.device;
  Stream stream(1);
  return DecoderStage(options, ParameterSpecs(options.shape, 1, 1), &stream, nullptr, TensorGroup(),
                      {})
      .Memory();
}

TEST(MemoryTest, AStageIsLinearInTheLength) {
  for (const MemoryCase& c : MemoryCases()) {
    const StageMemory once = MemoryOf(c, 64, {1, 4096}), twice = MemoryOf(c, 64, {1, 8192});
    EXPECT_GT(once.scratch, 0);
    EXPECT_LE(twice.scratch, 2.1 * once.scratch);
    EXPECT_LE(twice.per_live_microbatch, 2.1 * once.per_live_microbatch);
    EXPECT_LE(twice.deferred_per_microbatch, 2.1 * once.deferred_per_microbatch);
  }
}

// What a large vocabulary costs is a chunk of logits: the same for four times the tokens, and far
// from all logits in f32.
TEST(MemoryTest, LogitsAreAChunkWhateverTheTokens) {
  constexpr int64_t kVocabulary = 50304, kTokens = 16384;
  for (const MemoryCase& c : MemoryCases()) {
    const auto logits = [&](int64_t batch) {
      return MemoryOf(c, kVocabulary, {batch, kTokens}).scratch -
             MemoryOf(c, 64, {batch, kTokens}).scratch;
    };
    const int64_t all = 4 * kTokens * kVocabulary * ByteSize(DType::kF32);
    EXPECT_LE(logits(4), logits(1)) << "a large batch makes other scratch the larger";
    EXPECT_LE(logits(4), all / 8);
    EXPECT_EQ(MemoryOf(c, kVocabulary, {4, kTokens}).per_live_microbatch,
              MemoryOf(c, 64, {4, kTokens}).per_live_microbatch)
        << "no logits are kept";
  }
}

// The same of a process that trains: neither scores (B Hq T T) nor logits (N V) fit into what it
// takes, kernels' own memory included.
TEST(MemoryTest, AStepTakesLessThanItsScoresAndLogits) {
  HarnessOptions options;
  options.shape = SmallShape(ModelFamily::kLlama, 16384, 4096);
  options.tokens = {1, 4096};
  options.microbatches = RandomBatches(1, options.tokens, options.shape.vocab_size, 3);
  const int64_t scores = options.shape.heads * 4096 * 4096 * ByteSize(DType::kF32);
  const int64_t logits = options.shape.vocab_size * 4096 * ByteSize(DType::kF32);
  const auto peak_bytes = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return int64_t{usage.ru_maxrss} * 1024;
  };
  const int64_t before = peak_bytes();
  const HarnessResult result = RunHarness(options);
  ASSERT_TRUE(result.status.ok()) << result.status.message();
  const int64_t taken = peak_bytes() - before;
  EXPECT_LE(taken, scores / 2);
  EXPECT_LE(taken, logits / 4);
  RecordProperty("taken_bytes", std::to_string(taken));
}

}  // namespace
}  // namespace trireme
