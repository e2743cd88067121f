// Defaults of a run: constants from the table of keys, and those that follow from other keys.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <bit>
#include <charconv>

#include "cli/config_fields.h"
#include "cli/config_keys.h"
#include "cli/config_loader.h"
#include "proto/config.pb.h"

namespace trireme {
namespace {

// Sets the field at `path` below `message` unless it is set. List items are filled one by one.
void FillConstant(Message* message, std::string_view path, const std::string& fallback) {
  const size_t dot = path.find('.');
  const auto* field = message->GetDescriptor()->FindFieldByName(std::string(path.substr(0, dot)));
  CHECK(field != nullptr) << "config_keys.cc names a key that proto/config.proto lacks: " << path;
  const auto* reflection = message->GetReflection();
  if (dot == std::string_view::npos) {
    if (FieldIsSet(*message, *field)) return;
    const YAML::Node node = YAML::Load(fallback);
    for (size_t i = 0; i < (node.IsSequence() ? node.size() : 1); ++i) {
      const auto wrong =
          SetFieldFromText(*field, node.IsSequence() ? node[i].Scalar() : node.Scalar(), message);
      CHECK(!wrong) << path << ": its default is not " << *wrong;
    }
  } else if (field->is_repeated()) {
    for (int i = 0; i < reflection->FieldSize(*message, field); ++i) {
      FillConstant(reflection->MutableRepeatedMessage(message, field, i), path.substr(dot + 1),
                   fallback);
    }
  } else {
    FillConstant(reflection->MutableMessage(message, field), path.substr(dot + 1), fallback);
  }
}

void FillSchedule(proto::LrScheduleConfig* schedule) {
  const int64_t steps = schedule->steps();
  const std::string& name = schedule->name();
  if (!schedule->has_warmup_steps()) schedule->set_warmup_steps(std::min<int64_t>(20, steps / 10));
  // The published forms of these two fall to nothing.
  if (!schedule->has_final_lr_ratio()) {
    schedule->set_final_lr_ratio(name == "linear" || name == "wsd" ? 0 : 0.1);
  }
  if (name == "wsd" && !schedule->has_decay_start()) {
    schedule->set_decay_start(std::max(schedule->warmup_steps(), steps * 4 / 5));
  }
  if (name == "step") {
    if (!schedule->has_step_size()) schedule->set_step_size(std::max<int64_t>(1, steps / 4));
    if (!schedule->has_gamma()) schedule->set_gamma(0.5);
  }
  if (name == "cosine_restarts") {
    if (!schedule->has_restart_period()) {
      schedule->set_restart_period(std::max<int64_t>(1, steps / 5));
    }
    if (!schedule->has_restart_mult()) schedule->set_restart_mult(2);
  }
  if (name == "polynomial" && !schedule->has_power()) schedule->set_power(2);
}

// Values that ValidateConfig refuses pass through here unharmed.
void FillBatch(proto::Config* config) {
  auto* batch = config->mutable_batch();
  const int64_t sequences = batch->sequences();
  const int64_t data = config->layout().data();
  if (!batch->has_microbatch_sequences()) {
    int64_t size = 1;
    for (int64_t candidate = 4; candidate > 1; --candidate) {
      if (sequences < 1 || data < 1 || sequences % candidate != 0) continue;
      if (ResolveSumLeaves(sequences / candidate, data) < data) continue;
      size = candidate;
      break;
    }
    batch->set_microbatch_sequences(size);
  }
  if (batch->sum_leaves() != "auto") return;
  const int64_t size = batch->microbatch_sequences();
  const bool divides = size > 0 && sequences > 0 && sequences % size == 0 && data > 0;
  batch->set_sum_leaves(StrCat(divides ? ResolveSumLeaves(sequences / size, data) : 1));
}

}  // namespace

int64_t ResolveSumLeaves(int64_t microbatches, int64_t data_width) {
  CHECK_GT(microbatches, 0);
  CHECK_GT(data_width, 0);
  const auto wanted = std::max<uint64_t>(8, std::bit_ceil(static_cast<uint64_t>(data_width)));
  const uint64_t most = uint64_t{1} << std::countr_zero(static_cast<uint64_t>(microbatches));
  return static_cast<int64_t>(std::min(wanted, most));
}

int64_t WorkerCount(const proto::Config& config) {
  int64_t count = 1;
  for (const int64_t width : {config.layout().data(), config.layout().tensor(),
                              config.layout().pipeline(), config.layout().context()}) {
    if (__builtin_mul_overflow(count, width, &count)) return std::numeric_limits<int64_t>::max();
  }
  return count;
}

Status FillDefaults(proto::Config* config) {
  const bool model_is_known = ModelIsResolved(config->model());
  if (model_is_known) {
    RETURN_IF_ERROR(FillModelDefaults(config->mutable_model()).WithContext("model"));
  }
  for (const ConfigKey& key : ConfigKeys()) {
    if (!key.has_constant_default() || key.path.starts_with("model.")) continue;
    FillConstant(config, key.path, std::string(key.fallback));
  }
  if (config->run().dir().empty()) config->mutable_run()->set_dir("runs/run");
  if (!config->data().has_sequence_length()) {
    const int64_t positions =
        model_is_known ? config->model().max_position_embeddings() : int64_t{1024};
    config->mutable_data()->set_sequence_length(std::min<int64_t>(1024, positions));
  }
  if (config->checkpoint().store().empty()) {
    config->mutable_checkpoint()->set_store(config->run().dir() + "/checkpoints");
  }
  if (config->device() == "auto") config->set_device("cpu");
  FillSchedule(config->mutable_lr_schedule());
  FillBatch(config);
  return OkStatus();
}

}  // namespace trireme
