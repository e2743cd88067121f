// Files that users bring, and what the ranks say of a checkpoint.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "cli/id_list.h"
#include "cli/machine_file.h"
#include "cli/score_request.h"
#include "proto/config.pb.h"
#include "proto/manifest.pb.h"
#include "storage/checkpoint_reader.h"
#include "storage/checkpoint_writer.h"
#include "storage/safetensors.h"
#include "storage/token_file.h"
#include "tests/fuzz/fuzzer.h"
#include "worker/model/weight_source.h"
#include "worker/text/text_source.h"
#include "worker/text/tokenizer.h"

namespace trireme {
namespace {

constexpr const char* kTokenizerJson =
    R"({"version": "1.0", "added_tokens": [{"id": 4, "content": "</s>", "special": true}],)"
    R"( "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},)"
    R"( "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1,)"
    R"( "ab": 2, "c": 3}, "merges": ["a b"]}})";

TEST(CheckpointFuzzTest, PartsOfTheRanks) {
  const auto store = NewMemoryStore();
  const std::vector<float> values(24, 1.5f);
  std::vector<std::string> parts;
  for (int rank = 0; rank < 2; ++rank) {
    TensorPiece piece;
    piece.name = "w";
    piece.shape = piece.published_shape = {8, 3};
    piece.box = {{4 * rank, 0}, {4, 3}};
    piece.data = reinterpret_cast<const std::byte*>(values.data());
    ChunkOptions options;
    options.step = 50;
    options.rank = rank;
    const auto part = WriteCheckpointChunks(*store, options, {&piece, 1});
    ASSERT_TRUE(part.ok()) << part.status().message();
    parts.push_back(*part);
  }
  CheckpointFacts facts;
  facts.step = 50;
  int committed = 0;
  Fuzz("ManifestPart", {parts[0]}, 2000, [&](const std::string& input) {
    const google::protobuf::LogSilencer silencer;
    const std::vector<std::string> given = {input, parts[1]};
    const Status status = CommitCheckpoint(*store, facts, given);
    ExpectMessage(status);
    if (!status.ok()) return;
    ++committed;
    const auto reader = CheckpointReader::Open(*store, 50);
    ExpectMessage(reader.status());
    std::vector<float> out(24);
    if (reader.ok() && (*reader)->Find("w").has_value()) {
      ExpectMessage((*reader)->Load("w", {8, 3}, Box::Whole({8, 3}), DType::kF32,
                                    reinterpret_cast<std::byte*>(out.data())));
    }
    ASSERT_TRUE(store->Delete(CheckpointFolder(50) + "/manifest.json").ok());
  });
  EXPECT_GE(committed, 1) << "the part as it is";
}

TEST(TokenizerFuzzTest, VocabulariesAndMerges) {
  const std::string folder = FuzzFolder() + "/pair";
  std::filesystem::create_directories(folder);
  const std::string vocabulary =
      R"({"a": 0, "b": 1, "ab": 2, "c": 3, "\u0120": 4, "\u0120a": 5, "<|endoftext|>": 6})";
  const std::string merges = "#version: 0.2\na b\n\xc4\xa0 a\n";
  WriteFile(folder + "/merges.txt", merges);
  Fuzz("vocab.json", {vocabulary}, 500, [&](const std::string& input) {
    WriteFile(folder + "/vocab.json", input);
    LoadTokenizer(folder);
  });
  WriteFile(folder + "/vocab.json", vocabulary);
  Fuzz("merges.txt", {merges}, 500, [&](const std::string& input) {
    WriteFile(folder + "/merges.txt", input);
    LoadTokenizer(folder);
  });
  std::filesystem::remove_all(folder);
}

