#include "coordinator/journal.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "cluster/base/checksum.h"
#include "cluster/base/json.h"
#include "coordinator/json_fields.h"

namespace trireme {
namespace {

constexpr size_t kChecksumDigits = 16;

std::optional<JournalRecord> Decode(const std::string& line) {
  if (line.size() < kChecksumDigits + 1) return std::nullopt;
  const std::string_view text = std::string_view(line).substr(kChecksumDigits + 1);
  if (line.substr(0, kChecksumDigits) != ChecksumHex(Checksum64(text))) return std::nullopt;
  const auto json = ParseSortedJson(text);
  if (!json.is_object()) return std::nullopt;
  JournalRecord record;
  const std::optional<std::string> kind = TextField(json, "kind");
  const std::optional<std::string> reason = TextField(json, "reason");
  const std::optional<int64_t> generation = IntegerField(json, "generation");
  const std::optional<int64_t> step = IntegerField(json, "step");
  if (!kind || !reason || !generation || !step) return std::nullopt;
  record.kind = *kind;
  record.generation = static_cast<uint64_t>(*generation);
  record.step = *step;
  record.reason = *reason;
  if (json.contains("exit_code")) {
    record.exit_code = static_cast<int>(IntegerField(json, "exit_code").value_or(1));
  }
  return record;
}

}  // namespace

std::string JournalPath(const std::string& run_dir) { return run_dir + "/journal/journal.log"; }

std::string EncodeJournalRecord(const JournalRecord& record) {
  nlohmann::ordered_json json;
  json["kind"] = record.kind;
  json["generation"] = record.generation;
  json["step"] = record.step;
  json["reason"] = record.reason;
  if (record.exit_code) json["exit_code"] = *record.exit_code;
  const std::string text = DumpJson(json);
  return StrCat(ChecksumHex(Checksum64(std::string_view(text))), " ", text);
}

Result<std::vector<JournalRecord>> ReadJournal(const std::string& run_dir) {
  std::vector<JournalRecord> records;
  std::ifstream file(JournalPath(run_dir));
  std::string line;
  int number = 0;
  while (std::getline(file, line)) {
    ++number;
    auto record = Decode(line);
    if (record) {
      records.push_back(std::move(*record));
    } else if (!file.eof()) {  // with its line end, so it was once whole
      return DataLossError(StrCat(JournalPath(run_dir), ": line ", number,
                                  " is damaged: expected its checksum and a record"));
    }
  }
  return records;
}

JournalSummary Summarize(const std::vector<JournalRecord>& records) {
  JournalSummary summary;
  std::set<int64_t> checkpoints;
  for (const JournalRecord& record : records) {
    if (record.kind == "start") {
      summary.generation = record.generation;
      summary.verdict.reset();
      summary.committed_step = record.step;
    } else if (record.kind == "committed") {
      summary.committed_step = record.step;
    } else if (record.kind == "checkpoint") {
      checkpoints.insert(record.step);
    } else if (record.kind == "checkpoint_deleted") {
      checkpoints.erase(record.step);
    } else if (record.kind == "verdict") {
      summary.generation = std::max(summary.generation, record.generation);
      summary.verdict = Verdict{record.exit_code.value_or(1), record.step, record.reason};
    }
  }
  summary.checkpoints.assign(checkpoints.begin(), checkpoints.end());
  return summary;
}

Result<std::optional<Verdict>> ReadVerdict(const std::string& run_dir) {
  ASSIGN_OR_RETURN(const std::vector<JournalRecord> records, ReadJournal(run_dir));
  return Summarize(records).verdict;
}

Status Journal::Open(const std::string& run_dir) {
  std::error_code error;
  std::filesystem::create_directories(run_dir + "/journal", error);
  if (error) return StorageError(StrCat(run_dir, "/journal: ", error.message()));
  return file_.Open(JournalPath(run_dir));
}

void Journal::Write(const JournalRecord& record) {
  file_.Append(EncodeJournalRecord(record));
  if (record.kind != "committed") file_.Sync();
}

}  // namespace trireme
