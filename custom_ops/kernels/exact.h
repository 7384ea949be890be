// Windows by themselves, right for every input: each is looked at twice, cell by cell, several windows side by side.
#pragma once

#include "sums.h"

namespace onnxpool::ONNXPOOL_ISA {

// First cell of the window that lies in the input, as a position.
inline int64_t first_inside(const PlannedAxis& axis, int64_t start) {
  return start >= 0 ? start : start + (-start + axis.dilation - 1) / axis.dilation * axis.dilation;
}

// An output row of a tile.
struct Row {
  int64_t plane = 0, columns = 0;
  int64_t start = 0;              // the input column where its first window starts, which may lie in the padding
  int64_t begin = 0, end = 0;     // the input columns under it
  int64_t z = 0;                  // the input depth where its windows start
  int64_t h = 0;                  // its height in the output
};

// A ring's places of the input rows under an output row's windows, one after the other.
struct Slots {
  int64_t slot, step, ring, rows;

  int64_t next() {
    const int64_t own = slot;
    slot += step;
    if (slot >= ring) slot -= ring;
    return own;
  }
};

// Where the window rows over output row h begin and end in the input, padding left out.
inline int64_t rows_begin(const PlannedAxis& height, int64_t h) {
  return first_inside(height, h * height.stride - height.pad);
}
inline int64_t rows_end(const PlannedAxis& height, int64_t h) {
  return least(height.in, h * height.stride - height.pad + height.extent);
}

inline int64_t row_at(const Plan& plan, int64_t plane, int64_t z, int64_t h) {
  return ((plane * plan.depth.in + z) * plan.height.in + h) * plan.width.in;
}

template <class Method, class T, class Value, class Sum>
class Exact {
  static constexpr bool kCareful = same<Value, double>;
  static constexpr size_t kInputs = Method::kInputs, kLast = kInputs - 1;

 public:
  static size_t scratch_bytes(const Plan& plan) {
    return static_cast<size_t>((2 * plan.tile_span + 8 * plan.tile) * 8 + 10 * kPiece);
  }

  Exact(const Plan& plan, const Cells<T, kInputs>& inputs, Memory* memory) : plan_(plan), inputs_(inputs) {
    for (size_t j = 0; j < kInputs; ++j) {
      memory->take(plan.tile_span, &row_[j]);
      memory->take(plan.tile, &cell_[j]);
    }
    memory->take(plan.tile, &weights_, &products_, &lost_weights_, &lost_products_, &top_, &size_);
  }

  // Windows [from, to) of an output row.
  void operator()(const Row& row, int64_t from, int64_t to, Value* result) {
    for (int64_t i = from; i < to; ++i) {
      top_[i] = -infinity<Value>();
      size_[i] = 0;
      weights_[i] = products_[i] = lost_weights_[i] = lost_products_[i] = 0;
    }
    cells(row, from, to, [this, from, to](const Value* x, const Value* logit) {
      Value *__restrict top = top_, *__restrict size = size_;
      for (int64_t i = from; i < to; ++i) Method::see(x[i], logit[i], top + i, size + i);
    });
    cells(row, from, to, [this, from, to](const Value* x, const Value* logit) {
      for (int64_t i = from; i < to; ++i) {
        Sum weight, product;
        Method::weigh(x[i], logit[i], top_[i], size_[i], &weight, &product);
        if (kCareful) {
          add(weight, weights_ + i, lost_weights_ + i);
          add(product, products_ + i, lost_products_ + i);
        } else {
          weights_[i] += weight;
          products_[i] += product;
        }
      }
    });
    for (int64_t i = from; i < to; ++i) {
      // What a sum that became infinite has lost is NaN.
      const Sum lost = lost_products_[i] == lost_products_[i] ? lost_products_[i] : 0;
      result[i] = Method::result(products_[i] + lost, weights_[i] + lost_weights_[i], top_[i], size_[i]);
    }
  }

 private:
  // Calls visit(x, logits) once for each cell of the window, with [i] that of window i in [from, to); padding is -inf.
  template <class Visit>
  void cells(const Row& row, int64_t from, int64_t to, Visit visit) {
    const PlannedAxis &depth = plan_.depth, &height = plan_.height, &width = plan_.width;
    const Value* shown[kInputs];
    for (int64_t z = first_inside(depth, row.z); z < least(depth.in, row.z + depth.extent); z += depth.dilation) {
      for (int64_t h = rows_begin(height, row.h); h < rows_end(height, row.h); h += height.dilation) {
        const Cells<T, kInputs> there = inputs_ + row_at(plan_, row.plane, z, h);
        for (size_t j = 0; j < kInputs; ++j) pad_row(there.input[j], row.start, from, to, row_[j]);
        for (int64_t k = 0; k < width.kernel; ++k) {
          for (size_t j = 0; j < kInputs; ++j) {
            shown[j] = row_[j] + k * width.dilation;
            if (width.stride > 1) shown[j] = strided(shown[j], from, to, cell_[j]);
          }
          visit(shown[0], shown[kLast]);
        }
      }
    }
  }

  // The columns under windows [from, to), counted from `start`.
  void pad_row(const T* input, int64_t start, int64_t from, int64_t to, Value* row) const {
    const PlannedAxis& width = plan_.width;
    const int64_t first = from * width.stride, last = (to - 1) * width.stride + width.extent;
    const int64_t left = most(first, -start), right = least(last, width.in - start);  // inside the input
    for (int64_t i = first; i < left; ++i) row[i] = -infinity<Value>();
    for (int64_t i = left; i < right; ++i) row[i] = widen(input[start + i]);
    for (int64_t i = right; i < last; ++i) row[i] = -infinity<Value>();
  }

  const Value* strided(const Value* __restrict row, int64_t from, int64_t to, Value* __restrict cell) const {
    const int64_t stride = plan_.width.stride;
    if (stride == 2) {
      for (int64_t i = from; i < to; ++i) cell[i] = row[i * 2];
    } else {
      for (int64_t i = from; i < to; ++i) cell[i] = row[i * stride];
    }
    return cell;
  }

  const Plan& plan_;
  const Cells<T, kInputs> inputs_;
  Value *row_[kInputs], *cell_[kInputs], *top_, *size_;
  Sum *weights_, *products_, *lost_weights_, *lost_products_;
};

}  // namespace onnxpool::ONNXPOOL_ISA
