// YAML into a Config message by field name, with the place of every key kept for messages.
#include "cli/config_loader.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "cli/config_document.h"
#include "cli/config_fields.h"
#include "cli/config_folders.h"
#include "cli/config_keys.h"
#include "cli/config_validation.h"
#include "cli/config_yaml.h"
#include "proto/config.pb.h"
#include "storage/checkpoint_location.h"

namespace trireme {
namespace {

constexpr int64_t kFileBytesMax = 1 << 20;

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
  Reader(std::string name, std::string override_text, ConfigPlaces* places)
      : name_(std::move(name)), override_text_(std::move(override_text)), places_(places) {}

  Status ReadSection(const YAML::Node& node, const std::string& prefix, Message* message) {
    std::map<std::string, std::pair<std::string, std::string>> seen;  // as written, with its value
    const std::string shown = ShownPrefix(prefix);
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) {
        return Error(entry.first, shown + "<key>", Shown(entry.first), "a name");
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
      const std::string value = Shown(entry.second);
      const auto [first, is_new] = seen.try_emplace(key, written, value);
      if (!is_new) {
        // A config.json of GPT-2 names its length twice.
        const auto& [other, said] = first->second;
        const bool is_length = written != other && (written == "n_ctx" || other == "n_ctx");
        if (is_length && value == said) continue;
        return Error(entry.first, shown + written, value,
                     StrCat("each key once",
                            is_length ? StrCat(", or the ", said, " of ", other) : std::string()));
      }
      places_->Record(prefix + key, Place(entry.first), shown + written);
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

  // "model.rope_scaling." as the user wrote it.
  std::string ShownPrefix(const std::string& prefix) const {
    if (prefix.empty()) return "";
    return places_->WrittenKey(prefix.substr(0, prefix.size() - 1)) + ".";
  }

  // What --set gives has no quotes of YAML's.
  bool IsQuoted(const YAML::Node& value) const {
    return override_text_.empty() && IsWrittenAsText(value);
  }

  // Sets a field of one value, or adds to a list.
  Status SetValue(const YAML::Node& at, const YAML::Node& value, const std::string& path,
                  const FieldDescriptor& field, Message* message) {
    if (!value.IsScalar()) return Error(at, path, Shown(value), FieldTypeName(field));
    if (IsQuoted(value) && field.cpp_type() != FieldDescriptor::CPPTYPE_STRING) {
      return Error(
          at, path, StrCat('"', Shown(value), '"'),
          StrCat(field.is_repeated() ? "numbers" : FieldTypeName(field), ", not a text in quotes"));
    }
    const auto expected = SetFieldFromText(field, value.Scalar(), message);
    return expected ? Error(at, path, Shown(value), *expected) : OkStatus();
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
    const std::string shown = places_->WrittenKey(path);
    if (value.IsNull()) {
      if (!override_text_.empty()) {
        reflection->ClearField(message, &field);
        return OkStatus();
      }
      if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE || MayBeNull(at.Scalar())) {
        return OkStatus();
      }
      return Error(at, shown, Shown(value),
                   StrCat(FieldTypeName(field), ", or no such key for its default"));
    }
    if (path == "layout" && value.IsScalar() && value.Scalar() == "auto") {
      return NotBuiltError(StrCat(Place(at), ": layout: auto: not built yet"));
    }
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field.is_repeated()) {
      if (!value.IsMap()) return Error(at, shown, Shown(value), "a section of keys");
      return ReadSection(value, path + ".", reflection->MutableMessage(message, &field));
    }
    if (field.is_repeated()) return ReadList(at, value, path, field, message);
    // Llama 3's chat models name several ends of a text; as of a config.json, the first is taken.
    const bool has_several = path.ends_with("_token_id") && value.IsSequence() && value.size() > 0;
    return SetValue(at, has_several ? value[0] : value, shown, field, message);
  }

