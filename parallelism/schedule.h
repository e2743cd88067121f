// Pipeline schedules as data: for each stage the order of its forward, backward and weight passes.
// Generated, read from CSV, checked on paper, and run by one executor (pipeline_executor.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/base/status.h"

namespace trireme {

enum class ActionKind : uint8_t {
  kForward,   // F
  kBackward,  // B: the input's gradient; with the weights' where its W follows directly
  kWeight,    // W: the weights' gradients
};

struct Action {
  ActionKind kind;
  int microbatch;  // of the schedule, from 0; the executor maps it to the rank's own ids
  friend bool operator==(const Action&, const Action&) = default;
};

// rows[s]: what stage s does, in this order. Every microbatch has its F, B and W once a row. A `B`
// directly before its `W` runs as one fused pass.
struct Schedule {
  int stages = 0;
  int microbatches = 0;
  std::vector<std::vector<Action>> rows;
  friend bool operator==(const Schedule&, const Schedule&) = default;
};

// True when row[column] is a backward that runs fused with the weight pass after it.
bool FusedWithNext(const std::vector<Action>& row, size_t column);

// Limits of what is read from files.
inline constexpr int kScheduleStagesMax = 1024;
inline constexpr int kScheduleMicrobatchesMax = 16384;

// All forwards, then all backwards. Huang et al. 2019, arXiv:1811.06965. Backwards in ascending
// order of microbatches, as the order of sums asks.
Schedule GPipeSchedule(int stages, int microbatches);
// One forward, one backward: stage s runs min(stages - s, m) forwards ahead. Narayanan et al. 2021,
// arXiv:2104.04473 (PipeDream-flush).
Schedule OneForwardOneBackwardSchedule(int stages, int microbatches);

// By the name in run.yaml: "gpipe", "1f1b", or else the path of a CSV file, which must have as many
// rows as stages and as many microbatches. The schedule is validated.
Result<Schedule> MakeSchedule(const std::string& name, int stages, int microbatches);

// One action as "2F0": stage, kind, microbatch.
std::string ActionToString(int stage, Action action);
// One line a stage: "0F0 0F1 0B0 0W0 ...\n".
std::string ScheduleToString(const Schedule& schedule);
// The same with commas.
std::string ScheduleToCsv(const Schedule& schedule);
// Reads CSV or the text form: one row a stage in ascending order, cells divided by commas or
// blanks, empty cells (bubbles) skipped. A microbatch with a B and no W is given its W directly
// after the B. kInvalidArgument names row, column (from 1) and cell. The result is not validated.
Result<Schedule> ParseSchedule(std::string_view text);

// Checks on paper that every stage runs each microbatch's F, B and W once and in this order, that
// weight gradients come in ascending microbatches at every stage (the order of sums), and that no
// stage waits for ever when sends never block and receives do. Errors name row, column, action.
Status ValidateSchedule(const Schedule& schedule);

// Microbatches between F and the end of their backward at once, the most for each stage. The
// schedule is valid.
std::vector<int> PeakLiveMicrobatches(const Schedule& schedule);

// Messages of a stage to the next one, and to the one before, that it cannot yet know to be
// received when it sends another, that one included: the most at once. A message is known to be
// received once something has come back that its receiver did after it. So many places for what is
// sent, used in turn, and the one whose turn it is can be waited for without holding up anybody.
struct UnconfirmedSends {
  int down = 0, up = 0;
};
// For each stage. The schedule is valid.
std::vector<UnconfirmedSends> PeakUnconfirmedSends(const Schedule& schedule);

// Times of the passes of each stage, in any unit, and of handing a carry to the next stage.
struct ScheduleCosts {
  std::vector<double> forward, backward, weight;  // by stage
  double transfer = 0;
  static ScheduleCosts Uniform(int stages, double forward = 1, double backward = 1,
                               double weight = 1);
};
struct ScheduleTiming {
  double makespan = 0;
  double bubble_share = 0;  // idle share of stages x makespan
};
// Plays the schedule with these costs. The schedule is valid.
ScheduleTiming TimeSchedule(const Schedule& schedule, const ScheduleCosts& costs);

}  // namespace trireme
