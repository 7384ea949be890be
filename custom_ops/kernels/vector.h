// One register of numbers, 512, 256 or 128 bits of them, and what the loops ask of it. Arithmetic and comparisons are
// the operators of GCC's and Clang's vector types; here is what these do not have, by the best instruction there is.
//
//   fma, reciprocal, quotient, power_of_two, Relative, look_up, larger, any
//   evens, odds, after, ahead, transpose  cells rearranged
#pragma once

#include <utility>

#include "kernel.h"
#include "method.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#define INLINED __attribute__((always_inline))
#define INLINE inline INLINED

// Before a loop over lanes: one iteration for all of them where it is hot, a loop in any case where it is not.
#if defined(__clang__)
#define UNROLL_ALL _Pragma("clang loop unroll(full)")
#define UNROLL_NONE _Pragma("clang loop unroll(disable)")
#else
#define UNROLL_ALL _Pragma("GCC unroll 16")
#define UNROLL_NONE _Pragma("GCC unroll 1")
#endif

namespace onnxpool::ONNXPOOL_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

template <class T, class Other>
constexpr bool same = false;
template <class T>
constexpr bool same<T, T> = true;

template <class Value>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Value));
template <class Value>
constexpr size_t kRoom = kVectorBytes / sizeof(Value);  // of an array with a place for each lane

