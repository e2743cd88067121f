#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "cli/config_loader.h"
#include "cluster/rpc/frame.h"
#include "parallelism/schedule.h"
#include "proto/config.pb.h"
#include "proto/manifest.pb.h"
#include "storage/checkpoint_manifest.h"
#include "storage/object_store.h"
#include "storage/safetensors.h"
#include "storage/token_file.h"
#include "storage/token_file_writer.h"
#include "tests/fuzz/fuzzer.h"
#include "worker/model/model_config.h"
#include "worker/model/weight_source.h"
#include "worker/text/html_text.h"
#include "worker/text/text_source.h"
#include "worker/text/tokenizer.h"

namespace trireme {
namespace {

TEST(ParserFuzzTest, RunsInYaml) {
  const std::vector<std::string> seeds = {
      "run: {dir: runs/demo, seed: 7}\nmodel:\n  family: llama\n  hidden_size: 256\n  "
      "num_attention_heads: 8\n  rope_scaling: {rope_type: linear, factor: 2}\ndata:\n  train: "
      "[{path: a, weight: 1.0}, b]\n  sequence_length: 256\noptimizer: {betas: [0.9, 0.95]}\n",
      "model: {preset: gpt2-124m, n_embd: 768}\nbatch: {sequences: 32, microbatch_sequences: 4, "
      "sum_leaves: auto}\nlayout: {data: 2, tensor: 2, zero: 1}\nlr_schedule: {name: wsd}\n"};
  Fuzz("run.yaml", seeds, 500, [](const std::string& input) {
    auto config = ParseConfig(input, "fuzz.yaml", {});
    ExpectMessage(config.status());
    if (config.ok()) {
      EXPECT_TRUE(FillDefaults(config->get()).ok());
      EXPECT_TRUE(ValidateConfig(**config).ok());
    }
  });
  Fuzz("--set", {"optimizer.betas=[0.9, 0.95]", "run.dir=x", "data.train=[{path: a}]"}, 500,
       [](const std::string& input) {
         ExpectMessage(ParseConfig("model: {preset: llama-5m}", "fuzz.yaml", {input}).status());
       });
}

TEST(ParserFuzzTest, HuggingFaceConfigurations) {
  std::vector<std::string> seeds;
  for (const std::string preset : {"llama-3.2-1b", "gpt2-124m"}) {
    proto::ModelConfig config;
    config.set_preset(preset);
    ASSERT_TRUE(FillModelDefaults(&config).ok());
    seeds.push_back(ToHuggingFaceConfigJson(config));
  }
  Fuzz("config.json", seeds, 2000, [](const std::string& input) {
    const auto config = ParseHuggingFaceConfig(input, "config.json");
    ExpectMessage(config.status());
    EXPECT_TRUE(!config.ok() || ParameterCount(*config) > 0);
  });
}

TEST(ParserFuzzTest, PipelineSchedules) {
  Fuzz("schedule", {"0F0,0F1,0B0,0W0,0B1,0W1\n1F0,1B0,1W0,1F1,1B1,1W1\n", "0F0 0B0\n"}, 2000,
       [](const std::string& input) {
         const auto schedule = ParseSchedule(input);
         ExpectMessage(schedule.status());
         if (schedule.ok()) ExpectMessage(ValidateSchedule(*schedule));
       });
}

TEST(ParserFuzzTest, Frames) {
  const std::string stream =
      EncodeFrame(1, "hello") + EncodeFrame(7, "") + EncodeFrame(2, std::string(300, 'x'));
  const auto feed = [](const std::string& input, std::vector<Frame>* frames) {
    FrameParser parser(1000);
    Status status;
    for (size_t at = 0; status.ok() && at < input.size(); at += 37) {
      status = parser.Feed(std::string_view(input).substr(at, 37), frames);
    }
    ExpectMessage(status);
  };
  bool sealed = false;
  Fuzz("frames", {stream}, 3000, [&](const std::string& input) {
    std::vector<Frame> frames;
    sealed = !sealed;
    if (!sealed) return feed(input, &frames);
    // A good checksum over damaged bytes: what is behind it is looked at.
    const std::string payload = input.substr(0, 400);
    const auto type = static_cast<uint16_t>(input.size());
    feed(EncodeFrame(type, payload) + input, &frames);
    ASSERT_FALSE(frames.empty());
    EXPECT_EQ(frames[0].type, type);
    EXPECT_EQ(frames[0].payload, payload);
  });
}

// Two tensors in two chunks, one of them in boxes.
proto::Manifest SmallManifest() {
  proto::Manifest manifest;
  manifest.set_step(50);
  const auto add = [](proto::Chunk* chunk, const char* name, std::vector<int64_t> shape,
                      std::vector<int64_t> offset, std::vector<int64_t> extent, int64_t at) {
    proto::TensorBox* box = chunk->add_tensors();
    box->set_name(name);
    box->set_dtype("F32");
    *box->mutable_shape() = {shape.begin(), shape.end()};
    *box->mutable_offset() = {offset.begin(), offset.end()};
    *box->mutable_extent() = {extent.begin(), extent.end()};
    box->set_data_offset(at);
  };
  for (int i = 0; i < 2; ++i) {
    proto::Chunk* chunk = manifest.add_chunks();
    chunk->set_file("rank_0000" + std::to_string(i) + "_0.safetensors");
    chunk->set_bytes(200);
    add(chunk, "w", {4, 6}, {2 * i, 0}, {2, 6}, 100);
    if (i == 0) add(chunk, "b", {6}, {0}, {6}, 148);
  }
  return manifest;
}

// One to three changes of fields; three bytes of `choices` say which and to what.
void Spoil(const std::string& choices, proto::Manifest* manifest) {
  constexpr int64_t kValues[] = {-1,  0,   1,       2,         3,         4,         6,
                                 100, 147, 1 << 20, 1ll << 40, 1ll << 61, INT64_MIN, INT64_MAX};
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(choices[i]); };
  for (size_t i = 0; i + 2 < std::min<size_t>(choices.size(), 9); i += 3) {
    proto::Chunk* chunk = manifest->mutable_chunks(byte(i + 1) % manifest->chunks_size());
    if (chunk->tensors_size() == 0) return;
    proto::TensorBox* box = chunk->mutable_tensors(byte(i + 1) / 2 % chunk->tensors_size());
    const int64_t value = kValues[byte(i + 2) % std::size(kValues)];
    const int dim = byte(i + 1) / 8 % std::max(1, box->extent_size());
    switch (byte(i) % 10) {
      case 0:
        if (dim < box->shape_size()) box->set_shape(dim, value);
        break;
      case 1:
        if (dim < box->offset_size()) box->set_offset(dim, value);
        break;
      case 2:
        if (dim < box->extent_size()) box->set_extent(dim, value);
        break;
      case 3:
        box->set_data_offset(value);
        break;
      case 4:
        chunk->set_bytes(value);
        break;
      case 5:
        box->add_shape(value);
        break;
      case 6:
        box->set_name(value % 2 == 0 ? "w" : "line\nend");
        break;
      case 7:
        box->set_dtype(value % 2 == 0 ? "BF16" : "X");
        break;
      case 8:
        chunk->set_file(value % 2 == 0 ? "../up" : "rank_00000_0.safetensors");
        break;
      default:
        chunk->mutable_tensors()->RemoveLast();
    }
  }
}

TEST(ParserFuzzTest, ManifestsOfCheckpoints) {
  proto::Manifest manifest = SmallManifest();
  Fuzz("manifest.json", {ManifestToJson(&manifest)}, 1000, [](const std::string& input) {
    proto::Manifest parsed;
    ExpectMessage(ManifestFromJson(input, "manifest.json", &parsed));
  });
  // Wrong fields under a good checksum, so that the rules behind it are asked.
  int broken = 0, kept = 0;
  Fuzz("sealed manifest", {"", "ABCabc!?.", std::string("\0\0\0\3\1\2", 6)}, 3000,
       [&](const std::string& input) {
         proto::Manifest spoilt = manifest, parsed;
         Spoil(input, &spoilt);
         const Status rules = ManifestFromJson(ManifestToJson(&spoilt), "manifest.json", &parsed);
         ExpectMessage(rules);
         EXPECT_EQ(rules.message().find("checksum"), std::string::npos) << rules.message();
         ++(rules.ok() ? kept : broken);
       });
  EXPECT_GT(kept, 100);
  EXPECT_GT(broken, kept);
}

TEST(ParserFuzzTest, SafetensorsFiles) {
  const std::string json =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})";
  const uint64_t length = json.size();
  const std::string file = Bytes(&length, sizeof(length)) + json + std::string(32, '\1');
  Fuzz("safetensors", {file}, 2000, [](const std::string& input) {
    const auto store = NewMemoryStore();
    ASSERT_TRUE(PutText(*store, "x.safetensors", input).ok());
    const auto reader = SafetensorsReader::Open(*store, "x.safetensors");
    ExpectMessage(reader.status());
    if (!reader.ok()) return;
    for (const SafetensorsTensor& tensor : (*reader)->header().tensors) {
      if (ElementCount(tensor.shape) > 1000) continue;
      std::vector<std::byte> values(static_cast<size_t>(ElementCount(tensor.shape)) * 4);
      ExpectMessage(
          (*reader)->Read(tensor.name, Box::Whole(tensor.shape), DType::kF32, values.data()));
    }
  });
}

