#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "proto/config.pb.h"
#include "proto/manifest.pb.h"
#include "storage/checkpoint_manifest.h"
#include "storage/safetensors.h"
#include "tests/storage/checkpoint_fixture.h"
#include "tests/storage/faulty_store.h"
#include "tests/storage/temporary_folder.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

std::byte* Writable(std::vector<float>& values) {
  return std::as_writable_bytes(std::span(values)).data();
}

TEST(CheckpointTest, AnyBoxesAreReadAsAnyOtherBoxes) {
  const StateTensors state = StateTensors::Small();
  for (const int ranks : {1, 3, 8}) {
    auto store = NewMemoryStore();
    const WriteOptions options{.ranks = ranks,
                               .cuts = ranks == 1 ? 0 : 6,
                               .seed = static_cast<uint64_t>(ranks),
                               .chunk_bytes_max = 2000};
    const Status written = WriteCheckpoint(*store, state, options);
    ASSERT_TRUE(written.ok()) << written.message();
    const auto reader = CheckpointReader::Open(*store, 50);
    ASSERT_TRUE(reader.ok()) << reader.status().message();
    EXPECT_TRUE((*reader)->Verify().ok());
    const CounterRng rng(77, RngUse::kTest, ranks);
    uint64_t draw = 0;
    for (const auto& [name, tensor] : state.tensors) {
      for (const Shape& shape : {tensor.shape, tensor.published}) {
        for (const Box& box : RandomTiling(shape, 5, rng, &draw)) {
          std::vector<float> actual(box.elements(), -1), expected = actual;
          CopyRegion(box, Box::Whole(shape), std::as_bytes(std::span(tensor.values)).data(), box,
                     Writable(expected), 4);
          const Status status = (*reader)->Load(name, shape, box, DType::kF32, Writable(actual));
          ASSERT_TRUE(status.ok()) << status.message();
          ASSERT_EQ(actual, expected) << name << " " << box.ToString();
        }
      }
    }
  }
}

TEST(CheckpointTest, ChunksAreSafetensorsWithPlainNamesForWholeTensors) {
  const TemporaryFolder folder;
  auto store = NewLocalStore(folder.path());
  StateTensors state;
  state.Add("model.norm.weight", {8});
  ASSERT_TRUE(WriteCheckpoint(*store, state, {}).ok());
  const auto whole = SafetensorsReader::Open(*store, "step_00000050/rank_00000_0.safetensors");
  ASSERT_TRUE(whole.ok());
  EXPECT_NE((*whole)->Find("model.norm.weight"), nullptr);

  auto pieces = NewMemoryStore();
  const std::vector<float> half(4, 1.5f);
  const TensorPiece piece{"model.norm.weight",
                          DType::kF32,
                          {8},
                          {8},
                          {{4}, {4}},
                          std::as_bytes(std::span(half)).data()};
  ASSERT_TRUE(WriteCheckpointChunks(*pieces, {7, 3, 12}, {&piece, 1}).ok());
  EXPECT_THAT(*pieces->List(""),
              ElementsAre("step_00000007/rank_00012_0_generation_3.safetensors"));
  const auto part =
      SafetensorsReader::Open(*pieces, "step_00000007/rank_00012_0_generation_3.safetensors");
  ASSERT_TRUE(part.ok());
  EXPECT_NE((*part)->Find("model.norm.weight[4:8]"), nullptr);
  EXPECT_EQ((*part)->header().metadata.at("shape of model.norm.weight"), "[8]");
  EXPECT_EQ((*part)->header().metadata.at("step"), "7");
}

TEST(CheckpointTest, TheManifestHoldsWhatGoingOnNeeds) {
  auto store = NewMemoryStore();
  ASSERT_TRUE(WriteCheckpoint(*store, StateTensors::Small(), {.step = 50, .ranks = 2}).ok());
  const auto reader = CheckpointReader::Open(*store, 50);
  ASSERT_TRUE(reader.ok());
  const proto::Manifest& manifest = (*reader)->manifest();
  EXPECT_EQ(manifest.seed(), 1234u);
  EXPECT_EQ(manifest.sum_leaves(), 8);
  EXPECT_EQ(manifest.sum_order(), "leaf_first");
  EXPECT_EQ(manifest.microbatch_sequences(), 4);
  EXPECT_EQ(manifest.data_cursor().samples(), 1600);
  EXPECT_EQ(manifest.data_cursor().label_tokens(), 1600 * 256);
  EXPECT_EQ(manifest.schedule().name(), "cosine");
  EXPECT_EQ(manifest.config().model().family(), "llama");
  EXPECT_EQ(manifest.parent_step(), -1);
  const auto json = nlohmann::json::parse(*ReadObject(*store, "step_00000050/manifest.json"));
  EXPECT_EQ(json["format_version"], 1);
  EXPECT_EQ(json["chunks"][0]["file"], "rank_00000_0.safetensors");
}