template <class T>
struct Register {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename Register<T>::type;
template <class Value>
using Ints = Vec<typename ExpConstants<Value>::Signed>;

template <class Value>
INLINE Vec<Value> all(Value x) {
  return x - Vec<Value>{};  // not the sum: 0 + -0 is 0
}

// The same, for a constant that is to stay in a register, or whole in memory: compilers would rather load it anew for every
// use, with SSE2 one lane that they copy to the others.
template <class Value>
INLINE Vec<Value> held(Value x) {
  Vec<Value> constant = all(x);
#if defined(__AVX512F__)
  asm("" : "+v"(constant));
#elif defined(__SSE2__) && !defined(__AVX2__)
  asm("" : "+x"(constant));
#endif
  return constant;
}

template <class Value>
INLINE Ints<Value> whole_bits(Vec<Value> x) {
  return reinterpret_cast<Ints<Value>>(x);
}
template <class Value>
INLINE Vec<Value> number_of(Ints<Value> bits) {
  return reinterpret_cast<Vec<Value>>(bits);
}

// The same without a sign, for arithmetic that wraps around.
template <class Value>
using Words = Vec<typename ExpConstants<Value>::Unsigned>;
template <class Value>
INLINE Words<Value> words(Vec<Value> x) {
  return reinterpret_cast<Words<Value>>(x);
}
template <class Value>
INLINE Vec<Value> number_of_words(Words<Value> words) {
  return reinterpret_cast<Vec<Value>>(words);
}

template <class Value>
INLINE Vec<Value> magnitude(Vec<Value> x) {
  using Unsigned = typename ExpConstants<Value>::Unsigned;
  return number_of<Value>(whole_bits<Value>(x) & static_cast<typename ExpConstants<Value>::Signed>(~Unsigned{0} >> 1));
}

// The larger one; b where either is NaN.
template <class V>
INLINE V larger(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (same<V, Vec<float>>) return reinterpret_cast<V>(_mm512_maskz_max_ps(0xffff, a, b));
  if constexpr (same<V, Vec<double>>) return reinterpret_cast<V>(_mm512_maskz_max_pd(0xff, a, b));
#elif defined(__AVX2__)
  if constexpr (same<V, Vec<float>>) return reinterpret_cast<V>(_mm256_max_ps(a, b));
  if constexpr (same<V, Vec<double>>) return reinterpret_cast<V>(_mm256_max_pd(a, b));
#elif defined(__SSE2__)
  if constexpr (same<V, Vec<float>>) return reinterpret_cast<V>(_mm_max_ps(a, b));
  if constexpr (same<V, Vec<double>>) return reinterpret_cast<V>(_mm_max_pd(a, b));
#endif
  return a > b ? a : b;
}

// The larger of |x| and top, which is not negative; top where x is NaN.
template <class Value>
INLINE Vec<Value> larger_magnitude(Vec<Value> x, Vec<Value> top) {
#if defined(__AVX512F__)
  constexpr int kOfMagnitudes = 0b1011;  // the larger one, without its sign
  if constexpr (same<Value, float>) {
    return reinterpret_cast<Vec<Value>>(_mm512_maskz_range_ps(0xffff, top, x, kOfMagnitudes));
  }
#endif
  return larger(magnitude<Value>(x), top);
}

template <class Value, int... kLane>
INLINE Ints<Value> count_of(std::integer_sequence<int, kLane...>) {
  return Ints<Value>{kLane...};
}
// 0, 1, 2...
template <class Value>
INLINE Ints<Value> count_up() {
  return count_of<Value>(std::make_integer_sequence<int, kLanes<Value>>());
}

// The lanes [from, to), as a mask.
template <class Value>
INLINE Ints<Value> lanes_between(int64_t from, int64_t to) {
  using Signed = typename ExpConstants<Value>::Signed;
  const auto bound = [](int64_t i) { return static_cast<Signed>(i < 0 ? 0 : i > kLanes<Value> ? kLanes<Value> : i); };
  const Ints<Value> lane = count_up<Value>();
  return (lane >= bound(from)) & (lane < bound(to));
}

// Whether any lane of a mask is set.
template <class Mask>
INLINE bool any(Mask mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi64_mask(reinterpret_cast<__m512i>(mask), reinterpret_cast<__m512i>(mask)) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8(reinterpret_cast<__m256i>(mask)) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_epi8(reinterpret_cast<__m128i>(mask)) != 0;
#else
  const auto halves = reinterpret_cast<Vec<int64_t>>(mask);
  return (halves[0] | halves[1]) != 0;
#endif
}

// --- arithmetic

// Whether there is an instruction for a * b + c that rounds once.
#if defined(__AVX512F__) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
constexpr bool kFused = true;
#else
constexpr bool kFused = false;
#endif

// a * b + c, rounded once where kFused.
INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec<float>>(_mm512_fmadd_ps(a, b, c));
#elif defined(__FMA__)
  return reinterpret_cast<Vec<float>>(_mm256_fmadd_ps(a, b, c));
#elif defined(__ARM_FEATURE_FMA)
  Vec<float> sum;
  for (int i = 0; i < kLanes<float>; ++i) sum[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return sum;
#else
  return a * b + c;
#endif
}
INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec<double>>(_mm512_fmadd_pd(a, b, c));
#elif defined(__FMA__)
  return reinterpret_cast<Vec<double>>(_mm256_fmadd_pd(a, b, c));
#elif defined(__ARM_FEATURE_FMA)
  Vec<double> sum;
  for (int i = 0; i < kLanes<double>; ++i) sum[i] = __builtin_fma(a[i], b[i], c[i]);
  return sum;
#else
  return a * b + c;
#endif
}

// 1 / x, with a relative error of at most 2^-14.
INLINE Vec<double> reciprocal(Vec<double> x) { return 1.0 / x; }
INLINE Vec<float> reciprocal(Vec<float> x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec<float>>(_mm512_maskz_rcp14_ps(0xffff, x));
#else
  return 1.0F / x;
#endif
}

// a / b, with an error of at most 1 ULP.
template <class V>
INLINE V quotient(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (same<V, Vec<float>>) {
    const V r = reciprocal(b), q = a * r;
    return fma(fma(-b, q, a), r, q);
  }
#endif
  return a / b;
}

// 2^n for whole n, from 0 (2^-bias) to the largest power.
template <class Value>
INLINE Vec<Value> power_of_two(Vec<Value> n) {
  using K = ExpConstants<Value>;
  return number_of_words<Value>(words<Value>(n + (K::magic + K::kBias)) << K::kMantissa);
}

