// trireme config: every key, a run with all defaults filled in, or the presets.
#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <iostream>
#include <memory>

#include "cli/command.h"
#include "cli/config_fields.h"
#include "cli/config_keys.h"
#include "cli/config_loader.h"
#include "cli/run_options.h"
#include "cli/training_run.h"
#include "cluster/base/json.h"
#include "proto/config.pb.h"
#include "worker/model/model_config.h"

namespace trireme {
namespace {

struct ConfigOptions {
  RunFileOptions run;
  bool presets = false;
  bool json = false;
};

std::string TypeOf(std::string_view path) {
  const auto* descriptor = proto::Config::descriptor();
  const google::protobuf::FieldDescriptor* field = nullptr;
  for (std::string rest(path); !rest.empty();) {
    const size_t dot = std::min(rest.find('.'), rest.size());
    field = descriptor->FindFieldByName(rest.substr(0, dot));
    if (field->message_type() != nullptr) descriptor = field->message_type();
    rest.erase(0, dot + 1);
  }
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return field->is_repeated() ? "numbers" : "number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true/false";
    case FieldDescriptor::CPPTYPE_STRING:
      return "text";
    default:
      return "whole";
  }
}

std::string Padded(std::string text, size_t width) {
  if (text.size() < width) text.resize(width, ' ');
  return text;
}

// "gpt2 | llama"; empty where any text does.
std::string ChoicesText(const ConfigKey& key) {
  std::string text;
  for (const std::string& name : SplitNames(key.choices)) {
    text += (text.empty() ? "" : " | ") + name;
  }
  return text;
}

void PrintKeys() {
  size_t path_width = 0;
  for (const ConfigKey& key : ConfigKeys()) path_width = std::max(path_width, key.path.size());
  std::cout << Padded("key", path_width) << "  " << Padded("type", 10) << "  "
            << Padded("default", 24) << "  " << Padded("unit", 11) << "  meaning\n\n";
  std::string section;
  for (const ConfigKey& key : ConfigKeys()) {
    const std::string of(key.path.substr(0, key.path.find('.')));
    if (of != section && !section.empty()) std::cout << "\n";
    section = of;
    const std::string fallback = key.fallback.empty() ? "-" : std::string(key.fallback);
    const std::string choices = ChoicesText(key);
    std::cout << Padded(std::string(key.path), path_width) << "  " << Padded(TypeOf(key.path), 10)
              << "  " << Padded(fallback, 24) << "  " << Padded(std::string(key.unit), 11) << "  "
              << key.meaning << (choices.empty() ? "" : " [" + choices + "]") << "\n";
  }
}

Json KeysAsJson() {
  Json keys = Json::array();
  for (const ConfigKey& key : ConfigKeys()) {
    Json entry = {{"key", key.path},
                  {"type", TypeOf(key.path)},
                  {"default", key.fallback},
                  {"unit", key.unit},
                  {"meaning", key.meaning}};
    if (!key.choices.empty()) entry["choices"] = SplitNames(key.choices);
    if (!key.later.empty()) entry["not_built_yet"] = SplitNames(key.later);
    keys.push_back(entry);
  }
  return {{"keys", keys}};
}

Json MessageAsJson(const Message& message) {
  Json object = Json::object();
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const auto& field = *message.GetDescriptor()->field(i);
    if (!FieldIsSet(message, field)) continue;
    Json& value = object[field.name()];
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (!field.is_repeated()) {
        value = MessageAsJson(reflection->GetMessage(message, &field));
        continue;
      }
      for (int item = 0; item < reflection->FieldSize(message, &field); ++item) {
        value.push_back(MessageAsJson(reflection->GetRepeatedMessage(message, &field, item)));
      }
      continue;
    }
    for (const std::string& text : FieldTexts(message, field)) {
      const Json one =
          field.cpp_type() == FieldDescriptor::CPPTYPE_STRING ? Json(text) : ParseJson(text);
      if (field.is_repeated()) {
        value.push_back(one);
      } else {
        value = one;
      }
    }
  }
  return object;
}

void PrintPresets(bool json) {
  Json list = Json::array();
  if (!json) std::cout << "name              parameters  layers  width  heads  kv  description\n";
  for (const ModelPreset& preset : ModelPresets()) {
    proto::ModelConfig model;
    model.set_preset(preset.name);
    CHECK(FillModelDefaults(&model).ok());
    if (json) {
      list.push_back({{"name", preset.name},
                      {"description", preset.description},
                      {"parameters", ParameterCount(model)},
                      {"model", MessageAsJson(model)}});
      continue;
    }
    std::cout << Padded(preset.name, 16) << Padded(StrCat("  ", ParameterCount(model)), 14) << "  "
              << Padded(StrCat(model.num_hidden_layers()), 6) << "  "
              << Padded(StrCat(model.hidden_size()), 5) << "  "
              << Padded(StrCat(model.num_attention_heads()), 5) << "  "
              << Padded(StrCat(model.num_key_value_heads()), 3) << " " << preset.description
              << "\n";
  }
  if (json) std::cout << DumpJson(Json({{"presets", list}})) << "\n";
}

Status RunConfig(const ConfigOptions& options) {
  if (options.presets) {
    PrintPresets(options.json);
    return OkStatus();
  }
  if (options.run.path.empty()) {
    if (!options.run.overrides.empty()) {
      return InvalidArgumentError("--set: expected a run's YAML to override");
    }
    if (options.json) {
      std::cout << DumpJson(KeysAsJson()) << "\n";
    } else {
      PrintKeys();
    }
    return OkStatus();
  }
  ASSIGN_OR_RETURN(const auto config, LoadFilledConfig(options.run));
  if (options.json) {
    // Bytes that are not UTF-8 can stand in a path.
    std::cout << DumpJson(MessageAsJson(*config)) << "\n";
  } else {
    std::cout << ConfigToYaml(*config);
  }
  return OkStatus();
}

RegisterCommand command({
    "config",
    "every key of a run; a run with its defaults filled in; presets",
    "trireme config examples/quickstart.yaml --set optimizer.lr=1e-3",
    [](CommandLine& line) -> std::function<Status()> {
      auto options = std::make_shared<ConfigOptions>();
      AddRunFileOptions(line, &options->run, /*is_required=*/false);
      line.Flag("--presets", options->presets, "list the named model shapes");
      AddJsonOption(line, &options->json);
      return [options] { return RunConfig(*options); };
    },
});

}  // namespace
}  // namespace trireme
