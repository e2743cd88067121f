#include "tests/worker_model_io/model_files.h"

#include <glog/logging.h>

#include <algorithm>
#include <fstream>

#include "cluster/base/rng.h"
#include "proto/config.pb.h"
#include "storage/element_conversion.h"
#include "storage/safetensors.h"
#include "worker/model/model_config.h"
#include "worker/model/model_shape.h"

namespace trireme {

proto::ModelConfig SmallLlama(bool tied) {
  proto::ModelConfig config;
  config.set_family("llama");
  config.set_vocab_size(29);
  config.set_hidden_size(16);
  config.set_intermediate_size(24);
  config.set_num_hidden_layers(2);
  config.set_num_attention_heads(4);
  config.set_num_key_value_heads(2);
  config.set_max_position_embeddings(32);
  config.set_rms_norm_eps(1e-5);
  config.set_tie_word_embeddings(tied);
  CHECK(FillModelDefaults(&config).ok());
  return config;
}

proto::ModelConfig SmallGpt2() {
  proto::ModelConfig config;
  config.set_family("gpt2");
  config.set_vocab_size(29);
  config.set_hidden_size(8);
  config.set_num_hidden_layers(2);
  config.set_num_attention_heads(2);
  config.set_max_position_embeddings(16);
  CHECK(FillModelDefaults(&config).ok());
  return config;
}

NamedTensors RandomWeights(const proto::ModelConfig& config) {
  NamedTensors tensors;
  for (const ParameterSpec& spec : ParameterSpecs(ModelShape::From(config), 1, 1)) {
    const CounterRng rng(3, RngUse::kTest, tensors.size());
    NamedTensor tensor{spec.published_shape, {}};
    for (int64_t i = 0; i < ElementCount(spec.published_shape); ++i) {
      tensor.values.push_back(ToFloat(ToBFloat16(rng.Normal(i))));
    }
    tensors[spec.name] = std::move(tensor);
  }
  return tensors;
}

void WriteSafetensors(ObjectStore& store, const std::string& key, const NamedTensors& tensors,
                      DType dtype) {
  std::vector<SafetensorsWriter::Tensor> declared;
  for (const auto& [name, tensor] : tensors) declared.push_back({name, dtype, tensor.shape});
  auto writer = SafetensorsWriter::Create(store, key, declared);
  CHECK(writer.ok()) << writer.status().message();
  for (const auto& [name, tensor] : tensors) {
    std::vector<std::byte> bytes(tensor.values.size() * ByteSize(dtype));
    ConvertElements(DType::kF32, std::as_bytes(std::span(tensor.values)).data(), dtype,
                    bytes.data(), static_cast<int64_t>(tensor.values.size()));
    CHECK((*writer)->Append(bytes).ok());
  }
  CHECK((*writer)->Commit().ok());
}

void WriteHuggingFace(const std::string& folder, const proto::ModelConfig& config,
                      const NamedTensors& tensors, DType dtype) {
  const auto store = NewLocalStore(folder);
  CHECK(PutText(*store, "config.json", ToHuggingFaceConfigJson(config)).ok());
  WriteSafetensors(*store, "model.safetensors", tensors, dtype);
}

// Numbers one after the other in a file.
class RawWriter {
 public:
  explicit RawWriter(const std::string& path) : file_(path, std::ios::binary) {}
  void Ints(const std::vector<int32_t>& values) { Write(values.data(), values.size() * 4); }
  void Floats(const std::vector<float>& values) {
    if (!bf16) return Write(values.data(), values.size() * 4);
    for (const float value : values) {
      const BFloat16 narrow = ToBFloat16(value);
      Write(&narrow, 2);
    }
  }
  bool bf16 = false;

