// Stored numbers of 8 bits in memory, to and from registers of as many whole numbers of 32 bits: whole registers, and the
// first lanes of one. By intrinsics: compilers take a short vector apart where they convert it.
#pragma once

#include "cells.h"

namespace onnxpool::ONNXPOOL_ISA {

// uint8_t or int8_t.
template <class Byte>
INLINE Vec<int32_t> load_bytes(const Byte* from) {
  [[maybe_unused]] constexpr bool kSigned = same<Byte, int8_t>;
#if defined(__AVX512F__)
  __m128i bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return reinterpret_cast<Vec<int32_t>>(kSigned ? _mm512_maskz_cvtepi8_epi32(0xffff, bytes)
                                                : _mm512_maskz_cvtepu8_epi32(0xffff, bytes));
#elif defined(__AVX2__)
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return reinterpret_cast<Vec<int32_t>>(kSigned ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes));
#elif defined(__SSE2__)
  int32_t four;
  std::memcpy(&four, from, sizeof four);
  const __m128i bytes = _mm_cvtsi32_si128(four), pairs = _mm_unpacklo_epi8(bytes, bytes);
  const __m128i high = _mm_unpacklo_epi16(pairs, pairs);  // each byte four times
  return reinterpret_cast<Vec<int32_t>>(kSigned ? _mm_srai_epi32(high, 24) : _mm_srli_epi32(high, 24));
#else
  Vec<int32_t> numbers;
  for (int i = 0; i < kLanes<float>; ++i) numbers[i] = from[i];
  return numbers;
#endif
}

// The first `count` lanes, 0 elsewhere; nothing else is read.
template <class Byte>
INLINE Vec<int32_t> load_bytes_part(const Byte* from, int64_t count) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm_maskz_loadu_epi8(static_cast<__mmask16>(Span<float>(0, count).mask), from);
  return load_bytes(reinterpret_cast<const Byte*>(&bytes));
#else
  Byte part[kRoom<float>] = {};
  for (int64_t i = 0; i < count; ++i) part[i] = from[i];
  return load_bytes(part);
#endif
}

// To the nearest whole number, half to even; of numbers up to 2^21.
INLINE Vec<int32_t> rounded(Vec<float> x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec<int32_t>>(_mm512_maskz_cvtps_epi32(0xffff, x));
#elif defined(__AVX2__)
  return reinterpret_cast<Vec<int32_t>>(_mm256_cvtps_epi32(x));
#elif defined(__SSE2__)
  return reinterpret_cast<Vec<int32_t>>(_mm_cvtps_epi32(x));
#else
  constexpr float kMagic = 0x1.8p+23F;  // from here on floats are whole numbers
  return whole_bits<float>(x + kMagic) - bits<int32_t>(kMagic);
#endif
}

// Numbers of less than 2^31 - 2^8, saturated.
template <class Byte>
INLINE void store_bytes(Vec<int32_t> numbers, Byte* to) {
  [[maybe_unused]] constexpr bool kSigned = same<Byte, int8_t>;
#if defined(__AVX512F__)
  // There is no instruction from signed to unsigned.
  const auto centred = reinterpret_cast<__m512i>(kSigned ? numbers : numbers - 128);
  const __m128i bytes = _mm512_maskz_cvtsepi32_epi8(0xffff, centred);
  const __m128i stored = kSigned ? bytes : _mm_xor_si128(bytes, _mm_set1_epi8(-128));
  std::memcpy(to, &stored, sizeof stored);
#elif defined(__SSE2__)
#if defined(__AVX2__)
  const auto both = reinterpret_cast<__m256i>(numbers);
  const __m128i low = _mm256_castsi256_si128(both), high = _mm256_extracti128_si256(both, 1);
#else
  const auto low = reinterpret_cast<__m128i>(numbers), high = low;
#endif
  const __m128i shorts = _mm_packs_epi32(low, high);
  const __m128i bytes = kSigned ? _mm_packs_epi16(shorts, shorts) : _mm_packus_epi16(shorts, shorts);
  std::memcpy(to, &bytes, kRoom<float>);
#else
  constexpr int32_t kLeast = kSigned ? -128 : 0;
  for (int i = 0; i < kLanes<float>; ++i) {
    const int32_t above = numbers[i] < kLeast ? kLeast : numbers[i];
    to[i] = static_cast<Byte>(above > kLeast + 255 ? kLeast + 255 : above);
  }
#endif
}

template <class Byte>
INLINE void store_bytes_part(Vec<int32_t> numbers, int64_t count, Byte* to) {
  Byte part[kRoom<float>];
  store_bytes(numbers, part);
  for (int64_t i = 0; i < count; ++i) to[i] = part[i];
}

}  // namespace onnxpool::ONNXPOOL_ISA
