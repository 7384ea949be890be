// Methods that are a quotient of two sums over the window (see method.h), on the CPU, for whole tensors.
//
// Windows overlap, so a cell is weighed once and not once per window: with weights w, of exp(l) / 2^m for one m where
// they are exponentials, y = sum p / sum w. Rows of w and p are kept while later output rows need them, summed
// vertically, then across. That is right wherever both sums are ordinary numbers. A window where they are not (far
// below or above its neighbours, infinite, NaN) is done again by itself, cell by cell, which is right everywhere.
#pragma once

#include "kernel.h"
#include "method.h"

namespace onnxpool::ONNXPOOL_ISA {

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

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// First cell of the window that lies in the input, as a position.
inline int64_t first_inside(const PlannedAxis& axis, int64_t start) {
  return start >= 0 ? start : start + (-start + axis.dilation - 1) / axis.dilation * axis.dilation;
}

constexpr int64_t kAlign = 64;

inline size_t weighted_scratch_bytes(const Plan& plan) {
  const int64_t cells = 4 * plan.ring * plan.tile_in + 6 * plan.tile_span + 9 * plan.tile;
  return static_cast<size_t>(cells * 8 + 19 * kAlign);
}

// Adds, and keeps what rounding lost (Knuth's two-sum): the error of a long sum would grow with its length.
template <class T>
inline void add(T value, T* sum, T* lost) {
  const T total = *sum + value, back = total - *sum;
  *lost += (*sum - (total - back)) + (value - back);
  *sum = total;
}

template <class T, class Other>
constexpr bool same = false;
template <class T>
constexpr bool same<T, T> = true;

// T is how a cell is stored, Value how it is computed with, Ring how weights are kept: as double where they are sums
// already. Ten roundings of float make 5 ULP, so sums of float are double; in sums of double what they lose is added up.
template <template <class, class> class OfMethod, class T, class Value, class Ring>
class Weighted {
  using Sum = double;
  using Method = OfMethod<Value, Sum>;
  using Weigher = typename Method::Weigher;
  using Unsigned = typename ExpConstants<Value>::Unsigned;
  using Signed = typename ExpConstants<Value>::Signed;
  static constexpr bool kCareful = same<Value, double>;
  static constexpr size_t kInputs = Method::kInputs, kLast = kInputs - 1;  // the last gives the weights

 public:
  Weighted(const Plan& plan, const void* const* inputs, void* output, void* scratch)
      : plan_(plan), y_(static_cast<T*>(output)), free_(static_cast<char*>(scratch)) {
    for (size_t i = 0; i < kInputs; ++i) {
      input_[i] = static_cast<const T*>(inputs[i]);
      row_[i] = take<Value>(plan.tile_span);
      cell_[i] = take<Value>(plan.tile);
    }
    weights_ = take<Ring>(plan.ring * plan.tile_in);
    products_ = take<Ring>(plan.ring * plan.tile_in);
    lost_ring_weights_ = take<Ring>(kCareful ? plan.ring * plan.tile_in : 0);
    lost_ring_products_ = take<Ring>(kCareful ? plan.ring * plan.tile_in : 0);
    column_weights_ = take<Sum>(plan.tile_span);
    column_products_ = take<Sum>(plan.tile_span);
    lost_column_weights_ = take<Sum>(plan.tile_span);
    lost_column_products_ = take<Sum>(plan.tile_span);
    lost_weights_ = take<Sum>(plan.tile);
    lost_products_ = take<Sum>(plan.tile);
    sum_weights_ = take<Sum>(plan.tile);
    sum_products_ = take<Sum>(plan.tile);
    result_ = take<Value>(plan.tile);
    top_ = take<Value>(plan.tile);
    size_ = take<Value>(plan.tile);
    clear_columns(0, plan.tile_span);
  }

