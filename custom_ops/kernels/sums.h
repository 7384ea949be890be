// What the ways to compute y = sum p / sum w share: reading and weighing rows of cells, and when a quotient of such
// sums may be trusted.
#pragma once

#include "kernel.h"
#include "method.h"

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace onnxpool::ONNXPOOL_ISA {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

template <class T, class Other>
constexpr bool same = false;
template <class T>
constexpr bool same<T, T> = true;

// Scratch memory, handed out from its start in pieces aligned to 64 bytes. Gaps keep pieces from lying multiples of
// 4096 bytes apart, where a processor takes an address in one for the same in another.
constexpr int64_t kAlign = 64, kGap = 5 * kAlign;
constexpr int64_t kPiece = kAlign + kGap;  // what a piece needs beyond its elements
class Memory {
 public:
  explicit Memory(void* start) : free_(static_cast<char*>(start)) {}

  // A piece of `count` elements for each pointer.
  template <class U, class... Rest>
  void take(int64_t count, U** piece, Rest... rest) {
    *piece = reinterpret_cast<U*>(free_);
    free_ += (count * static_cast<int64_t>(sizeof(U)) + kAlign - 1) / kAlign * kAlign + kGap;
    if constexpr (sizeof...(rest) > 0) take(count, rest...);
  }

 private:
  char* free_;
};

// --- cells

constexpr int64_t kChunk = 512;  // cells that are widened at once

inline void widen_all(const Bfloat* from, int64_t count, float* __restrict to) {
  for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i]);
}

// Compilers do not find the instruction for this by themselves.
inline void widen_all(const Half* from, int64_t count, float* __restrict to) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) {
    const __m256i cells = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    _mm512_storeu_ps(to + i, _mm512_maskz_cvtph_ps(0xffff, cells));
  }
#endif
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  }
#endif
  for (; i < count; ++i) to[i] = widen(from[i]);
}

inline void narrow_all(const float* from, int64_t count, Half* to) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m128i rounded = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), rounded);
  }
#endif
  for (; i < count; ++i) narrow(from[i], to + i);
}

template <class Value, class T>
inline void narrow_all(const Value* from, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) narrow(from[i], to + i);
}

// Numbers as cells are stored: where they lie, or in `room`.
inline const float* narrowed(const float* numbers, int64_t, float*) { return numbers; }
template <class T>
inline const T* narrowed(const float* numbers, int64_t count, T* room) {
  narrow_all(numbers, count, room);
  return room;
}

// At most kChunk cells as they are computed with: where they lie, or in `room`.
inline const float* widened(const float* cells, int64_t, float*) { return cells; }
inline const double* widened(const double* cells, int64_t, double*) { return cells; }
template <class T>
inline const float* widened(const T* cells, int64_t count, float* room) {
  widen_all(cells, count, room);
  return room;
}

// The inputs of a method at one place.
template <class T, size_t kInputs>
struct Cells {
  const T* input[kInputs];

  const T* x() const { return input[0]; }
  const T* logit() const { return input[kInputs - 1]; }
  Cells operator+(int64_t count) const {
    Cells there = *this;
    for (const T*& start : there.input) start += count;
    return there;
  }
};

template <class Value, size_t kInputs>
class Room {
 public:
  static constexpr size_t kBytes = kInputs * static_cast<size_t>(kChunk * 8 + kPiece);

  explicit Room(Memory* memory) {
    for (Value*& room : room_) memory->take(kChunk, &room);
  }

  template <class T>
  Cells<Value, kInputs> operator()(const Cells<T, kInputs>& cells, int64_t count) const {
    Cells<Value, kInputs> wide;
    for (size_t j = 0; j < kInputs; ++j) wide.input[j] = widened(cells.input[j], count, room_[j]);
    return wide;
  }

 private:
  Value* room_[kInputs];
};

// w and p of each cell.
template <class Method, class Value>
inline void weigh_all(typename Method::Weigher weigher, const Cells<Value, Method::kInputs>& cells, int64_t count,
                      Value* __restrict weights, Value* __restrict products) {
  const Value *x = cells.x(), *logit = cells.logit();
  for (int64_t i = 0; i < count; ++i) {
    const Value weight = weigher(logit[i]);
    weights[i] = weight;
    products[i] = Method::factor(x[i], weight) * weight;
  }
}

// The same with the cells of even places and those of odd places apart.
template <class Method, class Value>
KEEP_CALL inline void weigh_pairs(typename Method::Weigher weigher, const Value* x, const Value* logits, int64_t pairs,
                                  Value* __restrict even_weights, Value* __restrict even_products,
                                  Value* __restrict odd_weights, Value* __restrict odd_products) {
  const Value* const logit = Method::kInputs == 1 ? x : logits;  // or the compiler would load them twice
  for (int64_t i = 0; i < pairs; ++i) {
    const Value even = weigher(logit[2 * i]), odd = weigher(logit[2 * i + 1]);
    even_weights[i] = even;
    odd_weights[i] = odd;
    even_products[i] = Method::factor(x[2 * i], even) * even;
    odd_products[i] = Method::factor(x[2 * i + 1], odd) * odd;
  }
}