// Numbers p * 2^n relative to 2^top, for whole n <= top: 0 where that power is below the normal numbers, NaN where p is.
template <class Value>
class Relative {
  using K = ExpConstants<Value>;
  using V = Vec<Value>;

 public:
#if defined(__AVX512F__)
  INLINED explicit Relative(V top) : top_(top) {}

  INLINED V operator()(V p, V n) const {
    const V d = n - top_;
    if constexpr (same<Value, float>) {
      const __mmask16 normal = _mm512_cmp_ps_mask(d, _mm512_set1_ps(-124), _CMP_NLE_UQ);
      return reinterpret_cast<V>(_mm512_maskz_scalef_ps(normal, p, d));
    } else {
      const __mmask8 normal = _mm512_cmp_pd_mask(d, _mm512_set1_pd(-1020), _CMP_NLE_UQ);
      return reinterpret_cast<V>(_mm512_maskz_scalef_pd(normal, p, d));
    }
  }
#else
  // The power's exponent is in the low bits of n - top_.
  INLINED explicit Relative(V top) : top_(top - (K::magic + K::kBias)) {}

  INLINED V operator()(V p, V n) const {
    const V exponent = larger(n - top_, all<Value>(K::magic));
    return p * number_of_words<Value>(words<Value>(exponent) << K::kMantissa);
  }
#endif

 private:
  V top_;
};

// table[i] of the low bits of each i, where a register is a table: 16 entries, 8, or none.
#if defined(__AVX512F__)
constexpr int kTableBits = 4;
INLINE Vec<uint32_t> look_up(Vec<uint32_t> table, Vec<uint32_t> i) {
  return reinterpret_cast<Vec<uint32_t>>(_mm512_maskz_permutexvar_epi32(0xffff, reinterpret_cast<__m512i>(i),
                                                                        reinterpret_cast<__m512i>(table)));
}
#elif defined(__AVX2__)
constexpr int kTableBits = 3;
INLINE Vec<uint32_t> look_up(Vec<uint32_t> table, Vec<uint32_t> i) {
  return reinterpret_cast<Vec<uint32_t>>(
      _mm256_permutevar8x32_epi32(reinterpret_cast<__m256i>(table), reinterpret_cast<__m256i>(i)));
}
#else
constexpr int kTableBits = 0;
INLINE Vec<uint32_t> look_up(Vec<uint32_t> table, Vec<uint32_t>) { return table; }
#endif

// --- rearranging

// Lane i of the result is lane kPick::at(i) of a and b, one after the other.
template <class Pick, class V, int... kLane>
INLINE V shuffle(V a, V b, std::integer_sequence<int, kLane...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, Pick::at(kLane)...);
#else
  using Index = Ints<std::remove_reference_t<decltype(a[0])>>;
  return __builtin_shuffle(a, b, Index{Pick::at(kLane)...});
#endif
}
template <class Pick, class V>
INLINE V shuffle(V a, V b) {
  return shuffle<Pick>(a, b, std::make_integer_sequence<int, Pick::kCount>());
}

template <int kN>
struct Evens {
  static constexpr int kCount = kN;
  static constexpr int at(int i) { return 2 * i; }
};
template <int kN>
struct Odds {
  static constexpr int kCount = kN;
  static constexpr int at(int i) { return 2 * i + 1; }
};
template <int kN>
struct After {
  static constexpr int kCount = kN;
  static constexpr int at(int i) { return kN - 1 + i; }
};
template <int kN>
struct Ahead {
  static constexpr int kCount = kN;
  static constexpr int at(int i) { return i + 1; }
};
// The lanes of the first (kUpper: second) half of a and b by turns.
template <int kN, bool kUpper>
struct Zipped {
  static constexpr int kCount = kN;
  static constexpr int at(int i) { return (kUpper ? kN / 2 : 0) + i / 2 + i % 2 * kN; }
};
// The upper (kOdd: lower) row of a pair whose blocks of kBlock off the diagonal have changed places.
template <int kN, int kBlock, bool kOdd>
struct Swapped {
  static constexpr int kCount = kN;
  static constexpr int at(int i) {
    return kOdd ? ((i & kBlock) != 0 ? kN + i : i + kBlock) : ((i & kBlock) != 0 ? kN + i - kBlock : i);
  }
};