  void step(int64_t index) {
    const PlannedAxis &depth = plan_.depth, &height = plan_.height, &width = plan_.width;
    const int64_t tile = index % plan_.tiles, band = index / plan_.tiles % plan_.bands;
    plane_ = index / plan_.tiles / plan_.bands;
    const int64_t first_column = tile * plan_.tile;
    columns_ = least(plan_.tile, width.out - first_column);
    start_ = first_column * width.stride - width.pad;
    begin_ = most(start_, 0);
    end_ = plan_.tiles == 1 ? width.in : least(width.in, start_ + (columns_ - 1) * width.stride + width.extent);
    const int64_t rows = depth.out * height.out, last = least((band + 1) * plan_.band, rows);
    T* out = y_ + plane_ * rows * width.out + first_column;
    clear_columns(0, begin_ - start_);  // padding, which the step before may have written to
    clear_columns(end_ - start_, plan_.tile_span);
    int64_t z = -1, exact_rows = 0;
    for (int64_t row = band * plan_.band; row < last; ++row) {
      h_ = row % height.out;
      if (row / height.out != z || row == band * plan_.band) {
        z = row / height.out;
        z_ = z * depth.stride - depth.pad;
        const int64_t h_last = least(height.out, h_ + last - row) - 1;
        fill_end_ = plan_.ring == height.in ? rows_end(h_last) : 0;
        start_ring();
      }
      if (exact_rows == 0 && !fast()) {
        start_ring();  // much of the row was out of range: once more, with a reference of its own
        if (!fast()) exact_rows = 16;
      }
      if (exact_rows > 0) {
        exact(0, columns_);
        --exact_rows;
      }
      for (int64_t i = 0; i < columns_; ++i) narrow(result_[i], out + row * width.out + i);
    }
  }

 private:
  template <class U>
  U* take(int64_t count) {
    char* start = free_;
    free_ += (count * static_cast<int64_t>(sizeof(U)) + kAlign - 1) / kAlign * kAlign;
    return reinterpret_cast<U*>(start);
  }

  int64_t rows_begin(int64_t h) const { return first_inside(plan_.height, h * plan_.height.stride - plan_.height.pad); }
  // From here on rows may be asked for: a dilated window that starts in the padding begins below, but not the next.
  int64_t rows_needed(int64_t h) const { return most(0, h * plan_.height.stride - plan_.height.pad); }
  int64_t rows_end(int64_t h) const {
    return least(plan_.height.in, h * plan_.height.stride - plan_.height.pad + plan_.height.extent);
  }
  // Where a row of the plane starts in each input.
  int64_t row_at(int64_t z, int64_t h) const {
    return ((plane_ * plan_.depth.in + z) * plan_.height.in + h) * plan_.width.in;
  }
  int64_t row_cells() const { return end_ - begin_; }

  void clear_columns(int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      column_weights_[i] = column_products_[i] = lost_column_weights_[i] = lost_column_products_[i] = 0;
    }
  }

  // Empties the ring. Where weights are exponentials, they are from now on relative to the largest logit under the
  // current output row, or thereabouts: any value near the logits will do.
  void start_ring() {
    const int64_t z = first_inside(plan_.depth, z_), from = rows_needed(h_), to = rows_end(h_);
    filled_ = from;
    smallest_ = ~Unsigned{0};
    if (!Method::kExponential) return;
    Signed largest = ordered(-ScaledExp<Value>::kMostReference);
    if (plan_.tiles == 1) {
      largest = largest_of(input_[kLast] + row_at(z, from), (to - from) * row_cells(), largest);
    } else {
      for (int64_t h = from; h < to; ++h) {
        largest = largest_of(input_[kLast] + row_at(z, h) + begin_, row_cells(), largest);
      }
    }
    weigher_ = Weigher(bits<Value>(ordered(bits<Value>(largest))));
  }

  // A whole number that orders like x, and its own inverse on bits: whole numbers have a maximum that vectorises.
  static Signed ordered(Value x) {
    const auto word = bits<Signed>(x);
    return word ^ static_cast<Signed>(static_cast<Unsigned>(word >> (8 * sizeof(Value) - 1)) >> 1);
  }

  // The largest of x that can be a reference (which NaN and the infinities cannot), or `largest`.
  static Signed largest_of(const T* x, int64_t count, Signed largest) {
    const Unsigned most_size = bits<Unsigned>(ScaledExp<Value>::kMostReference);
    const Signed none = largest;
    for (int64_t i = 0; i < count; ++i) {
      const Value value = widen(x[i]);
      const bool usable = (bits<Unsigned>(value) & (~Unsigned{0} >> 1)) < most_size;
      const Signed order = usable ? ordered(value) : none;
      largest = order > largest ? order : largest;
    }
    return largest;
  }

