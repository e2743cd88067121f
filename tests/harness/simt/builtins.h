// CUDA's built-in variables: of the thread that is running.
#pragma once

#include <simt/dim3.h>

inline thread_local uint3 threadIdx{}, blockIdx{};
inline thread_local dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;
