#include "coordinator/progress_line.h"

#include <cmath>

#include "cluster/base/status.h"

namespace trireme {
namespace {

constexpr Micros kPlainEvery = 5'000'000;
constexpr Micros kDrawEvery = 100'000;
constexpr size_t kRecentMax = 32;

std::string WithCommas(int64_t value) {
  std::string digits = std::to_string(value);
  for (auto at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3) {
    digits.insert(static_cast<size_t>(at), ",");
  }
  return digits;
}

}  // namespace

std::string DurationText(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  char text[40];
  if (whole >= 3600) {
    snprintf(text, sizeof(text), "%lld h %02lld min", static_cast<long long>(whole / 3600),
             static_cast<long long>(whole / 60 % 60));
  } else if (whole >= 60) {
    snprintf(text, sizeof(text), "%lld min %02lld s", static_cast<long long>(whole / 60),
             static_cast<long long>(whole % 60));
  } else {
    snprintf(text, sizeof(text), "%lld s", static_cast<long long>(whole));
  }
  return text;
}

std::string ProgressText(const StepMetrics& metrics, int64_t steps_total, double seconds_left) {
  char loss[32];
  // Whatever the sign of what is not a number.
  snprintf(loss, sizeof(loss), "%.4f",
           std::isnan(metrics.loss) ? std::fabs(metrics.loss) : metrics.loss);
  std::string text = StrCat("step ", metrics.step, "/", steps_total, "  loss ", loss, "  ",
                            WithCommas(std::llround(metrics.tokens_per_second)), " tokens/s");
  if (metrics.mfu) text += StrCat("  ", std::llround(*metrics.mfu * 100), " % of peak");
  if (seconds_left >= 0) text += StrCat("  ", DurationText(seconds_left), " left");
  return text;
}

void ProgressLine::Step(const StepMetrics& metrics, Micros now) {
  recent_.emplace_back(now, metrics.step);
  if (recent_.size() > kRecentMax) recent_.pop_front();
  const bool last = metrics.step == steps_total_;
  if (any_line_ && !last && now - last_line_ < (terminal_ ? kDrawEvery : kPlainEvery)) return;
  const int64_t steps = recent_.back().second - recent_.front().second;
  const double each = steps == 0 ? -1
                                 : static_cast<double>(now - recent_.front().first) * 1e-6 /
                                       static_cast<double>(steps);
  const double left = each < 0 ? -1 : each * static_cast<double>(steps_total_ - metrics.step);
  const std::string text = ProgressText(metrics, steps_total_, left);
  Erase();
  fputs(text.c_str(), out_);
  if (!terminal_ || last) fputc('\n', out_);
  drawn_ = terminal_ && !last;
  fflush(out_);
  last_line_ = now;
  any_line_ = true;
}

void ProgressLine::Say(const std::string& line) {
  Erase();
  fputs((line + "\n").c_str(), out_);
  fflush(out_);
}

void ProgressLine::Erase() {
  if (drawn_) fputs("\r\033[K", out_);
  drawn_ = false;
}

}  // namespace trireme
