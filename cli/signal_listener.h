// SignalListener: SIGTERM, SIGUSR1 and SIGINT become stop requests, on a thread of its own.
#pragma once

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "worker/training/stop_requests.h"

namespace trireme {

class SignalListener {
 public:
  // To be called before the process has threads: they inherit the mask.
  static void Block() {
    const sigset_t set = Signals();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
  }

  explicit SignalListener(StopRequests* stop)
      : thread_([stop] {
          const sigset_t set = Signals();
          for (int asked = 0;;) {
            int signal = 0;
            if (sigwait(&set, &signal) != 0 || signal == kLeave) return;
            // A second Ctrl-C means now.
            if (signal == SIGINT && ++asked > 1) _exit(130);
            stop->Request(signal == SIGTERM ? "SIGTERM" : signal == SIGINT ? "SIGINT" : "SIGUSR1");
          }
        }) {}
  ~SignalListener() {
    pthread_kill(thread_.native_handle(), kLeave);
    thread_.join();
  }

 private:
  static constexpr int kLeave = SIGUSR2;
  static sigset_t Signals() {
    sigset_t set;
    sigemptyset(&set);
    for (int signal : {SIGTERM, SIGUSR1, SIGINT, kLeave}) sigaddset(&set, signal);
    return set;
  }
  std::thread thread_;
};

}  // namespace trireme