TEST(TokenizerFuzzTest, Configurations) {
  const std::string folder = FuzzFolder() + "/configured";
  std::filesystem::create_directories(folder);
  WriteFile(folder + "/tokenizer.json", kTokenizerJson);
  Fuzz("tokenizer_config.json",
       {R"({"add_bos_token": true, "bos_token": {"content": "</s>"}, "eos_token": "</s>"})"}, 500,
       [&](const std::string& input) {
         WriteFile(folder + "/tokenizer_config.json", input);
         LoadTokenizer(folder);
         EXPECT_TRUE(Tokenizer::Load(folder).ok()) << "what is not understood there is left out";
       });
  std::filesystem::remove_all(folder);
}

TEST(WeightsFuzzTest, IndicesOfSafetensors) {
  const auto store = NewMemoryStore();
  const float values[] = {1, 2, 3};
  for (const std::string name : {"a", "b"}) {
    auto writer = SafetensorsWriter::Create(*store, name + ".safetensors",
                                            {{name + ".weight", DType::kF32, {3}}});
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->Append(std::as_bytes(std::span(values))).ok());
    ASSERT_TRUE((*writer)->Commit().ok());
  }
  Fuzz("model.safetensors.index.json",
       {R"({"metadata": {"total_size": 24}, "weight_map": {"a.weight": "a.safetensors",)"
        R"( "b.weight": "b.safetensors"}})"},
       1000, [&](const std::string& input) {
         ASSERT_TRUE(PutText(*store, "model.safetensors.index.json", input).ok());
         const auto folder = SafetensorsFolder::Open(*store);
         ExpectMessage(folder.status());
         if (!folder.ok()) return;
         for (const SafetensorsTensor* tensor : (*folder)->tensors()) {
           float out[3] = {};
           ExpectMessage((*folder)->Read(tensor->name, Box::Whole({3}), DType::kF32,
                                         reinterpret_cast<std::byte*>(out)));
           EXPECT_EQ(out[2], 3);
         }
       });
}

// 256 int32, as llm.c begins its files.
std::string LlmcHeader(std::vector<int32_t> values) {
  values.resize(256);
  return Bytes(values.data(), values.size() * sizeof(int32_t));
}

TEST(WeightsFuzzTest, LlmcModels) {
  // Length 4, vocabulary 4, 1 layer, 1 head, 4 channels, vocabulary padded to 4.
  std::vector<std::string> seeds;
  for (const int32_t version : {3, 5}) {
    const size_t parameters =
        4 * 4 + 4 * 4 + (4 + 4) * 2 + 4 * 12 + 12 + 4 * 4 + 4 + 4 * 16 + 16 + 16 * 4 + 4 + 4 + 4;
    seeds.push_back(LlmcHeader({20240326, version, 4, 4, 1, 1, 4, 4}) +
                    std::string(parameters * (version == 3 ? 4 : 2), '\0'));
  }
  const std::string path = FuzzFolder() + "/llmc.bin";
  int opened = 0;
  Fuzz("llm.c model", seeds, 500, [&](const std::string& input) {
    WriteFile(path, input);
    const auto source = WeightSource::Open(path);
    ExpectMessage(source.status());
    if (!source.ok()) return;
    ++opened;
    for (const TensorInfo& tensor : (*source)->tensors()) {
      if (ElementCount(tensor.shape) > 10000) continue;
      std::vector<float> values(static_cast<size_t>(ElementCount(tensor.shape)));
      ExpectMessage((*source)->Read(tensor.name, Box::Whole(tensor.shape), values.data()));
    }
  });
  EXPECT_GE(opened, 2) << "the seeds themselves";
  std::filesystem::remove(path);
}

TEST(TokensFuzzTest, LlmcShards) {
  const std::string path = FuzzFolder() + "/shard.bin";
  const std::string ids = "\x50\xc4\1\0\2\0\x50\xc4\3\0";
  const std::string wide(5 * 4, '\1');
  int opened = 0;
  Fuzz("llm.c shard",
       {LlmcHeader({20240520, 1, 5}) + std::string(ids.data(), 10),
        LlmcHeader({20240801, 7, 5}) + wide},
       500, [&](const std::string& input) {
         WriteFile(path, input);
         const auto file = TokenFile::Open(path);
         ExpectMessage(file.status());
         if (!file.ok()) return;
         ++opened;
         std::vector<int32_t> read(static_cast<size_t>((*file)->tokens()));
         (*file)->Read(0, (*file)->tokens(), read.data());
         for (int64_t i = 0; i < (*file)->tokens(); ++i) (*file)->DocumentAt(i);
       });
  EXPECT_GE(opened, 1) << "the seeds themselves";
  std::filesystem::remove(path);
}

