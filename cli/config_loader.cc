// YAML into a Config message by field name, with the place of every key kept for messages.
#include "cli/config_loader.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "cli/config_fields.h"
#include "cli/config_keys.h"
#include "cli/config_validation.h"
#include "proto/config.pb.h"

namespace trireme {
namespace {

constexpr int64_t kFileBytesMax = 1 << 20;

// Where each key was written: "run.yaml:12" or "--set optimizer.lr=1".
using Places = std::map<std::string, std::string>;

// One line of at most 80 characters, for messages.
std::string Shown(const YAML::Node& node) {
  if (node.IsNull()) return "nothing";
  if (node.IsMap()) return "a section";
  if (node.IsSequence()) return "a list";
  std::string text = node.Scalar().substr(0, 80);
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

class Reader {
 public:
  // `override_text`: the text of --set, empty while reading the file.
  Reader(std::string name, std::string override_text, Places* places)
      : name_(std::move(name)), override_text_(std::move(override_text)), places_(places) {}

  Status ReadSection(const YAML::Node& node, const std::string& prefix, Message* message) {
    std::set<std::string> seen;
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) {
        return Error(entry.first, prefix, Shown(entry.first), "a name as key");
      }
      const std::string written = entry.first.Scalar();
      std::string key = written;
      if (prefix == "model.") key = CanonicalModelKey(written);
      if (prefix == "model.rope_scaling." && key == "type") key = "rope_type";
      if (prefix == "model." && key == "rope_parameters") {
        RETURN_IF_ERROR(ReadRope(entry.first, entry.second, message));
        continue;
      }
      const auto* field = message->GetDescriptor()->FindFieldByName(key);
      if (field == nullptr) {
        RETURN_IF_ERROR(CheckUnknown(entry.first, entry.second, prefix, *message));
        continue;
      }
      if (!seen.insert(key).second) {
        return Error(entry.first, prefix + written, Shown(entry.second), "each key once");
      }
      RETURN_IF_ERROR(ReadField(entry.first, entry.second, prefix + key, *field, message));
    }
    return OkStatus();
  }

 private:
  std::string Place(const YAML::Node& at) const {
    return override_text_.empty() ? StrCat(name_, ":", at.Mark().line + 1)
                                  : "--set " + override_text_;
  }

  Status Error(const YAML::Node& at, const std::string& path, const std::string& value,
               const std::string& expected) const {
    return ProblemToStatus(ConfigProblem{path, value, expected}, Place(at));
  }

  // Keys that are null in a config.json of transformers where they have no value of their own. Any
  // other key without a value is a slip, a section may be left empty.
  static bool MayBeNull(const std::string& key) {
    return key == "n_inner" || key == "head_dim" || key == "num_key_value_heads" ||
           key.ends_with("_token_id") || key.starts_with("rope_");
  }

