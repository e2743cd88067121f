// The progress line of commands that read a corpus.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace trireme {

// "clean  43 %  120.5 of 280.1 MB  35.2 MB/s" on stderr, four times a second, on a terminal only.
class TextProgress {
 public:
  explicit TextProgress(std::string name)
      : name_(std::move(name)), on_(::isatty(STDERR_FILENO) == 1), start_(Clock::now()) {}

  void Update(int64_t done, int64_t all) {
    if (!on_) return;
    const auto now = Clock::now();
    if (now - last_ < std::chrono::milliseconds(250)) return;
    last_ = now;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    const double done_mb = static_cast<double>(done) / 1e6;
    const double all_mb = static_cast<double>(all) / 1e6;
    std::fprintf(stderr, "\r%s  %3.0f %%  %.1f of %.1f MB  %.1f MB/s\033[K", name_.c_str(),
                 all > 0 ? 100.0 * done_mb / all_mb : 0.0, done_mb, all_mb, done_mb / seconds);
    drawn_ = true;
  }
  // Takes the line away.
  void Finish() {
    if (drawn_) std::fprintf(stderr, "\r\033[K");
    drawn_ = false;
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::string name_;
  bool on_;
  bool drawn_ = false;
  Clock::time_point start_;
  Clock::time_point last_;
};

}  // namespace trireme