TEST(TextFuzzTest, CompressedText) {
  const unsigned char zst[] = {0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x58, 0x79, 0x00, 0x00, 0x6f,
                               0x6e, 0x65, 0x20, 0x74, 0x77, 0x6f, 0x0a, 0x0a, 0x74, 0x68,
                               0x72, 0x65, 0x65, 0x0a, 0x83, 0x51, 0xed, 0x85};
  const unsigned char bz2[] = {0x42, 0x5a, 0x68, 0x39, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, 0x07,
                               0x2f, 0x1e, 0x69, 0x00, 0x00, 0x05, 0x51, 0x80, 0x00, 0x10, 0x40,
                               0x00, 0x02, 0x41, 0x94, 0x80, 0x20, 0x00, 0x31, 0x06, 0x4c, 0x41,
                               0x0d, 0x0f, 0x51, 0xa1, 0x74, 0xa0, 0xde, 0x1e, 0xb4, 0xcf, 0x17,
                               0x72, 0x45, 0x38, 0x50, 0x90, 0x07, 0x2f, 0x1e, 0x69};
  const std::pair<const char*, std::string> kinds[] = {{"x.txt.zst", Bytes(zst, sizeof(zst))},
                                                       {"x.txt.bz2", Bytes(bz2, sizeof(bz2))}};
  for (const auto& [name, seed] : kinds) {
    const std::string path = FuzzFolder() + "/" + name;
    int documents = 0;
    Fuzz(name, {seed}, 500, [&, seed = &seed](const std::string& input) {
      const int read = ReadTexts(path, input);
      if (input == *seed) documents = read;
    });
    EXPECT_GE(documents, 1) << name << " as it is";
    std::filesystem::remove(path);
  }
}

TEST(MachineFuzzTest, Descriptions) {
  const std::string path = FuzzFolder() + "/machine.yaml";
  int read = 0;
  Fuzz("machine.yaml",
       {"name: H100\npeak_tflops: {bfloat16: 989.4, float32: 66.9}\nmemory_gib: 79.6\n"
        "memory_gb_per_second: 3350\nlink_gb_per_second: 450\nnetwork_gb_per_second: 50\n"
        "program_gib: 1.5\nreach: {products: 0.68, attention: 0.45, memory: 0.85}\n"},
       1000, [&](const std::string& input) {
         WriteFile(path, input);
         const auto machine = ReadMachineFile(path);
         ExpectMessage(machine.status());
         if (!machine.ok()) return;
         ++read;
         EXPECT_GE(machine->memory_bytes, 0);
         EXPECT_GE(machine->program_bytes, 0);
       });
  EXPECT_GE(read, 1) << "the seed itself";
  std::filesystem::remove(path);
}

TEST(RequestFuzzTest, ScoresAndIdLists) {
  const std::string path = FuzzFolder() + "/tokenizer.json";
  WriteFile(path, kTokenizerJson);
  const auto tokenizer = Tokenizer::Load(path);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  Fuzz("score",
       {R"({"context_ids": [1, 2], "continuation_ids": [3, 0]})",
        R"({"context": "ab", "continuation": " ca"})"},
       2000, [&](const std::string& input) {
         ExpectMessage(ParseScoreRequest(input, nullptr).status());
         ExpectMessage(ParseScoreRequest(input, tokenizer->get()).status());
       });
  Fuzz("ids", {"1,22,333", "4 5 , 6"}, 2000, [](const std::string& input) {
    const auto ids = ParseIdList(input);
    ExpectMessage(ids.status());
    EXPECT_FALSE(ids.ok() && ids->empty());
  });
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace trireme
