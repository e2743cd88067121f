// A Config message as YAML that reads back the same.
#include "cli/config_yaml.h"

#include <sstream>

#include "cli/config_fields.h"
#include "cli/config_loader.h"
#include "proto/config.pb.h"

namespace trireme {
namespace {

// Plain where YAML cannot take it for anything but text, else in double quotes.
std::string QuoteText(const std::string& text) {
  constexpr std::string_view kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./@+-";
  const bool is_word = text == "null" || text == "Null" || text == "NULL";
  if (!text.empty() && !is_word && text.find_first_not_of(kPlain) == std::string::npos &&
      text[0] != '-' && text[0] != '@') {
    return text;
  }
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      constexpr char kHex[] = "0123456789abcdef";
      quoted += {'\\', 'x', kHex[(c >> 4) & 15], kHex[c & 15]};
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

void WriteSection(const Message& message, const std::string& indent, std::ostream& out) {
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const auto& field = *message.GetDescriptor()->field(i);
    if (!FieldIsSet(message, field)) continue;
    out << indent << field.name() << ":";
    if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      out << " " << FlowValue(message, field) << "\n";
    } else if (field.is_repeated()) {
      out << "\n";
      for (int item = 0; item < reflection->FieldSize(message, &field); ++item) {
        out << indent << "  - "
            << FlowSection(reflection->GetRepeatedMessage(message, &field, item)) << "\n";
      }
    } else {
      const Message& section = reflection->GetMessage(message, &field);
      if (section.ByteSizeLong() == 0) {
        out << " {}\n";
        continue;
      }
      out << "\n";
      WriteSection(section, indent + "  ", out);
    }
  }
}

}  // namespace

std::string FlowValue(const Message& message, const FieldDescriptor& field) {
  const bool is_section = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
  const auto* reflection = message.GetReflection();
  if (is_section && !field.is_repeated())
    return FlowSection(reflection->GetMessage(message, &field));
  std::vector<std::string> items;
  if (is_section) {
    for (int i = 0; i < reflection->FieldSize(message, &field); ++i) {
      items.push_back(FlowSection(reflection->GetRepeatedMessage(message, &field, i)));
    }
  } else {
    items = FieldTexts(message, field);
  }
  std::string joined;
  for (const std::string& text : items) {
    if (!joined.empty()) joined += ", ";
    joined += field.cpp_type() == FieldDescriptor::CPPTYPE_STRING ? QuoteText(text) : text;
  }
  return field.is_repeated() ? "[" + joined + "]" : joined;
}

std::string FlowSection(const Message& message) {
  std::string joined;
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const auto& field = *message.GetDescriptor()->field(i);
    if (!FieldIsSet(message, field)) continue;
    joined += (joined.empty() ? "" : ", ") + field.name() + ": " + FlowValue(message, field);
  }
  return "{" + joined + "}";
}

std::string ConfigToYaml(const proto::Config& config, const std::string& header) {
  std::ostringstream out;
  std::istringstream lines(header);
  for (std::string line; std::getline(lines, line);) out << "# " << line << "\n";
  WriteSection(config, "", out);
  return out.str();
}

}  // namespace trireme
