// Runs whose processes are killed, frozen or silenced at random points, on layouts that change from
// start to start, until they are done: they end with the bits of the run that nothing happened to.
#include <cstdlib>
#include <random>

#include "cluster/base/status.h"
#include "tests/training_runs/training_runs.h"

namespace trireme {
namespace {

int FromEnvironment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

class ChaosTest : public TrainingRunsTest {
 protected:
  struct Layout {
    int workers;
    const char* options;
  };
  // Those that promise equal bits.
  static constexpr Layout kLayouts[] = {
      {1, "--set layout.data=1"},
      {2, "--set layout.data=2"},
      {2, "--set layout.data=2 --set layout.zero=0"},
      {2, "--set layout.pipeline=2"},
      {4, "--set layout.data=2 --set layout.pipeline=2"},
  };
  // Of a worker, in one of its steps; and of the coordinator, in one that ends with a checkpoint.
  static constexpr const char* kPoints[] = {
      "data",   "pipeline.backward",   "reduce.bucket",        "reduce.norm",
      "update", "update.before_write", "update.before_commit", "checkpoint.after_chunks"};
  static constexpr const char* kCoordinatorPoints[] = {"manifest.before_commit",
                                                       "manifest.after_commit"};
  static constexpr const char* kActions[] = {"kill", "kill", "stop"};

  template <typename T, size_t kCount>
  const T& Any(const T (&choices)[kCount]) {
    return choices[random_() % kCount];
  }
  std::string AnyFault(int workers) {
    if (random_() % 4 == 0) {
      return StrCat("0:", 4 + 4 * (random_() % 3), ":", Any(kCoordinatorPoints), ":kill");
    }
    return StrCat(1 + random_() % workers, ":", 1 + random_() % 12, ":", Any(kPoints), ":",
                  Any(kActions));
  }

  std::mt19937_64 random_;
};

TEST_F(ChaosTest, RunsThatAreHitAgainAndAgainEndInTheBitsOfTheQuietOne) {
  ASSERT_EQ(Train("").exit_code, 0);
  const std::string hash = Hash("quiet"), losses = Losses("quiet");
  const int runs = FromEnvironment("TRIREME_CHAOS_RUNS", 20);
  const int first = FromEnvironment("TRIREME_CHAOS_SEED", 1);
  int hits = 0;
  for (int seed = first; seed < first + runs; ++seed) {
    random_.seed(static_cast<uint64_t>(seed));
    std::string history;
    int exit_code = -1;
    for (int start = 0; start < 8 && exit_code != 0; ++start) {
      const Layout layout = Any(kLayouts);
      // The last starts are left alone, and so the run ends.
      const std::string fault = start < 4 ? "TRIREME_FAULT=" + AnyFault(layout.workers) : "";
      history += StrCat(layout.options, " ", fault, "\n");
      const Outcome outcome =
          Train(StrCat("--set run.dir=hit ", layout.options), Mpirun(layout.workers + 1, fault));
      exit_code = outcome.exit_code;
      hits += exit_code != 0;
      history += outcome.err;
    }
    ASSERT_EQ(exit_code, 0) << "seed " << seed << "\n" << history;
    EXPECT_EQ(Hash("hit"), hash) << "seed " << seed << "\n" << history;
    EXPECT_EQ(Losses("hit"), losses) << "seed " << seed << "\n" << history;
    std::filesystem::remove_all(place_.Path("hit"));
  }
  EXPECT_GE(hits, runs / 2) << "faults that happened: without them this proves little";
}

}  // namespace
}  // namespace trireme
