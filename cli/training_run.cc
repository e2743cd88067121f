#include "cli/training_run.h"

#include <google/protobuf/message.h>
#include <google/protobuf/text_format.h>

#include <filesystem>

#include "cli/config_loader.h"
#include "cluster/base/version.h"
#include "cluster/device/gpu_info.h"
#include "proto/config.pb.h"
#include "proto/manifest.pb.h"
#include "storage/checkpoint_location.h"
#include "storage/checkpoint_reader.h"
#include "storage/checkpoint_writer.h"
#include "storage/object_store.h"
#include "storage/output_file.h"
#include "storage/token_file.h"
#include "worker/kernels/matmul.h"
#include "worker/model/model_config.h"
#include "worker/model/weight_source.h"
#include "worker/text/tokenizer.h"
#include "worker/training/data_feed.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Keys that may change from one start of a run to the next, with all below them.
bool MayChange(const std::string& key) {
  for (const char* free :
       {"run.dir", "layout", "device", "threads", "precision.compute", "lr_schedule.steps",
        "checkpoint", "validation", "recovery", "model.from", "model.preset"}) {
    if (key == free) return true;
  }
  return false;
}

std::string ValueOf(const Message& message, const FieldDescriptor* field) {
  const auto* reflection = message.GetReflection();
  if (!field->is_repeated() && !reflection->HasField(message, field)) return "(not set)";
  std::string text;
  google::protobuf::TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  if (!field->is_repeated()) {
    printer.PrintFieldValueToString(message, field, -1, &text);
    return text;
  }
  for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
    std::string element;
    printer.PrintFieldValueToString(message, field, i, &element);
    text += (i ? ", " : "") + element;
  }
  return "[" + text + "]";
}

std::string Difference(const Message& recorded, const Message& wanted, const std::string& prefix) {
  const auto* descriptor = recorded.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    const std::string key = prefix + field->name();
    if (MayChange(key)) continue;
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field->is_repeated()) {
      const std::string inner =
          Difference(recorded.GetReflection()->GetMessage(recorded, field),
                     wanted.GetReflection()->GetMessage(wanted, field), key + ".");
      if (!inner.empty()) return inner;
      continue;
    }
    const std::string was = ValueOf(recorded, field), is = ValueOf(wanted, field);
    if (was != is) return StrCat(key, ": ", is, ", but the run's checkpoint has ", was);
  }
  return "";
}

Status CheckFresh(const std::string& dir) {
  std::error_code error;
  if (!fs::exists(dir, error) || fs::is_empty(dir, error)) return OkStatus();
  return InvalidArgumentError(
      StrCat("--fresh: ", dir, " is not empty: expected a new run.dir (--set run.dir=NEW)"));
}

// The newest checkpoint that verifies goes into `run`, and what it fixes into `config`.
Status FindCheckpoint(const proto::Config& config, TrainingRun* run,
                      std::unique_ptr<proto::Manifest>* recorded) {
  const std::string& url = config.checkpoint().store();
  ASSIGN_OR_RETURN(const std::unique_ptr<ObjectStore> store, OpenStore(url));
  std::vector<std::string> skipped;
  const auto newest = OpenNewestCheckpoint(*store, &skipped);
  run->set_aside = skipped;
  if (!newest.ok()) {
    return newest.status().code() == StatusCode::kNotFound ? OkStatus() : newest.status();
  }
  const CheckpointReader& reader = *newest.value();
  run->start_step = reader.step();
  run->checkpoint = StrCat(url, "@", reader.step());
  run->label_tokens = reader.manifest().data_cursor().label_tokens();
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListCheckpoints(*store));
  for (int64_t step : steps) {
    if (step <= reader.step()) run->checkpoints.push_back(step);
  }
  *recorded = std::make_unique<proto::Manifest>(reader.manifest());
  return OkStatus();
}

// A run whose checkpoints are in another store than the one now asked for would begin again, over
// its own metrics.
Status CheckStore(const proto::Config& config) {
  const std::string& dir = config.run().dir();
  const CheckpointLocation before = LocateCheckpoint(dir);
  if (before.run_dir != dir || before.store_url == config.checkpoint().store()) return OkStatus();
  const auto store = OpenStore(before.store_url);
  if (!store.ok()) return OkStatus();
  const auto steps = ListCheckpoints(**store);
  if (!steps.ok() || steps->empty()) return OkStatus();
  return InvalidArgumentError(StrCat(
      "checkpoint.store: ", config.checkpoint().store(), " holds no checkpoint, but ", dir,
      " has those of ", steps->size(), steps->size() == 1 ? " step" : " steps", " in ",
      before.store_url, ": expected that store, a copy of it (trireme checkpoint copy), or a new ",
      "run.dir"));
}

}  // namespace