TEST(ParserFuzzTest, TokenFiles) {
  const std::string base = FuzzFolder() + "/tokens";
  // Megatron's pair: magic, version, dtype uint16, 2 sequences, 3 document indices.
  std::string index("MMIDIDX\0\0", 9);
  const auto append = [&index](auto value) { index += Bytes(&value, sizeof(value)); };
  append(uint64_t{1});
  append(uint8_t{8});
  append(uint64_t{2});
  append(uint64_t{3});
  for (const int32_t size : {5, 3}) append(size);
  for (const int64_t pointer : {0, 10}) append(pointer);
  for (const int64_t document : {0, 1, 2}) append(document);
  Fuzz("tokens.idx", {index}, 1000, [&](const std::string& input) {
    WriteFile(base + ".bin", std::string(16, '\1'));
    WriteFile(base + ".idx", input);
    const auto file = TokenFile::Open(base);
    ExpectMessage(file.status());
    if (!file.ok()) return;
    std::vector<int32_t> ids(static_cast<size_t>((*file)->tokens()));
    (*file)->Read(0, (*file)->tokens(), ids.data());
    for (int64_t i = 0; i < (*file)->tokens(); ++i) (*file)->DocumentAt(i);
  });
  WriteFile(base + ".idx", index);
  Fuzz("tokens.json",
       {R"({"tokenizer_hash": "00", "vocab_size": 300, "documents": 2, "tokens": 8,)"
        R"( "dtype": "uint16", "bin_checksum": "00", "end_of_text": 0})"},
       500, [&](const std::string& input) {
         WriteFile(base + ".json", input);
         ExpectMessage(TokenFile::Open(base).status());
       });
}

