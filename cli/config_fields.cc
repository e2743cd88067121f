#include "cli/config_fields.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <charconv>
#include <cmath>
#include <limits>

namespace trireme {
namespace {

// Of whole numbers, from the smallest to the largest.
template <typename T>
std::string RangeOf() {
  return StrCat("a whole number from ", std::numeric_limits<T>::min(), " to ",
                std::numeric_limits<T>::max());
}

bool IsWholeNumber(const std::string& text) {
  const size_t digits = text.find_first_not_of("+-");
  return digits <= 1 && text.find_first_not_of("0123456789", digits) == std::string::npos;
}

template <typename T>
bool ParseNumber(const std::string& text, T* value) {
  const char* begin = text.data();
  const char* end = begin + text.size();
  if (begin != end && *begin == '+') ++begin;
  const auto [stop, error] = std::from_chars(begin, end, *value);
  return error == std::errc() && stop == end && begin != end;
}

template <typename T>
std::string PrintNumber(T value) {
  char text[64];
  const auto [end, error] = std::to_chars(text, text + sizeof(text), value);
  CHECK(error == std::errc());
  return std::string(text, end);
}

bool ParseBool(const std::string& text, bool* value) {
  *value = text == "true" || text == "True" || text == "yes" || text == "on";
  return *value || text == "false" || text == "False" || text == "no" || text == "off";
}

}  // namespace

bool ParseReal(const std::string& text, double* value) {
  return ParseNumber(text, value) && std::isfinite(*value);
}

const char* FieldTypeName(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
    case FieldDescriptor::CPPTYPE_UINT64:
      return "a whole number";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return field.is_repeated() ? "a list of numbers" : "a number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_STRING:
      return "a text";
    default:
      return field.is_repeated() ? "a list" : "a section";
  }
}

std::optional<std::string> SetFieldFromText(const FieldDescriptor& field, const std::string& text,
                                            Message* message) {
  const auto* reflection = message->GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64: {
      int64_t value = 0;
      if (!ParseNumber(text, &value)) {
        return IsWholeNumber(text) ? RangeOf<int64_t>() : FieldTypeName(field);
      }
      reflection->SetInt64(message, &field, value);
      return std::nullopt;
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t value = 0;
      if (!ParseNumber(text, &value)) {
        return IsWholeNumber(text) && text[0] != '-' ? RangeOf<uint64_t>()
                                                     : "a whole number of at least 0";
      }
      reflection->SetUInt64(message, &field, value);
      return std::nullopt;
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value = 0;
      if (!ParseReal(text, &value)) return "a number";
      if (field.is_repeated()) {
        reflection->AddDouble(message, &field, value);
      } else {
        reflection->SetDouble(message, &field, value);
      }
      return std::nullopt;
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      bool value = false;
      if (!ParseBool(text, &value)) return FieldTypeName(field);
      reflection->SetBool(message, &field, value);
      return std::nullopt;
    }
    case FieldDescriptor::CPPTYPE_STRING:
      reflection->SetString(message, &field, text);
      return std::nullopt;
    default:
      return FieldTypeName(field);
  }
}

bool FieldIsSet(const Message& message, const FieldDescriptor& field) {
  const auto* reflection = message.GetReflection();
  return field.is_repeated() ? reflection->FieldSize(message, &field) > 0
                             : reflection->HasField(message, &field);
}

std::vector<std::string> FieldTexts(const Message& message, const FieldDescriptor& field) {
  const auto* reflection = message.GetReflection();
  if (!FieldIsSet(message, field)) return {};
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return {PrintNumber(reflection->GetInt64(message, &field))};
    case FieldDescriptor::CPPTYPE_UINT64:
      return {PrintNumber(reflection->GetUInt64(message, &field))};
    case FieldDescriptor::CPPTYPE_BOOL:
      return {reflection->GetBool(message, &field) ? "true" : "false"};
    case FieldDescriptor::CPPTYPE_STRING:
      return {reflection->GetString(message, &field)};
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      if (!field.is_repeated()) return {PrintNumber(reflection->GetDouble(message, &field))};
      std::vector<std::string> texts;
      for (int i = 0; i < reflection->FieldSize(message, &field); ++i) {
        texts.push_back(PrintNumber(reflection->GetRepeatedDouble(message, &field, i)));
      }
      return texts;
    }
    default:
      LOG(FATAL) << field.full_name() << " is a section, not a value";
  }
}

}  // namespace trireme