 private:
  void Write(const void* data, size_t bytes) {
    file_.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  }
  std::ofstream file_;
};

// Rows of every head from halves (i, i + D/2) to pairs (2i, 2i + 1), as llama2.c wants them.
std::vector<float> ToPairs(const NamedTensor& tensor, int64_t heads) {
  const int64_t rows = tensor.shape[0], columns = tensor.shape[1], head_dim = rows / heads;
  std::vector<float> out(tensor.values.size());
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < head_dim / 2; ++i) {
      for (const int64_t half : {0, 1}) {
        const int64_t from = h * head_dim + half * head_dim / 2 + i;
        const int64_t to = h * head_dim + 2 * i + half;
        std::copy_n(&tensor.values[from * columns], columns, &out[to * columns]);
      }
    }
  }
  return out;
}

void WriteLlama2c(const std::string& path, const proto::ModelConfig& c,
                  const NamedTensors& tensors) {
  RawWriter out(path);
  const auto layers = static_cast<int32_t>(c.num_hidden_layers());
  const auto vocab = static_cast<int32_t>(c.vocab_size());
  const auto length = static_cast<int32_t>(c.max_position_embeddings());
  out.Ints({static_cast<int32_t>(c.hidden_size()), static_cast<int32_t>(c.intermediate_size()),
            layers, static_cast<int32_t>(c.num_attention_heads()),
            static_cast<int32_t>(c.num_key_value_heads()), c.tie_word_embeddings() ? vocab : -vocab,
            length});
  out.Floats(tensors.at("model.embed_tokens.weight").values);
  for (const std::string part : {"input_layernorm", "self_attn.q_proj", "self_attn.k_proj",
                                 "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
                                 "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"}) {
    for (int32_t layer = 0; layer < layers; ++layer) {
      const NamedTensor& tensor = tensors.at(StrCat("model.layers.", layer, ".", part, ".weight"));
      if (part == "self_attn.q_proj") {
        out.Floats(ToPairs(tensor, c.num_attention_heads()));
      } else if (part == "self_attn.k_proj") {
        out.Floats(ToPairs(tensor, c.num_key_value_heads()));
      } else {
        out.Floats(tensor.values);
      }
    }
  }
  out.Floats(tensors.at("model.norm.weight").values);
  out.Floats(std::vector<float>(length * c.head_dim(), 0.5f));
  if (!c.tie_word_embeddings()) out.Floats(tensors.at("lm_head.weight").values);
}

std::vector<float> Transposed(const NamedTensor& tensor) {
  const int64_t rows = tensor.shape[0], columns = tensor.shape[1];
  std::vector<float> out(tensor.values.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < columns; ++k) out[k * rows + r] = tensor.values[r * columns + k];
  }
  return out;
}

void WriteLlmc(const std::string& path, const proto::ModelConfig& c, const NamedTensors& tensors,
               int32_t version) {
  RawWriter out(path);
  const auto layers = static_cast<int32_t>(c.num_hidden_layers());
  const int32_t padded = 32;
  std::vector<int32_t> header(256, 0);
  const std::vector<int32_t> start = {20240326,
                                      version,
                                      static_cast<int32_t>(c.max_position_embeddings()),
                                      static_cast<int32_t>(c.vocab_size()),
                                      layers,
                                      static_cast<int32_t>(c.num_attention_heads()),
                                      static_cast<int32_t>(c.hidden_size()),
                                      padded};
  std::copy(start.begin(), start.end(), header.begin());
  out.Ints(header);
  out.bf16 = version == 5;
  std::vector<float> table = tensors.at("transformer.wte.weight").values;
  table.resize(padded * c.hidden_size(), 0.0f);
  out.Floats(table);
  out.Floats(tensors.at("transformer.wpe.weight").values);
  for (const std::string part :
       {"ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight",
        "attn.c_proj.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias",
        "mlp.c_proj.weight", "mlp.c_proj.bias"}) {
    for (int32_t layer = 0; layer < layers; ++layer) {
      const NamedTensor& tensor = tensors.at(StrCat("transformer.h.", layer, ".", part));
      out.Floats(tensor.shape.size() == 2 ? Transposed(tensor) : tensor.values);
    }
  }
  out.Floats(tensors.at("transformer.ln_f.weight").values);
  out.Floats(tensors.at("transformer.ln_f.bias").values);
}

void WriteInts(const std::string& path, const std::vector<int32_t>& values) {
  RawWriter(path).Ints(values);
}

}  // namespace trireme