  // A list, or one item without the brackets. An item of a list of sections may be its first
  // field's text alone: train: [data/corpus_train].
  Status ReadList(const YAML::Node& at, const YAML::Node& value, const std::string& path,
                  const FieldDescriptor& field, Message* message) {
    const auto* reflection = message->GetReflection();
    if (override_text_.starts_with(path + ".") && value.IsMap() &&
        field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
        reflection->FieldSize(*message, &field) > 0) {
      return ReadKeyOfItem(at, value, path, field, message);
    }
    reflection->ClearField(message, &field);
    const size_t count = value.IsSequence() ? value.size() : 1;
    for (size_t i = 0; i < count; ++i) {
      const YAML::Node item = value.IsSequence() ? value[i] : value;
      const std::string item_path = StrCat(path, "[", i, "]");
      places_->Record(item_path, Place(item), item_path);
      if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
        RETURN_IF_ERROR(SetValue(at, item, path, field, message));
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

  // --set data.train.weight=2: a key of the item that is there. Of several, nobody knows which.
  Status ReadKeyOfItem(const YAML::Node& at, const YAML::Node& value, const std::string& path,
                       const FieldDescriptor& field, Message* message) {
    const auto* reflection = message->GetReflection();
    const int count = reflection->FieldSize(*message, &field);
    Message* first = reflection->MutableRepeatedMessage(message, &field, 0);
    RETURN_IF_ERROR(ReadSection(value, path + "[0].", first));
    if (count == 1) return OkStatus();
    return InvalidArgumentError(StrCat(Place(at), ": ", path, " has ", count,
                                       " items: expected the whole list, --set '", path, "=[",
                                       FlowSection(*first), ", ...]'"));
  }

  // transformers 5 keeps rope_theta among the parameters of the stretching.
  Status ReadRope(const YAML::Node& at, const YAML::Node& value, Message* model) {
    const std::string written = "model.rope_parameters";
    if (value.IsNull()) return OkStatus();
    if (!value.IsMap()) return Error(at, written, Shown(value), "a section");
    const auto* descriptor = model->GetDescriptor();
    places_->Record("model.rope_scaling", Place(at), written);
    YAML::Node rest(YAML::NodeType::Map);
    for (const auto& entry : value) {
      if (entry.first.IsScalar() && entry.first.Scalar() == "rope_theta") {
        places_->Record("model.rope_theta", Place(entry.first), written + ".rope_theta");
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
      if (known) return CheckDropout(at, value);
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

  // Dropout that is asked for is told of; any other text than a number would be taken for none.
  Status CheckDropout(const YAML::Node& at, const YAML::Node& value) {
    const std::string key = "model." + at.Scalar();
    if (!IsDropoutKey(at.Scalar())) return OkStatus();
    double rate = 0;
    if (!value.IsNull()) {
      const bool is_number =
          value.IsScalar() && !IsQuoted(value) && ParseReal(value.Scalar(), &rate);
      if (!is_number) return Error(at, key, Shown(value), "a number");
    }
    places_->Warn(key, rate == 0 ? ""
                                 : StrCat(Place(at), ": ", key, ": ", Shown(value),
                                          ": dropout is not built yet; the run trains without it"));
    return OkStatus();
  }

  std::string name_;
  std::string override_text_;
  ConfigPlaces* places_;
};

Status ApplyOverride(const std::string& text, proto::Config* config, ConfigPlaces* places) {
  const size_t equals = text.find('=');
  const std::string path = text.substr(0, equals);
  if (equals == std::string::npos || path.empty()) {
    return InvalidArgumentError(StrCat("--set ", text, ": expected section.key=value"));
  }
  const std::string value = text.substr(equals + 1);
  YAML::Node node(value);
  // Lists, sections and quoted texts are YAML; anything else is taken as it stands.
  if (value.empty() || value == "null" || value == "~" || value.find_first_of("[{\"'") == 0) {
    ASSIGN_OR_RETURN(YAML::Node parsed, ParseYamlDocument(value, "--set " + text));
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

// Checks the run as it will be, and says where the wrong key was written.
Status CheckFilled(const proto::Config& written, const ConfigPlaces& places) {
  proto::Config filled = written;
  const Status status = FillDefaults(&filled);
  if (!status.ok()) {
    // "model: family: ..." becomes "file:line: model.family: ...".
    std::string message = status.message();
    const std::string context = "model: ";
    std::string key = "model";
    if (message.starts_with(context)) {
      message.erase(0, context.size());
      const size_t colon = message.find(':');
      key += "." + message.substr(0, colon);
      message = places.WrittenKey(key) + message.substr(colon);
    }
    return Status(status.code(), message).WithContext(places.PlaceOf(key));
  }
  return CheckConfig(filled, places);
}

// Where the run and its checkpoints are to be, once --set has been heard.
void SettleFolders(const std::string& name, const proto::Config& in_file,
                   const ConfigPlaces& places, proto::Config* config) {
  namespace fs = std::filesystem;
  std::string* dir = config->mutable_run()->mutable_dir();
  *dir = WithoutFileScheme(*dir);
  if (dir->empty()) *dir = "runs/" + fs::path(name).stem().string();

  const std::string &dir_before = in_file.run().dir(), &store = in_file.checkpoint().store();
  if (*dir == dir_before || store.empty() || places.IsOverridden("checkpoint.store")) return;
  // config.yaml of a run names its own store: repeating the run elsewhere must not write there.
  const fs::path path(name);
  const bool is_of_run = path.filename() == "config.yaml" && !dir_before.empty() &&
                         CanBeSameFolder(path.parent_path().string(), dir_before);
  if (const auto rest = RestInFolder(store, dir_before)) {
    config->mutable_checkpoint()->set_store(*dir + *rest);
  } else if (is_of_run) {
    config->mutable_checkpoint()->clear_store();
  }
}

Result<std::unique_ptr<proto::Config>> Parse(std::string_view yaml, const std::string& name,
                                             const std::vector<std::string>& overrides,
                                             ConfigPlaces* places) {
  auto config = std::make_unique<proto::Config>();
  places->SetFile(name);
  ASSIGN_OR_RETURN(const YAML::Node root, ParseYamlDocument(std::string(yaml), name));
  if (!root.IsNull() && !root.IsMap()) {
    return InvalidArgumentError(StrCat(name, ": ", Shown(root), ": expected sections of keys"));
  }
  RETURN_IF_ERROR(Reader(name, "", places).ReadSection(root, "", config.get()));
  const proto::Config in_file = *config;
  for (const std::string& text : overrides) {
    RETURN_IF_ERROR(ApplyOverride(text, config.get(), places));
  }
  SettleFolders(name, in_file, *places, config.get());
  if (!config->model().from().empty() && !config->model().preset().empty()) {
    return ProblemToStatus(ConfigProblem{"model.preset", config->model().preset(),
                                         "either model.from or model.preset, not both"},
                           places->PlaceOf("model.preset"));
  }
  RETURN_IF_ERROR(CheckFilled(*config, *places));
  return config;
}

}  // namespace

Result<std::unique_ptr<proto::Config>> ParseConfig(std::string_view yaml, const std::string& name,
                                                   const std::vector<std::string>& overrides,
                                                   ConfigPlaces* places) {
  ConfigPlaces unused;
  try {
    return Parse(yaml, name, overrides, places == nullptr ? &unused : places);
  } catch (const YAML::Exception& error) {
    return InvalidArgumentError(StrCat(name, ": not valid YAML: ", error.msg));
  }
}

Result<std::unique_ptr<proto::Config>> LoadConfig(const std::string& yaml_path,
                                                  const std::vector<std::string>& overrides,
                                                  ConfigPlaces* places) {
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
  return ParseConfig(text, yaml_path, overrides, places);
}

}  // namespace trireme
