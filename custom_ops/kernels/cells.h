// Cells in memory, of any element type, to and from the registers that are computed with: whole registers, and parts of
// one at the ends of rows, without a look at what lies beyond.
#pragma once

#include "vector.h"

namespace onnxpool::ONNXPOOL_ISA {

// How as many cells of type T as there are lanes are stored: numbers as they are, short ones in half a register.
template <class T>
struct Stored {
  typedef Vec<T> type;
};
struct StoredShort {
  typedef uint16_t type __attribute__((vector_size(kVectorBytes / 2)));
};
template <>
struct Stored<Half> : StoredShort {};
template <>
struct Stored<Bfloat> : StoredShort {};

template <class T>
struct Conversion {
  using Value = T;
  INLINED static Vec<T> widen(Vec<T> x) { return x; }
  INLINED static Vec<T> narrow(Vec<T> x) { return x; }
};

template <>
struct Conversion<Bfloat> {
  using Value = float;
  using Short = StoredShort::type;
  INLINED static Vec<float> widen(Short x) {
    return number_of<float>(reinterpret_cast<Vec<int32_t>>(__builtin_convertvector(x, Vec<uint32_t>) << 16));
  }
  INLINED static Short narrow(Vec<float> x) {
    const auto word = reinterpret_cast<Vec<uint32_t>>(x), high = word >> 16;
    const Vec<uint32_t> rounded = (word + 0x7fff + (high & 1)) >> 16;
    return __builtin_convertvector(x == x ? rounded : high | 0x40, Short);
  }
};

template <>
struct Conversion<Half> {
  using Value = float;
  using Short = StoredShort::type;
  INLINED static Vec<float> widen(Short x) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec<float>>(_mm512_maskz_cvtph_ps(0xffff, reinterpret_cast<__m256i>(x)));
#elif defined(__F16C__)
    return reinterpret_cast<Vec<float>>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(x)));
#else
    const Vec<uint32_t> word = __builtin_convertvector(x, Vec<uint32_t>), rest = word & 0x7fff;
    const Vec<float> small = __builtin_convertvector(reinterpret_cast<Vec<int32_t>>(rest), Vec<float>) * 0x1p-24F;
    const Vec<uint32_t> normal = (rest << 13) + (rest >= 0x7c00 ? all<uint32_t>(0x70000000) : all<uint32_t>(0x38000000));
    const Vec<uint32_t> size = rest < 0x400 ? reinterpret_cast<Vec<uint32_t>>(small) : normal;
    return reinterpret_cast<Vec<float>>(size | (word & 0x8000) << 16);
#endif
  }
  INLINED static Short narrow(Vec<float> x) {
#if defined(__AVX512F__)
    return reinterpret_cast<Short>(_mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    return reinterpret_cast<Short>(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#else
    Short shorts;
    for (int i = 0; i < kLanes<float>; ++i) {
      Half half;
      onnxpool::ONNXPOOL_ISA::narrow(x[i], &half);
      shorts[i] = half.bits;
    }
    return shorts;
#endif
  }
};

template <class T>
using Wide = typename Conversion<T>::Value;

template <class T>
INLINE Vec<Wide<T>> load(const T* cells) {
  typename Stored<T>::type stored;
  std::memcpy(&stored, cells, sizeof stored);
  return Conversion<T>::widen(stored);
}
template <class T>
INLINE void store(Vec<Wide<T>> numbers, T* cells) {
  const typename Stored<T>::type stored = Conversion<T>::narrow(numbers);
  std::memcpy(cells, &stored, sizeof stored);
}

#if defined(__AVX512F__)
INLINE uint32_t bits_between(int64_t from, int64_t to) {
  return (to >= 32 ? ~0U : to <= 0 ? 0U : (1U << to) - 1) & (from <= 0 ? ~0U : from >= 32 ? 0U : ~0U << from);
}
#endif

// Which lanes of a register cells in memory have: [from, to).
template <class T>
class Span {
 public:
  INLINED Span(int64_t begin, int64_t end)
#if defined(__AVX512F__)
      : mask(bits_between(begin, end)) {}
  uint32_t mask;
#elif defined(__AVX2__)
      : from(begin), to(end), mask(lanes_between<Wide<T>>(begin, end)) {}
  int64_t from, to;
  Ints<Wide<T>> mask;
#else
      : from(begin), to(end) {}
  int64_t from, to;
#endif
};

// These lanes of the cells, 0 elsewhere; nothing else is read.
template <class T>
INLINE Vec<Wide<T>> load_part(const T* cells, const Span<T>& lanes) {
#if defined(__AVX512F__)
  if constexpr (same<T, float>) return reinterpret_cast<Vec<float>>(_mm512_maskz_loadu_ps(lanes.mask & 0xffff, cells));
  if constexpr (same<T, double>) return reinterpret_cast<Vec<double>>(_mm512_maskz_loadu_pd(lanes.mask & 0xff, cells));
  if constexpr (sizeof(T) == 2) {
    const __m256i stored = _mm256_maskz_loadu_epi16(lanes.mask & 0xffff, cells);
    return Conversion<T>::widen(reinterpret_cast<StoredShort::type>(stored));
  }
#else
#if defined(__AVX2__)
  if constexpr (same<T, float>) {
    return reinterpret_cast<Vec<float>>(_mm256_maskload_ps(cells, reinterpret_cast<__m256i>(lanes.mask)));
  }
#endif
  T part[kRoom<Wide<T>>] = {};
  for (int64_t i = most(lanes.from, 0); i < least(lanes.to, kLanes<Wide<T>>); ++i) part[i] = cells[i];
  return load(part);
#endif
}

template <class T>
INLINE void store_part(Vec<Wide<T>> numbers, const Span<T>& lanes, T* cells) {
  const typename Stored<T>::type stored = Conversion<T>::narrow(numbers);
#if defined(__AVX512F__)
  if constexpr (same<T, float>) _mm512_mask_storeu_ps(cells, lanes.mask & 0xffff, stored);
  if constexpr (same<T, double>) _mm512_mask_storeu_pd(cells, lanes.mask & 0xff, stored);
  if constexpr (sizeof(T) == 2) _mm256_mask_storeu_epi16(cells, lanes.mask & 0xffff, reinterpret_cast<__m256i>(stored));
#else
#if defined(__AVX2__)
  if constexpr (same<T, float>) return _mm256_maskstore_ps(cells, reinterpret_cast<__m256i>(lanes.mask), stored);
#endif
  T part[kRoom<Wide<T>>];
  std::memcpy(part, &stored, sizeof part);
  for (int64_t i = most(lanes.from, 0); i < least(lanes.to, kLanes<Wide<T>>); ++i) cells[i] = part[i];
#endif
}

// Lanes outside a mask become 0.
template <class Value>
INLINE Vec<Value> kept(Ints<Value> within, Vec<Value> x) {
  return number_of<Value>(whole_bits<Value>(x) & within);
}

}  // namespace onnxpool::ONNXPOOL_ISA
