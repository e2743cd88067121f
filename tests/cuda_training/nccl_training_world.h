// What NCCL is in a test of training over it; provided by the world that a program links.
#pragma once

#include "tests/harness/training_harness.h"

namespace trireme {

// Sets the GPUs of the ranks, and how they reach each other. Called before any run.
void SetUpNcclTraining(HarnessOptions* options);

}  // namespace trireme
