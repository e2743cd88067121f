#include <algorithm>
#include <array>
#include <set>

#include "cluster/base/json.h"
#include "storage/safetensors.h"

namespace trireme {
namespace {

struct KnownDType {
  std::string_view name;
  int64_t bits;
  std::optional<DType> dtype;
};

constexpr std::array kKnownDTypes = {
    KnownDType{"F32", 32, DType::kF32},     KnownDType{"BF16", 16, DType::kBF16},
    KnownDType{"F16", 16, DType::kF16},     KnownDType{"F64", 64, DType::kF64},
    KnownDType{"I32", 32, DType::kI32},     KnownDType{"I64", 64, DType::kI64},
    KnownDType{"U8", 8, DType::kU8},        KnownDType{"BOOL", 8, std::nullopt},
    KnownDType{"I8", 8, std::nullopt},      KnownDType{"I16", 16, std::nullopt},
    KnownDType{"U16", 16, std::nullopt},    KnownDType{"U32", 32, std::nullopt},
    KnownDType{"U64", 64, std::nullopt},    KnownDType{"F8_E4M3", 8, std::nullopt},
    KnownDType{"F8_E5M2", 8, std::nullopt}, KnownDType{"F8_E8M0", 8, std::nullopt},
    KnownDType{"C64", 64, std::nullopt},
};

// Names in messages are cut, so that a hostile file cannot fill the terminal.
std::string Quote(std::string_view name) {
  std::string text = "'";
  for (const char c : name.substr(0, 200)) text += static_cast<unsigned char>(c) < 32 ? '?' : c;
  return text + (name.size() > 200 ? "...'" : "'");
}

// JSON with its duplicate keys noticed; nlohmann keeps the last one silently.
Status ParseStrict(std::string_view text, const std::string& place, SortedJson* json) {
  std::vector<std::set<std::string>> keys;
  std::string duplicate;
  bool found_duplicate = false, too_deep = false;
  const auto callback = [&](int depth, SortedJson::parse_event_t event, SortedJson& parsed) {
    // A header is an object of objects of arrays; deeper nesting is refused before it can cost
    // memory.
    if (depth > 4) too_deep = true;
    if (event == SortedJson::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == SortedJson::parse_event_t::object_end) {
      if (!keys.empty()) keys.pop_back();
    } else if (event == SortedJson::parse_event_t::key && !keys.empty()) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second && !found_duplicate) {
        duplicate = key;
        found_duplicate = true;
      }
    }
    return !too_deep;
  };
  *json = SortedJson::parse(text.begin(), text.end(), callback, /*allow_exceptions=*/false);
  if (too_deep) return DataLossError(StrCat(place, ": header: nested too deep"));
  if (json->is_discarded()) return DataLossError(StrCat(place, ": header is not valid JSON"));
  if (!json->is_object()) return DataLossError(StrCat(place, ": header is not a JSON object"));
  if (found_duplicate) {
    return DataLossError(StrCat(place, ": header names ", Quote(duplicate), " twice"));
  }
  return OkStatus();
}

// A JSON array of unsigned numbers below 2^63.
bool ReadNumbers(const SortedJson& json, std::vector<int64_t>* numbers) {
  if (!json.is_array()) return false;
  for (const SortedJson& item : json) {
    if (!item.is_number_unsigned()) return false;
    const uint64_t number = item.get<uint64_t>();
    if (number > static_cast<uint64_t>(INT64_MAX)) return false;
    numbers->push_back(static_cast<int64_t>(number));
  }
  return true;
}

Status ParseTensor(const std::string& name, const SortedJson& json, const std::string& place,
                   SafetensorsTensor* tensor) {
  const auto fail = [&](const auto&... what) {
    return DataLossError(StrCat(place, ": tensor ", Quote(name), ": ", what...));
  };
  if (!json.is_object()) return fail("expected an object with dtype, shape and data_offsets");
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!json.contains(key)) return fail("no ", key);
  }
  if (!json["dtype"].is_string()) return fail("dtype is not a string");
  tensor->name = name;
  tensor->dtype_name = json["dtype"].get<std::string>();
  const auto known = std::find_if(kKnownDTypes.begin(), kKnownDTypes.end(),
                                  [&](const auto& k) { return k.name == tensor->dtype_name; });
  if (known == kKnownDTypes.end()) return fail("unknown dtype ", Quote(tensor->dtype_name));
  tensor->dtype = known->dtype;
  if (!ReadNumbers(json["shape"], &tensor->shape)) {
    return fail("shape is not a list of non-negative integers");
  }
  std::vector<int64_t> offsets;
  if (!ReadNumbers(json["data_offsets"], &offsets) || offsets.size() != 2 ||
      offsets[0] > offsets[1]) {
    return fail("data_offsets is not [begin, end] with begin <= end");
  }
  tensor->begin = offsets[0];
  tensor->end = offsets[1];
  int64_t bytes = known->bits / 8;
  for (const int64_t extent : tensor->shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) return fail("its shape overflows 64 bits");
  }
  if (bytes != tensor->end - tensor->begin) {
    return fail(tensor->dtype_name, " ", ShapeToString(tensor->shape), " needs ", bytes,
                " bytes, its data_offsets hold ", tensor->end - tensor->begin);
  }
  return OkStatus();
}

Status CheckOffsets(const SafetensorsHeader& header, int64_t file_bytes, const std::string& place) {
  int64_t position = 0;
  for (const SafetensorsTensor& tensor : header.tensors) {
    if (tensor.begin != position) {
      return DataLossError(StrCat(place, ": tensor ", Quote(tensor.name), ": begins at byte ",
                                  tensor.begin, " of the data, expected ", position, " (",
                                  tensor.begin < position ? "overlap" : "gap", ")"));
    }
    position = tensor.end;
  }
  int64_t expected = 0;
  if (__builtin_add_overflow(header.data_offset, position, &expected) || expected != file_bytes) {
    return DataLossError(StrCat(place, ": ", file_bytes, " bytes, expected ", header.data_offset,
                                " of header and ", position, " of tensors",
                                expected > file_bytes ? " (truncated)" : ""));
  }
  return OkStatus();
}

}  // namespace

const char* SafetensorsDTypeName(DType dtype) {
  for (const KnownDType& known : kKnownDTypes) {
    if (known.dtype == dtype) return known.name.data();
  }
  LOG(FATAL) << "no safetensors name for " << DTypeName(dtype);
  return "";
}

Result<SafetensorsHeader> ParseSafetensorsHeader(std::string_view text, int64_t file_bytes,
                                                 const std::string& place) {
  SafetensorsHeader header;
  header.data_offset = static_cast<int64_t>(text.size()) + 8;
  SortedJson json;
  RETURN_IF_ERROR(ParseStrict(text, place, &json));
  for (const auto& [name, value] : json.items()) {
    if (name != "__metadata__") {
      SafetensorsTensor tensor;
      RETURN_IF_ERROR(ParseTensor(name, value, place, &tensor));
      header.tensors.push_back(std::move(tensor));
      continue;
    }
    if (!value.is_object()) return DataLossError(StrCat(place, ": __metadata__ is not an object"));
    for (const auto& [key, item] : value.items()) {
      if (!item.is_string()) {
        return DataLossError(StrCat(place, ": __metadata__ ", Quote(key), " is not a string"));
      }
      header.metadata[key] = item.get<std::string>();
    }
  }
  std::sort(header.tensors.begin(), header.tensors.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  RETURN_IF_ERROR(CheckOffsets(header, file_bytes, place));
  return header;
}

}  // namespace trireme
