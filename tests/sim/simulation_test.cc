#include "tests/sim/simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "cluster/base/status.h"

namespace trireme {
namespace {

using ::testing::IsEmpty;

void ExpectWholeMetrics(const SimulatedRun& run, const SimulationOptions& options) {
  std::vector<std::pair<int64_t, bool>> expected;
  const int64_t every = options.validation_every;
  for (int64_t step = 0; step <= options.steps_total; ++step) {
    if (step > 0) expected.emplace_back(step, false);
    if (every > 0 && (step % every == 0 || step == options.steps_total)) {
      expected.emplace_back(step, true);
    }
  }
  EXPECT_EQ(run.lines, expected);
  for (const auto& [step, loss] : run.loss_of) EXPECT_EQ(loss, LossOfStep(step));
}

TEST(SimulationTest, FourThousandWorkersFinishAQuietRun) {
  SimulationOptions options;
  options.mesh = Mesh(128, 8, 4);
  options.steps_total = 6;
  options.checkpoint_every = 3;
  options.validation_every = 3;
  SimulatedRun run;
  SimulateJob(options, {}, &run);
  EXPECT_THAT(run.violations, IsEmpty());
  ASSERT_EQ(run.verdicts.size(), 1u);
  EXPECT_EQ(run.verdicts[0].exit_code, 0) << run.verdicts[0].reason;
  EXPECT_THAT(run.store, testing::ElementsAre(3, 6));
  ExpectWholeMetrics(run, options);
}

TEST(SimulationTest, ACrashAmongTwoThousandWorkersIsToldAtOnce) {
  SimulationOptions options;
  options.mesh = Mesh(256, 8, 1);
  options.steps_total = 20;
  SimulatedRun run;
  SimulateJob(options, {{Fault::kCrash, 3, 1234}}, &run);
  EXPECT_THAT(run.violations, IsEmpty());
  EXPECT_EQ(run.events["worker_lost"], 1);
  ASSERT_EQ(run.verdicts.size(), 1u);
  EXPECT_EQ(run.verdicts[0].exit_code, 5);
  EXPECT_LT(run.worst_detection, 1'000'000);
}

TEST(SimulationTest, EveryKindOfLossIsDetectedInTime) {
  const std::map<Fault, Micros> bounds = {
      {Fault::kCrash, 1'000'000}, {Fault::kFreeze, 1'500'000}, {Fault::kHang, 4'000'000}};
  for (const auto& [fault, bound] : bounds) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      SimulationOptions options;
      options.seed = seed;
      options.mesh = Mesh(4, 2, 1);
      options.steps_total = 30;
      SimulatedRun run;
      SimulateJob(options, {{fault, 10, static_cast<int>(seed % 8)}}, &run);
      ASSERT_THAT(run.violations, IsEmpty());
      ASSERT_EQ(run.verdicts.back().exit_code, 5) << "seed " << seed;
      ASSERT_EQ(run.events[fault == Fault::kHang ? "hang" : "worker_lost"], 1) << "seed " << seed;
      ASSERT_GT(run.worst_detection, 0);
      ASSERT_LT(run.worst_detection, bound) << "seed " << seed;
    }
  }
}

TEST(SimulationTest, ALateCoordinatorLosesNobody) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    SimulationOptions options;
    options.seed = seed;
    options.mesh = Mesh(4, 1, 2);
    options.steps_total = 12;
    SimulatedRun run;
    SimulateJob(options, {{Fault::kCoordinatorLate, 3, 1}, {Fault::kCoordinatorLate, 8, 5}}, &run);
    ASSERT_THAT(run.violations, IsEmpty());
    ASSERT_EQ(run.verdicts.back().exit_code, 0) << run.verdicts.back().reason;
    ASSERT_EQ(run.events["worker_lost"], 0);
  }
}

// Jobs that are hit by everything and started again until the run is done: each step has one value,
// generations grow by one, every job has one verdict, and the metrics end up whole.
TEST(SimulationTest, RunsThatAreHitAgainAndAgainEndWhole) {
  std::map<std::string, int> events;
  std::map<int, int> verdicts;
  const char* seeds = std::getenv("TRIREME_SIM_SEEDS");
  const uint64_t count = seeds == nullptr ? 150 : std::strtoull(seeds, nullptr, 10);
  for (uint64_t seed = 0; seed < count; ++seed) {
    std::mt19937_64 random(seed);
    SimulationOptions options;
    options.seed = seed;
    options.mesh = Mesh(1 + static_cast<int>(random() % 4), 1 + static_cast<int>(random() % 3),
                        1 + static_cast<int>(random() % 2));
    options.steps_total = 10 + static_cast<int64_t>(random() % 20);
    options.checkpoint_every = 1 + static_cast<int64_t>(random() % 6);
    options.checkpoint_keep = 1 + static_cast<int64_t>(random() % 3);
    options.validation_every = static_cast<int64_t>(random() % 5);
    options.storage_failure_rate = random() % 3 == 0 ? 0.2 : 0;
    SimulatedRun run;
    int jobs = 0;
    do {
      std::vector<SimulatedFault> faults;
      const uint64_t hits = jobs < 6 ? random() % 3 : 0;
      for (uint64_t i = 0; i < hits; ++i) {
        faults.push_back(
            {static_cast<Fault>(random() % 5),
             1 + static_cast<int64_t>(random() % static_cast<uint64_t>(options.steps_total)),
             static_cast<int>(random() % static_cast<uint64_t>(options.mesh.size()))});
      }
      if (jobs >= 6) options.storage_failure_rate = 0;
      SimulateJob(options, faults, &run);
      ++jobs;
      ASSERT_EQ(run.verdicts.size(), static_cast<size_t>(jobs)) << "seed " << seed;
      ++verdicts[run.verdicts.back().exit_code];
    } while (run.verdicts.back().exit_code != 0 && jobs < 20);
    ASSERT_THAT(run.violations, IsEmpty());
    ASSERT_EQ(run.verdicts.back().exit_code, 0) << "seed " << seed;
    ASSERT_EQ(run.generation, static_cast<uint64_t>(jobs));
    ASSERT_EQ(run.store.count(options.steps_total), 1u);
    ExpectWholeMetrics(run, options);
    for (const auto& [kind, times] : run.events) events[kind] += times;
  }
  // All of it must have happened, or the above proves little.
  for (const char* kind : {"worker_lost", "hang", "checkpoint_saved", "checkpoint_failed",
                           "checkpoint_deleted", "resume", "stop"}) {
    EXPECT_GE(events[kind], 5) << kind;
  }
  for (const int code : {0, 4, 5, 75}) EXPECT_GE(verdicts[code], 3) << "exit code " << code;
}

}  // namespace
}  // namespace trireme
