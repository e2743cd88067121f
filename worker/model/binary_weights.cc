// Models in one file of raw numbers: llama2.c's version 0 and llm.c's GPT-2.
#include <array>
#include <cstring>
#include <filesystem>
#include <map>

#include "proto/config.pb.h"
#include "storage/stored_box.h"
#include "worker/model/model_config.h"
#include "worker/model/weight_backend.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

enum class Reorder {
  kNone,
  kTranspose,    // stored [out, in], published [in, out]
  kRotaryPairs,  // rows of a head: stored as pairs (2i, 2i + 1), published as halves (i, i + D/2)
};

struct RawTensor {
  StoredBox stored;  // its box is the whole stored shape
  Shape published;   // may have fewer rows than are stored (padding)
  Reorder reorder = Reorder::kNone;
  int64_t heads = 0;  // kRotaryPairs
};

// Tensors that follow one another in a file; the offset of each is where the last one ended.
class RawFile final : public WeightBackend {
 public:
  explicit RawFile(const std::string& path, DType dtype, int64_t header_bytes)
      : path_(path),
        store_(NewLocalStore(
            fs::path(path).has_parent_path() ? fs::path(path).parent_path().string() : ".")),
        key_(fs::path(path).filename().string()),
        dtype_(dtype),
        end_(header_bytes) {}

  // `layers` tensors of one kind, stored one after the other; `name` has a '#' for the layer.
  void Add(const std::string& name, int64_t layers, const Shape& stored, Shape published = {},
           Reorder reorder = Reorder::kNone, int64_t heads = 0) {
    if (published.empty()) published = stored;
    for (int64_t layer = 0; layer < layers; ++layer) {
      std::string full = name;
      if (const size_t at = full.find('#'); at != std::string::npos) {
        full.replace(at, 1, std::to_string(layer));
      }
      const StoredBox box{key_, end_, dtype_, Box::Whole(stored), full};
      tensors_[full] = {box, published, reorder, heads};
      Skip(ElementCount(stored));
    }
  }
  void Skip(int64_t elements) { end_ += elements * ByteSize(dtype_); }

  Status CheckSize(const std::string& what) const {
    ASSIGN_OR_RETURN(const int64_t size, store_->Size(key_));
    if (size == end_) return OkStatus();
    return DataLossError(StrCat(path_, ": ", size, " bytes, expected ", end_, " by its header (",
                                what, ")", size < end_ ? ": truncated, or another format" : ""));
  }

  std::optional<TensorInfo> Find(std::string_view name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return std::nullopt;
    return TensorInfo{found->first, dtype_, found->second.published};
  }
  std::string PlaceOf(std::string_view) const override { return path_; }

  Status Read(std::string_view name, const Box& box, float* out) const override {
    const RawTensor& tensor = tensors_.find(name)->second;
    const StoredBox& stored = tensor.stored;
    auto* const bytes = reinterpret_cast<std::byte*>(out);
    if (tensor.reorder == Reorder::kNone) {
      return ReadStoredBox(*store_, stored, box, DType::kF32, box, bytes);
    }
    const int64_t rows = stored.box.extent[0], columns = stored.box.extent[1];
    std::vector<float> raw(rows * columns), ordered(rows * columns);
    RETURN_IF_ERROR(ReadStoredBox(*store_, stored, stored.box, DType::kF32, stored.box,
                                  reinterpret_cast<std::byte*>(raw.data())));
    if (tensor.reorder == Reorder::kTranspose) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c) ordered[c * rows + r] = raw[r * columns + c];
      }
    } else {
      const int64_t head_dim = rows / tensor.heads;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t head = r / head_dim, within = r % head_dim;
        const int64_t target = head * head_dim + within / 2 + within % 2 * (head_dim / 2);
        std::memcpy(&ordered[target * columns], &raw[r * columns], columns * sizeof(float));
      }
    }
    CopyRegion(box, Box::Whole(tensor.published),
               reinterpret_cast<const std::byte*>(ordered.data()), box, bytes, sizeof(float));
    return OkStatus();
  }

 private:
  std::string path_;
  std::unique_ptr<ObjectStore> store_;
  std::string key_;
  DType dtype_;
  int64_t end_;
  std::map<std::string, RawTensor, std::less<>> tensors_;
};

