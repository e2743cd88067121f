#include "coordinator/run_status.h"

#include <cmath>
#include <deque>
#include <filesystem>
#include <fstream>

#include "cluster/base/json.h"
#include "coordinator/journal.h"
#include "coordinator/json_fields.h"
#include "coordinator/run_lock.h"

namespace trireme {
namespace {

// Calls `use(line, json)` for each whole line of the file's last `bytes_max` bytes that is an
// object. Damaged lines are passed over: what else the folder says is still worth showing.
template <typename Use>
void ForLastLines(const std::string& path, int64_t bytes_max, Use use) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return;
  const auto size = static_cast<int64_t>(file.tellg());
  const int64_t start = std::max<int64_t>(0, size - bytes_max);
  file.seekg(start);
  std::string line;
  if (start > 0) std::getline(file, line);
  while (std::getline(file, line)) {
    const auto json = ParseJson(line);
    if (json.is_object()) use(line, json);
  }
}

constexpr int64_t kTailBytes = 256 * 1024;

Json Parsed(const std::string& text) { return text.empty() ? Json(nullptr) : ParseJson(text); }

std::string StateOf(const RunStatus& status) {
  if (!status.verdict) return RunLock::Held(status.run_dir) ? "running" : "died";
  if (status.verdict->exit_code == 0) return "done";
  return status.verdict->exit_code == 75 ? "stopped" : "failed";
}

std::string Number(const Json& json, const char* key, const char* format) {
  if (!json.is_object() || !json.contains(key) || !json[key].is_number()) return "-";
  char text[40];
  snprintf(text, sizeof(text), format, json[key].get<double>());
  return text;
}

}  // namespace

Result<RunStatus> ReadRunStatus(const std::string& run_dir, int events_max) {
  if (!std::filesystem::exists(JournalPath(run_dir))) {
    return InvalidArgumentError(
        StrCat(run_dir, ": not the folder of a run (it has no journal/journal.log)"));
  }
  RunStatus status;
  status.run_dir = run_dir;
  ASSIGN_OR_RETURN(const std::vector<JournalRecord> records, ReadJournal(run_dir));
  const JournalSummary summary = Summarize(records);
  status.generation = summary.generation;
  status.step = summary.committed_step;
  status.checkpoints = summary.checkpoints;
  status.verdict = summary.verdict;
  ForLastLines(
      run_dir + "/metrics.jsonl", kTailBytes, [&](const std::string& line, const Json& json) {
        (json.contains("loss") ? status.last_step_line : status.last_validation_line) = line;
      });
  std::deque<std::string> events;
  // Whole, because the members stand in a start event that may be far back.
  ForLastLines(run_dir + "/events.jsonl", INT64_MAX,
               [&](const std::string& line, const Json& json) {
                 const std::optional<std::string> kind = TextField(json, "kind");
                 if (!kind) return;
                 events.push_back(line);
                 if (static_cast<int>(events.size()) > events_max) events.pop_front();
                 if (kind == "start" && json.contains("members") && json["members"].is_array()) {
                   status.members = DumpJson(json["members"]);
                 }
               });
  status.last_events.assign(events.begin(), events.end());
  status.state = StateOf(status);
  return status;
}

std::string RunStatusJson(const RunStatus& status) {
  Json json;
  json["run_dir"] = status.run_dir;
  json["state"] = status.state;
  json["generation"] = status.generation;
  json["step"] = status.step;
  json["metrics"] = Parsed(status.last_step_line);
  json["validation"] = Parsed(status.last_validation_line);
  json["checkpoints"] = status.checkpoints;
  json["members"] = status.members.empty() ? Json::array() : Parsed(status.members);
  json["events"] = Json::array();
  for (const std::string& line : status.last_events) json["events"].push_back(Parsed(line));
  if (status.verdict) {
    json["verdict"] = {{"exit_code", status.verdict->exit_code},
                       {"step", status.verdict->step},
                       {"reason", status.verdict->reason}};
  } else {
    json["verdict"] = nullptr;
  }
  return DumpJson(json);
}

std::string RunStatusText(const RunStatus& status) {
  std::string text = StrCat(status.run_dir, ": ", status.state, ", step ", status.step,
                            ", generation ", status.generation, "\n");
  if (status.verdict) {
    text += StrCat("verdict: exit code ", status.verdict->exit_code, ", ", status.verdict->reason,
                   "\n");
  }
  const Json step = Parsed(status.last_step_line);
  if (step.is_object()) {
    text += StrCat("loss ", Number(step, "loss", "%.4f"), ", ",
                   Number(step, "tokens_per_second", "%.0f"), " tokens/s, ",
                   Number(step, "step_ms", "%.1f"), " ms a step, share of peak ",
                   Number(step, "mfu", "%.3f"), "\n");
  }
  const Json validation = Parsed(status.last_validation_line);
  if (validation.is_object()) {
    text += StrCat("validation after step ", Number(validation, "step", "%.0f"), ": loss ",
                   Number(validation, "validation_loss", "%.4f"), ", perplexity ",
                   Number(validation, "validation_perplexity", "%.2f"), "\n");
  }
  if (!status.checkpoints.empty()) {
    text += "checkpoints:";
    for (const int64_t checkpoint : status.checkpoints) text += StrCat(" ", checkpoint);
    text += "\n";
  }
  for (const Json& member : Parsed(status.members.empty() ? "[]" : status.members)) {
    text += StrCat("rank ", IntegerField(member, "rank").value_or(-1), "  ",
                   TextField(member, "role").value_or("-"), "  ",
                   TextField(member, "host").value_or("-"), "  pid ",
                   IntegerField(member, "pid").value_or(0));
    if (member.is_object() && member.contains("place") && member["place"].is_object()) {
      for (const auto& [key, value] : member["place"].items())
        text += StrCat("  ", key, " ", value);
    }
    text += "\n";
  }
  for (const std::string& line : status.last_events) {
    const Json event = Parsed(line);
    text +=
        StrCat(TextField(event, "time").value_or("-"), "  ", TextField(event, "kind").value_or("-"),
               "  step ", IntegerField(event, "step").value_or(0), "  ",
               TextField(event, "reason").value_or("-"), "\n");
  }
  return text;
}

}  // namespace trireme