std::string FirstFixedDifference(const proto::Config& recorded, const proto::Config& wanted) {
  return Difference(recorded, wanted, "");
}

std::vector<std::string> EndedPromises(const proto::Manifest& recorded,
                                       const proto::Config& wanted) {
  std::vector<std::string> reasons;
  const auto compare = [&](const char* what, const auto& was, const auto& is) {
    if (was == is) return;
    reasons.push_back(StrCat("equal bits with the run up to step ", recorded.step(),
                             " are no longer promised: ", what, " was ", was, " and is ", is));
  };
  const proto::Config& config = recorded.config();
  compare("layout.tensor", config.layout().tensor(), wanted.layout().tensor());
  compare("layout.context", config.layout().context(), wanted.layout().context());
  compare("device", config.device(), wanted.device());
  compare("precision.compute", config.precision().compute(), wanted.precision().compute());
  compare("the instruction set", recorded.instruction_set(), std::string(InstructionSet()));
  compare("the library", recorded.product_library(), std::string(MatMulLibrary()));
  return reasons;
}

Status ResolveModel(proto::Config* config) {
  if (config->model().from().empty()) return OkStatus();
  ASSIGN_OR_RETURN(const auto source, WeightSource::Open(config->model().from()));
  return ResolveModelFrom(source->config(), config->mutable_model());
}

namespace {

// Where the run's tokenizer is: as configured, or what the token files were made with; or empty.
std::string TokenizerPath(const proto::Config& config) {
  if (!config.data().tokenizer().empty() || config.data().train_size() == 0) {
    return config.data().tokenizer();
  }
  const auto file = TokenFile::Open(config.data().train(0).path());
  return file.ok() ? file.value()->info().tokenizer_path : "";
}

// The default ids of a family or a preset are tokens of its own vocabulary. A new model speaks its
// tokenizer's.
Status TakeTokenIds(proto::Config* config) {
  proto::ModelConfig* model = config->mutable_model();
  if (!model->from().empty()) return OkStatus();
  if (model->has_bos_token_id() && model->has_eos_token_id()) return OkStatus();
  const std::string path = TokenizerPath(*config);
  if (path.empty() || !fs::exists(path)) return OkStatus();
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(path));
  const int32_t end = tokenizer->end_of_text().value_or(-1);
  // GPT-2 begins a text with the token that ends one.
  const int32_t begin = tokenizer->bos().value_or(model->family() == "gpt2" ? end : -1);
  if (!model->has_bos_token_id()) model->set_bos_token_id(begin);
  if (!model->has_eos_token_id()) model->set_eos_token_id(end);
  return OkStatus();
}

void SettleDevice(bool gpus, proto::Config* config) {
  if (!config->device().empty() && config->device() != "auto") return;
  config->set_device(gpus ? "cuda" : "cpu");
}

// `trained_on`: fingerprints of the files up to the checkpoint, or none.
Status LookAtData(const proto::Config& config, const std::vector<std::string>& trained_on,
                  TrainingRun* run) {
  ASSIGN_OR_RETURN(const auto feed, DataFeed::Open(config));
  RETURN_IF_ERROR(feed->CheckVocabulary());
  run->train_data = feed->TrainFingerprints();
  for (size_t i = 0; i < trained_on.size() && i < run->train_data.size(); ++i) {
    if (trained_on[i] == run->train_data[i]) continue;
    return InvalidArgumentError(
        StrCat("data.train: ", config.data().train(static_cast<int>(i)).path(),
               " holds other tokens than those that the run's checkpoint was trained on: expected ",
               "fingerprint ", trained_on[i], ", found ", run->train_data[i],
               "; changed data need a new run.dir (--set run.dir=NEW)"));
  }
  return OkStatus();
}

// What is not said is as it was recorded.
void KeepTokenIds(const proto::ModelConfig& recorded, proto::ModelConfig* model) {
  if (!model->has_bos_token_id()) model->set_bos_token_id(recorded.bos_token_id());
  if (!model->has_eos_token_id()) model->set_eos_token_id(recorded.eos_token_id());
}

}  // namespace

