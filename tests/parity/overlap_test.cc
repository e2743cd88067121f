// Reduction overlaps with the backward pass, by the order of events: a bucket's reduction starts
// when its last gradient is there, not when the pass is over.
#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <vector>

#include "tests/parity/layouts.h"

namespace trireme {
namespace {

using Events = std::vector<std::string>;

// What each rank did in one step.
std::vector<Events> EventsOf(HarnessOptions options) {
  std::vector<Events> events(options.ranks());
  std::mutex mutex;
  options.steps = 1;
  options.on_event = [&](int rank, const std::string& event) {
    std::lock_guard<std::mutex> lock(mutex);
    events[rank].push_back(event);
  };
  const HarnessResult result = RunHarness(options);
  EXPECT_TRUE(result.status.ok()) << result.status.message();
  return events;
}

TEST(OverlapTest, BucketsReduceWhileTheBackwardPassRuns) {
  for (const ParityModel& model : ParityModels()) {
    for (const LayoutCase& layout :
         {LayoutCase{"data2", 2, 1, 1, 0}, LayoutCase{"data2_zero1", 2, 1, 1, 1},
          LayoutCase{"data2_pipeline2_gpipe", 2, 1, 2, 1, "gpipe"},
          LayoutCase{"data2_deferred", 2, 1, 1, 1, "1f1b", 1, Recompute::kNone, true}}) {
      SCOPED_TRACE(model.name + " " + layout.name);
      for (const Events& events : EventsOf(With(model.Run(), layout))) {
        const auto last = std::find(events.rbegin(), events.rend(), "gradient");
        ASSERT_NE(last, events.rend());
        const auto buckets = std::count(events.begin(), events.end(), "reduce.bucket");
        const auto after = std::count(events.rbegin(), last, "reduce.bucket");
        EXPECT_GE(buckets, 2);
        // The bucket of the last gradient has to wait for it. So do a few that are ready in another
        // order than buckets are: GPT-2's two embeddings, weight passes of their own.
        EXPECT_GE(after, 1);
        EXPECT_LE(after, buckets / 3) << "of " << buckets;
        EXPECT_EQ(std::count(events.begin(), events.end(), "reduce.finish"), 1);
        EXPECT_EQ(std::count(last.base(), events.end(), "reduce.finish"), 1);
      }
    }
  }
}

}  // namespace
}  // namespace trireme
