// Models in folders: checkpoints of runs, and Hugging Face's layout.
#include <filesystem>
#include <map>

#include "cluster/base/json.h"
#include "proto/config.pb.h"
#include "proto/manifest.pb.h"
#include "storage/safetensors.h"
#include "worker/model/model_config.h"
#include "worker/model/weight_backend.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

std::byte* Bytes(float* out) { return reinterpret_cast<std::byte*>(out); }

class CheckpointWeights final : public WeightBackend {
 public:
  explicit CheckpointWeights(OpenedCheckpoint checkpoint) : checkpoint_(std::move(checkpoint)) {}

  std::optional<TensorInfo> Find(std::string_view name) const override {
    return checkpoint_.reader->Find(name);
  }
  Status Read(std::string_view name, const Box& box, float* out) const override {
    return checkpoint_.reader->Load(name, Find(name)->shape, box, DType::kF32, Bytes(out));
  }
  std::string PlaceOf(std::string_view) const override {
    return StrCat(checkpoint_.location.store_url, "@", checkpoint_.reader->step());
  }

 private:
  OpenedCheckpoint checkpoint_;
};

class HuggingFaceWeights final : public WeightBackend {
 public:
  explicit HuggingFaceWeights(const std::string& folder) : store_(NewLocalStore(folder)) {}

  Status Open() {
    auto opened = SafetensorsFolder::Open(*store_);
    if (opened.status().code() == StatusCode::kNotFound) {
      return DataLossError(opened.status().message());
    }
    RETURN_IF_ERROR(opened.status());
    folder_ = std::move(opened).value();
    return OkStatus();
  }
  std::optional<TensorInfo> Find(std::string_view name) const override {
    const SafetensorsTensor* tensor = folder_->Find(name);
    if (tensor == nullptr) return std::nullopt;
    // Types without a DType cannot be converted, as integers cannot.
    return TensorInfo{tensor->name, tensor->dtype.value_or(DType::kU8), tensor->shape};
  }
  Status Read(std::string_view name, const Box& box, float* out) const override {
    return folder_->Read(name, box, DType::kF32, Bytes(out));
  }
  std::string PlaceOf(std::string_view name) const override { return folder_->PlaceOf(name); }
  const ObjectStore& store() const { return *store_; }

 private:
  std::unique_ptr<ObjectStore> store_;
  std::unique_ptr<SafetensorsFolder> folder_;
};

// A tokenizer among the files of a folder.
std::optional<std::string> FindTokenizer(const std::string& folder) {
  std::error_code ignored;
  const auto has = [&](const char* name) { return fs::exists(fs::path(folder) / name, ignored); };
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    if (has(name)) return (fs::path(folder) / name).string();
  }
  if (has("vocab.json") && has("merges.txt")) return folder;
  return std::nullopt;
}

// eos_token_id of generation_config.json, a number or a list; else the configuration's.
std::vector<int32_t> EndIds(const ObjectStore& store, const proto::ModelConfig& config) {
  std::vector<int32_t> ids;
  const Result<std::string> text = ReadObject(store, "generation_config.json", 1 << 20);
  if (text.ok()) {
    const SortedJson json = ParseSortedJson(*text);
    if (json.is_object() && json.contains("eos_token_id")) {
      const SortedJson& eos = json["eos_token_id"];
      const SortedJson list = eos.is_array() ? eos : SortedJson::array({eos});
      for (const SortedJson& id : list) {
        if (id.is_number_integer()) ids.push_back(id.get<int32_t>());
      }
    }
  }
  if (ids.empty() && config.eos_token_id() >= 0) {
    ids.push_back(static_cast<int32_t>(config.eos_token_id()));
  }
  return ids;
}

