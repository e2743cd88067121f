#include "worker/model/hugging_face_export.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <string_view>

#include "cluster/base/json.h"
#include "proto/config.pb.h"
#include "storage/element_conversion.h"
#include "storage/safetensors.h"
#include "worker/model/model_config.h"
#include "worker/model/weight_source.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBlockElements = 16 << 20;

constexpr char kShardName[] = "model-%05zu-of-%05zu.safetensors";
constexpr std::array<std::string_view, 8> kTokenizerFiles = {"tokenizer.json",
                                                             "tokenizer_config.json",
                                                             "special_tokens_map.json",
                                                             "added_tokens.json",
                                                             "vocab.json",
                                                             "merges.txt",
                                                             "tokenizer.model",
                                                             "chat_template.jinja"};

int64_t BytesOf(const TensorInfo& tensor, DType dtype) {
  return ElementCount(tensor.shape) * ByteSize(dtype);
}

DType CommonDType(const std::vector<TensorInfo>& tensors) {
  for (const TensorInfo& tensor : tensors) {
    const bool known = tensor.dtype == DType::kBF16 || tensor.dtype == DType::kF16;
    if (!known || tensor.dtype != tensors[0].dtype) return DType::kF32;
  }
  return tensors.empty() ? DType::kF32 : tensors[0].dtype;
}

Status WriteTensor(const WeightSource& source, const TensorInfo& tensor, DType dtype,
                   SafetensorsWriter* writer) {
  const int64_t rows = tensor.shape.empty() ? 1 : tensor.shape[0];
  const int64_t row_elements = rows == 0 ? 0 : ElementCount(tensor.shape) / rows;
  const int64_t block_rows =
      std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, row_elements));
  std::vector<float> values;
  std::vector<std::byte> converted;
  for (int64_t row = 0; row < rows; row += block_rows) {
    Box box = Box::Whole(tensor.shape);
    if (!tensor.shape.empty()) {
      box.offset[0] = row;
      box.extent[0] = std::min(block_rows, rows - row);
    }
    values.resize(static_cast<size_t>(box.elements()));
    RETURN_IF_ERROR(source.Read(tensor.name, tensor.shape, box, values.data()));
    const auto bytes = std::as_bytes(std::span<const float>(values));
    if (dtype == DType::kF32) {
      RETURN_IF_ERROR(writer->Append(bytes));
      continue;
    }
    converted.resize(values.size() * static_cast<size_t>(ByteSize(dtype)));
    ConvertElements(DType::kF32, bytes.data(), dtype, converted.data(), box.elements());
    RETURN_IF_ERROR(writer->Append(converted));
  }
  return OkStatus();
}

Status WriteFile(const WeightSource& source, const std::vector<TensorInfo>& tensors, DType dtype,
                 const std::string& key, ObjectStore& store) {
  std::vector<SafetensorsWriter::Tensor> declared;
  for (const TensorInfo& tensor : tensors) declared.push_back({tensor.name, dtype, tensor.shape});
  ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(store, key, declared));
  for (const TensorInfo& tensor : tensors) {
    RETURN_IF_ERROR(WriteTensor(source, tensor, dtype, writer.get()));
  }
  return writer->Commit();
}

// Tensors in name order, cut into files of at most shard_bytes_max.
std::vector<std::vector<TensorInfo>> Shards(const std::vector<TensorInfo>& tensors, DType dtype,
                                            int64_t shard_bytes_max) {
  std::vector<std::vector<TensorInfo>> shards(1);
  int64_t bytes = 0;
  for (const TensorInfo& tensor : tensors) {
    if (bytes + BytesOf(tensor, dtype) > shard_bytes_max && !shards.back().empty()) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(tensor);
    bytes += BytesOf(tensor, dtype);
  }
  return shards;
}

Status WriteWeights(const WeightSource& source, const HuggingFaceExportOptions& options,
                    ObjectStore& store, HuggingFaceExportReport* report) {
  std::vector<TensorInfo> tensors = source.tensors();
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  report->dtype = options.dtype.value_or(CommonDType(tensors));
  for (const TensorInfo& tensor : tensors) {
    report->tensors += 1;
    report->parameters += ElementCount(tensor.shape);
    report->bytes += BytesOf(tensor, report->dtype);
  }
  const auto shards = Shards(tensors, report->dtype, options.shard_bytes_max);
  report->files = static_cast<int64_t>(shards.size());
  if (shards.size() == 1) {
    return WriteFile(source, tensors, report->dtype, "model.safetensors", store);
  }
  Json index;
  index["metadata"]["total_size"] = report->bytes;
  for (size_t i = 0; i < shards.size(); ++i) {
    char key[64];
    snprintf(key, sizeof(key), kShardName, i + 1, shards.size());
    RETURN_IF_ERROR(WriteFile(source, shards[i], report->dtype, key, store));
    for (const TensorInfo& tensor : shards[i]) index["weight_map"][tensor.name] = key;
  }
  return PutText(store, "model.safetensors.index.json", DumpJson(index, 2) + "\n");
}

