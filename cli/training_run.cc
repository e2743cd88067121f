#include "cli/training_run.h"

#include <algorithm>
#include <filesystem>

#include "cli/config_folders.h"
#include "cli/config_loader.h"
#include "cli/config_places.h"
#include "cli/config_validation.h"
#include "cli/run_continuation.h"
#include "cli/run_store.h"
#include "cluster/base/version.h"
#include "cluster/device/gpu_info.h"
#include "proto/config.pb.h"
#include "proto/manifest.pb.h"
#include "storage/checkpoint_location.h"
#include "storage/output_file.h"
#include "storage/token_file.h"
#include "worker/kernels/matmul.h"
#include "worker/model/model_config.h"
#include "worker/model/weight_source.h"
#include "worker/text/tokenizer.h"
#include "worker/training/data_feed.h"
#include "worker/training/run_setup.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

// What is there of the run already goes into `run`; gives its newest checkpoint, null for a new
// one.
Result<std::shared_ptr<const proto::Manifest>> LookAtStore(const proto::Config& written, bool fresh,
                                                           const ConfigPlaces& places,
                                                           TrainingRun* run) {
  proto::Config named = written;  // for the paths of folder and store alone, whatever the model
  named.mutable_model()->Clear();
  named.mutable_model()->set_preset("llama-5m");
  RETURN_IF_ERROR(FillDefaults(&named));
  if (fresh) RETURN_IF_ERROR(CheckFresh(named));
  ASSIGN_OR_RETURN(StoredRun stored, FindStoredRun(named, places));
  run->set_aside = std::move(stored.set_aside);
  if (stored.newest == nullptr) return stored.newest;
  run->start_step = stored.newest->step();
  run->checkpoint = StrCat(named.checkpoint().store(), "@", run->start_step);
  run->checkpoints = std::move(stored.steps);
  run->copy_from = std::move(stored.copy_from);
  run->label_tokens = stored.newest->data_cursor().label_tokens();
  return stored.newest;
}

Status TakeShape(const WeightSource& source, const ConfigPlaces& places, proto::Config* config) {
  auto problem = ResolveModelFrom(source.config(), config->mutable_model());
  if (!problem) return OkStatus();
  const std::string key = "model." + problem->key;
  problem->key = places.WrittenKey(key);
  return ProblemToStatus(*problem, places.PlaceOf(key));
}

// The model that a new run begins from; gives its tokenizer, or "". What is a run's newest
// checkpoint today is another tomorrow: the new run notes the step.
Result<std::string> BeginFromModel(const ConfigPlaces& places, proto::Config* config) {
  const std::string from = config->model().from();
  if (from.empty()) return std::string();
  ASSIGN_OR_RETURN(const auto source, WeightSource::Open(from));
  RETURN_IF_ERROR(TakeShape(*source, places, config));
  if (source->step() && !LocateCheckpoint(from).step) {
    config->mutable_model()->set_from(StrCat(from, "@", *source->step()));
  }
  return source->tokenizer_path().value_or("");
}

// Where model.from is set: the model's shape, read from there.
Status ResolveModel(const ConfigPlaces& places, proto::Config* config) {
  if (config->model().from().empty()) return OkStatus();
  ASSIGN_OR_RETURN(const auto source, WeightSource::Open(config->model().from()));
  return TakeShape(*source, places, config);
}

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

// A schedule of the user's own is read before anything starts.
Status CheckSchedule(const proto::Config& config, const ConfigPlaces& places) {
  const auto schedule =
      ScheduleFor(config, static_cast<int>(MicrobatchesPerStep(config) / config.layout().data()));
  if (schedule.ok()) return OkStatus();
  return schedule.status().WithContext(places.PlaceOf("layout.pipeline_schedule"));
}

// data.tokenizer against what is said beside the tokens and against the model: the run would keep a
// copy of it, and read and write texts by it ever after.
Status CheckNamedTokenizer(const proto::Config& config, const DataFeed& feed,
                           const ConfigPlaces& places) {
  const std::string& path = config.data().tokenizer();
  if (path.empty()) return OkStatus();
  // A run that goes on has its own copy.
  if (!fs::exists(path) && fs::exists(config.run().dir() + "/tokenizer.json")) return OkStatus();
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(path));
  const auto refuse = [&](const std::string& found, const std::string& expected) {
    return ProblemToStatus({"data.tokenizer", StrCat(path, ", which has ", found), expected},
                           places.PlaceOf("data.tokenizer"));
  };
  const std::string size = StrCat(tokenizer->vocab_size(), " tokens");
  if (tokenizer->vocab_size() > config.model().vocab_size()) {
    return refuse(size, StrCat("at most model.vocab_size (", config.model().vocab_size(), ")"));
  }
  for (const TokenFile* file : feed.files()) {
    const TokenFileInfo& info = file->info();
    const std::string expected = StrCat("the tokenizer of ", file->path(), ", which has ");
    if (info.vocab_size > 0 && info.vocab_size != tokenizer->vocab_size()) {
      return refuse(size, StrCat(expected, info.vocab_size));
    }
    if (!file->CheckTokenizer(tokenizer->hash(), path).ok()) {
      return refuse("hash " + tokenizer->hash(), expected + info.tokenizer_hash);
    }
  }
  return OkStatus();
}