// Ids of the added tokens of a tokenizer.json by their text; empty for other tokenizers.
std::map<std::string, int64_t> AddedTokens(const std::string& path) {
  std::map<std::string, int64_t> tokens;
  if (!path.ends_with("tokenizer.json")) return tokens;
  const Result<std::string> text =
      ReadObject(*NewLocalStore(fs::path(path).parent_path().string()), "tokenizer.json");
  if (!text.ok()) return tokens;
  const SortedJson json = ParseSortedJson(*text);
  if (!json.is_object() || !json.contains("added_tokens")) return tokens;
  for (const SortedJson& token : json["added_tokens"]) {
    if (token.is_object() && token.contains("id") && token["id"].is_number_integer() &&
        token.contains("content") && token["content"].is_string()) {
      tokens[token["content"].get<std::string>()] = token["id"].get<int64_t>();
    }
  }
  return tokens;
}

// A family's default ids mean tokens of its own vocabulary. In a run with a vocabulary of its own
// they may be any token: there the tokenizer says which token ends a text.
void TakeIdsFromTokenizer(const std::string& path, proto::ModelConfig* config) {
  const std::map<std::string, int64_t> tokens = AddedTokens(path);
  if (tokens.empty()) return;
  const auto is_added = [&](int64_t id) {
    for (const auto& [text, added] : tokens) {
      if (added == id) return true;
    }
    return false;
  };
  const auto first_of = [&](std::initializer_list<const char*> texts) {
    for (const char* text : texts) {
      const auto found = tokens.find(text);
      if (found != tokens.end() && found->second < config->vocab_size()) return found->second;
    }
    return int64_t{-1};
  };
  if (!is_added(config->eos_token_id())) {
    config->set_eos_token_id(first_of({"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"}));
  }
  if (!is_added(config->bos_token_id())) {
    config->set_bos_token_id(first_of({"<|begin_of_text|>", "<s>", "<bos>"}));
  }
  if (!is_added(config->pad_token_id())) config->set_pad_token_id(-1);
}

}  // namespace

Result<std::unique_ptr<OpenedWeights>> OpenCheckpointWeights(const std::string& model) {
  ASSIGN_OR_RETURN(OpenedCheckpoint checkpoint, OpenCheckpoint(model));
  auto opened = std::make_unique<OpenedWeights>();
  const proto::Manifest& manifest = checkpoint.reader->manifest();
  proto::ModelConfig& config = *opened->config;
  config = manifest.config().model();
  config.clear_from();
  opened->step = checkpoint.reader->step();
  opened->set_aside = checkpoint.set_aside;
  const std::string place = StrCat(checkpoint.location.store_url, "@", *opened->step);
  RETURN_IF_ERROR(FinishModelConfig(place, &config));
  opened->training_length = manifest.config().data().has_sequence_length()
                                ? manifest.config().data().sequence_length()
                                : config.max_position_embeddings();
  if (!checkpoint.location.run_dir.empty()) {
    opened->tokenizer_path = FindTokenizer(checkpoint.location.run_dir);
  }
  if (opened->tokenizer_path) TakeIdsFromTokenizer(*opened->tokenizer_path, &config);
  if (config.eos_token_id() >= 0) {
    opened->end_ids.push_back(static_cast<int32_t>(config.eos_token_id()));
  }
  opened->backend = std::make_unique<CheckpointWeights>(std::move(checkpoint));
  return opened;
}

Result<std::unique_ptr<OpenedWeights>> OpenHuggingFaceWeights(const std::string& folder) {
  auto opened = std::make_unique<OpenedWeights>();
  auto backend = std::make_unique<HuggingFaceWeights>(folder);
  ASSIGN_OR_RETURN(const std::string json, ReadObject(backend->store(), "config.json", 1 << 24));
  proto::ModelConfig& config = *opened->config;
  ASSIGN_OR_RETURN(config, ParseHuggingFaceConfig(json, backend->store().Describe("config.json")));
  RETURN_IF_ERROR(backend->Open());
  opened->training_length = config.max_position_embeddings();
  opened->end_ids = EndIds(backend->store(), config);
  opened->tokenizer_path = FindTokenizer(folder);
  opened->hugging_face_folder = folder;
  opened->backend = std::move(backend);
  return opened;
}

}  // namespace trireme