  Status ReadField(const YAML::Node& at, const YAML::Node& value, const std::string& path,
                   const FieldDescriptor& field, Message* message) {
    const auto* reflection = message->GetReflection();
    (*places_)[path] = Place(at);
    if (value.IsNull()) {
      if (!override_text_.empty()) {
        reflection->ClearField(message, &field);
        return OkStatus();
      }
      if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE || MayBeNull(at.Scalar())) {
        return OkStatus();
      }
      return Error(at, path, Shown(value),
                   StrCat(FieldTypeName(field), ", or no such key for its default"));
    }
    if (path == "layout" && value.IsScalar() && value.Scalar() == "auto") {
      return NotBuiltError(StrCat(Place(at), ": layout: auto: not built yet"));
    }
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field.is_repeated()) {
      if (!value.IsMap()) return Error(at, path, Shown(value), "a section of keys");
      return ReadSection(value, path + ".", reflection->MutableMessage(message, &field));
    }
    if (field.is_repeated()) return ReadList(at, value, path, field, message);
    if (!value.IsScalar()) return Error(at, path, Shown(value), FieldTypeName(field));
    if (auto expected = SetFieldFromText(field, value.Scalar(), message)) {
      return Error(at, path, Shown(value), *expected);
    }
    return OkStatus();
  }

  // A list, or one item without the brackets. An item of a list of sections may be its first
  // field's text alone: train: [data/corpus_train].
  Status ReadList(const YAML::Node& at, const YAML::Node& value, const std::string& path,
                  const FieldDescriptor& field, Message* message) {
    const auto* reflection = message->GetReflection();
    reflection->ClearField(message, &field);
    const size_t count = value.IsSequence() ? value.size() : 1;
    for (size_t i = 0; i < count; ++i) {
      const YAML::Node item = value.IsSequence() ? value[i] : value;
      const std::string item_path = StrCat(path, "[", i, "]");
      (*places_)[item_path] = Place(item);
      if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
        const auto expected = item.IsScalar() ? SetFieldFromText(field, item.Scalar(), message)
                                              : std::optional<std::string>(FieldTypeName(field));
        if (expected) return Error(at, path, Shown(item), *expected);
        continue;
      }
      Message* section = reflection->AddMessage(message, &field);
      if (item.IsScalar()) {
        const auto* first = section->GetDescriptor()->field(0);
        RETURN_IF_ERROR(ReadField(item, item, item_path + "." + first->name(), *first, section));
      } else if (item.IsMap()) {
        RETURN_IF_ERROR(ReadSection(item, item_path + ".", section));
      } else {
        return Error(item, item_path, Shown(item), "{path: ..., weight: ...}");
      }
    }
    return OkStatus();
  }

  // transformers 5 keeps rope_theta among the parameters of the stretching.
  Status ReadRope(const YAML::Node& at, const YAML::Node& value, Message* model) {
    if (value.IsNull()) return OkStatus();
    if (!value.IsMap()) return Error(at, "model.rope_parameters", Shown(value), "a section");
    const auto* descriptor = model->GetDescriptor();
    YAML::Node rest(YAML::NodeType::Map);
    for (const auto& entry : value) {
      if (entry.first.IsScalar() && entry.first.Scalar() == "rope_theta") {
        RETURN_IF_ERROR(ReadField(entry.first, entry.second, "model.rope_theta",
                                  *descriptor->FindFieldByName("rope_theta"), model));
      } else {
        rest[entry.first] = entry.second;
      }
    }
    const auto* field = descriptor->FindFieldByName("rope_scaling");
    return ReadField(at, rest, "model.rope_scaling", *field, model);
  }

  // Keys of config.json that do not matter may stay in the model's section.
  Status CheckUnknown(const YAML::Node& at, const YAML::Node& value, const std::string& prefix,
                      const Message& message) {
    const std::string key = at.Scalar();
    if (prefix == "model.") {
      bool known = false;
      auto problem = CheckForeignModelKey(key, value.IsNull() ? "null" : Shown(value), &known);
      if (problem) {
        problem->key = prefix + problem->key;
        return ProblemToStatus(*problem, Place(at));
      }
      if (known) return OkStatus();
    }
    std::vector<std::string> names;
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
      names.push_back(message.GetDescriptor()->field(i)->name());
    }
    std::string hint = DidYouMean(key, names);
    for (const ConfigKey& other : ConfigKeys()) {
      if (other.path.substr(other.path.rfind('.') + 1) != key) continue;
      hint = StrCat("; did you mean ", other.path, "?");  // the right name in the wrong section
      break;
    }
    return Error(at, prefix + key, Shown(value), "a known key" + hint);
  }

  std::string name_;
  std::string override_text_;
  Places* places_;
};

Result<YAML::Node> ParseYaml(const std::string& text, const std::string& place) {
  try {
    return YAML::Load(text);
  } catch (const YAML::Exception& error) {
    // error.what() repeats its own position; "line 0" is what an override would get.
    const std::string at = error.mark.is_null() ? place : StrCat(place, ":", error.mark.line + 1);
    return InvalidArgumentError(StrCat(at, ": not valid YAML: ", error.msg));
  }
}

Status ApplyOverride(const std::string& text, proto::Config* config, Places* places) {
  const size_t equals = text.find('=');
  const std::string path = text.substr(0, equals);
  if (equals == std::string::npos || path.empty()) {
    return InvalidArgumentError(StrCat("--set ", text, ": expected section.key=value"));
  }
  const std::string value = text.substr(equals + 1);
  YAML::Node node(value);
  // Lists, sections and quoted texts are YAML; anything else is taken as it stands.
  if (value.empty() || value == "null" || value == "~" || value.find_first_of("[{\"'") == 0) {
    ASSIGN_OR_RETURN(YAML::Node parsed, ParseYaml(value, "--set " + text));
    node.reset(parsed);
  }
  for (size_t end = path.size(); end != std::string::npos;) {
    const size_t dot = end == 0 ? std::string::npos : path.rfind('.', end - 1);
    const size_t begin = dot == std::string::npos ? 0 : dot + 1;
    YAML::Node outer(YAML::NodeType::Map);
    outer[path.substr(begin, end - begin)] = node;
    node.reset(outer);
    end = dot;
  }
  Reader reader("", text, places);
  return reader.ReadSection(node, "", config);
}

