#include "cli/config_validation.h"

#include <algorithm>
#include <filesystem>

#include "cli/config_fields.h"
#include "cli/config_keys.h"
#include "cli/config_loader.h"
#include "proto/config.pb.h"

namespace trireme {
namespace {

using Problem = std::optional<ConfigProblem>;

Problem Wrong(std::string key, std::string value, std::string expected) {
  return ConfigProblem{std::move(key), std::move(value), std::move(expected)};
}

Problem NotBuilt(std::string key, std::string value, std::string what = "not built yet") {
  return ConfigProblem{std::move(key), std::move(value), std::move(what), StatusCode::kNotBuilt};
}

std::string RangeText(const ConfigKey& key, const char* type) {
  const bool has_most = key.most < std::numeric_limits<double>::infinity();
  std::string text = type;
  if (key.above_least) {
    text += StrCat(" above ", key.least);
  } else if (has_most) {
    text += StrCat(" from ", static_cast<int64_t>(key.least));
  } else {
    text += StrCat(" of at least ", key.least);
  }
  if (has_most) text += StrCat(key.above_least ? " and at most " : " to ", int64_t(key.most));
  return text;
}

Problem FindNameProblem(const ConfigKey& key, const std::string& path, const std::string& value) {
  const auto choices = SplitNames(key.choices);
  if (std::find(choices.begin(), choices.end(), value) != choices.end()) return std::nullopt;
  if (path == "layout.pipeline_schedule" && value.ends_with(".csv")) {
    if (std::filesystem::is_regular_file(value)) return std::nullopt;
    return Wrong(path, value, "a file that exists");
  }
  auto names = SplitNames(key.later);
  if (std::find(names.begin(), names.end(), value) != names.end()) return NotBuilt(path, value);
  names.insert(names.end(), choices.begin(), choices.end());
  std::string expected = choices.size() > 1 ? "one of " : "";
  for (const std::string& name : choices) expected += (name == choices[0] ? "" : ", ") + name;
  return Wrong(path, value, expected + DidYouMean(value, names));
}

Problem FindValueProblem(const FieldDescriptor& field, const std::string& path,
                         const std::string& text) {
  std::string plain;  // without the positions of list items
  bool inside = false;
  for (const char c : path) {
    inside = inside ? c != ']' : c == '[';
    if (!inside && c != ']') plain += c;
  }
  const ConfigKey* key = FindConfigKey(plain);
  if (key == nullptr) return std::nullopt;
  if (!key->choices.empty()) return FindNameProblem(*key, path, text);
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING ||
      field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL) {
    return std::nullopt;
  }
  const double value = std::stod(text);
  if (value < key->least || value > key->most || (key->above_least && value == key->least)) {
    const char* type =
        field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE ? "a number" : "a whole number";
    return Wrong(path, text, RangeText(*key, type));
  }
  return std::nullopt;
}

// Every value of `message` against its row of the table.
Problem FindRangeProblem(const Message& message, const std::string& prefix) {
  const auto* descriptor = message.GetDescriptor();
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor& field = *descriptor->field(i);
    const std::string path = prefix + field.name();
    if (!FieldIsSet(message, field)) continue;
    if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      for (const std::string& text : FieldTexts(message, field)) {
        if (auto problem = FindValueProblem(field, path, text)) return problem;
      }
    } else if (!field.is_repeated()) {
      if (auto problem = FindRangeProblem(reflection->GetMessage(message, &field), path + ".")) {
        return problem;
      }
    } else {
      for (int item = 0; item < reflection->FieldSize(message, &field); ++item) {
        if (auto problem = FindRangeProblem(reflection->GetRepeatedMessage(message, &field, item),
                                            StrCat(path, "[", item, "]."))) {
          return problem;
        }
      }
    }
  }
  return std::nullopt;
}

// The fewest leaves over which so many ranks, at most as many as microbatches, can share these.
int64_t LeavesFor(int64_t microbatches, int64_t data) {
  int64_t leaves = data;
  while (microbatches % leaves != 0) ++leaves;
  return leaves;
}

