#include "storage/element_conversion.h"

#include <glog/logging.h>

#include <bit>
#include <cmath>
#include <cstring>

namespace trireme {
namespace {

template <typename T>
T LoadAs(const std::byte* data, int64_t i) {
  T value;
  std::memcpy(&value, data + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

double LoadDouble(DType dtype, const std::byte* data, int64_t i) {
  switch (dtype) {
    case DType::kF32:
      return LoadAs<float>(data, i);
    case DType::kBF16:
      return ToFloat(LoadAs<BFloat16>(data, i));
    case DType::kF16:
      return HalfToFloat(LoadAs<uint16_t>(data, i));
    case DType::kF64:
      return LoadAs<double>(data, i);
    default:
      LOG(FATAL) << "not a floating-point type: " << DTypeName(dtype);
  }
  return 0;
}

void StoreDouble(DType dtype, std::byte* data, int64_t i, double value) {
  const auto store = [&](auto x) { std::memcpy(data + i * sizeof(x), &x, sizeof(x)); };
  switch (dtype) {
    case DType::kF32:
      return store(static_cast<float>(value));
    case DType::kBF16:
      return store(ToBFloat16(static_cast<float>(value)));
    case DType::kF16:
      return store(FloatToHalf(static_cast<float>(value)));
    case DType::kF64:
      return store(value);
    default:
      LOG(FATAL) << "not a floating-point type: " << DTypeName(dtype);
  }
}

bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 ||
         dtype == DType::kF64;
}

}  // namespace

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t mantissa = half & 0x3ff;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // zero and subnormals
  return sign ? -magnitude : magnitude;
}

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >> 13) & 0x3ff);
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
  if (magnitude < 0x38800000) {
    // Below the smallest normal number: in units of 2^-24, rounded half to even.
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24f;
    return sign | static_cast<uint16_t>(std::nearbyint(scaled));
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return sign | static_cast<uint16_t>((rounded - 0x38000000) >> 13);
}

bool CanConvert(DType from, DType to) { return from == to || (IsFloat(from) && IsFloat(to)); }

void ConvertElements(DType from, const std::byte* source, DType to, std::byte* target, int64_t n) {
  CHECK(CanConvert(from, to)) << DTypeName(from) << " to " << DTypeName(to);
  if (n == 0) return;
  if (from == to) {
    std::memcpy(target, source, n * ByteSize(from));
  } else if (from == DType::kBF16 && to == DType::kF32) {
    for (int64_t i = 0; i < n; ++i) {
      const float value = ToFloat(LoadAs<BFloat16>(source, i));
      std::memcpy(target + i * 4, &value, 4);
    }
  } else if (from == DType::kF32 && to == DType::kBF16) {
    for (int64_t i = 0; i < n; ++i) {
      const BFloat16 value = ToBFloat16(LoadAs<float>(source, i));
      std::memcpy(target + i * 2, &value, 2);
    }
  } else {
    for (int64_t i = 0; i < n; ++i) StoreDouble(to, target, i, LoadDouble(from, source, i));
  }
}

std::optional<int64_t> FindNonFinite(DType dtype, const std::byte* data, int64_t n) {
  if (!IsFloat(dtype)) return std::nullopt;
  if (dtype == DType::kF32) {
    // All exponent bits set; counted a block at a time so that the compiler vectorises it.
    constexpr int64_t kBlock = 4096;
    for (int64_t begin = 0; begin < n; begin += kBlock) {
      const int64_t end = std::min(n, begin + kBlock);
      int bad = 0;
      for (int64_t i = begin; i < end; ++i) {
        bad += (LoadAs<uint32_t>(data, i) & 0x7f800000u) == 0x7f800000u;
      }
      if (bad == 0) continue;
      for (int64_t i = begin; i < end; ++i) {
        if ((LoadAs<uint32_t>(data, i) & 0x7f800000u) == 0x7f800000u) return i;
      }
    }
    return std::nullopt;
  }
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(LoadDouble(dtype, data, i))) return i;
  }
  return std::nullopt;
}

}  // namespace trireme