bool IsInside(const std::string& path, const std::string& folder) {
  return !folder.empty() && path.starts_with(folder) &&
         (path.size() == folder.size() || path[folder.size()] == '/');
}

// The place of the key, or of the nearest section around it that was written.
std::string PlaceOf(const Places& places, std::string key, const std::string& name) {
  while (true) {
    if (const auto found = places.find(key); found != places.end()) return found->second;
    const size_t cut = key.find_last_of(".[");
    if (cut == std::string::npos) return name;
    key.resize(cut);
  }
}

// Checks the run as it will be, and says where the wrong key was written.
Status CheckFilled(const proto::Config& written, const Places& places, const std::string& name) {
  proto::Config filled = written;
  const Status status = FillDefaults(&filled);
  if (!status.ok()) {
    // "model: family: ..." becomes "file:line: model.family: ...".
    std::string message = status.message();
    const std::string context = "model: ";
    std::string key = "model";
    if (message.starts_with(context)) {
      message.replace(0, context.size(), "model.");
      key = message.substr(0, message.find(':'));
    }
    return Status(status.code(), message).WithContext(PlaceOf(places, key, name));
  }
  if (const auto problem = FindConfigProblem(filled)) {
    return ProblemToStatus(*problem, PlaceOf(places, problem->key, name));
  }
  return OkStatus();
}

Result<std::unique_ptr<proto::Config>> Parse(std::string_view yaml, const std::string& name,
                                             const std::vector<std::string>& overrides) {
  auto config = std::make_unique<proto::Config>();
  Places places;
  ASSIGN_OR_RETURN(const YAML::Node root, ParseYaml(std::string(yaml), name));
  if (!root.IsNull() && !root.IsMap()) {
    return InvalidArgumentError(StrCat(name, ": ", Shown(root), ": expected sections of keys"));
  }
  RETURN_IF_ERROR(Reader(name, "", &places).ReadSection(root, "", config.get()));
  const std::string dir_in_file = config->run().dir();
  const std::string store_in_file = config->checkpoint().store();
  for (const std::string& text : overrides) {
    RETURN_IF_ERROR(ApplyOverride(text, config.get(), &places));
  }
  // config.yaml of a run names its own store: repeating the run elsewhere must not write there.
  if (config->run().dir() != dir_in_file && config->checkpoint().store() == store_in_file &&
      IsInside(store_in_file, dir_in_file)) {
    config->mutable_checkpoint()->set_store(config->run().dir() +
                                            store_in_file.substr(dir_in_file.size()));
  }
  if (config->run().dir().empty()) {
    config->mutable_run()->set_dir("runs/" + std::filesystem::path(name).stem().string());
  }
  if (!config->model().from().empty() && !config->model().preset().empty()) {
    return ProblemToStatus(ConfigProblem{"model.preset", config->model().preset(),
                                         "either model.from or model.preset, not both"},
                           PlaceOf(places, "model.preset", name));
  }
  RETURN_IF_ERROR(CheckFilled(*config, places, name));
  return config;
}

}  // namespace

Result<std::unique_ptr<proto::Config>> ParseConfig(std::string_view yaml, const std::string& name,
                                                   const std::vector<std::string>& overrides) {
  try {
    return Parse(yaml, name, overrides);
  } catch (const YAML::Exception& error) {
    return InvalidArgumentError(StrCat(name, ": not valid YAML: ", error.msg));
  }
}

Result<std::unique_ptr<proto::Config>> LoadConfig(const std::string& yaml_path,
                                                  const std::vector<std::string>& overrides) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(yaml_path, error)) {
    return InvalidArgumentError(StrCat(yaml_path, ": ",
                                       std::filesystem::exists(yaml_path, error)
                                           ? "expected a YAML file"
                                           : "no such file; expected a run's YAML"));
  }
  std::ifstream in(yaml_path, std::ios::binary);
  if (!in) return InvalidArgumentError(StrCat(yaml_path, ": ", std::strerror(errno)));
  std::string text(kFileBytesMax + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (static_cast<int64_t>(text.size()) > kFileBytesMax) {
    return InvalidArgumentError(StrCat(yaml_path, ": larger than 1 MiB: expected a run's YAML"));
  }
  return ParseConfig(text, yaml_path, overrides);
}

}  // namespace trireme
