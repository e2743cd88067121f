#include "worker/kernels/exp.h"
#include "worker/kernels/vector.h"

namespace trireme {

void ExpOf(const float* x, float* y, int64_t n) {
  ForLanes(n, [&](int64_t i, auto count) { Store(y + i, Exp(Load(x + i, count)), count); });
}

float ExpOf(float x) { return Exp(Broadcast(x))[0]; }

}  // namespace trireme