Problem FindBatchProblem(const proto::Config& config) {
  const auto& batch = config.batch();
  if (batch.sequences() % batch.microbatch_sequences() != 0) {
    return Wrong(
        "batch.sequences", StrCat(batch.sequences()),
        StrCat("a multiple of batch.microbatch_sequences (", batch.microbatch_sequences(), ")"));
  }
  const int64_t microbatches = batch.sequences() / batch.microbatch_sequences();
  const int64_t data = config.layout().data();
  const std::string count =
      StrCat("the ", microbatches, " microbatches of a step (batch.sequences ", batch.sequences(),
             " / microbatch_sequences ", batch.microbatch_sequences(), ")");
  if (data > microbatches) {
    return Wrong("layout.data", StrCat(data), StrCat("at most ", count));
  }
  const std::string& text = batch.sum_leaves();
  const bool is_number = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  constexpr int64_t kTooMany = int64_t{1} << 62;  // divides no number of microbatches
  const int64_t leaves = !is_number ? 0 : text.size() < 19 ? std::stoll(text) : kTooMany;
  if (leaves < 1) return Wrong("batch.sum_leaves", text, "auto or a whole number of at least 1");
  if (microbatches % leaves != 0) {
    return Wrong("batch.sum_leaves", text, StrCat("a divisor of ", count));
  }
  if (data > leaves) {
    return Wrong(
        "layout.data", StrCat(data),
        StrCat("at most batch.sum_leaves (", leaves, "), which divides ", count,
               "; batch.sum_leaves=", LeavesFor(microbatches, data), " allows it in a new run"));
  }
  return std::nullopt;
}

Problem FindPrecisionProblem(const proto::Config& config) {
  const auto& precision = config.precision();
  if (precision.master() != "bfloat16" || precision.compute() == "bfloat16") return std::nullopt;
  return Wrong("precision.master", precision.master(),
               StrCat("float32, as precision.compute is ", precision.compute()));
}

Problem FindLayoutProblem(const proto::Config& config) {
  const auto& layout = config.layout();
  if (layout.context() > 1) return NotBuilt("layout.context", StrCat(layout.context()));
  if (layout.expert() > 1) return NotBuilt("layout.expert", StrCat(layout.expert()));
  if (layout.zero() == 2 || layout.zero() == 3)
    return NotBuilt("layout.zero", StrCat(layout.zero()));
  if (layout.zero() > 3) return Wrong("layout.zero", StrCat(layout.zero()), "0, 1, 2 or 3");
  if (WorkerCount(config) > (1 << 20)) {
    return Wrong("layout.data", StrCat(layout.data()), "a layout of at most 1048576 workers");
  }
  return std::nullopt;
}

// The model against layout and data. Only for a model whose shape is known.
Problem FindFitProblem(const proto::Config& config) {
  const auto& model = config.model();
  const auto& layout = config.layout();
  const int64_t tensor = layout.tensor();
  if (model.num_attention_heads() % tensor != 0) {
    return Wrong(
        "layout.tensor", StrCat(tensor),
        StrCat("a divisor of model.num_attention_heads (", model.num_attention_heads(), ")"));
  }
  const int64_t kv_heads = model.num_key_value_heads();
  if (kv_heads % tensor != 0 && tensor % kv_heads != 0) {
    return Wrong("layout.tensor", StrCat(tensor),
                 StrCat("a divisor or a multiple of model.num_key_value_heads (", kv_heads, ")"));
  }
  if (tensor > model.intermediate_size() || tensor > model.vocab_size()) {
    return Wrong("layout.tensor", StrCat(tensor),
                 "at most model.intermediate_size and model.vocab_size");
  }
  if (layout.pipeline() > model.num_hidden_layers()) {
    return Wrong("layout.pipeline", StrCat(layout.pipeline()),
                 StrCat("at most model.num_hidden_layers (", model.num_hidden_layers(), ")"));
  }
  if (config.data().sequence_length() > model.max_position_embeddings()) {
    return Wrong(
        "data.sequence_length", StrCat(config.data().sequence_length()),
        StrCat("at most model.max_position_embeddings (", model.max_position_embeddings(), ")"));
  }
  return std::nullopt;
}