  // Rows [from, to) of the ring get w and p, summed over the window's depth.
  void fill(int64_t from, int64_t to) {
    const PlannedAxis& depth = plan_.depth;
    const bool contiguous = plan_.tiles == 1;
    for (int64_t h = from; h < to;) {
      const int64_t slot = h % plan_.ring;
      const int64_t rows = contiguous ? least(to - h, plan_.ring - slot) : 1;
      const int64_t at = slot * row_cells(), count = rows * row_cells();
      bool first = true;
      for (int64_t z = first_inside(depth, z_); z < least(depth.in, z_ + depth.extent); z += depth.dilation) {
        const int64_t from_cell = row_at(z, h) + begin_;
        if (first) {
          weigh<false>(input_[0] + from_cell, input_[kLast] + from_cell, count, at);
        } else {
          weigh<true>(input_[0] + from_cell, input_[kLast] + from_cell, count, at);
        }
        first = false;
      }
      for (int64_t i = at; i < at + count && kCareful; ++i) {
        weights_[i] += lost_ring_weights_[i];
        products_[i] += lost_ring_products_[i];
      }
      h += rows;
    }
  }

  template <bool kAdd>
  void weigh(const T* x, const T* logits, int64_t count, int64_t at) {
    const Weigher weigher = weigher_;
    Ring *__restrict weights = weights_ + at, *__restrict products = products_ + at;
    Ring *__restrict lost_weights = lost_ring_weights_ + at, *__restrict lost_products = lost_ring_products_ + at;
    Unsigned smallest = smallest_;
    for (int64_t i = 0; i < count; ++i) {
      const Value value = widen(x[i]), own_weight = weigher(kInputs == 1 ? value : widen(logits[i]));
      const Ring weight = static_cast<Ring>(own_weight);
      const Ring product = static_cast<Ring>(Method::factor(value, own_weight)) * weight;
      if (kAdd && kCareful) {
        add(weight, weights + i, lost_weights + i);
        add(product, products + i, lost_products + i);
      } else {
        weights[i] = kAdd ? weights[i] + weight : weight;
        products[i] = kAdd ? products[i] + product : product;
      }
      if (!kAdd && kCareful) lost_weights[i] = lost_products[i] = 0;
      if (!Method::kExponential) continue;
      const Unsigned size = (bits<Unsigned>(value) & (~Unsigned{0} >> 1)) - 1;  // 0 becomes the largest
      smallest = size < smallest ? size : smallest;
    }
    smallest_ = smallest;
  }

  // result_ for one output row. False, and nothing, where many windows are out of range.
  bool fast() {
    const int64_t to = most(fill_end_, rows_end(h_));
    filled_ = most(filled_, rows_needed(h_));
    if (filled_ < to) fill(filled_, to);
    filled_ = most(filled_, to);

    const int64_t offset = begin_ - start_, cells = least(row_cells(), plan_.tile_span - offset);
    sum_rows(weights_, column_weights_ + offset, lost_column_weights_ + offset, cells);
    sum_rows(products_, column_products_ + offset, lost_column_products_ + offset, cells);
    across(column_weights_, lost_column_weights_, sum_weights_, lost_weights_);
    across(column_products_, lost_column_products_, sum_products_, lost_products_);

    const int64_t bad = divide(sum_products_, sum_weights_, result_, columns_, least_sum());
    if (bad == 0) return true;
    if (bad * 8 > columns_) return false;  // one at a time they cost more than the row at once
    for (int64_t i = 0; i < columns_;) {
      int64_t j = i;
      while (j < columns_ && !trusted(absolute(sum_products_[j]), sum_weights_[j], least_sum())) ++j;
      if (j > i) exact(i, j);
      i = j + 1;
    }
    return true;
  }

  // Returns how many of the quotients cannot be trusted.
  static int64_t divide(const Sum* __restrict products, const Sum* __restrict weights, Value* __restrict results,
                        int64_t count, Sum least_sum) {
    Unsigned bad = 0;  // as wide as a cell, for the compiler's sake; a tile has fewer columns than it can count
    for (int64_t i = 0; i < count; ++i) {
      results[i] = static_cast<Value>(Method::quotient(products[i], weights[i]));
      bad += trusted(absolute(products[i]), weights[i], least_sum) ? 0U : 1U;
    }
    return static_cast<int64_t>(bad);
  }

  // How small sum p may be. Squares may vanish in any window; products with exponentials only where a cell is tiny.
  Sum least_sum() const {
    using Limits = Trust<Value>;
    const bool tiny = !Method::kExponential || smallest_ < bits<Unsigned>(Limits::tiny_x) - 1;
    return tiny ? static_cast<Sum>(Limits::least_sum) : Sum{0};
  }

  static bool trusted(Sum size, Sum weight, Sum least_sum) {
    using Limits = Trust<Value>;
    const bool ordinary = (size <= static_cast<Sum>(Limits::most)) & (size >= least_sum);
    if (!Method::kExponential) return ordinary | (weight == 0);
    return ordinary & (weight >= static_cast<Sum>(Limits::least_weight)) & (weight <= static_cast<Sum>(Limits::most));
  }