TEST(ParserFuzzTest, Tokenizers) {
  const struct {
    const char* file;
    std::string seed;
  } kinds[] = {
      {"tokenizer.json",
       R"({"version": "1.0", "added_tokens": [{"id": 4, "content": "<|endoftext|>", "special": true}],)"
       R"( "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},)"
       R"( "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1,)"
       R"( "ab": 2, "c": 3}, "merges": ["a b"]}})"},
      {"cl100k_base.tiktoken", "YQ== 0\nYg== 1\nYWI= 2\n"},
      {"tokenizer.bin", std::string("\x02\0\0\0\0\0\0\0\x01\0\0\0a\0\0\0\0\x02\0\0\0ab", 23)}};
  for (const auto& kind : kinds) {
    const std::string path = FuzzFolder() + "/" + kind.file;
    Fuzz(kind.file, {kind.seed}, 300, [&](const std::string& input) {
      WriteFile(path, input);
      LoadTokenizer(path);
    });
    std::filesystem::remove(path);
  }
}

TEST(ParserFuzzTest, Texts) {
  std::string tar(1024, '\0');
  std::memcpy(tar.data(), "a.txt", 5);
  std::memcpy(tar.data() + 100, "0000644", 7);
  std::memcpy(tar.data() + 124, "00000000005", 11);
  std::memcpy(tar.data() + 156, "0", 1);
  std::memcpy(tar.data() + 257, "ustar\00000", 8);
  std::memcpy(tar.data() + 512, "hello", 5);
  unsigned sum = 8 * ' ';
  for (int i = 0; i < 512; ++i) sum += static_cast<unsigned char>(tar[i]);
  std::snprintf(tar.data() + 148, 8, "%06o", sum);
  const std::pair<const char*, std::string> kinds[] = {
      {"x.jsonl", "{\"text\": \"one\", \"id\": 3}\n{\"text\": \"two \\u00e9\"}\n"},
      {"x.csv", "text,label\n\"a \"\"quoted\"\" one\",1\nplain,2\n"},
      {"x.tsv", "text\tlabel\none\t1\n"},
      {"x.html", "<html><body><nav>no</nav><p>a &amp; b</p></body></html>"},
      {"x.tar", tar},
      {"x.txt.gz", std::string("\x1f\x8b\x08\0\0\0\0\0\0\x03\xcbH\xcd\xc9\xc9\x07\0\x86\xa6\x10"
                               "6\x05\0\0\0",
                               25)}};
  for (const auto& [name, seed] : kinds) {
    const std::string path = FuzzFolder() + "/" + name;
    Fuzz(name, {seed}, 300, [&path = path](const std::string& input) { ReadTexts(path, input); });
  }
}

TEST(ParserFuzzTest, Pages) {
  Fuzz("html",
       {"<!DOCTYPE html><html><head><title>t</title><script>x < 1</script></head><body><ul><li>a"
        "<li>b</ul><table><tr><td>1</table><pre> x\n y</pre>&#x4e2d;&eacute;</body></html>"},
       1000, [](const std::string& input) { HtmlToText(input); });
}

TEST(ParserFuzzTest, Llama2cWeights) {
  // dim 4, hidden 8, layers 1, heads 1, kv heads 1, vocabulary 4 (tied), length 4.
  const int32_t header[] = {4, 8, 1, 1, 1, 4, 4};
  const std::string path = FuzzFolder() + "/model.bin";
  const std::string seed = Bytes(header, sizeof(header)) + std::string(4000, '\0');
  Fuzz("model.bin", {seed}, 300, [&](const std::string& input) {
    WriteFile(path, input);
    ExpectMessage(WeightSource::Open(path).status());
  });
}

}  // namespace
}  // namespace trireme