Result<std::shared_ptr<proto::Config>> LoadFilledConfig(const RunFileOptions& file) {
  ASSIGN_OR_RETURN(std::unique_ptr<proto::Config> loaded, LoadConfig(file.path, file.overrides));
  std::shared_ptr<proto::Config> config(std::move(loaded));
  SettleDevice(Gpus().ok(), config.get());
  RETURN_IF_ERROR(ResolveModel(config.get()));
  RETURN_IF_ERROR(FillDefaults(config.get()));
  RETURN_IF_ERROR(ValidateConfig(*config));
  return config;
}

Result<TrainingRun> PrepareTraining(const RunFileOptions& file, bool fresh, bool gpus) {
  ASSIGN_OR_RETURN(std::unique_ptr<proto::Config> loaded, LoadConfig(file.path, file.overrides));
  std::shared_ptr<proto::Config> config(std::move(loaded));
  SettleDevice(gpus, config.get());
  TrainingRun run;
  bool goes_on = false;
  std::vector<std::string> trained_on;
  {
    proto::Config named = *config;  // where the run's folder and store are
    named.mutable_model()->clear_from();
    if (named.model().family().empty() && named.model().preset().empty()) {
      named.mutable_model()->set_preset("llama-5m");  // only paths are read from this copy
    }
    RETURN_IF_ERROR(FillDefaults(&named));
    if (fresh) RETURN_IF_ERROR(CheckFresh(named.run().dir()));
    std::unique_ptr<proto::Manifest> manifest;
    RETURN_IF_ERROR(FindCheckpoint(named, &run, &manifest));
    if (manifest == nullptr) RETURN_IF_ERROR(CheckStore(named));
    if (manifest != nullptr) {
      goes_on = true;
      const auto& files = manifest->data_cursor().train_data();
      trained_on.assign(files.begin(), files.end());
      const proto::Config* recorded = &manifest->config();
      // The order of sums stays what it was, whatever the width is now.
      if (config->batch().sum_leaves().empty() || config->batch().sum_leaves() == "auto") {
        config->mutable_batch()->set_sum_leaves(recorded->batch().sum_leaves());
      }
      // The model is the checkpoint's: where it began is asked for no more, and may be gone.
      if (!config->model().from().empty()) {
        const std::string from = config->model().from();
        *config->mutable_model() = recorded->model();
        if (from != recorded->model().from()) {
          return InvalidArgumentError(
              StrCat(file.path, ": model.from: ", from, ", but the run's checkpoint began ",
                     recorded->model().from().empty() ? "from scratch"
                                                      : "from " + recorded->model().from(),
                     "; a changed run needs a new run.dir (--set run.dir=NEW)"));
        }
      }
      KeepTokenIds(recorded->model(), config->mutable_model());
      RETURN_IF_ERROR(FillDefaults(config.get()));
      const std::string difference = FirstFixedDifference(*recorded, *config);
      if (!difference.empty()) {
        return InvalidArgumentError(StrCat(file.path, ": ", difference,
                                           "; a changed run needs a new run.dir (--set "
                                           "run.dir=NEW)"));
      }
      run.promises_ended = EndedPromises(*manifest, *config);
    } else {
      RETURN_IF_ERROR(TakeTokenIds(config.get()));
    }
  }
  if (!goes_on) RETURN_IF_ERROR(ResolveModel(config.get()));
  RETURN_IF_ERROR(FillDefaults(config.get()));
  RETURN_IF_ERROR(ValidateConfig(*config));
  run.finished = run.start_step >= config->lr_schedule().steps();
  if (!run.finished) RETURN_IF_ERROR(LookAtData(*config, trained_on, &run));
  run.config = config;
  return run;
}

Status WriteRunFolder(const TrainingRun& run) {
  const std::string& dir = run.config->run().dir();
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) return StorageError(StrCat(dir, ": ", error.message()));
  ASSIGN_OR_RETURN(const auto file, OutputFile::Create(dir + "/config.yaml"));
  RETURN_IF_ERROR(
      file->Write(ConfigToYaml(*run.config, StrCat(ProgramName(), ", ", MatMulLibrary()))));
  RETURN_IF_ERROR(file->Commit());

  const std::string tokenizer = TokenizerPath(*run.config);
  if (tokenizer.empty() || fs::exists(dir + "/tokenizer.json")) return OkStatus();
  ASSIGN_OR_RETURN(const auto loaded, Tokenizer::Load(tokenizer));
  return loaded->Save(dir + "/tokenizer.json");
}

}  // namespace trireme