// Reads `count` little-endian int32 from the start of a file.
Result<std::vector<int64_t>> ReadHeader(const std::string& path, int count) {
  const auto parent = fs::path(path).parent_path().string();
  const auto store = NewLocalStore(parent.empty() ? "." : parent);
  std::vector<int32_t> numbers(count);
  RETURN_IF_ERROR(store->Read(fs::path(path).filename().string(), 0,
                              std::as_writable_bytes(std::span(numbers))));
  return std::vector<int64_t>(numbers.begin(), numbers.end());
}

struct HeaderField {
  const char* name;
  int64_t value;
};

// Bounds far beyond any model, within which no size below overflows.
Status CheckHeader(const std::string& path, std::initializer_list<HeaderField> fields) {
  for (const HeaderField& field : fields) {
    const int64_t max = std::strstr(field.name, "layers") != nullptr ? 1 << 12 : 1 << 22;
    if (field.value >= 1 && field.value <= max) continue;
    return DataLossError(
        StrCat(path, ": header: ", field.name, " is ", field.value, ", expected 1 to ", max));
  }
  return OkStatus();
}

}  // namespace

// https://github.com/karpathy/llama2.c, run.c and export.py: seven int32, then f32.
Result<std::unique_ptr<OpenedWeights>> OpenLlama2cWeights(const std::string& path) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> h, ReadHeader(path, 7));
  const int64_t dim = h[0], hidden = h[1], layers = h[2], heads = h[3], kv_heads = h[4];
  const int64_t vocab = std::abs(h[5]), length = h[6];
  const bool tied = h[5] > 0;
  RETURN_IF_ERROR(CheckHeader(path, {{"dim", dim},
                                     {"hidden_dim", hidden},
                                     {"n_layers", layers},
                                     {"n_heads", heads},
                                     {"n_kv_heads", kv_heads},
                                     {"vocab_size", vocab},
                                     {"seq_len", length}}));
  if (dim % heads != 0 || heads % kv_heads != 0 || dim / heads % 2 != 0) {
    return DataLossError(StrCat(path, ": header: dim ", dim, ", n_heads ", heads, ", n_kv_heads ",
                                kv_heads,
                                ": expected each to divide the one before, and an even "
                                "dim of a head"));
  }
  auto opened = std::make_unique<OpenedWeights>();
  proto::ModelConfig& config = *opened->config;
  config.set_family("llama");
  config.set_vocab_size(vocab);
  config.set_hidden_size(dim);
  config.set_intermediate_size(hidden);
  config.set_num_hidden_layers(layers);
  config.set_num_attention_heads(heads);
  config.set_num_key_value_heads(kv_heads);
  config.set_max_position_embeddings(length);
  config.set_rms_norm_eps(1e-5);
  config.set_rope_theta(10000.0);
  config.set_tie_word_embeddings(tied);
  if (vocab > 2) {  // SentencePiece's ids, which every llama2.c tokenizer has
    config.set_bos_token_id(1);
    config.set_eos_token_id(2);
    opened->end_ids = {1, 2};  // run.c stops at either
  }
  RETURN_IF_ERROR(FinishModelConfig(path, &config));

  auto file = std::make_unique<RawFile>(path, DType::kF32, 7 * sizeof(int32_t));
  const std::string at = "model.layers.#.";
  const int64_t head_dim = dim / heads, kv = kv_heads * head_dim;
  file->Add("model.embed_tokens.weight", 1, {vocab, dim});
  file->Add(at + "input_layernorm.weight", layers, {dim});
  file->Add(at + "self_attn.q_proj.weight", layers, {dim, dim}, {}, Reorder::kRotaryPairs, heads);
  file->Add(at + "self_attn.k_proj.weight", layers, {kv, dim}, {}, Reorder::kRotaryPairs, kv_heads);
  file->Add(at + "self_attn.v_proj.weight", layers, {kv, dim});
  file->Add(at + "self_attn.o_proj.weight", layers, {dim, dim});
  file->Add(at + "post_attention_layernorm.weight", layers, {dim});
  file->Add(at + "mlp.gate_proj.weight", layers, {hidden, dim});
  file->Add(at + "mlp.down_proj.weight", layers, {dim, hidden});
  file->Add(at + "mlp.up_proj.weight", layers, {hidden, dim});
  file->Add("model.norm.weight", 1, {dim});
  file->Skip(length * head_dim);  // tables of cosines and sines, computed here instead
  if (!tied) file->Add("lm_head.weight", 1, {vocab, dim});
  RETURN_IF_ERROR(file->CheckSize("llama2.c, version 0"));
  opened->training_length = length;
  opened->backend = std::move(file);
  return opened;
}

