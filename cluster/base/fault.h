// Faults at named points, for tests of recovery: TRIREME_FAULT=RANK:STEP:POINT:ACTION makes the
// process with that rank fail where it comes to that point of that step.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "cluster/base/status.h"

namespace trireme {

struct PlannedFault {
  int rank = -1;  // none is planned
  int64_t step = 0;
  std::string point;
  std::string action;  // kill, stop (SIGSTOP), hang (this thread alone), silent, or flip

  bool At(int here, int64_t now, std::string_view name) const {
    return rank == here && step == now && point == name;
  }
};

// kInvalidArgument with what was expected.
Result<PlannedFault> ParseFault(const std::string& text);
// That of TRIREME_FAULT; one without a plan where it is not set. Errors as ParseFault's.
Result<PlannedFault> FaultFromEnvironment();

// Does what is planned for this point, and does not return from kill and hang. `silent` is the
// control client's own and `flip` (a bit of the weights, at state.committed) the worker's: they do
// nothing here.
void FaultPoint(const PlannedFault& fault, int rank, int64_t step, std::string_view point);

}  // namespace trireme
