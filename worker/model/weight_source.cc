#include "worker/model/weight_source.h"

#include <cmath>
#include <filesystem>
#include <fstream>

#include "proto/config.pb.h"
#include "storage/element_conversion.h"
#include "storage/stored_box.h"
#include "worker/model/model_config.h"
#include "worker/model/model_shape.h"
#include "worker/model/weight_backend.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

// The names that a parameter may be stored under: base models are saved without the prefix.
std::vector<std::string> StoredNames(const std::string& name) {
  std::vector<std::string> names = {name};
  for (const std::string prefix : {"transformer.", "model."}) {
    if (name.starts_with(prefix)) names.push_back(name.substr(prefix.size()));
  }
  return names;
}

// First bytes of a file, as a number; 0 when it is shorter.
int32_t FirstInt(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  int32_t value = 0;
  file.read(reinterpret_cast<char*>(&value), sizeof(value));
  return file ? value : 0;
}

Result<std::unique_ptr<OpenedWeights>> OpenFile(const std::string& path) {
  constexpr int32_t kGgufMagic = 0x46554747;     // "GGUF"
  constexpr int32_t kLlama2cMagic = 0x616b3432;  // "ak42", versions 1 and 2
  const int32_t first = FirstInt(path);
  if (first == kGgufMagic || path.ends_with(".gguf")) {
    return NotBuiltError(StrCat(path, ": reading .gguf is not built yet"));
  }
  if (first == kLlmcMagic) return OpenLlmcWeights(path);
  if (first == kLlama2cMagic) {
    return NotBuiltError(StrCat(path, ": llama2.c files of version 1 and 2 are not built yet"));
  }
  if (path.ends_with(".bin")) return OpenLlama2cWeights(path);
  return DataLossError(StrCat(path,
                              ": expected a model: a folder with config.json and "
                              "safetensors, a run, a checkpoint, or a .bin file"));
}

Result<std::unique_ptr<OpenedWeights>> OpenAny(const std::string& model) {
  if (model.empty()) return InvalidArgumentError("the model is empty: expected a path");
  std::string path = WithoutFileScheme(model);
  if (path.find("://") != std::string::npos) return OpenCheckpointWeights(model);
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) return OpenFile(path);
  if (fs::exists(fs::path(path) / "config.json", ignored)) return OpenHuggingFaceWeights(path);
  RETURN_IF_ERROR(CheckStepOf(model));
  const CheckpointLocation location = LocateCheckpoint(model);
  if (!location.step && location.run_dir.empty()) {
    if (!fs::exists(path, ignored)) {
      return DataLossError(StrCat("model ", model, ": no such file or folder"));
    }
    bool has_steps = false;
    for (const auto& entry : fs::directory_iterator(path, ignored)) {
      has_steps |= entry.path().filename().string().starts_with("step_");
    }
    if (!has_steps) {
      return DataLossError(StrCat("model ", model, ": no config.json, no checkpoints"));
    }
  }
  return OpenCheckpointWeights(model);
}

// "[3, 17]" of the n-th element of a box.
std::string IndexText(const Box& box, int64_t n) {
  Shape index(box.rank());
  for (int d = box.rank() - 1; d >= 0; --d) {
    index[d] = box.offset[d] + n % box.extent[d];
    n /= box.extent[d];
  }
  return ShapeToString(index);
}

}  // namespace

Status FinishModelConfig(const std::string& path, proto::ModelConfig* config) {
  const Status filled = FillModelDefaults(config);
  if (filled.code() == StatusCode::kNotBuilt) return filled.WithContext(path);
  if (!filled.ok()) return DataLossError(StrCat(path, ": ", filled.message()));
  if (const auto problem = FindModelProblem(*config)) {
    const std::string text = StrCat(path, ": ", problem->ToString());
    return problem->code == StatusCode::kNotBuilt ? NotBuiltError(text) : DataLossError(text);
  }
  return OkStatus();
}

OpenedWeights::OpenedWeights() : config(std::make_unique<proto::ModelConfig>()) {}
OpenedWeights::~OpenedWeights() = default;

WeightSource::WeightSource(std::unique_ptr<OpenedWeights> opened) : opened_(std::move(opened)) {}
WeightSource::~WeightSource() = default;

