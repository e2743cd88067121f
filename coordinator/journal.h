// The coordinator's journal, RUN_DIR/journal/journal.log: its decisions, in order, each on a line
//   CHECKSUM {"kind": ..., "generation": ..., "step": ..., "reason": ..., "exit_code": ...}
// where CHECKSUM is XXH3-64 of the JSON text in hexadecimal. Decisions are synced before they are
// acted on; "committed" records, one a step, are not.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "coordinator/control_types.h"
#include "coordinator/line_file.h"

namespace trireme {

std::string JournalPath(const std::string& run_dir);
std::string EncodeJournalRecord(const JournalRecord& record);

// All records; none when there is no journal. A last line without its line end is torn and left
// out; any other that does not match its checksum is kDataLoss with its line number.
Result<std::vector<JournalRecord>> ReadJournal(const std::string& run_dir);

// What a journal amounts to.
struct JournalSummary {
  uint64_t generation = 0;           // the last; 0 for none
  int64_t committed_step = 0;        // of that generation
  std::vector<int64_t> checkpoints;  // saved and not deleted, ascending
  std::optional<Verdict> verdict;    // of the last generation
};
JournalSummary Summarize(const std::vector<JournalRecord>& records);

// The verdict of the last generation; nullopt when it has none (it runs, or died).
Result<std::optional<Verdict>> ReadVerdict(const std::string& run_dir);

class Journal {
 public:
  // Creates RUN_DIR/journal. A torn tail is cut.
  Status Open(const std::string& run_dir);
  void Write(const JournalRecord& record);

 private:
  LineFile file_;
};

}  // namespace trireme
