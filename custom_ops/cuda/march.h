// Pooling on a GPU, the windows that networks have: squares of 2 or 3 cells a side in a plane, and 2 or 3 cells of a
// row, of float32, float16 or bfloat16. What one thread computes: the outputs of one column, down a strip of rows.
//
// A row of cells that two outputs share is read once and stays in registers; neighbouring threads have neighbouring
// columns, so a warp reads and writes along memory, and where columns are an even number apart two cells come in one
// load. A window is weighed once, by the GPU's own 2^x and relative to its largest logit, and its mean taken in two
// looks (methods.h). Windows for which that is not sure are done once more at the end, by pool.h.
#pragma once

#include "pool.h"

namespace onnxpool::cuda {

// How planes are divided among threads. Cells of one plane are counted in 32 bits, those of all in 64.
struct March {
  int32_t height = 0, width = 0, cells = 0;  // of a plane of the input
  int32_t out_height = 0, out_width = 0, outputs = 0;
  int32_t stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0;
  int32_t rows = 1;              // outputs of a thread
  int32_t pair = 0, single = 0;  // columns of a window's two cells that may come together, and of its third
  int32_t threads = 0;           // for all planes
  Divisor<int32_t> columns, strips;
};

// Which of march's shapes a window has.
struct MarchShape {
  int rows = 0, columns = 0;  // 0: none of them, the window is not for march
  int shared = 0;             // rows that an output shares with the next one
  bool paired = false;
};

template <size_t kRowsOf, size_t kColumnsOf, size_t kSharedOf, bool kPairedOf>
struct FixedShape {
  static constexpr size_t kRows = kRowsOf, kColumns = kColumnsOf, kShared = kSharedOf;
  static constexpr bool kPaired = kPairedOf;
};

// Calls run(FixedShape) for a shape: all of them, each a kernel.
template <class Run>
auto with_fixed(MarchShape shape, Run run) {
  const bool paired = shape.paired;
  if (shape.rows == 1 && shape.columns == 2) {
    return paired ? run(FixedShape<1, 2, 0, true>()) : run(FixedShape<1, 2, 0, false>());
  }
  if (shape.rows == 1) return paired ? run(FixedShape<1, 3, 0, true>()) : run(FixedShape<1, 3, 0, false>());
  if (shape.rows == 2) return paired ? run(FixedShape<2, 2, 0, true>()) : run(FixedShape<2, 2, 0, false>());
  if (shape.shared == 2) return run(FixedShape<3, 3, 2, false>());
  if (shape.shared == 1) return paired ? run(FixedShape<3, 3, 1, true>()) : run(FixedShape<3, 3, 1, false>());
  return run(FixedShape<3, 3, 0, false>());
}

// Two cells, the first at an even place: one load.
template <class T>
struct alignas(2 * sizeof(T)) Pair {
  T first, second;
};

template <class T>
bool aligned(const void* tensor) {
  return reinterpret_cast<uintptr_t>(tensor) % sizeof(Pair<T>) == 0;
}

// `aligned`: whether the tensors' addresses let two cells that begin at an even one be read at once.
inline MarchShape shape_of(const Pooling& pooling, bool aligned) {
  constexpr int64_t kMost = int64_t{1} << 30;
  const PooledAxis &depth = pooling.depth, &height = pooling.height, &width = pooling.width;
  const bool flat = depth.kernel == 1 && depth.stride == 1;
  const bool known = (width.kernel == 2 || width.kernel == 3) && (height.kernel == 1 || height.kernel == width.kernel);
  const bool dense = height.dilation == 1 && width.dilation == 1;
  const bool fits = (height.in + 4) * width.in < kMost && outputs_of(pooling) < kMost;  // rows below the input, too
  if (!flat || !known || !dense || !fits) return {};
  MarchShape shape;
  shape.rows = static_cast<int>(height.kernel), shape.columns = static_cast<int>(width.kernel);
  shape.shared = shape.rows == 3 && height.stride < 3 ? static_cast<int>(3 - height.stride) : 0;
  const bool even = width.stride % 2 == 0 && width.in % 2 == 0 && (shape.columns == 3 || width.pad == 0);
  shape.paired = even && aligned && (shape.rows < 3 || shape.shared == 1);
  return shape;
}

// Rows whose windows are of one row have no planes: all of them are one.
inline Pooling flattened(Pooling pooling) {
  PooledAxis &depth = pooling.depth, &height = pooling.height;
  const bool apart = depth.kernel == 1 && depth.stride == 1 && height.kernel == 1 && height.stride == 1;
  const int64_t rows = pooling.planes * depth.in * height.in;
  if (!apart || (rows + 4) * pooling.width.in >= int64_t{1} << 30) return pooling;
  pooling.planes = rows > 0 ? 1 : 0;
  depth = PooledAxis(), height = PooledAxis();
  height.in = height.out = rows > 0 ? rows : 1;
  return pooling;
}

// How many outputs a thread computes, at most 32: more share more, fewer make more threads.
inline int64_t rows_of(const Pooling& pooling) {
  constexpr int64_t kRows = 4, kEnoughThreads = int64_t{1} << 17;
  int64_t rows = kRows;
  while (rows > 1 && outputs_of(pooling) < rows * kEnoughThreads) rows /= 2;
  return rows;
}

inline March make_march(const Pooling& pooling, int64_t rows) {
  const PooledAxis &height = pooling.height, &width = pooling.width;
  March march;
  march.height = static_cast<int32_t>(height.in), march.width = static_cast<int32_t>(width.in);
  march.out_height = static_cast<int32_t>(height.out), march.out_width = static_cast<int32_t>(width.out);
  march.cells = march.height * march.width, march.outputs = march.out_height * march.out_width;
  march.stride_h = static_cast<int32_t>(height.stride), march.stride_w = static_cast<int32_t>(width.stride);
  march.pad_h = static_cast<int32_t>(height.pad), march.pad_w = static_cast<int32_t>(width.pad);
  const int64_t strips = (height.out + rows - 1) / rows;
  const bool odd = width.kernel == 3 && width.pad % 2 != 0;
  march.rows = static_cast<int32_t>(rows);
  march.pair = odd ? 1 : 0, march.single = odd ? 0 : 2;
  march.threads = static_cast<int32_t>(pooling.planes * pooling.depth.out * strips * width.out);
  march.columns = Divisor<int32_t>(march.out_width), march.strips = Divisor<int32_t>(static_cast<int32_t>(strips));
  return march;
}

GPU_HOST inline bool below(int32_t number, int32_t limit) {  // and not below 0
  return static_cast<uint32_t>(number) < static_cast<uint32_t>(limit);
}

// A compiler that knows how an address came about computes all of it anew for each load.
template <class T>
GPU_HOST inline T* settled(T* address) {
#if defined(__CUDA_ARCH__)
  asm("" : "+l"(address));
#endif
  return address;
}

// The cells of a window's columns in one plane: the pair, and the single one where there are three.
template <class T, size_t kColumns, bool kPaired>
class Columns {
 public:
  GPU_HOST Columns(const March& march, int32_t column, const T* plane) {
    const int32_t start = column * march.stride_w - march.pad_w, pair = start + march.pair;
    const int32_t single = start + march.single;
    pair_ = settled(plane + pair), single_ = settled(plane + single);
    first_in_ = below(pair, march.width), second_in_ = below(pair + 1, march.width);
    single_in_ = below(single, march.width);
  }