  // The ring's rows under the window, summed; the first three in one pass, since that is all that most windows have.
  void sum_rows(const Ring* ring, Sum* __restrict sum, Sum* __restrict lost, int64_t count) const {
    const int64_t step = plan_.height.dilation, last = rows_end(h_);
    int64_t h = rows_begin(h_), slot = h % plan_.ring - step;
    const auto next = [this, ring, step, &slot] {
      slot += step;
      if (slot >= plan_.ring) slot -= plan_.ring;
      return ring + slot * row_cells();
    };
    if (!kCareful && h + 2 * step < last) {
      const Ring *__restrict a = next(), *__restrict b = next(), *__restrict c = next();
      for (int64_t i = 0; i < count; ++i) sum[i] = Sum{a[i]} + Sum{b[i]} + Sum{c[i]};
      h += 3 * step;
    } else if (!kCareful && h + step < last) {
      const Ring *__restrict a = next(), *__restrict b = next();
      for (int64_t i = 0; i < count; ++i) sum[i] = Sum{a[i]} + Sum{b[i]};
      h += 2 * step;
    } else {
      const Ring* __restrict a = next();
      for (int64_t i = 0; i < count; ++i) sum[i] = Sum{a[i]};
      for (int64_t i = 0; i < count && kCareful; ++i) lost[i] = 0;
      h += step;
    }
    for (; h < last; h += step) {
      const Ring* __restrict a = next();
      for (int64_t i = 0; i < count && kCareful; ++i) add(Sum{a[i]}, sum + i, lost + i);
      for (int64_t i = 0; i < count && !kCareful; ++i) sum[i] += Sum{a[i]};
    }
  }

  void across(const Sum* columns, const Sum* lost_columns, Sum* __restrict sums, Sum* __restrict lost) const {
    const PlannedAxis& width = plan_.width;
    if (!kCareful && width.dilation == 1) {
      if (width.kernel == 3 && width.stride == 2) return across_of<3, 2>(columns, sums, columns_);
      if (width.kernel == 3 && width.stride == 1) return across_of<3, 1>(columns, sums, columns_);
      if (width.kernel == 2 && width.stride == 2) return across_of<2, 2>(columns, sums, columns_);
    }
    for (int64_t i = 0; i < columns_; ++i) sums[i] = lost[i] = 0;
    for (int64_t k = 0; k < width.kernel; ++k) {
      const Sum* __restrict shifted = columns + k * width.dilation;
      const Sum* __restrict lost_shifted = lost_columns + k * width.dilation;
      for (int64_t i = 0; i < columns_ && kCareful; ++i) {
        add(shifted[i * width.stride], sums + i, lost + i);
        lost[i] += lost_shifted[i * width.stride];
      }
      for (int64_t i = 0; i < columns_ && !kCareful; ++i) sums[i] += shifted[i * width.stride];
    }
    for (int64_t i = 0; i < columns_ && kCareful; ++i) sums[i] += lost[i];
  }