// Whether float16 is widened by an instruction.
#if defined(__F16C__)
constexpr bool kHalfInstruction = true;
#else
constexpr bool kHalfInstruction = false;
#endif

// The same for float16, a few cells at a time, which stay in registers where widening is an instruction: to write all
// of them to a room and read them again costs more than short cells save.
template <class Method>
inline void weigh_few(typename Method::Weigher weigher, const Cells<Half, Method::kInputs>& cells, int64_t count,
                      float* __restrict weights, float* __restrict products) {
  constexpr int64_t kFew = 16;
  constexpr size_t kInputs = Method::kInputs;
  int64_t i = 0;
  for (; i + kFew <= count; i += kFew) {
    alignas(kAlign) float wide[kInputs][kFew];
    Cells<float, kInputs> few;
    for (size_t j = 0; j < kInputs; ++j) few.input[j] = widened(cells.input[j] + i, kFew, wide[j]);
    weigh_all<Method, float>(weigher, few, kFew, weights + i, products + i);
  }
  for (; i < count; ++i) {
    float wide[kInputs];
    Cells<float, kInputs> one;
    for (size_t j = 0; j < kInputs; ++j) one.input[j] = widened(cells.input[j] + i, 1, wide + j);
    weigh_all<Method, float>(weigher, one, 1, weights + i, products + i);
  }
}

// --- sums

// Adds, and keeps what rounding lost (Knuth's two-sum): the error of a long sum would grow with its length.
template <class T>
inline void add(T value, T* sum, T* lost) {
  const T total = *sum + value, back = total - *sum;
  *lost += (*sum - (total - back)) + (value - back);
  *sum = total;
}

// Where sum p / sum w may be trusted. Exponentials below the smallest normal number are lost, and so must be 2^-60 of
// the sum or less; products of tiny cells lose bits below the smallest normal number, and so must not make up the sum.
template <class T>
struct Trust;
template <>
struct Trust<float> {
  static constexpr float least_weight = 0x1p-60F, most = 0x1p100F, tiny_x = 0x1p-40F, least_sum = 0x1p-100F;
};
template <>
struct Trust<double> {
  static constexpr double least_weight = 0x1p-500, most = 0x1p900, tiny_x = 0x1p-300, least_sum = 0x1p-900;
};

// `least_sum` is how small sum p may be: Trust's number, or 0 where no cell is tiny. Squares may vanish in any window.
template <class Method, class Value, class Sum>
inline bool trusted(Sum product, Sum weight, Sum least_sum) {
  using Limits = Trust<Value>;
  const Sum size = absolute(product);
  const bool ordinary = (size <= static_cast<Sum>(Limits::most)) & (size >= least_sum);
  if (!Method::kExponential) return ordinary | (weight == 0);
  const bool enough = ordinary & (weight >= static_cast<Sum>(Limits::least_weight));
  // Double's sum of floats is infinite where one of them is, and then so is their product, or NaN.
  return same<Sum, Value> ? enough & (weight <= static_cast<Sum>(Limits::most)) : enough;
}

// Whether a cell is so near 0, but not 0, that its product with an exponential may lose bits.
template <class Value, class T>
inline bool any_tiny(const T* x, int64_t count) {
  using Unsigned = typename ExpConstants<Value>::Unsigned;
  Unsigned smallest = ~Unsigned{0};
  for (int64_t i = 0; i < count; ++i) {
    const Unsigned size = (bits<Unsigned>(widen(x[i])) & (~Unsigned{0} >> 1)) - 1;  // 0 becomes the largest
    smallest = size < smallest ? size : smallest;
  }
  return smallest < bits<Unsigned>(Trust<Value>::tiny_x) - 1;
}

// A whole number that orders like x, and its own inverse on bits: whole numbers have a maximum that vectorises.
template <class Value>
inline typename ExpConstants<Value>::Signed ordered(Value x) {
  using Signed = typename ExpConstants<Value>::Signed;
  using Unsigned = typename ExpConstants<Value>::Unsigned;
  const auto word = bits<Signed>(x);
  return word ^ static_cast<Signed>(static_cast<Unsigned>(word >> (8 * sizeof(Value) - 1)) >> 1);
}

