// Element types, and conversions between them that round half to even:
// constexpr, so that kernels of a GPU use the same.
#pragma once

#include <bit>
#include <cstdint>

namespace trireme {

enum class DType : uint8_t { kF32, kBF16, kF16, kF64, kI32, kI64, kU8 };

int64_t ByteSize(DType dtype);
// "float32", "bfloat16", ...: the names of run.yaml.
const char* DTypeName(DType dtype);

// The upper half of an IEEE float32.
struct BFloat16 {
  uint16_t bits;
};

constexpr float ToFloat(BFloat16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}
constexpr float ToFloat(float x) { return x; }

// Rounds half to even; NaN stays NaN (quiet).
constexpr BFloat16 ToBFloat16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  const uint32_t nan = (u >> 16) | 0x40;
  return {static_cast<uint16_t>((u & 0x7fffffff) > 0x7f800000 ? nan : rounded)};
}

template <typename T>
constexpr T FromFloat(float x);
template <>
constexpr float FromFloat<float>(float x) {
  return x;
}
template <>
constexpr BFloat16 FromFloat<BFloat16>(float x) {
  return ToBFloat16(x);
}

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};

}  // namespace trireme
