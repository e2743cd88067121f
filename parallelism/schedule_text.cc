// The text and CSV forms of schedules.
#include <algorithm>
#include <charconv>

#include "parallelism/schedule.h"

namespace trireme {
namespace {

constexpr std::string_view kKindLetters = "FBW";

std::string Join(const Schedule& schedule, char separator) {
  std::string text;
  for (int s = 0; s < schedule.stages; ++s) {
    for (size_t c = 0; c < schedule.rows[s].size(); ++c) {
      if (c > 0) text += separator;
      text += ActionToString(s, schedule.rows[s][c]);
    }
    text += '\n';
  }
  return text;
}

// Digits at the front of `text`, taken off it; -1 when there are none or the number is too large.
int TakeNumber(std::string_view& text) {
  int value = -1;
  const char* end = text.data() + text.size();
  // from_chars takes a minus sign, a cell may not.
  if (text.empty() || text[0] < '0' || text[0] > '9') return -1;
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc()) return -1;
  text.remove_prefix(stop - text.data());
  return value;
}

// A cell of a file, shortened and without control characters, for messages.
std::string Quote(std::string_view cell) {
  std::string quoted = "'";
  for (char c : cell.substr(0, 40)) quoted += (c < ' ' || c > '~') ? '?' : c;
  return quoted + (cell.size() > 40 ? "...'" : "'");
}

Result<Action> ParseCell(std::string_view cell, int row, int column) {
  const auto error = [&](const std::string& expected) {
    return InvalidArgumentError(StrCat("row ", row + 1, ", column ", column + 1, ": ", Quote(cell),
                                       ": expected ", expected));
  };
  std::string_view rest = cell;
  const int stage = TakeNumber(rest);
  if (stage < 0 || rest.empty() || kKindLetters.find(rest[0]) == std::string_view::npos) {
    return error("stage, F, B or W, and microbatch, as in 0F1");
  }
  const ActionKind kind = static_cast<ActionKind>(kKindLetters.find(rest[0]));
  rest.remove_prefix(1);
  const int microbatch = TakeNumber(rest);
  if (microbatch < 0 || !rest.empty()) {
    return error("stage, F, B or W, and microbatch, as in 0F1");
  }
  if (stage != row) return error(StrCat("stage ", row, " in this row"));
  if (microbatch >= kScheduleMicrobatchesMax) {
    return error(StrCat("a microbatch below ", kScheduleMicrobatchesMax));
  }
  return Action{kind, microbatch};
}

// A backward without a W of its own is both passes: its W goes directly after it.
void AddMissingWeights(std::vector<Action>& row) {
  std::vector<bool> has_weight;
  for (const Action& action : row) {
    if (action.microbatch >= static_cast<int>(has_weight.size())) {
      has_weight.resize(action.microbatch + 1);
    }
    if (action.kind == ActionKind::kWeight) has_weight[action.microbatch] = true;
  }
  std::vector<Action> filled;
  for (const Action& action : row) {
    filled.push_back(action);
    if (action.kind == ActionKind::kBackward && !has_weight[action.microbatch]) {
      filled.push_back({ActionKind::kWeight, action.microbatch});
    }
  }
  row = std::move(filled);
}

Result<std::vector<Action>> ParseRow(std::string_view line, int row) {
  std::vector<Action> actions;
  // With commas, columns are counted by commas; without, by cells.
  const bool commas = line.find(',') != std::string_view::npos;
  int column = 0;
  while (true) {
    const size_t end = commas ? line.find(',') : line.find_first_of(" \t");
    std::string_view cell = line.substr(0, end);
    const size_t first = cell.find_first_not_of(" \t");
    if (first != std::string_view::npos) {
      cell = cell.substr(first, cell.find_last_not_of(" \t") - first + 1);
      ASSIGN_OR_RETURN(const Action action, ParseCell(cell, row, column));
      actions.push_back(action);
      ++column;
    } else if (commas) {
      ++column;
    }
    if (actions.size() > size_t{3} * kScheduleMicrobatchesMax) {
      return InvalidArgumentError(
          StrCat("row ", row + 1, ": more than ", 3 * kScheduleMicrobatchesMax, " actions"));
    }
    if (end == std::string_view::npos) break;
    line.remove_prefix(end + 1);
  }
  AddMissingWeights(actions);
  return actions;
}

}  // namespace

std::string ActionToString(int stage, Action action) {
  return StrCat(stage, kKindLetters[static_cast<int>(action.kind)], action.microbatch);
}

std::string ScheduleToString(const Schedule& schedule) { return Join(schedule, ' '); }
std::string ScheduleToCsv(const Schedule& schedule) { return Join(schedule, ','); }

Result<Schedule> ParseSchedule(std::string_view text) {
  Schedule schedule;
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // some editors' mark of UTF-8
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.find_first_not_of(" \t,") == std::string_view::npos) continue;
    if (schedule.stages == kScheduleStagesMax) {
      return InvalidArgumentError(StrCat("more than ", kScheduleStagesMax, " rows"));
    }
    ASSIGN_OR_RETURN(std::vector<Action> row, ParseRow(line, schedule.stages));
    for (const Action& action : row) {
      schedule.microbatches = std::max(schedule.microbatches, action.microbatch + 1);
    }
    schedule.rows.push_back(std::move(row));
    ++schedule.stages;
  }
  if (schedule.stages == 0)
    return InvalidArgumentError("an empty schedule: expected a row a stage");
  return schedule;
}

}  // namespace trireme
