// Conversions between stored element types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "cluster/device/dtype.h"

namespace trireme {

// IEEE binary16, rounding half to even; NaN stays NaN, overflow becomes infinity.
float HalfToFloat(uint16_t half);
uint16_t FloatToHalf(float value);

// True for equal types and among the floating-point types.
bool CanConvert(DType from, DType to);
// target[i] = source[i]. CHECKs CanConvert. The ranges do not overlap.
void ConvertElements(DType from, const std::byte* source, DType to, std::byte* target, int64_t n);

// The index of the first element that is NaN or infinite. Integers never are.
std::optional<int64_t> FindNonFinite(DType dtype, const std::byte* data, int64_t n);

}  // namespace trireme
