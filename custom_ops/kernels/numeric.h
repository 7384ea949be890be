// Numbers: a vectorisable exp, and float16 and bfloat16 to and from float32.
//
// Everything is in a namespace named after the instruction set of the file that includes it: kernel files are compiled
// once for each, and one copy of an inline function must never be taken for another's.
#pragma once

#include <cstdint>
#include <cstring>

#if !defined(ONNXPOOL_ISA)
#define ONNXPOOL_ISA baseline
#endif

// Functions of one cell or number. Loops over cells are vectorised only where all of these are inlined, which is not
// left to the compiler's estimate.
#if defined(__GNUC__)
#define ALWAYS_INLINE __attribute__((always_inline))
#else
#define ALWAYS_INLINE
#endif

// For loops whose pointers are __restrict: compilers believe that of a function's parameters, and forget it where the
// function is inlined.
#if defined(__GNUC__)
#define KEEP_CALL __attribute__((noinline))
#elif defined(_MSC_VER)
#define KEEP_CALL __declspec(noinline)
#else
#define KEEP_CALL
#endif

namespace onnxpool::ONNXPOOL_ISA {

template <class To, class From>
ALWAYS_INLINE inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "same bits, same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class T>
struct ExpConstants;

// exp(r) = 1 + r + r^2 q(r) on |r| <= ln(2) / 2, q by minimax of the relative error: 2^-28.2 here, 2^-57.9 for double.
// ln2_high has trailing zeros enough for its products with exponents up to 2^15 (2^20) to be exact.
template <>
struct ExpConstants<float> {
  using Unsigned = uint32_t;
  using Signed = int32_t;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr Unsigned kMinusInfinity = 0xff800000;
  static constexpr float log2e = 0x1.715476p+0F, magic = 0x1.8p+23F, ln2 = 0x1.62e43p-1F, ln2_high = 0x1.63p-1F,
                         ln2_low = -0x1.bd0106p-13F, floor = -200.0F;
  // In pairs of terms, not one after the other: a processor waits for each result.
  ALWAYS_INLINE static float q(float r) {
    const float low = 0x1.555490p-3F * r + 0x1.fffffcp-2F, high = 0x1.123a6cp-7F * r + 0x1.5558f4p-5F, r2 = r * r;
    return (0x1.6a2352p-10F * r2 + high) * r2 + low;
  }
};

template <>
struct ExpConstants<double> {
  using Unsigned = uint64_t;
  using Signed = int64_t;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr Unsigned kMinusInfinity = 0xfff0000000000000;
  static constexpr double log2e = 0x1.71547652b82fep+0, magic = 0x1.8p+52, ln2 = 0x1.62e42fefa39efp-1,
                          ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33, floor = -1600.0;
  ALWAYS_INLINE static double q(double r) {
    constexpr double terms[] = {0x1.28adce7339679p-22, 0x1.71df262c451e1p-19, 0x1.a01999adcb23bp-16,
                                0x1.a01a0129b4612p-13, 0x1.6c16c1844b01cp-10, 0x1.1111111127e83p-7,
                                0x1.55555555507f1p-5,  0x1.55555555554f9p-3,  0x1.000000000000ap-1};
    double sum = 0x1.ad7f02ab63935p-26;
    for (const double term : terms) sum = sum * r + term;
    return sum;
  }
};

// exp(x) / 2^m for a whole number m near log2(exp(reference)): scaling by a power of two is exact, where subtracting
// the reference from x would round. About 1 ulp; 0 below and infinity above the range of normal numbers; NaN for NaN.
template <class T>
class ScaledExp {
  using K = ExpConstants<T>;
  using Unsigned = typename K::Unsigned;

 public:
  // Beyond this the exponent's arithmetic is no longer exact, and a reference is of no use.
  static constexpr T kMostReference = 11000;

  ALWAYS_INLINE explicit ScaledExp(T reference) {
    const T shifted = reference * K::log2e + K::magic;
    const T m = shifted - K::magic;
    low_ = (m - K::kBias) * K::ln2;
    high_ = (m + (K::kBias + 1)) * K::ln2;
    magic_ = K::magic - (m - K::kBias);
  }

  ALWAYS_INLINE T operator()(T x) const {
    const T above = x < low_ ? low_ : x;  // in this form NaN stays, and both are single instructions
    const T inside = above > high_ ? high_ : above;
    const T shifted = inside * K::log2e + magic_;  // the nearest whole number, with m and bias, in the low bits
    const T n = shifted - magic_;
    const T r = (inside - n * K::ln2_high) - n * K::ln2_low;
    const T power = K::q(r) * (r * r) + (r + 1);
    return power * bits<T>(bits<Unsigned>(shifted) << K::kMantissa);  // 2^(n - m), 0 or infinity
  }

 private:
  T low_, high_, magic_;
};

struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

ALWAYS_INLINE inline float widen(float x) { return x; }
ALWAYS_INLINE inline double widen(double x) { return x; }
ALWAYS_INLINE inline float widen(Bfloat x) { return bits<float>(static_cast<uint32_t>(x.bits) << 16); }

ALWAYS_INLINE inline float widen(Half x) {
  const uint32_t sign = (x.bits & 0x8000U) << 16, rest = x.bits & 0x7fffU;
  const float subnormal = static_cast<float>(static_cast<int32_t>(rest)) * 0x1p-24F;
  const uint32_t normal = (rest << 13) + (rest >= 0x7c00U ? 0x70000000U : 0x38000000U);
  return bits<float>((rest < 0x400U ? bits<uint32_t>(subnormal) : normal) | sign);
}

// To nearest, ties to even.
ALWAYS_INLINE inline void narrow(float x, float* out) { *out = x; }
ALWAYS_INLINE inline void narrow(double x, double* out) { *out = x; }

ALWAYS_INLINE inline void narrow(float x, Bfloat* out) {
  const uint32_t word = bits<uint32_t>(x);
  const uint32_t rounded = (word + 0x7fffU + ((word >> 16) & 1U)) >> 16;
  const uint32_t nan = (word >> 16) | 0x40U;
  out->bits = static_cast<uint16_t>((word & 0x7fffffffU) > 0x7f800000U ? nan : rounded);
}

ALWAYS_INLINE inline void narrow(float x, Half* out) {
  const uint32_t word = bits<uint32_t>(x), sign = (word >> 16) & 0x8000U, rest = word & 0x7fffffffU;
  const uint32_t subnormal = bits<uint32_t>(bits<float>(rest) + 0.5F) - 0x3f000000U;  // 0.5's ulp is half's smallest
  const uint32_t normal = (rest + 0xfffU + ((rest >> 13) & 1U) - 0x38000000U) >> 13;
  const uint32_t special = rest > 0x7f800000U ? 0x7e00U : 0x7c00U;
  const uint32_t finite = rest < 0x38800000U ? subnormal : normal;
  out->bits = static_cast<uint16_t>((rest >= 0x47800000U ? special : finite) | sign);
}

}  // namespace onnxpool::ONNXPOOL_ISA
