// The libraries that products and attention run on where the program computes on GPUs.
#pragma once

#include <string>

#include "cluster/base/status.h"

namespace trireme {

// "cuBLASLt 13.0.2". kNotBuilt where this build has no CUDA.
Result<std::string> GpuProductLibrary();
// "cuDNN 9.19.0, libcudnn.so.9". kNotBuilt or kUnavailable with one line where there is none, and
// attention runs on the program's own kernel.
Result<std::string> GpuAttentionLibrary();

}  // namespace trireme