TEST(CheckpointTest, WithoutAManifestTheStepDoesNotExist) {
  auto store = NewMemoryStore();
  const auto parts = WriteParts(*store, StateTensors::Small(), {});
  ASSERT_TRUE(parts.ok());
  EXPECT_TRUE(ListCheckpoints(*store)->empty());
  const Status status = CheckpointReader::Open(*store, 50).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "memory:///step_00000050/manifest.json: does not exist");
}

TEST(CheckpointTest, BoxesThatDoNotTileAreNeverCommitted) {
  auto store = NewMemoryStore();
  const std::vector<float> values(8, 1.0f);
  const std::byte* data = std::as_bytes(std::span(values)).data();
  const proto::Config config = SmallConfig();
  const auto commit = [&](const std::vector<TensorPiece>& pieces, int64_t generation = 1) {
    const auto part = WriteCheckpointChunks(*store, {50, generation, 0}, pieces);
    CHECK(part.ok());
    return CommitCheckpoint(*store, SmallFacts({}, config), {&*part, 1});
  };
  const auto piece = [&](Box box, Shape shape = {8}) {
    return TensorPiece{"w", DType::kF32, shape, shape, std::move(box), data};
  };
  const Status hole = commit({piece({{0}, {5}})});
  EXPECT_EQ(hole.code(), StatusCode::kInternal);
  EXPECT_EQ(hole.message(),
            "step_00000050: tensor w [8]: its 1 boxes hold 5 elements, expected 8, each once");
  EXPECT_THAT(commit({piece({{0}, {5}}), piece({{4}, {4}})}).message(),
              HasSubstr("its 2 boxes hold 9 elements, expected 8"));
  EXPECT_THAT(commit({piece({{0}, {4}}), piece({{4}, {5}}, {9})}).message(),
              HasSubstr("tensor w is F32 [9] in rank_00000_0.safetensors and F32 [8] elsewhere"));
  EXPECT_THAT(commit({piece({{0}, {8}})}, 2).message(),
              HasSubstr("rank 0 reports chunks of step 50, generation 2; expected step 50, "
                        "generation 1"));
  const std::string garbled = "\xff\xff";
  EXPECT_THAT(CommitCheckpoint(*store, SmallFacts({}, config), {&garbled, 1}).message(),
              HasSubstr("garbled"));
  EXPECT_TRUE(ListCheckpoints(*store)->empty());
  EXPECT_TRUE(commit({piece({{0}, {3}}), piece({{3}, {5}})}).ok());
}

TEST(CheckpointTest, AManifestIsCreatedOnce) {
  auto store = NewMemoryStore();
  ASSERT_TRUE(WriteCheckpoint(*store, StateTensors::Small(), {.step = 50}).ok());
  const std::string before = *ReadObject(*store, "step_00000050/manifest.json");
  const Status again =
      WriteCheckpoint(*store, StateTensors::Small(), {.step = 50, .generation = 2});
  EXPECT_EQ(again.code(), StatusCode::kStorage);
  EXPECT_EQ(again.message(), "memory:///step_00000050/manifest.json: exists already");
  EXPECT_EQ(*ReadObject(*store, "step_00000050/manifest.json"), before);
  EXPECT_TRUE((*CheckpointReader::Open(*store, 50))->Verify().ok())
      << "the second writer touched the first one's chunks";
}

TEST(CheckpointTest, AChunkThatIsGoneOrShortKeepsTheManifestAway) {
  auto store = NewMemoryStore();
  const proto::Config config = SmallConfig();
  const std::string key = "step_00000050/rank_00000_0.safetensors";
  const auto parts = WriteParts(*store, StateTensors::Small(), {});
  ASSERT_TRUE(parts.ok());
  ASSERT_TRUE(PutText(*store, key, "short").ok());
  const Status status = CommitCheckpoint(*store, SmallFacts({}, config), *parts);
  EXPECT_EQ(status.code(), StatusCode::kStorage);
  EXPECT_THAT(status.message(),
              MatchesRegex("memory:///step_00000050/rank_00000_0.safetensors: 5 bytes, expected "
                           "[0-9]+"));
  ASSERT_TRUE(store->Delete(key).ok());
  EXPECT_EQ(CommitCheckpoint(*store, SmallFacts({}, config), *parts).message(),
            "memory:///step_00000050/rank_00000_0.safetensors: does not exist");
  EXPECT_TRUE(ListCheckpoints(*store)->empty());
}

