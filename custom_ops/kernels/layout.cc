// layout.h, by squares of registers.
#include "layout.h"

#include "cells.h"

namespace onnxpool::ONNXPOOL_ISA {
namespace {

template <class T>
KEEP_CALL void turn_edge(int64_t rows, int64_t columns, int64_t row, int64_t column, int64_t row_end, int64_t column_end,
                         const T* from, T* to) {
  for (int64_t i = row; i < row_end; ++i) {
    for (int64_t j = column; j < column_end; ++j) to[j * rows + i] = from[i * columns + j];
  }
}

// Down the rows, in steps of a line of cache, so that lines are written whole.
template <class T>
void turn_part(int64_t rows, int64_t columns, int64_t begin, int64_t end, const T* from, T* to) {
  constexpr int64_t kN = kLanes<T>, kLine = kN < 64 / int64_t{sizeof(T)} ? 64 / int64_t{sizeof(T)} : kN;
  for (int64_t i = 0; i < rows; i += kLine) {
    for (int64_t j = begin; j < end; j += kN) {
      if (i + kLine > rows || j + kN > end) {
        turn_edge(rows, columns, i, j, least(i + kLine, rows), least(j + kN, end), from, to);
        continue;
      }
      for (int64_t part = i; part < i + kLine; part += kN) {
        Vec<T> square[kRoom<T>];
        UNROLL_ALL
        for (int64_t k = 0; k < kN; ++k) square[k] = load(from + (part + k) * columns + j);
        transpose<T>(square);
        UNROLL_ALL
        for (int64_t k = 0; k < kN; ++k) store(square[k], to + (j + k) * rows + part);
      }
    }
  }
}

}  // namespace

void turn(size_t bytes, int64_t rows, int64_t columns, int64_t begin, int64_t end, const void* from, void* to) {
  const auto as = [&](auto number) {
    using T = decltype(number);
    turn_part(rows, columns, begin, end, static_cast<const T*>(from), static_cast<T*>(to));
  };
  if (bytes == 8) as(double{}); else as(float{});
}

}  // namespace onnxpool::ONNXPOOL_ISA
