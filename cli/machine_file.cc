#include "cli/machine_file.h"

#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <vector>

#include "cli/config_document.h"

namespace trireme {
namespace {

struct Key {
  const char* name;
  bool required;
  std::function<Status(const YAML::Node&)> read;
};

class MachineFileReader {
 public:
  explicit MachineFileReader(std::string path) : path_(std::move(path)) {}

  Status Refuse(const YAML::Node& node, const std::string& what) const {
    const int line = node.Mark().line;
    return InvalidArgumentError(StrCat(path_, line < 0 ? "" : StrCat(":", line + 1), ": ", what));
  }

  // A positive number at most `most`, times `unit`.
  std::function<Status(const YAML::Node&)> Number(const std::string& name, double unit, double most,
                                                  double* value) const {
    return [=, this](const YAML::Node& node) -> Status {
      double number = 0;
      if (!node.IsScalar() || IsWrittenAsText(node) ||
          !YAML::convert<double>::decode(node, number) || !(number > 0 && number <= most)) {
        const char* quote = IsWrittenAsText(node) ? "\"" : "";
        const std::string found = node.IsScalar() ? node.Scalar() : "no number";
        return Refuse(node, StrCat(name, ": ", quote, found, quote, ": expected a number above 0",
                                   most < 1e300 ? StrCat(" and at most ", most) : ""));
      }
      *value = number * unit;
      return OkStatus();
    };
  }

  Status ReadMap(const YAML::Node& map, const std::string& section,
                 const std::vector<Key>& keys) const {
    if (!map.IsMap())
      return Refuse(map, StrCat(section, section.empty() ? "" : ": ", "expected keys with values"));
    std::string names;
    for (const Key& key : keys) names += StrCat(names.empty() ? "" : ", ", key.name);
    for (const auto& entry : map) {
      const std::string name = entry.first.Scalar();
      bool known = false;
      for (const Key& key : keys) {
        if (name != key.name) continue;
        known = true;
        RETURN_IF_ERROR(key.read(entry.second));
      }
      if (!known) {
        return Refuse(entry.first, StrCat(section, section.empty() ? "" : ".", name,
                                          ": unknown key: expected one of ", names));
      }
    }
    for (const Key& key : keys) {
      if (key.required && !map[key.name]) {
        return Refuse(map, StrCat(section, section.empty() ? "" : ".", key.name,
                                  ": missing: a machine needs it"));
      }
    }
    return OkStatus();
  }

 private:
  std::string path_;
};

}  // namespace

Result<MachineFile> ReadMachineFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  std::error_code error;
  if (!in.is_open() || std::filesystem::is_directory(path, error)) {
    return InvalidArgumentError(StrCat(path, ": cannot be read"));
  }
  ASSIGN_OR_RETURN(const YAML::Node root, ParseYamlDocument(text, path));
  const MachineFileReader reader(path);
  MachineFile machine;
  double memory = 0, program = 0, f32 = 0, bf16 = 0;
  constexpr double kGiB = 1 << 30, kGiBMax = 1e9, kAny = 1e301;
  const auto name = [&](const YAML::Node& node) -> Status {
    if (!node.IsScalar()) return reader.Refuse(node, "name: expected a text");
    machine.name = node.Scalar();
    return OkStatus();
  };
  const auto peaks = [&](const YAML::Node& node) {
    return reader.ReadMap(
        node, "peak_tflops",
        {{"bfloat16", true, reader.Number("peak_tflops.bfloat16", 1e12, kAny, &bf16)},
         {"float32", true, reader.Number("peak_tflops.float32", 1e12, kAny, &f32)}});
  };
  const auto reach = [&](const YAML::Node& node) {
    return reader.ReadMap(
        node, "reach",
        {{"products", false, reader.Number("reach.products", 1, 1, &machine.reach_products)},
         {"attention_forward", false,
          reader.Number("reach.attention_forward", 1, 1, &machine.reach_attention_forward)},
         {"attention_backward", false,
          reader.Number("reach.attention_backward", 1, 1, &machine.reach_attention_backward)},
         {"wide_attention_forward", false,
          reader.Number("reach.wide_attention_forward", 1, 1,
                        &machine.reach_wide_attention_forward)},
         {"wide_attention_backward", false,
          reader.Number("reach.wide_attention_backward", 1, 1,
                        &machine.reach_wide_attention_backward)},
         {"memory", false, reader.Number("reach.memory", 1, 1, &machine.reach_memory)},
         {"optimizer", false, reader.Number("reach.optimizer", 1, 1, &machine.reach_optimizer)}});
  };
  RETURN_IF_ERROR(reader.ReadMap(
      root, "",
      {{"name", true, name},
       {"peak_tflops", true, peaks},
       {"memory_gib", true, reader.Number("memory_gib", kGiB, kGiBMax, &memory)},
       {"memory_gb_per_second", true,
        reader.Number("memory_gb_per_second", 1e9, kAny, &machine.memory_bytes_per_second)},
       {"link_gb_per_second", true,
        reader.Number("link_gb_per_second", 1e9, kAny, &machine.link_bytes_per_second)},
       {"network_gb_per_second", true,
        reader.Number("network_gb_per_second", 1e9, kAny, &machine.network_bytes_per_second)},
       {"program_gib", false, reader.Number("program_gib", kGiB, kGiBMax, &program)},
       {"reach", false, reach}}));
  const auto otherwise = [](double* reach, double other) {
    if (*reach == 0) *reach = other;
  };
  otherwise(&machine.reach_wide_attention_forward, machine.reach_attention_forward);
  otherwise(&machine.reach_wide_attention_backward, machine.reach_attention_backward);
  otherwise(&machine.reach_optimizer, machine.reach_memory);
  machine.peak_flop = {{DType::kF32, f32}, {DType::kBF16, bf16}};
  machine.memory_bytes = static_cast<int64_t>(memory);
  machine.program_bytes = static_cast<int64_t>(program);
  return machine;
}

}  // namespace trireme