// https://github.com/karpathy/llm.c, train_gpt2.py write_model: 256 int32, then f32 (version 3) or
// bf16 (version 5); linear layers as [out, in], the vocabulary padded.
Result<std::unique_ptr<OpenedWeights>> OpenLlmcWeights(const std::string& path) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> h, ReadHeader(path, 256));
  const int64_t version = h[1], length = h[2], vocab = h[3], layers = h[4], heads = h[5];
  const int64_t dim = h[6], padded = h[7];
  if (version != 3 && version != 5) {
    return DataLossError(StrCat(path, ": llm.c model of version ", version,
                                ", expected 3 (float32) or 5 (bfloat16)"));
  }
  RETURN_IF_ERROR(CheckHeader(path, {{"max_seq_len", length},
                                     {"vocab_size", vocab},
                                     {"num_layers", layers},
                                     {"num_heads", heads},
                                     {"channels", dim},
                                     {"padded_vocab_size", padded}}));
  if (padded < vocab) {
    return DataLossError(StrCat(path, ": header: padded_vocab_size is ", padded,
                                ", expected at least vocab_size (", vocab, ")"));
  }
  auto opened = std::make_unique<OpenedWeights>();
  proto::ModelConfig& config = *opened->config;
  config.set_family("gpt2");
  config.set_vocab_size(vocab);
  config.set_hidden_size(dim);
  config.set_num_hidden_layers(layers);
  config.set_num_attention_heads(heads);
  config.set_max_position_embeddings(length);
  config.set_tie_word_embeddings(true);
  RETURN_IF_ERROR(FinishModelConfig(path, &config));
  if (config.eos_token_id() >= 0) {
    opened->end_ids.push_back(static_cast<int32_t>(config.eos_token_id()));
  }

  auto file = std::make_unique<RawFile>(path, version == 3 ? DType::kF32 : DType::kBF16,
                                        256 * sizeof(int32_t));
  const std::string at = "transformer.h.#.";
  const auto linear = [&](const std::string& name, int64_t in, int64_t out) {
    file->Add(at + name, layers, {out, in}, {in, out}, Reorder::kTranspose);
  };
  file->Add("transformer.wte.weight", 1, {padded, dim}, {vocab, dim});
  file->Add("transformer.wpe.weight", 1, {length, dim});
  file->Add(at + "ln_1.weight", layers, {dim});
  file->Add(at + "ln_1.bias", layers, {dim});
  linear("attn.c_attn.weight", dim, 3 * dim);
  file->Add(at + "attn.c_attn.bias", layers, {3 * dim});
  linear("attn.c_proj.weight", dim, dim);
  file->Add(at + "attn.c_proj.bias", layers, {dim});
  file->Add(at + "ln_2.weight", layers, {dim});
  file->Add(at + "ln_2.bias", layers, {dim});
  linear("mlp.c_fc.weight", dim, 4 * dim);
  file->Add(at + "mlp.c_fc.bias", layers, {4 * dim});
  linear("mlp.c_proj.weight", 4 * dim, dim);
  file->Add(at + "mlp.c_proj.bias", layers, {dim});
  file->Add("transformer.ln_f.weight", 1, {dim});
  file->Add("transformer.ln_f.bias", 1, {dim});
  RETURN_IF_ERROR(file->CheckSize(StrCat("llm.c, version ", version)));
  opened->training_length = length;
  opened->backend = std::move(file);
  return opened;
}

}  // namespace trireme