std::string GenerationConfig(const WeightSource& source) {
  Json json;
  json["_from_model_config"] = true;
  const proto::ModelConfig& config = source.config();
  if (config.bos_token_id() >= 0) json["bos_token_id"] = config.bos_token_id();
  if (config.eos_token_id() >= 0) json["eos_token_id"] = config.eos_token_id();
  if (config.pad_token_id() >= 0) json["pad_token_id"] = config.pad_token_id();
  return DumpJson(json, 2) + "\n";
}

Status CopyFile(const fs::path& from, const std::string& key, ObjectStore& store) {
  const std::string folder = from.has_parent_path() ? from.parent_path().string() : ".";
  ASSIGN_OR_RETURN(const std::string text,
                   ReadObject(*NewLocalStore(folder), from.filename().string()));
  return PutText(store, key, text);
}

// The text of a token among the added ones of a tokenizer.json.
std::string AddedToken(const Json& tokenizer, int64_t id) {
  if (!tokenizer.is_object() || !tokenizer.contains("added_tokens") ||
      !tokenizer["added_tokens"].is_array()) {
    return "";
  }
  for (const Json& token : tokenizer["added_tokens"]) {
    if (token.is_object() && token.value("id", int64_t{-1}) == id && token.contains("content") &&
        token["content"].is_string()) {
      return token["content"].get<std::string>();
    }
  }
  return "";
}

// Without a tokenizer_config.json, transformers would guess the class from the model's family.
Status WriteTokenizerConfig(const WeightSource& source, const std::string& tokenizer_text,
                            ObjectStore& store) {
  const Json tokenizer = ParseJson(tokenizer_text);
  const proto::ModelConfig& config = source.config();
  Json json;
  json["tokenizer_class"] = "PreTrainedTokenizerFast";
  json["model_max_length"] = config.max_position_embeddings();
  json["clean_up_tokenization_spaces"] = false;
  const std::string bos = AddedToken(tokenizer, config.bos_token_id());
  const std::string eos = AddedToken(tokenizer, config.eos_token_id());
  if (!bos.empty()) json["bos_token"] = bos;
  if (!eos.empty()) json["eos_token"] = eos;
  return PutText(store, "tokenizer_config.json", DumpJson(json, 2) + "\n");
}

// The tokenizer's files as the model brings them.
Status CopyTokenizer(const WeightSource& source, ObjectStore& store) {
  const std::string folder = source.hugging_face_folder();
  if (folder.empty()) {
    if (!source.tokenizer_path()) return OkStatus();
    const fs::path path = *source.tokenizer_path();
    return CopyFile(path, path.filename().string(), store);
  }
  for (const std::string_view name : kTokenizerFiles) {
    const fs::path path = fs::path(folder) / name;
    std::error_code ignored;
    if (fs::is_regular_file(path, ignored)) {
      RETURN_IF_ERROR(CopyFile(path, std::string(name), store));
    }
  }
  return OkStatus();
}

Status WriteTokenizer(const WeightSource& source, bool is_there, ObjectStore& store) {
  if (!is_there) RETURN_IF_ERROR(CopyTokenizer(source, store));
  const Result<std::string> text = ReadObject(store, "tokenizer.json");
  if (!text.ok() || ReadObject(store, "tokenizer_config.json").ok()) return OkStatus();
  return WriteTokenizerConfig(source, *text, store);
}

}  // namespace

bool IsExportedFile(const std::string& name) {
  for (const char* own : {"config.json", "generation_config.json", "model.safetensors",
                          "model.safetensors.index.json"}) {
    if (name == own) return true;
  }
  if (std::find(kTokenizerFiles.begin(), kTokenizerFiles.end(), name) != kTokenizerFiles.end()) {
    return true;
  }
  size_t shard = 0, shards = 0;
  char key[64];
  if (std::sscanf(name.c_str(), kShardName, &shard, &shards) != 2) return false;
  snprintf(key, sizeof(key), kShardName, shard, shards);
  return name == key;
}

Result<HuggingFaceExportReport> ExportHuggingFace(const WeightSource& source,
                                                  const HuggingFaceExportOptions& options,
                                                  ObjectStore& store) {
  HuggingFaceExportReport report;
  RETURN_IF_ERROR(WriteWeights(source, options, store, &report));
  RETURN_IF_ERROR(PutText(store, "config.json",
                          ToHuggingFaceConfigJson(source.config(), DTypeName(report.dtype))));
  RETURN_IF_ERROR(PutText(store, "generation_config.json", GenerationConfig(source)));
  RETURN_IF_ERROR(WriteTokenizer(source, options.has_tokenizer, store));
  return report;
}

}  // namespace trireme