// The largest of x that can be a reference (which NaN and the infinities cannot), or `largest`.
template <class Value, class T>
inline Value largest_of(const T* x, int64_t count, Value largest) {
  using Signed = typename ExpConstants<Value>::Signed;
  using Unsigned = typename ExpConstants<Value>::Unsigned;
  const Unsigned most_size = bits<Unsigned>(ScaledExp<Value>::kMostReference);
  const Signed none = ordered(largest);
  Signed found = none;
  for (int64_t i = 0; i < count; ++i) {
    const Value value = widen(x[i]);
    const bool usable = (bits<Unsigned>(value) & (~Unsigned{0} >> 1)) < most_size;
    const Signed order = usable ? ordered(value) : none;
    found = order > found ? order : found;
  }
  return bits<Value>(ordered(bits<Value>(found)));
}

// --- sums of rows

template <class Sum, class... Rows>
KEEP_CALL inline void add_rows(bool add, int64_t count, Sum* __restrict sums, const Rows* __restrict... rows) {
  if (add) {
    for (int64_t i = 0; i < count; ++i) sums[i] += (... + static_cast<Sum>(rows[i]));
  } else {
    for (int64_t i = 0; i < count; ++i) sums[i] = (... + static_cast<Sum>(rows[i]));
  }
}

// sums[i] = a[i] + b[i] + ... for the rows a, b... that next() gives; up to three in one pass, since that is all that
// most windows have.
template <class Sum, class Next>
inline void sum_rows(int64_t rows, Next next, int64_t count, Sum* sums) {
  bool add = false;
  for (int64_t left = rows; left > 0; left -= 3, add = true) {
    const auto* const a = next();
    if (left == 1) return add_rows(add, count, sums, a);
    const auto* const b = next();
    if (left == 2) return add_rows(add, count, sums, a, b);
    add_rows(add, count, sums, a, b, next());
  }
}

#if defined(__AVX512F__)
// sums[i] = (row[i] + own[i]) + row[i + 1], eight at a time: may read 15 beyond, and write 7. Compilers convert each
// cell of `row` to double twice, which makes the whole kernel a tenth slower.
inline void add_neighbours(const float* row, const float* own, int64_t count, double one, double* sums) {
  constexpr __mmask8 kAll = 0xff;  // GCC 12 takes the functions without a mask for a use of what is not initialised
  const auto wide = [](const float* cells) { return _mm512_maskz_cvtps_pd(kAll, _mm256_loadu_ps(cells)); };
  const __m512d ones = _mm512_set1_pd(one);
  __m512d left = wide(row);
  for (int64_t i = 0; i < count; i += 8) {
    const __m512d next = wide(row + i + 8);
    const __m512d right = _mm512_castsi512_pd(
        _mm512_maskz_alignr_epi64(kAll, _mm512_castpd_si512(next), _mm512_castpd_si512(left), 1));
    _mm512_storeu_pd(sums + i, _mm512_fmadd_pd(right, ones, _mm512_fmadd_pd(left, ones, wide(own + i))));
    left = next;
  }
}
#endif

// Quotients, and how many of them cannot be trusted.
template <class Method, class Value, class Sum>
KEEP_CALL inline int64_t divide(const Sum* __restrict products, const Sum* __restrict weights, int64_t count,
                                Sum least_sum, Value* __restrict results) {
  typename ExpConstants<Value>::Unsigned bad = 0;  // as wide as a cell, for the compiler's sake
  for (int64_t i = 0; i < count; ++i) {
    results[i] = static_cast<Value>(Method::quotient(products[i], weights[i]));
    bad += trusted<Method, Value>(products[i], weights[i], least_sum) ? 0U : 1U;
  }
  return static_cast<int64_t>(bad);
}

// --- sums across a row: sums[i] = columns[i * stride] + columns[i * stride + dilation] + ...

template <int kKernel, int kStride, class Sum>
inline void sum_across_of(const Sum* __restrict columns, int64_t count, Sum* __restrict sums) {
  for (int64_t i = 0; i < count; ++i) {
    Sum sum = columns[i * kStride];
    for (int k = 1; k < kKernel; ++k) sum += columns[i * kStride + k];
    sums[i] = sum;
  }
}

template <class Sum>
inline void sum_across(const PlannedAxis& width, const Sum* columns, int64_t count, Sum* __restrict sums) {
  if (width.dilation == 1) {
    if (width.kernel == 3 && width.stride == 2) return sum_across_of<3, 2>(columns, count, sums);
    if (width.kernel == 3 && width.stride == 1) return sum_across_of<3, 1>(columns, count, sums);
    if (width.kernel == 2 && width.stride == 2) return sum_across_of<2, 2>(columns, count, sums);
  }
  for (int64_t i = 0; i < count; ++i) sums[i] = 0;
  for (int64_t k = 0; k < width.kernel; ++k) {
    const Sum* __restrict shifted = columns + k * width.dilation;
    for (int64_t i = 0; i < count; ++i) sums[i] += shifted[i * width.stride];
  }
}

}  // namespace onnxpool::ONNXPOOL_ISA