TEST(CheckpointTest, LoadRefusesOtherNamesAndShapes) {
  auto store = NewMemoryStore();
  ASSERT_TRUE(WriteCheckpoint(*store, StateTensors::Small(), {}).ok());
  const auto reader = CheckpointReader::Open(*store, 50);
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ((*reader)->Load("nothing", {8}, Box::Whole({8}), DType::kF32, nullptr).message(),
            "memory:///step_00000050: tensor nothing is not there");
  const Status shape = (*reader)->Load("norm.weight", {9}, Box::Whole({9}), DType::kF32, nullptr);
  EXPECT_EQ(shape.code(), StatusCode::kDataLoss);
  EXPECT_EQ(shape.message(), "memory:///step_00000050: tensor norm.weight is [8], expected [9]");
}

TEST(CheckpointHashTest, DoesNotDependOnChunkingRanksGenerationTimeOrStore) {
  const StateTensors state = StateTensors::Small();
  auto reference = NewMemoryStore();
  ASSERT_TRUE(WriteCheckpoint(*reference, state, {}).ok());
  const CheckpointHash expected = HashOf(*reference, 50);
  EXPECT_NE(expected.weights, expected.state);
  const TemporaryFolder folder;
  auto other = NewLocalStore(folder.path());
  ASSERT_TRUE(WriteCheckpoint(*other, state,
                              {.generation = 4, .ranks = 5, .cuts = 7, .chunk_bytes_max = 900})
                  .ok());
  EXPECT_GT(other->List("step_00000050/")->size(), 6u);
  const CheckpointHash actual = HashOf(*other, 50);
  EXPECT_EQ(actual.weights, expected.weights);
  EXPECT_EQ(actual.state, expected.state);
}

TEST(CheckpointHashTest, OneValueNameShapeTypeOrCounterChangesIt) {
  const StateTensors state = StateTensors::Small();
  const auto hash = [](const StateTensors& tensors, int64_t step = 50) {
    auto store = NewMemoryStore();
    CHECK(WriteCheckpoint(*store, tensors, {.step = step, .ranks = 2, .cuts = 2}).ok());
    return HashOf(*store, step);
  };
  const CheckpointHash base = hash(state);
  StateTensors changed = state;
  changed.tensors["norm.weight"].values[7] += 1e-6f;
  EXPECT_NE(hash(changed).weights, base.weights);
  EXPECT_EQ(hash(changed).state, base.state);

  changed = state;
  changed.tensors["optimizer.v.norm.weight"].values[0] *= -1;
  EXPECT_EQ(hash(changed).weights, base.weights);
  EXPECT_NE(hash(changed).state, base.state);

  changed = state;
  changed.tensors["norm.bias"] = changed.tensors["norm.weight"];
  changed.tensors.erase("norm.weight");
  EXPECT_NE(hash(changed).weights, base.weights);

  changed = state;
  changed.tensors["cube"].shape = changed.tensors["cube"].published = {4, 5, 6};
  EXPECT_NE(hash(changed).weights, base.weights);

  EXPECT_EQ(hash(state, 51).weights, base.weights);
  EXPECT_NE(hash(state, 51).state, base.state);

  // The same bytes as another type.
  const std::vector<float> zeros(8, 0.0f);
  const auto typed = [&](DType dtype) {
    auto store = NewMemoryStore();
    const TensorPiece piece{"w", dtype,           {8},
                            {8}, Box::Whole({8}), std::as_bytes(std::span(zeros)).data()};
    const auto part = WriteCheckpointChunks(*store, {50, 1, 0}, {&piece, 1});
    const proto::Config config = SmallConfig();
    CHECK(CommitCheckpoint(*store, SmallFacts({}, config), {&*part, 1}).ok());
    return HashOf(*store, 50).weights;
  };
  EXPECT_NE(typed(DType::kF32), typed(DType::kI32));
}

TEST(CheckpointHashTest, LargeTensorsAreHashedInBlocks) {
  StateTensors state;
  state.Add("w", {3000, 1000});  // 12 MB: two blocks of rows
  auto one = NewMemoryStore(), many = NewMemoryStore();
  ASSERT_TRUE(WriteCheckpoint(*one, state, {}).ok());
  ASSERT_TRUE(WriteCheckpoint(*many, state, {.ranks = 3, .cuts = 9}).ok());
  EXPECT_EQ(HashOf(*one, 50).weights, HashOf(*many, 50).weights);
  state.tensors["w"].values.back() = 0;
  auto changed = NewMemoryStore();
  ASSERT_TRUE(WriteCheckpoint(*changed, state, {}).ok());
  EXPECT_NE(HashOf(*one, 50).weights, HashOf(*changed, 50).weights);
}

}  // namespace
}  // namespace trireme
