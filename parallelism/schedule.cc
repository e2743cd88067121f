#include "parallelism/schedule.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>

namespace trireme {

bool FusedWithNext(const std::vector<Action>& row, size_t column) {
  return row[column].kind == ActionKind::kBackward && column + 1 < row.size() &&
         row[column + 1] == Action{ActionKind::kWeight, row[column].microbatch};
}

namespace {

// Backward of microbatch i: fused.
void AddBackward(std::vector<Action>& row, int microbatch) {
  row.push_back({ActionKind::kBackward, microbatch});
  row.push_back({ActionKind::kWeight, microbatch});
}

}  // namespace

Schedule GPipeSchedule(int stages, int microbatches) {
  Schedule schedule{stages, microbatches, std::vector<std::vector<Action>>(stages)};
  for (std::vector<Action>& row : schedule.rows) {
    for (int i = 0; i < microbatches; ++i) row.push_back({ActionKind::kForward, i});
    for (int i = 0; i < microbatches; ++i) AddBackward(row, i);
  }
  return schedule;
}

Schedule OneForwardOneBackwardSchedule(int stages, int microbatches) {
  Schedule schedule{stages, microbatches, std::vector<std::vector<Action>>(stages)};
  for (int s = 0; s < stages; ++s) {
    std::vector<Action>& row = schedule.rows[s];
    const int ahead = std::min(stages - s, microbatches);
    for (int i = 0; i < ahead; ++i) row.push_back({ActionKind::kForward, i});
    for (int i = 0; i < microbatches; ++i) {
      AddBackward(row, i);
      if (i + ahead < microbatches) row.push_back({ActionKind::kForward, i + ahead});
    }
  }
  return schedule;
}

Result<Schedule> MakeSchedule(const std::string& name, int stages, int microbatches) {
  if (name == "gpipe") return GPipeSchedule(stages, microbatches);
  if (name == "1f1b" || name.empty()) return OneForwardOneBackwardSchedule(stages, microbatches);
  const std::string place = StrCat("layout.pipeline_schedule: ", name);
  std::ifstream file(name);
  if (!file) {
    return InvalidArgumentError(StrCat(place, ": expected gpipe, 1f1b or a readable CSV file"));
  }
  std::ostringstream text;
  text << file.rdbuf();
  Result<Schedule> schedule = ParseSchedule(text.str());
  if (!schedule.ok()) return schedule.status().WithContext(place);
  if (schedule->stages != stages || schedule->microbatches != microbatches) {
    return InvalidArgumentError(StrCat(place, ": ", schedule->stages, " stages and ",
                                       schedule->microbatches, " microbatches: expected ", stages,
                                       " stages and ", microbatches, " microbatches a data rank"));
  }
  const Status valid = ValidateSchedule(*schedule);
  if (!valid.ok()) return valid.WithContext(place);
  return schedule;
}

namespace {

// The passes as events of a dependency graph, played in the order of the rows.
class Player {
 public:
  Player(const Schedule& schedule, const ScheduleCosts& costs)
      : schedule_(schedule),
        costs_(costs),
        position_(schedule.stages, 0),
        clock_(schedule.stages, 0.0),
        done_(schedule.stages,
              std::vector<std::array<double, 3>>(schedule.microbatches, {-1.0, -1.0, -1.0})) {}

  // Runs until nothing can go on. True when every row is at its end.
  bool Play() {
    bool moved = true;
    while (moved) {
      moved = false;
      for (int s = 0; s < schedule_.stages; ++s) {
        while (TryNext(s)) moved = true;
      }
    }
    for (int s = 0; s < schedule_.stages; ++s) {
      if (position_[s] < schedule_.rows[s].size()) return false;
    }
    return true;
  }

  size_t position(int stage) const { return position_[stage]; }
  const std::vector<double>& clock() const { return clock_; }

 private:
  double Done(int stage, int microbatch, ActionKind kind) const {
    return done_[stage][microbatch][static_cast<int>(kind)];
  }

