// Windows of 2 or 3 columns and rows without dilation, side by side along rows: each lane is an output. Every cell is
// weighed once, and what windows below need again of a row is kept on the stack. Strips, a few rows of outputs, are pooled
// by two_apart.h and one_apart.h; here is which form of weights each has.
//
// y = P / W with P = sum w x, W = sum w would err by several ULP. A second look takes away most of that:
// y1 = P / W, y = y1 + sum w (x - y1) / W, whose roundings are relative to how far cells lie from y1 (or, with columns,
// from their means, and these from y1). Short cells, which round more than that themselves, go without.
#pragma once

#include "weights.h"
#include "window.h"

namespace onnxpool::ONNXPOOL_ISA {

constexpr int64_t kStrip = 8;  // output rows after which the form of weights is chosen anew

enum Form { kPlain, kScaled, kRanged };  // of weights; scaled is plain, and only rectified ones have it

// More about a strip's form, and what it says about that of the next one.
template <class Value>
struct Scaling {
  Value scale = 1, other_scale = 0;
  bool careful = false, calm = false;  // of ranged form; whether plain form would do

  template <class W>
  INLINED bool fail(const W& weights) {
    other_scale = weights.other_scale();
    return false;
  }
  template <class W>
  INLINED bool done(const W& weights) {
    calm = weights.calm();
    return weights.right();
  }
};

// The rows of one plane's slice, and the windows over them.
template <class T>
struct Slice {
  Inputs<T> inputs, inputs_of_tensor;
  T* y;
  int64_t height, width;      // of the input
  int64_t out_width;
  int64_t top, left;          // padding
};

// Strips [begin, end) of one slice, output columns [from, to). Which form of weights a strip has does not show in its
// bits, so that it may depend on the strips before: after two that had to be done again they are as those were, as long as
// one needs it; in the slices that follow, too.
template <template <class, class> class OfMethod, class T, template <Form> class OfStrips>
class SliceLoop {
 public:
  SliceLoop(const Plan& plan, const Slice<T>& slice, int64_t plane, int64_t z, int64_t from, int64_t to, bool* ranged)
      : plan_(plan), slice_(slice), plane_(plane), z_(z), from_(from), to_(to), ranged_(ranged) {}

  void run(int64_t begin, int64_t end) {
    constexpr bool kScales = !OfMethod<Wide<T>, double>::kExponential;
    if (*ranged_) begin = ranged(begin, end);
    for (int64_t before = -2; begin < end;) {
      if (!kScales || scaling_.scale == 1) begin = near<kPlain>(begin, end);
      if constexpr (kScales) {
        if (begin < end && scaling_.other_scale != 0) scaling_.scale = scaling_.other_scale;
        if (scaling_.scale != 1) begin = near<kScaled>(begin, end);
      }
      if (begin == end) return;
      const bool again = begin == before + 1;
      before = begin;
      begin = ranged(begin, again ? end : begin + 1);
      *ranged_ &= again;
    }
  }

 private:
  // Until weights are out of range: the strip where that is so, or `end`.
  template <Form kForm>
  KEEP_CALL int64_t near(int64_t begin, int64_t end) {
    OfStrips<kForm> strips(slice_);
    for (int64_t i = begin; i < end; ++i) {
      if (!strips(i * kStrip, last_row(i), from_, to_, i > begin, &scaling_)) return i;
    }
    return end;
  }
  // Until plain form would do.
  KEEP_CALL int64_t ranged(int64_t begin, int64_t end) {
    OfStrips<kRanged> strips(slice_);
    scaling_.careful = scaling_.calm = false;
    bool carried = false;
    while (begin < end && !scaling_.calm) {
      const bool right = strips(begin * kStrip, last_row(begin), from_, to_, carried, &scaling_);
      carried = right;  // else the next strip would not see the huge cells of its first rows
      if (!right && !scaling_.careful) {
        scaling_.careful = true, scaling_.calm = false;
        continue;
      }
      for (int64_t h = begin * kStrip; !right && h < last_row(begin); ++h) {
        repair_row<OfMethod>(plan_, slice_.inputs_of_tensor, plane_, z_, h, from_, to_, slice_.y + h * slice_.out_width);
      }
      ++begin;
    }
    *ranged_ = !scaling_.calm;
    return begin;
  }
  int64_t last_row(int64_t strip) const { return least((strip + 1) * kStrip, plan_.height.out); }

  const Plan& plan_;
  const Slice<T>& slice_;
  const int64_t plane_, z_, from_, to_;
  bool* const ranged_;  // whether the slice before ended in ranged form
  Scaling<Wide<T>> scaling_;
};

}  // namespace onnxpool::ONNXPOOL_ISA