  template <int kKernel, int kStride>
  static void across_of(const Sum* __restrict columns, Sum* __restrict sums, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      Sum sum = columns[i * kStride];
      for (int k = 1; k < kKernel; ++k) sum += columns[i * kStride + k];
      sums[i] = sum;
    }
  }

  // result_[from..to) with each window by itself, in two looks at its cells.
  void exact(int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      top_[i] = -infinity<Value>();
      size_[i] = 0;
      sum_weights_[i] = sum_products_[i] = lost_weights_[i] = lost_products_[i] = 0;
    }
    cells(from, to, [this, from, to](const Value* x, const Value* logit) {
      Value *__restrict top = top_, *__restrict size = size_;
      for (int64_t i = from; i < to; ++i) Method::see(x[i], logit[i], top + i, size + i);
    });
    cells(from, to, [this, from, to](const Value* x, const Value* logit) {
      for (int64_t i = from; i < to; ++i) {
        Sum weight, product;
        Method::weigh(x[i], logit[i], top_[i], size_[i], &weight, &product);
        if (kCareful) {
          add(weight, sum_weights_ + i, lost_weights_ + i);
          add(product, sum_products_ + i, lost_products_ + i);
        } else {
          sum_weights_[i] += weight;
          sum_products_[i] += product;
        }
      }
    });
    for (int64_t i = from; i < to; ++i) {
      // What a sum that became infinite has lost is NaN.
      const Sum lost = lost_products_[i] == lost_products_[i] ? lost_products_[i] : 0;
      result_[i] = Method::result(sum_products_[i] + lost, sum_weights_[i] + lost_weights_[i], top_[i], size_[i]);
    }
  }

  // Calls visit(x, logits) once for each cell of the window, with [i] that of window i in [from, to); padding is -inf.
  template <class Visit>
  void cells(int64_t from, int64_t to, Visit visit) {
    const PlannedAxis &depth = plan_.depth, &height = plan_.height, &width = plan_.width;
    const Value* shown[kInputs];
    for (int64_t z = first_inside(depth, z_); z < least(depth.in, z_ + depth.extent); z += depth.dilation) {
      for (int64_t h = rows_begin(h_); h < rows_end(h_); h += height.dilation) {
        for (size_t j = 0; j < kInputs; ++j) pad_row(input_[j] + row_at(z, h), row_[j], from, to);
        for (int64_t k = 0; k < width.kernel; ++k) {
          for (size_t j = 0; j < kInputs; ++j) {
            shown[j] = row_[j] + k * width.dilation;
            if (width.stride > 1) shown[j] = strided(shown[j], cell_[j], from, to);
          }
          visit(shown[0], shown[kLast]);
        }
      }
    }
  }

  // The columns under windows [from, to), counted from start_.
  void pad_row(const T* input, Value* row, int64_t from, int64_t to) const {
    const PlannedAxis& width = plan_.width;
    const int64_t first = from * width.stride, last = (to - 1) * width.stride + width.extent;
    const int64_t left = most(first, -start_), right = least(last, width.in - start_);  // inside the input
    for (int64_t i = first; i < left; ++i) row[i] = -infinity<Value>();
    for (int64_t i = left; i < right; ++i) row[i] = widen(input[start_ + i]);
    for (int64_t i = right; i < last; ++i) row[i] = -infinity<Value>();
  }

  const Value* strided(const Value* __restrict row, Value* __restrict cell, int64_t from, int64_t to) const {
    const int64_t stride = plan_.width.stride;
    if (stride == 2) {
      for (int64_t i = from; i < to; ++i) cell[i] = row[i * 2];
    } else {
      for (int64_t i = from; i < to; ++i) cell[i] = row[i * stride];
    }
    return cell;
  }

  const Plan& plan_;
  const T* input_[kInputs];
  T* y_;
  char* free_;
  Value *row_[kInputs], *cell_[kInputs], *result_, *top_, *size_;
  Ring *weights_, *products_, *lost_ring_weights_, *lost_ring_products_;
  Sum *column_weights_, *column_products_, *lost_column_weights_, *lost_column_products_;
  Sum *sum_weights_, *sum_products_, *lost_weights_, *lost_products_;

  // The step: columns [begin_, end_) of the input, seen from window start start_ (which may lie in the padding).
  int64_t plane_ = 0, columns_ = 0, start_ = 0, begin_ = 0, end_ = 0;
  // The output row: h_ in the output, z_ where its windows start in the input's depth.
  int64_t h_ = 0, z_ = 0;
  // The ring: input rows below filled_ are in it, by weigher_; fill_end_ is how far it may be filled ahead.
  int64_t filled_ = 0, fill_end_ = 0;
  Weigher weigher_{0};
  Unsigned smallest_ = 0;  // of |x| > 0 since the ring was started, as bits, less one
};

template <template <class, class> class OfMethod, class T, class Value, class Ring>
void weighted_steps_of(const Plan& plan, const void* const* inputs, void* output, int64_t begin, int64_t end,
                       void* scratch) {
  Weighted<OfMethod, T, Value, Ring> weighted(plan, inputs, output, scratch);
  for (int64_t i = begin; i < end; ++i) weighted.step(i);
}

template <template <class, class> class OfMethod, class T, class Value>
void weighted_steps(const Plan& plan, const void* const* inputs, void* output, int64_t begin, int64_t end,
                    void* scratch) {
  const auto run = plan.depth.kernel > 1 ? weighted_steps_of<OfMethod, T, Value, double>
                                         : weighted_steps_of<OfMethod, T, Value, Value>;
  run(plan, inputs, output, begin, end, scratch);
}

template <template <class, class> class OfMethod>
constexpr Kernel weighted_kernel() {
  return {OfMethod<float, double>::kName,
          OfMethod<float, double>::kInputs,
          weighted_scratch_bytes,
          {weighted_steps<OfMethod, float, float>, weighted_steps<OfMethod, double, double>,
           weighted_steps<OfMethod, Half, float>, weighted_steps<OfMethod, Bfloat, float>}};
}

}  // namespace onnxpool::ONNXPOOL_ISA
