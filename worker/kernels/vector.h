// Sixteen floats at a time: the arithmetic of every kernel. A row's tail goes through the same
// instructions as its body, padded, so an element's bits depend neither on its place in a buffer
// nor on the length of the loop. The same bits with AVX2 and AVX-512.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cluster/device/dtype.h"

namespace trireme {

inline constexpr int64_t kLanes = 16;
using Vec = float __attribute__((vector_size(64)));
using VecInt = int32_t __attribute__((vector_size(64)));
using VecBits = uint32_t __attribute__((vector_size(64)));
using VecHalfBits = uint16_t __attribute__((vector_size(32)));

// How many lanes a load or store touches: all, known at compile time, or a tail's count.
using AllLanes = std::integral_constant<int64_t, kLanes>;

inline Vec Broadcast(float x) { return x - Vec{}; }
inline Vec ToVec(VecHalfBits x) {
#if defined(__AVX512F__)
  const __m512i wide = _mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(x));
  return reinterpret_cast<Vec>(_mm512_maskz_slli_epi32(0xffff, wide, 16));
#else
  return reinterpret_cast<Vec>(__builtin_convertvector(x, VecBits) << 16);
#endif
}
// ToBFloat16 of every lane: half to even, NaN quiet. (vcvtneps2bf16 would flush subnormals.)
inline VecHalfBits ToHalfBits(Vec x) {
  const VecBits u = reinterpret_cast<VecBits>(x);
  const VecBits rounded = u + 0x7fff + ((u >> 16) & 1);
#if defined(__AVX512F__)
  const __m512 value = reinterpret_cast<__m512>(x);
  const __m512i bits = _mm512_mask_or_epi32(
      reinterpret_cast<__m512i>(rounded), _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q),
      reinterpret_cast<__m512i>(x), _mm512_set1_epi32(0x400000));
  return reinterpret_cast<VecHalfBits>(
      _mm512_maskz_cvtepi32_epi16(0xffff, _mm512_maskz_srli_epi32(0xffff, bits, 16)));
#else
  const VecBits bits = (u & 0x7fffffff) > 0x7f800000 ? u | 0x400000 : rounded;
  return __builtin_convertvector(bits >> 16, VecHalfBits);
#endif
}

// Lanes beyond the count are zero, and no memory beyond it is touched.
inline Vec Load(const float* p, AllLanes) {
  Vec x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}
inline Vec Load(const BFloat16* p, AllLanes) {
  VecHalfBits x;
  std::memcpy(&x, p, sizeof(x));
  return ToVec(x);
}
inline void Store(float* p, Vec x, AllLanes) { std::memcpy(p, &x, sizeof(x)); }
inline void Store(BFloat16* p, Vec x, AllLanes) {
  const VecHalfBits bits = ToHalfBits(x);
  std::memcpy(p, &bits, sizeof(bits));
}
#if defined(__AVX512BW__) && defined(__AVX512VL__)
inline __mmask16 FirstLanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
inline Vec Load(const float* p, int64_t count) {
  return reinterpret_cast<Vec>(_mm512_maskz_loadu_ps(FirstLanes(count), p));
}
inline Vec Load(const BFloat16* p, int64_t count) {
  return ToVec(reinterpret_cast<VecHalfBits>(_mm256_maskz_loadu_epi16(FirstLanes(count), p)));
}
inline void Store(float* p, Vec x, int64_t count) {
  _mm512_mask_storeu_ps(p, FirstLanes(count), reinterpret_cast<__m512>(x));
}
inline void Store(BFloat16* p, Vec x, int64_t count) {
  _mm256_mask_storeu_epi16(p, FirstLanes(count), reinterpret_cast<__m256i>(ToHalfBits(x)));
}
#else
inline Vec Load(const float* p, int64_t count) {
  Vec x{};
  std::memcpy(&x, p, count * sizeof(float));
  return x;
}
inline Vec Load(const BFloat16* p, int64_t count) {
  VecHalfBits x{};
  std::memcpy(&x, p, count * sizeof(BFloat16));
  return ToVec(x);
}
inline void Store(float* p, Vec x, int64_t count) { std::memcpy(p, &x, count * sizeof(float)); }
inline void Store(BFloat16* p, Vec x, int64_t count) {
  const VecHalfBits bits = ToHalfBits(x);
  std::memcpy(p, &bits, count * sizeof(BFloat16));
}
#endif

// Calls body(i, count) for i = 0, 16, ... below n: count is AllLanes{} or the tail's int64_t.
template <typename Body>
void ForLanes(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, AllLanes{});
  if (i < n) body(i, n - i);
}

// a * b + c, rounded once.
inline Vec Fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_fmadd_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#else
  Vec out;
  for (int i = 0; i < kLanes; ++i) out[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return out;
#endif
}

// The larger, and b where one is NaN.
inline Vec Maximum(Vec a, Vec b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(
      _mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#else
  return a > b ? a : b;
#endif
}
inline Vec Minimum(Vec a, Vec b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(
      _mm512_maskz_min_ps(0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#else
  return a < b ? a : b;
#endif
}

// x 2^n for a whole n in [-150, 129], rounded once.
inline Vec Scale(Vec x, Vec n) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(
      _mm512_maskz_scalef_ps(0xffff, reinterpret_cast<__m512>(x), reinterpret_cast<__m512>(n)));
#else
  // In two factors: 2^n itself can be out of range.
  const VecInt exponent = __builtin_convertvector(n, VecInt), half = exponent >> 1;
  const Vec scale_1 = reinterpret_cast<Vec>((half + 127) << 23);
  const Vec scale_2 = reinterpret_cast<Vec>((exponent - half + 127) << 23);
  return x * scale_1 * scale_2;
#endif
}

// Sum and maximum of the lanes, halves folded on halves.
inline float Sum(Vec x) {
  float lanes[kLanes];
  std::memcpy(lanes, &x, sizeof(x));
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}
inline float Maximum(Vec x) {
  float lanes[kLanes];
  std::memcpy(lanes, &x, sizeof(x));
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i)
      lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  }
  return lanes[0];
}

// Lanes [0, count) of x, the others `rest`.
inline Vec KeepLanes(Vec x, int64_t count, float rest) {
  const VecInt lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return lane < static_cast<int32_t>(count) ? x : Broadcast(rest);
}

// e^x within 1.1 units in the last place (measured over all floats), exactly 1 at 0; gradual
// underflow below -87.3, infinity above 88.73, NaN stays NaN.
//
// x = n ln 2 + r with |r| <= ln 2 / 2, and the polynomial of Cephes' expf in r.
inline Vec Exp(Vec x) {
  x = Maximum(Broadcast(-104.0f), x);  // NaN passes
  x = Minimum(Broadcast(89.0f), x);
  const Vec round = Broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Vec n = Fma(x, Broadcast(1.44269504f), round) - round;
  Vec r = Fma(n, Broadcast(-0.693359375f), x);
  r = Fma(n, Broadcast(2.12194440e-4f), r);
  Vec p = Broadcast(1.9875691500e-4f);
  p = Fma(p, r, Broadcast(1.3981999507e-3f));
  p = Fma(p, r, Broadcast(8.3334519073e-3f));
  p = Fma(p, r, Broadcast(4.1665795894e-2f));
  p = Fma(p, r, Broadcast(1.6666665459e-1f));
  p = Fma(p, r, Broadcast(5.0000001201e-1f));
  return Scale(Fma(p * r, r, r) + 1.0f, n);
}

// 1 / (1 + e^-x).
inline Vec Sigmoid(Vec x) { return 1.0f / (1.0f + Exp(-x)); }

}  // namespace trireme
