#include "cli/run_continuation.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <filesystem>
#include <utility>

#include "cli/config_fields.h"
#include "cli/config_folders.h"
#include "cli/config_loader.h"
#include "cli/config_yaml.h"
#include "proto/config.pb.h"
#include "proto/manifest.pb.h"
#include "storage/checkpoint_location.h"
#include "storage/checkpoint_writer.h"
#include "storage/token_file.h"
#include "worker/kernels/matmul.h"
#include "worker/text/tokenizer.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

// Keys that may change from one start of a run to the next, with all below them.
bool MayChange(const std::string& key) {
  for (const char* free :
       {"run.dir", "layout", "device", "threads", "precision.compute", "lr_schedule.steps",
        "checkpoint", "validation", "recovery", "model.from", "model.preset"}) {
    if (key == free) return true;
  }
  return false;
}

std::string ValueOf(const Message& message, const FieldDescriptor& field) {
  const bool is_set = field.is_repeated() || FieldIsSet(message, field);
  return is_set ? FlowValue(message, field) : "(not set)";
}

// The first key under which two runs differ that may not change between them, with both values.
struct FixedDifference {
  std::string key, was, is;
};

std::optional<FixedDifference> Difference(const Message& recorded, const Message& wanted,
                                          const std::string& prefix) {
  const auto* descriptor = recorded.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    const std::string key = prefix + field->name();
    if (MayChange(key)) continue;
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field->is_repeated()) {
      const auto inner = Difference(recorded.GetReflection()->GetMessage(recorded, field),
                                    wanted.GetReflection()->GetMessage(wanted, field), key + ".");
      if (inner) return inner;
      continue;
    }
    const std::string was = ValueOf(recorded, *field), is = ValueOf(wanted, *field);
    if (was != is) return FixedDifference{key, was, is};
  }
  return std::nullopt;
}

// Sets `path` ("batch.sum_leaves") as in `recorded` unless it is set.
void KeepField(const Message& recorded, std::string_view path, Message* config) {
  const size_t dot = path.find('.');
  const auto* field = recorded.GetDescriptor()->FindFieldByName(std::string(path.substr(0, dot)));
  const auto* reflection = recorded.GetReflection();
  if (dot != std::string_view::npos) {
    KeepField(reflection->GetMessage(recorded, field), path.substr(dot + 1),
              reflection->MutableMessage(config, field));
    return;
  }
  if (FieldIsSet(*config, *field)) return;
  for (const std::string& text : FieldTexts(recorded, *field)) {
    CHECK(!SetFieldFromText(*field, text, config)) << path;
  }
}

// What was left out is as it was recorded wherever the default follows from something that may be
// another now.
void KeepRecorded(const proto::Config& recorded, proto::Config* config) {
  if (config->batch().sum_leaves() == "auto") config->mutable_batch()->clear_sum_leaves();
  for (const char* path :
       {"model.bos_token_id", "model.eos_token_id", "data.sequence_length",
        "batch.microbatch_sequences", "batch.sum_leaves", "lr_schedule.warmup_steps"}) {
    KeepField(recorded, path, config);
  }
  const std::string& schedule = recorded.lr_schedule().name();
  if (!config->lr_schedule().name().empty() && config->lr_schedule().name() != schedule) return;
  for (const char* key : {"decay_start", "step_size", "restart_period"}) {
    KeepField(recorded, StrCat("lr_schedule.", key), config);
  }
}

Status Changed(const std::string& key, const std::string& what, const ConfigPlaces& places) {
  return InvalidArgumentError(StrCat(places.PlaceOf(key), ": ", places.WrittenKey(key), ": ", what,
                                     "; a changed run needs a new run.dir (--set run.dir=NEW)"));
}

// By their paths, or by what both hold where both are there.
bool AreSameTokens(const std::string& a, const std::string& b) {
  if (OnePath(WithoutTokensEnding(a)) == OnePath(WithoutTokensEnding(b))) return true;
  const auto one = TokenFile::Open(a), other = TokenFile::Open(b);
  return one.ok() && other.ok() && (*one)->Fingerprint() == (*other)->Fingerprint();
}