// The cells of even places of a and b, one after the other, and those of odd places.
template <class Value>
INLINE Vec<Value> evens(Vec<Value> a, Vec<Value> b) {
  return shuffle<Evens<kLanes<Value>>>(a, b);
}
template <class Value>
INLINE Vec<Value> odds(Vec<Value> a, Vec<Value> b) {
  return shuffle<Odds<kLanes<Value>>>(a, b);
}
// What stands one place further left: the last of `before`, then all of `own` but its last.
template <class Value>
INLINE Vec<Value> after(Vec<Value> before, Vec<Value> own) {
#if defined(__AVX512F__)
  if constexpr (same<Value, float>) {
    return reinterpret_cast<Vec<Value>>(_mm512_maskz_alignr_epi32(0xffff, reinterpret_cast<__m512i>(own),
                                                                  reinterpret_cast<__m512i>(before), 15));
  }
#endif
#if defined(__SSE2__) && !defined(__AVX2__)
  if constexpr (same<Value, float>) {  // GCC takes six instructions
    const __m128 two = _mm_shuffle_ps(before, own, _MM_SHUFFLE(0, 0, 3, 3));
    return reinterpret_cast<Vec<Value>>(_mm_shuffle_ps(two, own, _MM_SHUFFLE(2, 1, 2, 0)));
  }
#endif
  return shuffle<After<kLanes<Value>>>(before, own);
}
// What stands one place further right: all of `own` but its first, then the first of `next`.
template <class Value>
INLINE Vec<Value> ahead(Vec<Value> own, Vec<Value> next) {
#if defined(__AVX512F__)
  if constexpr (same<Value, float>) {
    return reinterpret_cast<Vec<Value>>(
        _mm512_maskz_alignr_epi32(0xffff, reinterpret_cast<__m512i>(next), reinterpret_cast<__m512i>(own), 1));
  }
#endif
#if defined(__SSE2__) && !defined(__AVX2__)
  if constexpr (same<Value, float>) {
    const __m128 two = _mm_shuffle_ps(own, next, _MM_SHUFFLE(0, 0, 3, 3));
    return reinterpret_cast<Vec<Value>>(_mm_shuffle_ps(own, two, _MM_SHUFFLE(2, 0, 2, 1)));
  }
#endif
  return shuffle<Ahead<kLanes<Value>>>(own, next);
}

template <class Value, int kBlock = 1>
INLINE void transpose(Vec<Value>* rows) {
  constexpr int kN = kLanes<Value>;
  if constexpr (kN == 4 && kVectorBytes == 16) {  // 8 instructions; else 12
    using Lower = Zipped<kN, false>;
    using Upper = Zipped<kN, true>;
    const Vec<Value> a = shuffle<Lower>(rows[0], rows[2]), b = shuffle<Upper>(rows[0], rows[2]);
    const Vec<Value> c = shuffle<Lower>(rows[1], rows[3]), d = shuffle<Upper>(rows[1], rows[3]);
    rows[0] = shuffle<Lower>(a, c), rows[1] = shuffle<Upper>(a, c);
    rows[2] = shuffle<Lower>(b, d), rows[3] = shuffle<Upper>(b, d);
    return;
  }
  UNROLL_ALL
  for (int i = 0; i < kN; ++i) {
    if ((i & kBlock) != 0) continue;
    const Vec<Value> a = rows[i], b = rows[i + kBlock];
    rows[i] = shuffle<Swapped<kN, kBlock, false>>(a, b);
    rows[i + kBlock] = shuffle<Swapped<kN, kBlock, true>>(a, b);
  }
  if constexpr (2 * kBlock < kN) transpose<Value, 2 * kBlock>(rows);
}

}  // namespace onnxpool::ONNXPOOL_ISA
