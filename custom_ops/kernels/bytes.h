// Stored numbers of 8 bits in memory, to and from registers of as many whole numbers of 32 bits: whole registers, and the
// first lanes of one. By intrinsics: compilers take a short vector apart where they convert it.
#pragma once

#include "cells.h"

namespace onnxpool::ONNXPOOL_ISA {

// uint8_t or int8_t.
template <class Byte>
INLINE Vec<int32_t> load_bytes(const Byte* from) {
  constexpr bool kSigned = same<Byte, int8_t>;
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
  const __m128i bytes = _mm_maskz_loadu_epi8(static_cast<__mmask16>(bits_between(0, count)), from);
  return load_bytes(reinterpret_cast<const Byte*>(&bytes));
#else
  Byte part[kRoom<float>] = {};
  for (int64_t i = 0; i < count; ++i) part[i] = from[i];
  return load_bytes(part);
#endif
}

// Numbers that a Byte can hold.
template <class Byte>
INLINE void store_bytes(Vec<int32_t> numbers, Byte* to) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm512_maskz_cvtepi32_epi8(0xffff, reinterpret_cast<__m512i>(numbers));
  std::memcpy(to, &bytes, sizeof bytes);
#elif defined(__SSE2__)
  constexpr bool kSigned = same<Byte, int8_t>;
#if defined(__AVX2__)
  const auto all = reinterpret_cast<__m256i>(numbers);
  const __m128i low = _mm256_castsi256_si128(all), high = _mm256_extracti128_si256(all, 1);
#else
  const auto low = reinterpret_cast<__m128i>(numbers), high = low;
#endif
  const __m128i shorts = _mm_packs_epi32(low, high);
  const __m128i bytes = kSigned ? _mm_packs_epi16(shorts, shorts) : _mm_packus_epi16(shorts, shorts);
  std::memcpy(to, &bytes, kRoom<float>);
#else
  for (int i = 0; i < kLanes<float>; ++i) to[i] = static_cast<Byte>(numbers[i]);
#endif
}

template <class Byte>
INLINE void store_bytes_part(Vec<int32_t> numbers, int64_t count, Byte* to) {
  Byte part[kRoom<float>];
  store_bytes(numbers, part);
  for (int64_t i = 0; i < count; ++i) to[i] = part[i];
}

}  // namespace onnxpool::ONNXPOOL_ISA