// A run's own copy tells whether a tokenizer that lies elsewhere is the one it began with.
bool IsTokenizerOfRun(const std::string& path, const std::string& run_dir) {
  const auto own = Tokenizer::Load(run_dir + "/tokenizer.json");
  if (!own.ok()) return false;
  const auto named = Tokenizer::Load(path);
  return named.ok() && (*named)->hash() == (*own)->hash();
}

// What is the same in both runs is spelled in `recorded` as it is in `wanted`.
void SpellAlike(bool has_fingerprints, const proto::DataConfig& wanted, const std::string& run_dir,
                proto::DataConfig* recorded) {
  const auto spell = [](bool always, const auto& now, auto* before) {
    if (now.size() != before->size()) return;
    for (int i = 0; i < now.size(); ++i) {
      if (always || AreSameTokens(now[i].path(), (*before)[i].path())) {
        (*before)[i].set_path(now[i].path());
      }
    }
  };
  spell(has_fingerprints, wanted.train(), recorded->mutable_train());
  spell(false, wanted.validation(), recorded->mutable_validation());
  const std::string& tokenizer = wanted.tokenizer();
  if (tokenizer.empty() || tokenizer == recorded->tokenizer()) return;
  if (OnePath(tokenizer) == OnePath(recorded->tokenizer()) ||
      IsTokenizerOfRun(tokenizer, run_dir)) {
    recorded->set_tokenizer(tokenizer);
  }
}

// Whether a run that began from `began` may call that `now`. The step may be left out: a run notes
// the one it has read.
bool IsSameModel(const std::string& now, const std::string& began) {
  if (now == began) return true;
  if (now.empty() || began.empty()) return false;
  const CheckpointLocation a = LocateCheckpoint(now), b = LocateCheckpoint(began);
  return OnePath(a.store_url) == OnePath(b.store_url) && (!a.step || a.step == b.step);
}

}  // namespace

Status CheckOwner(const proto::Config& recorded, const proto::Config& config,
                  const ConfigPlaces& places) {
  const std::string &dir = config.run().dir(), &store = config.checkpoint().store();
  if (CanBeSameFolder(recorded.run().dir(), dir)) return OkStatus();
  if (RestInFolder(store, dir)) return OkStatus();
  const CheckpointLocation own = LocateCheckpoint(dir);
  if (CanBeSameFolder(own.run_dir, dir) && CanBeSameFolder(own.store_url, store)) return OkStatus();
  return InvalidArgumentError(
      StrCat(places.PlaceOf("checkpoint.store"), ": checkpoint.store: ", store,
             " holds the checkpoints of the run ", recorded.run().dir(), ", not of ", dir,
             ": expected a store of its own (--set checkpoint.store=NEW)"));
}

Status GoOnFrom(const proto::Manifest& manifest, const ConfigPlaces& places,
                proto::Config* config) {
  proto::Config recorded = manifest.config();
  // The model is the checkpoint's: where it began is asked for no more, and may be gone.
  if (!config->model().from().empty()) {
    const std::string from = config->model().from(), &began = recorded.model().from();
    if (!IsSameModel(from, began)) {
      return Changed("model.from",
                     StrCat(from, ", but the run's checkpoint began ",
                            began.empty() ? "from scratch" : "from " + began),
                     places);
    }
    *config->mutable_model() = recorded.model();
  }
  RETURN_IF_ERROR(FillDefaults(&recorded));  // of keys that are newer than the checkpoint
  KeepRecorded(recorded, config);
  RETURN_IF_ERROR(FillDefaults(config));
  SpellAlike(manifest.data_cursor().train_data_size() > 0, config->data(), config->run().dir(),
             recorded.mutable_data());
  if (const auto difference = Difference(recorded, *config, "")) {
    return Changed(difference->key,
                   StrCat(difference->is, ", but the run's checkpoint has ", difference->was),
                   places);
  }
  return OkStatus();
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

}  // namespace trireme