Problem FindScheduleProblem(const proto::Config& config) {
  // A warm-up or a decay_start beyond the last step is never reached: a run that is stopped early.
  const auto& schedule = config.lr_schedule();
  if (schedule.has_decay_start() && schedule.decay_start() < schedule.warmup_steps()) {
    return Wrong("lr_schedule.decay_start", StrCat(schedule.decay_start()),
                 StrCat("at least lr_schedule.warmup_steps (", schedule.warmup_steps(), ")"));
  }
  const struct {
    const char* key;
    bool is_set;
    const char* schedule;
  } owned[] = {{"decay_start", schedule.has_decay_start(), "wsd"},
               {"step_size", schedule.has_step_size(), "step"},
               {"gamma", schedule.has_gamma(), "step"},
               {"restart_period", schedule.has_restart_period(), "cosine_restarts"},
               {"restart_mult", schedule.has_restart_mult(), "cosine_restarts"},
               {"power", schedule.has_power(), "polynomial"}};
  for (const auto& entry : owned) {
    if (entry.is_set && schedule.name() != entry.schedule) {
      return Wrong(StrCat("lr_schedule.", entry.key), "set",
                   StrCat("this key only with lr_schedule.name ", entry.schedule, ", not ",
                          schedule.name()));
    }
  }
  return std::nullopt;
}

Problem FindOptimizerProblem(const proto::Config& config) {
  const auto& betas = config.optimizer().betas();
  if (betas.size() != 2) {
    return Wrong("optimizer.betas", StrCat(betas.size(), " numbers"), "a list of two numbers");
  }
  for (const double beta : betas) {
    if (beta >= 1) return Wrong("optimizer.betas", StrCat(beta), "numbers below 1");
  }
  return std::nullopt;
}

Problem FindModelKeyProblem(const proto::Config& config) {
  const auto& model = config.model();
  Problem problem = FindForeignField(model);
  if (!problem) problem = FindModelProblem(model);
  if (problem) problem->key = "model." + problem->key;
  return problem;
}

Problem FindDataProblem(const proto::Config& config) {
  const auto check = [](const auto& sources, const char* list) -> Problem {
    for (int i = 0; i < sources.size(); ++i) {
      if (!sources[i].path().empty()) continue;
      return Wrong(StrCat("data.", list, "[", i, "].path"), "not set", "the path of TOKENS");
    }
    return std::nullopt;
  };
  if (auto problem = check(config.data().train(), "train")) return problem;
  return check(config.data().validation(), "validation");
}

Problem FindFolderProblem(const proto::Config& config) {
  const std::string& dir = config.run().dir();
  if (dir.find("://") == std::string::npos) return std::nullopt;
  return Wrong("run.dir", dir, "a path or file:///absolute/path");
}

}  // namespace

std::string DidYouMean(std::string_view word, const std::vector<std::string>& names) {
  const std::string nearest = NearestName(word, names);
  return nearest.empty() ? "" : "; did you mean " + nearest + "?";
}

Status ProblemToStatus(const ConfigProblem& problem, const std::string& place) {
  const std::string message =
      place.empty() ? problem.ToString() : StrCat(place, ": ", problem.ToString());
  return problem.code == StatusCode::kNotBuilt ? NotBuiltError(message)
                                               : InvalidArgumentError(message);
}

std::optional<ConfigProblem> FindConfigProblem(const proto::Config& config) {
  if (auto problem = FindRangeProblem(config, "")) return problem;
  if (auto problem = FindFolderProblem(config)) return problem;
  if (auto problem = FindPrecisionProblem(config)) return problem;
  if (auto problem = FindLayoutProblem(config)) return problem;
  const bool has_model = ModelIsResolved(config.model());
  if (has_model) {
    if (auto problem = FindModelKeyProblem(config)) return problem;
  }
  if (auto problem = FindBatchProblem(config)) return problem;
  if (has_model) {
    if (auto problem = FindFitProblem(config)) return problem;
  }
  if (auto problem = FindScheduleProblem(config)) return problem;
  if (auto problem = FindOptimizerProblem(config)) return problem;
  return FindDataProblem(config);
}

Status ValidateConfig(const proto::Config& config) {
  const auto problem = FindConfigProblem(config);
  return problem ? ProblemToStatus(*problem, "") : OkStatus();
}

Status CheckConfig(const proto::Config& config, const ConfigPlaces& places) {
  auto problem = FindConfigProblem(config);
  if (!problem) return OkStatus();
  const std::string place = places.PlaceOf(problem->key);
  problem->key = places.WrittenKey(problem->key);
  return ProblemToStatus(*problem, place);
}

}  // namespace trireme