Result<std::unique_ptr<WeightSource>> WeightSource::Open(const std::string& model) {
  ASSIGN_OR_RETURN(std::unique_ptr<OpenedWeights> opened, OpenAny(model));
  std::unique_ptr<WeightSource> source(new WeightSource(std::move(opened)));
  RETURN_IF_ERROR(source->CheckTensors());
  return source;
}

// Compares what is stored with what the model needs.
Status WeightSource::CheckTensors() {
  const WeightBackend& backend = *opened_->backend;
  for (const ParameterSpec& spec : ParameterSpecs(ModelShape::From(*opened_->config), 1, 1)) {
    std::optional<TensorInfo> info;
    std::string stored;
    for (const std::string& name : StoredNames(spec.name)) {
      if (info) break;
      info = backend.Find(name);
      stored = name;
    }
    const std::string what = StrCat(backend.PlaceOf(stored), ": tensor ", spec.name);
    if (!info) {
      return DataLossError(
          StrCat(what, " is missing, expected ", ShapeToString(spec.published_shape)));
    }
    if (info->shape != spec.published_shape) {
      return DataLossError(StrCat(what, " is ", ShapeToString(info->shape), ", expected ",
                                  ShapeToString(spec.published_shape),
                                  " by the model's configuration"));
    }
    if (!CanConvert(info->dtype, DType::kF32)) {
      return DataLossError(
          StrCat(what, " is ", DTypeName(info->dtype), ", expected a floating-point type"));
    }
    index_[spec.name] = index_[stored] = tensors_.size();
    tensors_.push_back({spec.name, info->dtype, info->shape});
    stored_names_.push_back(stored);
  }
  if (opened_->config->tie_word_embeddings()) index_.emplace("lm_head.weight", 0);
  return OkStatus();
}

const proto::ModelConfig& WeightSource::config() const { return *opened_->config; }
std::vector<TensorInfo> WeightSource::tensors() const { return tensors_; }

std::optional<std::string> WeightSource::tokenizer_path() const { return opened_->tokenizer_path; }
std::vector<int32_t> WeightSource::end_ids() const { return opened_->end_ids; }
int64_t WeightSource::training_length() const { return opened_->training_length; }
std::optional<int64_t> WeightSource::step() const { return opened_->step; }
const std::vector<std::string>& WeightSource::set_aside() const { return opened_->set_aside; }
std::string WeightSource::hugging_face_folder() const { return opened_->hugging_face_folder; }

const TensorInfo* WeightSource::Find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

Status WeightSource::Read(const std::string& name, const Box& box, float* out) const {
  const TensorInfo* info = Find(name);
  return Read(name, info == nullptr ? Shape() : info->shape, box, out);
}

Status WeightSource::Read(const std::string& name, const Shape& view_shape, const Box& box,
                          float* out) const {
  const WeightBackend& backend = *opened_->backend;
  const TensorInfo* info = Find(name);
  if (info == nullptr) return DataLossError(StrCat(backend.PlaceOf(name), ": no tensor ", name));
  if (!IsViewOf(view_shape, info->shape)) {
    return DataLossError(StrCat(backend.PlaceOf(name), ": tensor ", name, " is ",
                                ShapeToString(info->shape), ", expected ",
                                ShapeToString(view_shape)));
  }
  CHECK(Box::Whole(view_shape).Contains(box)) << name << " " << box.ToString();
  const std::string& stored = stored_names_[static_cast<size_t>(info - tensors_.data())];
  const std::vector<ViewedBox> parts = PublishedBoxes(view_shape, info->shape, box);
  std::vector<float> scratch;
  for (const ViewedBox& part : parts) {
    float* target = out;
    if (parts.size() > 1) {
      scratch.resize(static_cast<size_t>(part.view.elements()));
      target = scratch.data();
    }
    RETURN_IF_ERROR(backend.Read(stored, part.published, target));
    const auto bytes = std::as_bytes(std::span(target, part.view.elements()));
    if (const auto bad = FindNonFinite(DType::kF32, bytes.data(), part.view.elements())) {
      return DataLossError(StrCat(backend.PlaceOf(stored), ": tensor ", name,
                                  IndexText(part.published, *bad), " is ", target[*bad],
                                  ", expected a finite number"));
    }
    if (parts.size() > 1) {
      CopyRegion(part.view, part.view, bytes.data(), box,
                 std::as_writable_bytes(std::span(out, box.elements())).data(), sizeof(float));
    }
  }
  return OkStatus();
}

}  // namespace trireme
