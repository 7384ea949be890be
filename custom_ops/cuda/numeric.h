// Numbers on a GPU: what its units compute by themselves, exponentials, and float16 and bfloat16 to and from float32.
//
// Plain functions that serve the host too, where tests/test_cuda.py runs the same bodies. What the hardware only
// approximates, ex2 and rcp, is given there by cuda/host.cc.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__CUDACC__)
#define GPU_HOST __host__ __device__
#else
#define GPU_HOST
#endif

namespace onnxpool::cuda {

template <class To, class From>
GPU_HOST inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "same bits, same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();
template <class T>
constexpr T kLargest = std::numeric_limits<T>::max();
template <class T>
constexpr T kSmallest = std::numeric_limits<T>::min();  // of the normal numbers

GPU_HOST inline float absolute(float x) { return fabsf(x); }
GPU_HOST inline double absolute(double x) { return fabs(x); }

namespace hardware {
float ex2(float x);
float rcp(float x);
}  // namespace hardware

// 2^x to 2 ULP, x a normal number; 0 below the normal numbers.
GPU_HOST inline float ex2(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return hardware::ex2(x);
#endif
}

// 1 / x to 1 ULP where both are normal numbers.
GPU_HOST inline float rcp(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return hardware::rcp(x);
#endif
}

// The larger one, or NaN where x is NaN; `least` is a number.
GPU_HOST inline float at_least(float x, float least) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(least));
  return y;
#else
  return x < least ? least : x;
#endif
}

// exp(x) for x <= 0, NaN for NaN; 0 below the normal numbers.
GPU_HOST inline float exponential(float x) { return ex2(x * 0x1.715476p+0F); }

// There is no unit for double: exp(r) = 1 + r + r^2 q(r) on |r| <= ln(2) / 2, q by minimax of the relative error,
// 2^-57.9, times a power of two. About 1 ULP.
GPU_HOST inline double exponential(double x) {
  constexpr double kTerms[] = {0x1.28adce7339679p-22, 0x1.71df262c451e1p-19, 0x1.a01999adcb23bp-16,
                               0x1.a01a0129b4612p-13, 0x1.6c16c1844b01cp-10, 0x1.1111111127e83p-7,
                               0x1.55555555507f1p-5,  0x1.55555555554f9p-3,  0x1.000000000000ap-1};
  constexpr double kBias = 1023, kMagic = 0x1.8p+52 + kBias, kLowest = -kBias * 0x1.62e42fefa39efp-1;
  const double inside = x < kLowest ? kLowest : x;
  const double shifted = inside * 0x1.71547652b82fep+0 + kMagic;  // the nearest whole number, in the low bits
  const double n = shifted - kMagic;
  const double r = (inside - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;
  double q = 0x1.ad7f02ab63935p-26;
  for (const double term : kTerms) q = q * r + term;
  return (q * (r * r) + (r + 1)) * bits<double>(bits<uint64_t>(shifted) << 52);
}

// A power of two near a window's largest finite magnitude. Multiplying by `down` makes that 1 to 4 (or less, where it
// is below the normal numbers), exactly but for cells too small to matter.
template <class T>
struct Unit {
  T down, up;

  GPU_HOST explicit Unit(T size) {
    constexpr int kDigits = std::numeric_limits<T>::digits - 1, kBias = std::numeric_limits<T>::max_exponent - 1;
    using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    const Word own = bits<Word>(size) >> kDigits, above = own < 1 ? 1 : own;
    const Word exponent = above > 2 * kBias - 1 ? 2 * kBias - 1 : above;
    up = bits<T>(exponent << kDigits);
    down = bits<T>((2 * kBias - exponent) << kDigits);
  }

  // A mean of cells scaled down, back up; rounding does not take it beyond the largest of them.
  GPU_HOST T result(T mean, T size) const {
    const T most = size * down;
    const bool beyond = (absolute(mean) > most) & (absolute(mean) < kInfinity<T>);
    return (beyond ? (mean < 0 ? -most : most) : mean) * up;
  }
};

struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

GPU_HOST inline float widen(float x) { return x; }
GPU_HOST inline double widen(double x) { return x; }
GPU_HOST inline float widen(Bfloat x) { return bits<float>(static_cast<uint32_t>(x.bits) << 16); }

GPU_HOST inline float widen(Half x) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
#else
  const uint32_t sign = (x.bits & 0x8000U) << 16, rest = x.bits & 0x7fffU;
  const float subnormal = static_cast<float>(static_cast<int32_t>(rest)) * 0x1p-24F;
  const uint32_t normal = (rest << 13) + (rest >= 0x7c00U ? 0x70000000U : 0x38000000U);
  return bits<float>((rest < 0x400U ? bits<uint32_t>(subnormal) : normal) | sign);
#endif
}

// To nearest, ties to even.
GPU_HOST inline void narrow(float x, float* out) { *out = x; }
GPU_HOST inline void narrow(double x, double* out) { *out = x; }

GPU_HOST inline void narrow(float x, Bfloat* out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out->bits) : "f"(x));
#else
  const uint32_t word = bits<uint32_t>(x);
  const uint32_t rounded = (word + 0x7fffU + ((word >> 16) & 1U)) >> 16;
  const uint32_t nan = (word >> 16) | 0x40U;
  out->bits = static_cast<uint16_t>((word & 0x7fffffffU) > 0x7f800000U ? nan : rounded);
#endif
}

GPU_HOST inline void narrow(float x, Half* out) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out->bits) : "f"(x));
#else
  const uint32_t word = bits<uint32_t>(x), sign = (word >> 16) & 0x8000U, rest = word & 0x7fffffffU;
  const uint32_t subnormal = bits<uint32_t>(bits<float>(rest) + 0.5F) - 0x3f000000U;  // 0.5's ulp is half's smallest
  const uint32_t normal = (rest + 0xfffU + ((rest >> 13) & 1U) - 0x38000000U) >> 13;
  const uint32_t special = rest > 0x7f800000U ? 0x7e00U : 0x7c00U;
  const uint32_t finite = rest < 0x38800000U ? subnormal : normal;
  out->bits = static_cast<uint16_t>((rest >= 0x47800000U ? special : finite) | sign);
#endif
}

}  // namespace onnxpool::cuda