  // The next action of the stage, unless what it needs has not happened yet.
  bool TryNext(int s) {
    const std::vector<Action>& row = schedule_.rows[s];
    if (position_[s] == row.size()) return false;
    const Action action = row[position_[s]];
    double ready = 0;
    double cost = costs_.weight[s];  // in a fused pass, that of its backward
    if (action.kind == ActionKind::kForward) {
      cost = costs_.forward[s];
      if (s > 0) ready = Done(s - 1, action.microbatch, ActionKind::kForward);
      if (ready < 0) return false;
      if (s > 0) ready += costs_.transfer;
    } else if (action.kind == ActionKind::kBackward) {
      cost = costs_.backward[s];
      if (s + 1 < schedule_.stages) {
        ready = Done(s + 1, action.microbatch, ActionKind::kBackward);
        if (ready < 0) return false;
        ready += costs_.transfer;
      }
      if (FusedWithNext(row, position_[s])) cost += costs_.weight[s];
    } else if (position_[s] > 0 && FusedWithNext(row, position_[s] - 1)) {
      cost = 0;
    }
    clock_[s] = std::max(clock_[s], ready) + cost;
    done_[s][action.microbatch][static_cast<int>(action.kind)] = clock_[s];
    ++position_[s];
    return true;
  }

  const Schedule& schedule_;
  const ScheduleCosts& costs_;
  std::vector<size_t> position_;
  std::vector<double> clock_;
  std::vector<std::vector<std::array<double, 3>>> done_;
};

std::string Place(int stage, size_t column, Action action) {
  return StrCat("row ", stage + 1, ", column ", column + 1, ": ", ActionToString(stage, action));
}

// Nothing missing, nothing doubled, F before B before W, weights ascending.
Status ValidateRow(const Schedule& schedule, int s) {
  const std::vector<Action>& row = schedule.rows[s];
  std::vector<int> passes(schedule.microbatches, 0);  // of F, B, W that are behind us
  int last_weight = -1;
  for (size_t c = 0; c < row.size(); ++c) {
    const Action action = row[c];
    if (action.microbatch < 0 || action.microbatch >= schedule.microbatches) {
      return InvalidArgumentError(
          StrCat(Place(s, c, action), ": expected a microbatch below ", schedule.microbatches));
    }
    int& behind = passes[action.microbatch];
    const int kind = static_cast<int>(action.kind);
    if (behind > kind) {
      return InvalidArgumentError(StrCat(Place(s, c, action), ": the same pass twice"));
    }
    if (behind < kind) {
      const Action missing{static_cast<ActionKind>(behind), action.microbatch};
      return InvalidArgumentError(
          StrCat(Place(s, c, action), ": expected ", ActionToString(s, missing), " before it"));
    }
    ++behind;
    if (action.kind == ActionKind::kWeight) {
      if (action.microbatch < last_weight) {
        return InvalidArgumentError(StrCat(Place(s, c, action),
                                           ": weight gradients must come in ascending microbatches "
                                           "(the order of sums), and ",
                                           ActionToString(s, {ActionKind::kWeight, last_weight}),
                                           " came before"));
      }
      last_weight = action.microbatch;
    }
  }
  for (int i = 0; i < schedule.microbatches; ++i) {
    if (passes[i] == 3) continue;
    const Action missing{static_cast<ActionKind>(passes[i]), i};
    return InvalidArgumentError(
        StrCat("row ", s + 1, ": ", ActionToString(s, missing), " is missing"));
  }
  return OkStatus();
}

}  // namespace

Status ValidateSchedule(const Schedule& schedule) {
  if (schedule.stages <= 0 || schedule.microbatches <= 0) {
    return InvalidArgumentError("a schedule needs at least one stage and one microbatch");
  }
  if (static_cast<int>(schedule.rows.size()) != schedule.stages) {
    return InvalidArgumentError(StrCat(schedule.rows.size(), " rows: expected one for each of ",
                                       schedule.stages, " stages"));
  }
  for (int s = 0; s < schedule.stages; ++s) RETURN_IF_ERROR(ValidateRow(schedule, s));
  const ScheduleCosts costs = ScheduleCosts::Uniform(schedule.stages);
  Player player(schedule, costs);
  if (player.Play()) return OkStatus();
  // Each stuck stage waits for another; the first one tells the story.
  for (int s = 0; s < schedule.stages; ++s) {
    const size_t c = player.position(s);
    if (c == schedule.rows[s].size()) continue;
    const Action action = schedule.rows[s][c];
    const int other = action.kind == ActionKind::kForward ? s - 1 : s + 1;
    return InvalidArgumentError(
        StrCat(Place(s, c, action), ": deadlock: it waits for ",
               ActionToString(other, {action.kind, action.microbatch}), ", and stage ", other,
               " is stuck before ",
               Place(other, player.position(other), schedule.rows[other][player.position(other)])));
  }
  return InternalError("a schedule is stuck at no stage");
}

std::vector<int> PeakLiveMicrobatches(const Schedule& schedule) {
  std::vector<int> peaks;
  for (const std::vector<Action>& row : schedule.rows) {
    int live = 0, peak = 0;
    for (const Action& action : row) {
      if (action.kind == ActionKind::kForward) peak = std::max(peak, ++live);
      if (action.kind == ActionKind::kWeight) --live;
    }
    peaks.push_back(peak);
  }
  return peaks;
}

namespace {

// Messages from one stage to a neighbour: those of the sender's actions of a kind, received by the
// neighbour's actions of the same kind. `back`: the kind of the neighbour's messages to the sender.
int PeakUnconfirmed(const Schedule& schedule, int sender, int receiver, ActionKind kind,
                    ActionKind back) {
  const std::vector<Action>& theirs = schedule.rows[receiver];
  std::vector<size_t> sent_back_at(schedule.microbatches);  // the place in the receiver's row
  for (size_t c = 0; c < theirs.size(); ++c) {
    if (theirs[c].kind == back) sent_back_at[theirs[c].microbatch] = c;
  }
  std::vector<bool> received(schedule.microbatches, false);
  std::vector<int> sent;  // microbatches in the order of sending
  size_t confirmed = 0;   // of `sent`, those before which all are received
  size_t known = 0;       // the receiver's actions before this place are over
  int peak = 0;
  for (const Action& action : schedule.rows[sender]) {
    if (action.kind == back) {
      for (; known <= sent_back_at[action.microbatch]; ++known) {
        if (theirs[known].kind == kind) received[theirs[known].microbatch] = true;
      }
    } else if (action.kind == kind) {
      sent.push_back(action.microbatch);
      while (confirmed < sent.size() && received[sent[confirmed]]) ++confirmed;
      peak = std::max(peak, static_cast<int>(sent.size() - confirmed));
    }
  }
  return peak;
}

}  // namespace

std::vector<UnconfirmedSends> PeakUnconfirmedSends(const Schedule& schedule) {
  constexpr ActionKind kForward = ActionKind::kForward, kBackward = ActionKind::kBackward;
  std::vector<UnconfirmedSends> peaks(schedule.stages);
  for (int s = 0; s < schedule.stages; ++s) {
    if (s + 1 < schedule.stages) {
      peaks[s].down = PeakUnconfirmed(schedule, s, s + 1, kForward, kBackward);
    }
    if (s > 0) peaks[s].up = PeakUnconfirmed(schedule, s, s - 1, kBackward, kForward);
  }
  return peaks;
}

ScheduleCosts ScheduleCosts::Uniform(int stages, double forward, double backward, double weight) {
  return {std::vector<double>(stages, forward), std::vector<double>(stages, backward),
          std::vector<double>(stages, weight)};
}

ScheduleTiming TimeSchedule(const Schedule& schedule, const ScheduleCosts& costs) {
  Player player(schedule, costs);
  CHECK(player.Play()) << "a schedule that was not validated";
  ScheduleTiming timing;
  double busy = 0;
  for (int s = 0; s < schedule.stages; ++s) {
    timing.makespan = std::max(timing.makespan, player.clock()[s]);
    busy += schedule.microbatches * (costs.forward[s] + costs.backward[s] + costs.weight[s]);
  }
  if (timing.makespan > 0) timing.bubble_share = 1 - busy / (schedule.stages * timing.makespan);
  return timing;
}

}  // namespace trireme
