// Time, injected everywhere so that tests and simulations own it.
#pragma once

#include <cstdint>
#include <string>

namespace trireme {

// Microseconds of a monotonic clock; its zero has no meaning.
using Micros = int64_t;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Micros NowMicros() const = 0;
  // UTC wall time in seconds since 1970, for people (events, logs), never for decisions.
  virtual double WallSeconds() const = 0;
};

// The machine's clocks. The object lives as long as the process.
const Clock& RealClock();

class FakeClock final : public Clock {
 public:
  Micros NowMicros() const override { return now_; }
  double WallSeconds() const override { return 1.7e9 + static_cast<double>(now_) * 1e-6; }
  void Advance(Micros by) { now_ += by; }

 private:
  Micros now_ = 0;
};

// "2026-11-23T18:30:00.123Z".
std::string FormatUtc(double wall_seconds);

}  // namespace trireme
