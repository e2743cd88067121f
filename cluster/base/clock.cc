#include "cluster/base/clock.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>

namespace trireme {
namespace {

class MachineClock final : public Clock {
 public:
  Micros NowMicros() const override {
    return std::chrono::duration_cast<std::chrono::microseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  double WallSeconds() const override {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  }
};

}  // namespace

const Clock& RealClock() {
  static const MachineClock* clock = new MachineClock;
  return *clock;
}

std::string FormatUtc(double wall_seconds) {
  const auto whole = static_cast<time_t>(std::floor(wall_seconds));
  const int millis = static_cast<int>((wall_seconds - std::floor(wall_seconds)) * 1000);
  tm parts{};
  gmtime_r(&whole, &parts);
  char text[40];
  const size_t n = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
  snprintf(text + n, sizeof(text) - n, ".%03dZ", millis);
  return text;
}

}  // namespace trireme
