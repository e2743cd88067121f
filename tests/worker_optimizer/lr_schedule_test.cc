#include "worker/optimizer/lr_schedule.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "proto/config.pb.h"

namespace trireme {
namespace {

LrSchedule Make(const proto::LrScheduleConfig& config, double peak) {
  proto::OptimizerConfig optimizer;
  optimizer.set_lr(peak);
  auto schedule = LrSchedule::Create(optimizer, config);
  CHECK(schedule.ok()) << schedule.status().message();
  return *schedule;
}

proto::LrScheduleConfig Config(const char* name, int64_t warmup, int64_t steps,
                               double final_ratio) {
  proto::LrScheduleConfig config;
  config.set_name(name);
  config.set_warmup_steps(warmup);
  config.set_steps(steps);
  config.set_final_lr_ratio(final_ratio);
  return config;
}

// A column of the fixture and the first S at which its warm-up is ours.
struct Column {
  proto::LrScheduleConfig config;
  double peak;
  int64_t from;
};

std::map<std::string, Column> Columns(const nlohmann::json& c) {
  const double peak = c["peak"];
  const int64_t warmup = c["warmup"], steps = c["steps"];
  std::map<std::string, Column> columns;
  columns["constant"] = {Config("constant", 0, steps, 1), peak, 0};
  columns["warmup_linear"] = {Config("linear", warmup, steps, 0), peak, warmup};
  columns["warmup_cosine"] = {Config("cosine", warmup, steps, c["min_ratio"]), peak, 0};
  columns["warmup_cosine_zero"] = {Config("cosine", warmup, steps, 0), peak, warmup};
  columns["cosine_restarts"] = {
      Config("cosine_restarts", 0, steps, c["restart_min"].get<double>() / peak), peak, 0};
  columns["cosine_restarts"].config.set_restart_period(c["restart_period"]);
  columns["cosine_restarts"].config.set_restart_mult(c["restart_mult"]);
  const double width = c["noam_d_model"], noam_warmup = c["noam_warmup"];
  columns["noam"] = {Config("inverse_sqrt", c["noam_warmup"], steps, 0),
                     1 / std::sqrt(width * noam_warmup), 0};
  columns["wsd"] = {Config("wsd", warmup, steps, 0), peak, 0};
  columns["wsd"].config.set_decay_start(c["wsd_decay_start"]);
  columns["step_decay"] = {Config("step", 0, steps, 0), peak, 0};
  columns["step_decay"].config.set_step_size(c["step_size"]);
  columns["step_decay"].config.set_gamma(c["step_gamma"]);
  columns["polynomial"] = {Config("polynomial", warmup, steps, c["poly_end"].get<double>() / peak),
                           peak, warmup};
  columns["polynomial"].config.set_power(c["poly_power"]);
  return columns;
}

TEST(LrScheduleTest, EqualsTheFixturesPastTheirWarmUp) {
  const char* shared = std::getenv("TRIREME_SHARED");
  if (shared == nullptr) GTEST_SKIP() << "TRIREME_SHARED is not set";
  const std::string folder = std::string(shared) + "/fixtures/schedules/";
  std::ifstream constants_file(folder + "constants.json"), table(folder + "schedules.csv");
  ASSERT_TRUE(constants_file.is_open() && table.is_open()) << folder;
  const auto columns = Columns(nlohmann::json::parse(constants_file));
  std::string line, cell;
  std::getline(table, line);
  std::vector<std::string> names;
  for (std::istringstream cells(line); std::getline(cells, cell, ',');) names.push_back(cell);
  int64_t compared = 0;
  while (std::getline(table, line)) {
    std::istringstream cells(line);
    int64_t s = 0;
    for (size_t i = 0; std::getline(cells, cell, ','); ++i) {
      if (i == 0) {
        s = std::stoll(cell);
        continue;
      }
      ASSERT_EQ(columns.count(names[i]), 1u) << names[i] << ": a schedule that is not built";
      const Column& column = columns.at(names[i]);
      if (s < column.from) continue;
      const double expected = std::stod(cell), actual = Make(column.config, column.peak).At(s + 1);
      EXPECT_NEAR(actual, expected, 1e-12 * std::abs(expected)) << names[i] << " at " << s;
      ++compared;
    }
  }
  EXPECT_GT(compared, 1500);
}

TEST(LrScheduleTest, WarmUpReachesThePeakAtItsLastStep) {
  for (const char* name : {"constant", "linear", "cosine", "cosine_restarts", "inverse_sqrt", "wsd",
                           "step", "polynomial"}) {
    const LrSchedule schedule = Make(Config(name, 4, 40, 0.1), 2.0);
    EXPECT_DOUBLE_EQ(schedule.At(1), 0.5) << name;
    EXPECT_DOUBLE_EQ(schedule.At(4), 2.0) << name;
  }
}

TEST(LrScheduleTest, StepsPastTheEndKeepTheLastRate) {
  for (const char* name : {"linear", "cosine", "wsd", "polynomial"}) {
    const LrSchedule schedule = Make(Config(name, 4, 40, 0.1), 2.0);
    EXPECT_DOUBLE_EQ(schedule.At(41), 0.2) << name;
    EXPECT_DOUBLE_EQ(schedule.At(100), 0.2) << name;
  }
  EXPECT_DOUBLE_EQ(Make(Config("cosine", 5, 5, 0.1), 1.0).At(6), 0.1);
  EXPECT_DOUBLE_EQ(Make(Config("linear", 5, 5, 0.1), 1.0).At(6), 0.1);
}

TEST(LrScheduleTest, AWarmUpMayBeLongerThanTheRun) {
  for (const char* name : {"constant", "linear", "cosine", "cosine_restarts", "inverse_sqrt", "wsd",
                           "step", "polynomial"}) {
    const LrSchedule schedule = Make(Config(name, 8, 4, 0.1), 2.0);
    for (int64_t step = 1; step <= 4; ++step) {
      EXPECT_DOUBLE_EQ(schedule.At(step), 0.25 * static_cast<double>(step)) << name;
    }
    EXPECT_TRUE(std::isfinite(schedule.At(9))) << name;
  }
}

TEST(LrScheduleTest, BadKeysAreNamed) {
  proto::OptimizerConfig optimizer;
  optimizer.set_lr(1e-3);
  const auto message = [&](const proto::LrScheduleConfig& config) {
    const auto schedule = LrSchedule::Create(optimizer, config);
    EXPECT_EQ(schedule.status().code(), StatusCode::kInvalidArgument);
    return schedule.status().message();
  };
  EXPECT_EQ(message(Config("cosin", 1, 10, 0)),
            "lr_schedule.name: cosin, expected constant, linear, cosine, cosine_restarts, "
            "inverse_sqrt, wsd, step or polynomial");
  EXPECT_EQ(message(Config("cosine", 1, 0, 0)), "lr_schedule.steps: 0, expected at least 1");
  EXPECT_EQ(message(Config("cosine", -1, 10, 0)),
            "lr_schedule.warmup_steps: -1, expected at least 0");
  EXPECT_EQ(message(Config("cosine", 1, 10, 2)), "lr_schedule.final_lr_ratio: 2, expected 0 to 1");
  auto wsd = Config("wsd", 5, 10, 0);
  wsd.set_decay_start(3);
  EXPECT_EQ(message(wsd), "lr_schedule.decay_start: 3, expected at least warmup_steps");
  auto step = Config("step", 5, 10, 0);
  step.set_step_size(0);
  EXPECT_EQ(message(step), "lr_schedule.step_size: 0, expected at least 1");
  auto restarts = Config("cosine_restarts", 5, 10, 0);
  restarts.set_restart_period(0);
  EXPECT_EQ(message(restarts), "lr_schedule.restart_period: 0, expected at least 1");
  restarts.set_restart_period(5);
  restarts.set_restart_mult(0.5);
  EXPECT_EQ(message(restarts), "lr_schedule.restart_mult: 0.5, expected at least 1");
  optimizer.set_lr(-1);
  EXPECT_EQ(message(Config("cosine", 1, 10, 0)),
            "optimizer.lr: -1, expected a number of at least 0");
}

}  // namespace
}  // namespace trireme
