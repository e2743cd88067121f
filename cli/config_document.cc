#include "cli/config_document.h"

#include <yaml-cpp/eventhandler.h>

#include <sstream>

namespace trireme {
namespace {

// Notes where a document begins, and nothing of what it holds.
class DocumentStart : public YAML::EventHandler {
 public:
  YAML::Mark mark = YAML::Mark::null_mark();

  void OnDocumentStart(const YAML::Mark& at) override { mark = at; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

std::string At(const std::string& place, const YAML::Mark& mark) {
  return mark.is_null() ? place : StrCat(place, ":", mark.line + 1);
}

// YAML::Load takes the first document alone and ignores whatever follows it; YAML::LoadAll never
// ends where a text stops being YAML at a comma, and fills the memory.
Status CheckThereIsOne(const std::string& text, const std::string& place) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  DocumentStart first, second, third;
  if (!parser.HandleNextDocument(first) || !parser.HandleNextDocument(second)) return OkStatus();
  // The parser stands still before what it cannot read: the next document begins where this one
  // did.
  const bool stands_still = parser.HandleNextDocument(third) && third.mark.pos == second.mark.pos;
  return InvalidArgumentError(StrCat(
      At(place, second.mark), stands_still ? ": not valid YAML: a key or a value was expected"
                                           : ": a second YAML document: expected one"));
}

}  // namespace

Result<YAML::Node> ParseYamlDocument(const std::string& text, const std::string& place) {
  try {
    YAML::Node node = YAML::Load(text);
    RETURN_IF_ERROR(CheckThereIsOne(text, place));
    return node;
  } catch (const YAML::Exception& error) {
    // error.what() repeats its own position; "line 0" is what an override would get.
    return InvalidArgumentError(StrCat(At(place, error.mark), ": not valid YAML: ", error.msg));
  }
}

bool IsWrittenAsText(const YAML::Node& node) {
  return node.IsScalar() && (node.Tag() == "!" || node.Tag() == "tag:yaml.org,2002:str");
}

}  // namespace trireme
