// Parts of a run as they would be written on one line of YAML, for messages.
#pragma once

#include <string>

#include "cli/config_fields.h"

namespace trireme {

// The value of a field that is set: 0.5, [0.9, 0.95], "two words".
std::string FlowValue(const Message& message, const FieldDescriptor& field);
// {path: data/corpus_train, weight: 1}, keys that are not set left out.
std::string FlowSection(const Message& message);

}  // namespace trireme
