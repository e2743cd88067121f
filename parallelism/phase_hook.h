// Named points of a step: where tests and chaos runs make a process fail, and what the flight
// recorder and the coordinator's deadlines see.
#pragma once

#include <functional>

namespace trireme {

// Called with the name of what is about to happen and the microbatch it concerns, or -1.
// Names: pipeline.forward, pipeline.backward, pipeline.weight, pipeline.evaluate (executor);
// reduce.bucket, reduce.finish, reduce.norm, update.before_write, update.before_gather,
// update.before_commit (store). May be empty.
using PhaseHook = std::function<void(const char* phase, int microbatch)>;

}  // namespace trireme
