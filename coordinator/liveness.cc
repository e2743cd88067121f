#include "coordinator/liveness.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <tuple>

#include "cluster/base/status.h"

namespace trireme {
namespace {

constexpr size_t kDurationsMax = 256;
constexpr size_t kDurationsToLearn = 16;
constexpr double kSecondsMax = 1e9;
// Parts of a step in order; "reduce.norm" is within "reduce".
constexpr std::array<std::string_view, 4> kStepParts = {"data", "pipeline", "reduce", "update"};

// How far into its step a worker is, for comparing workers. Forward and backward passes take turns
// within "pipeline". Other phases (loading, validating, writing) come between steps.
std::tuple<int64_t, size_t> Progress(const WorkerPhase& at) {
  const std::string_view part = std::string_view(at.phase).substr(0, at.phase.find('.'));
  const auto* found = std::find(kStepParts.begin(), kStepParts.end(), part);
  if (found == kStepParts.end()) return {at.step, 0};
  return {at.step, static_cast<size_t>(found - kStepParts.begin()) + 1};
}

std::string Seconds(Micros micros) {
  char text[32];
  snprintf(text, sizeof(text), "%.1f s", static_cast<double>(micros) * 1e-6);
  return text;
}

}  // namespace

void PhaseDurations::Add(const std::string& phase, double seconds) {
  // What a worker says may be anything; sorting wants numbers, and deadlines end somewhere.
  if (!(seconds >= 0 && seconds < kSecondsMax)) return;
  Ring& ring = rings_[phase];
  if (ring.seconds.size() < kDurationsMax) {
    ring.seconds.push_back(seconds);
  } else {
    ring.seconds[ring.next] = seconds;
    ring.next = (ring.next + 1) % kDurationsMax;
  }
  std::vector<double> sorted = ring.seconds;
  const size_t at = std::min(sorted.size() - 1, sorted.size() * 99 / 100);
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(at), sorted.end());
  ring.p99 = sorted[at];
}

std::optional<Micros> PhaseDurations::Deadline(const std::string& phase,
                                               const CoordinatorOptions& options) const {
  if (phase.empty() || phase.starts_with("wait")) return std::nullopt;
  const auto found = rings_.find(phase);
  if (found == rings_.end() || found->second.seconds.size() < kDurationsToLearn) {
    return options.hang_unlearned;
  }
  return std::max(options.hang_floor,
                  static_cast<Micros>(options.hang_factor * found->second.p99 * 1e6));
}

void Liveness::Add(WorkerId worker, Micros now) { workers_[worker] = {now, now, {}}; }

void Liveness::Heard(WorkerId worker, Micros now) {
  const auto found = workers_.find(worker);
  if (found != workers_.end()) found->second.heard = now;
}

void Liveness::Entered(WorkerId worker, const WorkerPhase& phase, Micros now) {
  const auto found = workers_.find(worker);
  if (found == workers_.end() || found->second.at == phase) return;
  Worker& state = found->second;
  // Phases of a step are learned from the workers' own reports, which see them all; a heartbeat
  // only samples.
  const bool of_step = std::get<1>(Progress(state.at)) > 0;
  if (!of_step && !state.at.phase.empty()) {
    durations_.Add(state.at.phase, static_cast<double>(now - state.since) * 1e-6);
  }
  state.at = phase;
  state.since = now;
}

void Liveness::OnTick(Micros now) {
  const Micros late = last_tick_ ? now - *last_tick_ - options_.tick : 0;
  last_tick_ = now;
  if (late <= options_.tick) return;  // no more than a timer's usual jitter
  for (auto& [id, worker] : workers_) {
    worker.heard = std::min(now, worker.heard + late);
    worker.since = std::min(now, worker.since + late);
  }
}

std::optional<Liveness::Silence> Liveness::Lapsed(Micros now) const {
  std::optional<Silence> longest;
  for (const auto& [id, worker] : workers_) {
    const Micros silent = now - worker.heard;
    if (silent > options_.lease * options_.lease_misses && (!longest || silent > longest->silent)) {
      longest = Silence{id, silent};
    }
  }
  return longest;
}

std::optional<Liveness::Hang> Liveness::Hanging(Micros now) const {
  const Worker* late = nullptr;
  Micros deadline = 0;
  for (const auto& [id, worker] : workers_) {
    const auto allowed = durations_.Deadline(worker.at.phase, options_);
    if (allowed && now - worker.since > *allowed) {
      late = &worker;
      deadline = *allowed;
      break;
    }
  }
  if (late == nullptr) return std::nullopt;
  // Whoever is least far holds up the others; among equals, the one that stands still longest.
  const auto behind =
      std::min_element(workers_.begin(), workers_.end(), [](const auto& a, const auto& b) {
        return std::tuple(Progress(a.second.at), a.second.since) <
               std::tuple(Progress(b.second.at), b.second.since);
      });
  const auto furthest = std::max_element(
      workers_.begin(), workers_.end(),
      [](const auto& a, const auto& b) { return Progress(a.second.at) < Progress(b.second.at); });
  Hang hang;
  hang.worker = behind->first;
  hang.behind =
      StrCat("in '", behind->second.at.phase, "' of step ", behind->second.at.step, ", microbatch ",
             behind->second.at.microbatch, ", for ", Seconds(now - behind->second.since));
  hang.deadline =
      StrCat("'", late->at.phase, "' of step ", late->at.step, " outran its ", Seconds(deadline));
  if (Progress(behind->second.at) < Progress(furthest->second.at)) {
    hang.missing = StrCat("'", furthest->second.at.phase, "' of step ", furthest->second.at.step);
  }
  return hang;
}

Micros Liveness::SilentFor(WorkerId worker, Micros now) const {
  const auto found = workers_.find(worker);
  return found == workers_.end() ? 0 : now - found->second.heard;
}

}  // namespace trireme
