// StateSlots: the training state twice, so that an update never touches what is committed.
#pragma once

#include <cstdint>

#include "cluster/device/buffer.h"

namespace trireme {

// The state that one rank holds after some step, as flat arrays (see ParameterLayout).
struct StateSlot {
  Buffer weights_f32;   // what the model computes with, in f32
  Buffer weights_bf16;  // and in bf16
  Buffer masters;       // f32 values of bf16 weights that have them, of the rows updated here
  Buffer first_moments;
  Buffer second_moments;
  int64_t step = 0;

  int64_t bytes() const {
    return weights_f32.bytes() + weights_bf16.bytes() + masters.bytes() + first_moments.bytes() +
           second_moments.bytes();
  }
};

// Committed is read, Next is written whole. Commit swaps them; Discard forgets what Next holds.
class StateSlots {
 public:
  StateSlots(StateSlot a, StateSlot b) : slots_{std::move(a), std::move(b)} {}
  StateSlot& Committed() { return slots_[committed_]; }
  const StateSlot& Committed() const { return slots_[committed_]; }
  StateSlot& Next() { return slots_[1 - committed_]; }
  void Commit(int64_t step) {
    Next().step = step;
    committed_ = 1 - committed_;
  }
  void Discard() { Next().step = -1; }

 private:
  StateSlot slots_[2];
  int committed_ = 0;
};

}  // namespace trireme
