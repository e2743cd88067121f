// Which window of which source a sample is: a function of seed and data alone.
#include "worker/training/sample_order.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>

namespace trireme {
namespace {

using Windows = std::vector<int64_t>;

// The places of samples 0, 1, ... of the run, so many.
std::vector<SamplePlace> Places(const SampleOrder& order, int64_t sequences, int64_t count) {
  std::vector<SamplePlace> places;
  for (int64_t i = 0; i < count; ++i) places.push_back(order.At(1 + i / sequences, i % sequences));
  return places;
}

// The windows that samples of `source` are, in the order of the samples.
Windows WindowsOf(const std::vector<SamplePlace>& places, int source) {
  Windows windows;
  for (const SamplePlace& place : places) {
    if (place.source == source) windows.push_back(place.window);
  }
  return windows;
}

Windows Epoch(const Windows& windows, int64_t length, int64_t epoch) {
  return {windows.begin() + epoch * length, windows.begin() + (epoch + 1) * length};
}

void ExpectPermutation(Windows windows, int64_t n) {
  std::sort(windows.begin(), windows.end());
  Windows all(n);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(windows, all);
}

TEST(PermutationTest, EveryValueComesOnce) {
  for (const uint64_t n : {1, 2, 3, 4, 5, 7, 64, 65, 1000, 4097}) {
    const Permutation permutation(n, 9, 3);
    Windows values;
    for (uint64_t i = 0; i < n; ++i) values.push_back(static_cast<int64_t>(permutation.At(i)));
    ExpectPermutation(values, static_cast<int64_t>(n));
  }
}

TEST(SampleOrderTest, WithoutShuffleWindowsComeInOrderAndStartAgain) {
  for (const auto& [sequences, windows] :
       std::vector<std::pair<int64_t, int64_t>>{{4, 10}, {4, 3}, {1, 1}, {6, 6}}) {
    const SampleOrder order({{windows}, {1.0}, sequences, false, 5});
    for (int64_t step = 1; step <= 9; ++step) {
      for (int64_t position = 0; position < sequences; ++position) {
        const SamplePlace place = order.At(step, position);
        EXPECT_EQ(place.source, 0);
        EXPECT_EQ(place.window, ((step - 1) * sequences + position) % windows)
            << "step " << step << ", position " << position << ", windows " << windows;
      }
    }
  }
}

TEST(SampleOrderTest, AnEpochIsAPermutationOfItsOwn) {
  constexpr int64_t kWindows = 101;
  const SampleOrder order({{kWindows}, {1.0}, 4, true, 5});
  const Windows windows = WindowsOf(Places(order, 4, 3 * kWindows), 0);
  Windows in_order(kWindows);
  std::iota(in_order.begin(), in_order.end(), 0);
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    ExpectPermutation(Epoch(windows, kWindows, epoch), kWindows);
    EXPECT_NE(Epoch(windows, kWindows, epoch), in_order);
  }
  EXPECT_NE(Epoch(windows, kWindows, 0), Epoch(windows, kWindows, 1));
  EXPECT_NE(Epoch(windows, kWindows, 1), Epoch(windows, kWindows, 2));
}

TEST(SampleOrderTest, SeedAndDataAloneDecide) {
  const auto places = [](uint64_t seed, int64_t sequences) {
    const SampleOrder order({{40, 30}, {2.0, 1.0}, sequences, true, seed});
    std::vector<std::pair<int, int64_t>> all;
    for (const SamplePlace& p : Places(order, sequences, 240)) all.push_back({p.source, p.window});
    return all;
  };
  EXPECT_EQ(places(5, 4), places(5, 4));
  EXPECT_EQ(places(5, 4), places(5, 8)) << "samples are numbered through the run";
  EXPECT_NE(places(5, 4), places(6, 4));
}

TEST(SampleOrderTest, SourcesTakeTurnsAsTheirWeightsSay) {
  struct Case {
    std::vector<double> weights;
    Windows counts;  // of a block of 1000
  };
  for (const Case& c : {Case{{3.0, 1.0}, {750, 250}}, Case{{1.0, 2.0, 4.0}, {143, 286, 571}},
                        Case{{0.0014, 0.9986}, {1, 999}}}) {
    for (const bool shuffle : {false, true}) {
      Windows windows = {100, 70, 31};
      windows.resize(c.weights.size());
      const SampleOrder order({windows, c.weights, 8, shuffle, 5});
      const std::vector<SamplePlace> places = Places(order, 8, 2 * SampleOrder::kBlock);
      for (int block = 0; block < 2; ++block) {
        Windows counts(c.weights.size(), 0);
        for (int i = 0; i < 1000; ++i) ++counts[places[block * 1000 + i].source];
        EXPECT_EQ(counts, c.counts) << "block " << block;
      }
      // Each source by itself is read as a single one would be.
      for (size_t s = 0; s < windows.size(); ++s) {
        const Windows own = WindowsOf(places, static_cast<int>(s));
        for (int64_t e = 0; (e + 1) * windows[s] <= std::ssize(own); ++e) {
          ExpectPermutation(Epoch(own, windows[s], e), windows[s]);
        }
        for (size_t i = 0; !shuffle && i < own.size(); ++i) {
          ASSERT_EQ(own[i], static_cast<int64_t>(i) % windows[s]) << i;
        }
      }
    }
  }
}

// Sources that took turns in runs would teach the model one at a time.
TEST(SampleOrderTest, SourcesAreMixedWithinABlock) {
  const SampleOrder order({{50, 50}, {1.0, 1.0}, 10, false, 5});
  const std::vector<SamplePlace> places = Places(order, 10, 500);
  for (int tenth = 0; tenth < 5; ++tenth) {
    const auto begin = places.begin() + tenth * 100;
    const auto first = std::count_if(begin, begin + 100,
                                     [](const SamplePlace& place) { return place.source == 0; });
    EXPECT_GT(first, 25) << tenth;
    EXPECT_LT(first, 75) << tenth;
  }
}

}  // namespace
}  // namespace trireme
