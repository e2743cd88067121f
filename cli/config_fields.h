// One field of a run by its key: text in, text out. Shared by loading, defaults and printing.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/model/model_config.h"

namespace google::protobuf {
class FieldDescriptor;
class Message;
}  // namespace google::protobuf

namespace trireme {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// False for what is no finite number, or more than one.
bool ParseReal(const std::string& text, double* value);

// "a whole number", "true or false", ...
const char* FieldTypeName(const FieldDescriptor& field);

// Parses `text` as the field's type and sets it, or appends it when the field is repeated. An error
// says what was expected.
std::optional<std::string> SetFieldFromText(const FieldDescriptor& field, const std::string& text,
                                            Message* message);

// The values of a field that is set, one per item, as the shortest text that reads back the same.
std::vector<std::string> FieldTexts(const Message& message, const FieldDescriptor& field);

bool FieldIsSet(const Message& message, const FieldDescriptor& field);

}  // namespace trireme