// The ids of the data mean to the model what they meant when it was trained.
Status CheckModelTokenizer(const std::string& path, const proto::Config& config,
                           const DataFeed& feed, const ConfigPlaces& places) {
  if (path.empty()) return OkStatus();
  const auto tokenizer = Tokenizer::Load(path);
  if (tokenizer.status().code() == StatusCode::kNotBuilt) return OkStatus();  // not known, then
  RETURN_IF_ERROR(tokenizer.status());
  for (const TokenFile* file : feed.files()) {
    const Status status = file->CheckTokenizer((*tokenizer)->hash(), config.model().from());
    if (!status.ok()) return status.WithContext(places.PlaceOf("model.from") + ": model.from");
  }
  return OkStatus();
}

// `trained_on`: fingerprints of the files up to the checkpoint, or none. `model_tokenizer`: of the
// model that a new run begins from, or empty.
Status LookAtData(const proto::Config& config, const std::vector<std::string>& trained_on,
                  const std::string& model_tokenizer, const ConfigPlaces& places,
                  TrainingRun* run) {
  if (config.data().train().empty()) {
    return ProblemToStatus({"data.train", "not set", "a list of TOKENS"},
                           places.PlaceOf("data.train"));
  }
  ASSIGN_OR_RETURN(const auto feed, DataFeed::Open(config));
  const Status fits = feed->CheckVocabulary();
  if (!fits.ok()) return fits.WithContext(places.PlaceOf("model.vocab_size"));
  RETURN_IF_ERROR(CheckNamedTokenizer(config, *feed, places));
  RETURN_IF_ERROR(CheckModelTokenizer(model_tokenizer, config, *feed, places));
  run->train_data = feed->TrainFingerprints();
  for (size_t i = 0; i < trained_on.size() && i < run->train_data.size(); ++i) {
    if (trained_on[i] == run->train_data[i]) continue;
    return InvalidArgumentError(
        StrCat(places.PlaceOf(StrCat("data.train[", i, "].path")),
               ": data.train: ", config.data().train(static_cast<int>(i)).path(),
               " holds other tokens than those that the run's checkpoint was trained on: expected ",
               "fingerprint ", trained_on[i], ", found ", run->train_data[i],
               "; changed data need a new run.dir (--set run.dir=NEW)"));
  }
  return OkStatus();
}

bool SamePaths(const proto::DataConfig& recorded, const proto::DataConfig& config) {
  return std::equal(config.train().begin(), config.train().end(), recorded.train().begin(),
                    recorded.train().end(), [](const auto& a, const auto& b) {
                      return OnePath(a.path()) == OnePath(b.path());
                    });
}

}  // namespace

Result<std::shared_ptr<proto::Config>> LoadFilledConfig(const RunFileOptions& file) {
  ConfigPlaces places;
  ASSIGN_OR_RETURN(std::unique_ptr<proto::Config> loaded,
                   LoadConfig(file.path, file.overrides, &places));
  std::shared_ptr<proto::Config> config(std::move(loaded));
  SettleDevice(Gpus().ok(), config.get());
  RETURN_IF_ERROR(TakeTokenIds(config.get()));
  RETURN_IF_ERROR(ResolveModel(places, config.get()));
  RETURN_IF_ERROR(FillDefaults(config.get()));
  RETURN_IF_ERROR(CheckConfig(*config, places));
  return config;
}

Result<TrainingRun> PrepareTraining(const RunFileOptions& file, bool fresh, bool gpus) {
  ConfigPlaces places;
  ASSIGN_OR_RETURN(std::unique_ptr<proto::Config> loaded,
                   LoadConfig(file.path, file.overrides, &places));
  std::shared_ptr<proto::Config> config(std::move(loaded));
  SettleDevice(gpus, config.get());
  TrainingRun run;
  run.warnings = places.Warnings();
  ASSIGN_OR_RETURN(const auto manifest, LookAtStore(*config, fresh, places, &run));
  std::vector<std::string> trained_on;
  std::string model_tokenizer;
  if (manifest != nullptr) {
    const auto& files = manifest->data_cursor().train_data();
    trained_on.assign(files.begin(), files.end());
    RETURN_IF_ERROR(GoOnFrom(*manifest, places, config.get()));
    run.promises_ended = EndedPromises(*manifest, *config);
  } else {
    RETURN_IF_ERROR(TakeTokenIds(config.get()));
    ASSIGN_OR_RETURN(model_tokenizer, BeginFromModel(places, config.get()));
    RETURN_IF_ERROR(FillDefaults(config.get()));
  }
  RETURN_IF_ERROR(CheckConfig(*config, places));
  RETURN_IF_ERROR(CheckSchedule(*config, places));
  run.finished = run.start_step >= config->lr_schedule().steps();
  // A finished run needs no data, unless somebody asks whether others are the same.
  const bool asks = manifest != nullptr && !SamePaths(manifest->config().data(), config->data());
  if (!run.finished || asks) {
    RETURN_IF_ERROR(LookAtData(*config, trained_on, model_tokenizer, places, &run));
  }
  run.config = config;
  return run;
}

Status TakeCheckpointAlong(const TrainingRun& run) {
  if (run.copy_from.empty()) return OkStatus();
  return CopyToStore(run.copy_from, run.config->checkpoint().store(), run.start_step);
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
