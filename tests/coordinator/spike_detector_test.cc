#include "coordinator/spike_detector.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace trireme {
namespace {

constexpr int kOrdinary = SpikeDetector::kWindow;

// A falling loss with noise, as training has it.
double Ordinary(int64_t step) {
  return 4.0 / std::sqrt(1.0 + 0.02 * static_cast<double>(step)) +
         0.03 * std::sin(static_cast<double>(step) * 12.9898);
}

TEST(SpikeDetectorTest, OrdinaryTrainingHasNone) {
  SpikeDetector detector;
  for (int64_t step = 1; step <= 2000; ++step) {
    EXPECT_FALSE(detector.Add(step, Ordinary(step))) << step;
  }
  // A flat course, where any noise is many deviations.
  for (int64_t step = 2001; step <= 2100; ++step) {
    EXPECT_FALSE(detector.Add(step, 0.5 + (step == 2090 ? 0.02 : 0))) << step;
  }
}

TEST(SpikeDetectorTest, TheFirstStepOfASpikeIsTold) {
  SpikeDetector detector;
  int64_t step = 0;
  while (step < 100) detector.Add(++step, 2.0);
  const auto told = detector.Add(++step, 2.5);
  ASSERT_TRUE(told);
  EXPECT_EQ(
      *told,
      "the loss of step 101 is 2.5, the 32 steps before had 2 with a standard deviation of 0");
  EXPECT_FALSE(detector.Add(++step, 2.6)) << "of the same spike";
  EXPECT_FALSE(detector.Add(++step, 2.0));
  EXPECT_TRUE(detector.Add(++step, 2.5)) << "the spike has not moved the course";
}

TEST(SpikeDetectorTest, TheFirstStepsAreTakenAsTheyCome) {
  SpikeDetector detector;
  for (int64_t step = 1; step < kOrdinary; ++step) EXPECT_FALSE(detector.Add(step, 2.0));
  EXPECT_FALSE(detector.Add(kOrdinary, 9.0));
}

TEST(SpikeDetectorTest, ALossThatStaysUpIsTheNewCourse) {
  SpikeDetector detector;
  int64_t step = 0;
  while (step < 100) detector.Add(++step, 2.0);
  EXPECT_TRUE(detector.Add(++step, 3.0));
  for (int i = 1; i < 3 * kOrdinary; ++i) EXPECT_FALSE(detector.Add(++step, 3.0)) << step;
  EXPECT_TRUE(detector.Add(++step, 4.0));
}

}  // namespace
}  // namespace trireme
