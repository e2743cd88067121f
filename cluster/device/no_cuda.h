// What the backend without a GPU says.
#pragma once

#include <glog/logging.h>

namespace trireme::cuda {

[[noreturn]] inline void NoCuda(const char* wanted) {
  LOG(FATAL) << wanted << " on a GPU: this build has no CUDA (configure with -DTRIREME_CUDA=ON)";
  __builtin_unreachable();
}

}  // namespace trireme::cuda