  // `row`: the place of the row's first cell in its plane, or anything where the row is not `in` the input.
  template <class Clean>
  GPU_HOST void read(int32_t row, bool in, float outside, float (&cells)[kColumns], Clean clean) const {
    for (float& cell : cells) cell = outside;
    if constexpr (kPaired) {
      if (in & first_in_) {
        Pair<T> two;
        std::memcpy(&two, __builtin_assume_aligned(pair_ + row, sizeof two), sizeof two);
        cells[0] = clean(widen(two.first)), cells[1] = clean(widen(two.second));
      }
    } else {
      if (in & first_in_) cells[0] = clean(widen(pair_[row]));
      if (in & second_in_) cells[1] = clean(widen(pair_[row + 1]));
    }
    if constexpr (kColumns == 3) {
      if (in & single_in_) cells[2] = clean(widen(single_[row]));
    }
  }

 private:
  const T *pair_, *single_;
  bool first_in_, second_in_, single_in_;
};

// A thread by itself, for pool.h.
struct Alone {
  static constexpr int kLanes = 1;
  GPU_HOST static constexpr int lanes() { return kLanes; }
  GPU_HOST int lane() const { return 0; }
  template <class T>
  GPU_HOST T exchange(T value, int) const {
    return value;
  }
};

template <class Method, class T, class Shape>
GPU_HOST inline void march_strip(const March& march, const Job<int64_t>& job, const T* x, const T* logit, T* y,
                                 int32_t thread) {
  constexpr size_t kRows = Shape::kRows, kColumns = Shape::kColumns, kShared = Shape::kShared;
  int32_t column, strip;
  const int32_t plane = march.strips.divide(march.columns.divide(thread, &column), &strip);
  const int32_t first = strip * march.rows, left = march.out_height - first;
  const int32_t rows = left < march.rows ? left : march.rows;
  const int64_t input = int64_t{plane} * march.cells;
  const int64_t output = int64_t{plane} * march.outputs + (first * march.out_width + column);
  T* const y_strip = settled(y + output);
  using Read = Columns<T, kColumns, Shape::kPaired>;
  const Read of_x(march, column, x + input), of_logit(march, column, logit + input);

  Cells<kRows, kColumns> cells;
  int32_t h = first * march.stride_h - march.pad_h, row = h * march.width, at = 0;
  const auto read = [&](size_t k) {
    const bool in = below(h, march.height);
    of_x.read(row, in, Method::kOutside, cells.x[k], [](float cell) { return Method::clean(cell); });
    if constexpr (Method::kInputs == 2) {
      of_logit.read(row, in, -kInfinity<float>, cells.logit[k], [](float cell) { return cell; });
    }
    ++h, row += march.width;
  };
  if constexpr (kShared > 0) {
    for (size_t k = 0; k < kShared; ++k) read(k);
  }
  uint32_t unsure = 0;  // a bit for each row, the last one's lowest
  for (int32_t i = 0; i < rows; ++i) {
    for (size_t k = kShared; k < kRows; ++k) read(k);
    bool sure;
    narrow(Method::mean(cells, &sure), y_strip + at);
    unsure = 2 * unsure + (sure ? 0 : 1);
    at += march.out_width;
    if constexpr (kShared > 0) {
      for (size_t k = 0; k < kShared; ++k) {
        for (size_t c = 0; c < kColumns; ++c) {
          cells.x[k][c] = cells.x[k + kRows - kShared][c];
          if constexpr (Method::kInputs == 2) cells.logit[k][c] = cells.logit[k + kRows - kShared][c];
        }
      }
    } else {
      const int32_t skipped = march.stride_h - static_cast<int32_t>(kRows);
      h += skipped, row += skipped * march.width;
    }
  }
  for (int32_t i = rows - 1; unsure != 0; --i, unsure >>= 1) {
    if ((unsure & 1) == 0) continue;
    pool_window<Method, float, 3>(job, x, logit, y, output + int64_t{i} * march.out_width, Alone());
  }
}

}  // namespace onnxpool::cuda
