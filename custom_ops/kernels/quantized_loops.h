// Pooling of stored numbers of 8 bits, with channels last: a lane is a channel, so that any window is a few loads.
//
//   y = (sum w q / sum w - zero) * x_scale / y_scale, rounded to the nearest whole number, half to even, and saturated
//
//   SoftPool, local importance   w = exp(scale * q), of the values or of the logits; zero is x's zero point
//   stochastic                   w = max(q - zero, 0), which is also what stands for q - zero; y = 0 where sum w = 0
//
// There are 256 weights. A register is a table, so that a weight is two factors from tables of 16 (three from 8), one for
// each part of q's bits; where no register is a table, it is one of 256. Relative to the middle of q's range they stay within
// floats where 128 steps of the logits are at most 64; else they are taken relative to the window's largest logit.
//
// All is float32, with at most kHeld additions in one sum; sums of larger windows are added up in double. Errors, in
// steps of y: see quantized_steps in onnxpool/golden/bounds.py.
#pragma once

#include "bytes.h"
#include "quantized.h"

namespace onnxpool::ONNXPOOL_ISA {

constexpr int64_t kHeld = 16;          // cells in one sum of floats
constexpr float kPlainRange = 64;      // of logits: exp(64) * 255 * kMostCells is a float, and so is exp(-64)
constexpr int kFactorBits = kTableBits > 0 ? kTableBits : 8;
constexpr int kFactors = (8 + kFactorBits - 1) / kFactorBits;

// exp(scale * (v - zero)) for each value v of a byte, or factors of that: entry i of factor j is for the bits of v from
// j * kFactorBits on. What would not be a normal number is 0.
template <bool kSigned>
void fill_weights(double scale, double zero, float* weight) {
  const ScaledExp<double> exp(0);
  for (int j = 0; j < kFactors; ++j) {
    const int shift = j * kFactorBits;
    const bool last = j == kFactors - 1;
    for (int i = 0; i < (1 << kFactorBits); ++i) {
      const bool negative = kSigned && last && (i >> (kFactorBits - 1)) != 0;
      const double v = (i << shift) - (negative ? 1 << (shift + kFactorBits) : 0);
      const double power = scale * (last ? v - zero : v);
      weight[(j << kFactorBits) + i] = power < -87 ? 0.0F : static_cast<float>(exp(power < 87 ? power : 87));
    }
  }
}

template <bool kExponential>
void prepare(const Quantization& stored, QuantizedTables* tables) {
  const double scale = static_cast<double>(stored.logit_scale);
  tables->ranged = kExponential && scale * 128 > static_cast<double>(kPlainRange);
  if (tables->ranged) {
    fill_weights<false>(-scale, 0, tables->weight);
  } else if (kExponential && stored.is_signed) {
    fill_weights<true>(scale, 0, tables->weight);
  } else if (kExponential) {
    fill_weights<false>(scale, 128, tables->weight);
  }
  const double ratio = static_cast<double>(stored.x_scale) / static_cast<double>(stored.y_scale);
  tables->ratio = static_cast<float>(ratio);
  tables->shift = kExponential ? static_cast<float>(-stored.x_zero * ratio) : 0;
  tables->x_zero = stored.x_zero, tables->y_zero = stored.y_zero;
}

// The cells of one window along an axis that are in the input: from `first` on, `step` apart, before `end`.
struct Reach {
  int64_t first, end, step;

  INLINED Reach(const PlannedAxis& axis, int64_t output) : step(axis.dilation) {
    const int64_t start = output * axis.stride - axis.pad;
    first = start >= 0 ? start : start + (-start + axis.dilation - 1) / axis.dilation * axis.dilation;
    end = least(axis.in, start + axis.extent);
  }
  INLINED int64_t cells() const { return (end - first + step - 1) / step; }
};

enum Weighing { kPlain, kRanged, kRectified };

// Sums of weights, and of values times these.
struct Sums {
  Vec<float> w, p;
  INLINED Sums operator+(const Sums& other) const { return {w + other.w, p + other.p}; }
};

// A node's numbers in registers. Loops take a copy of their own: stores of bytes might change any other, by C++'s rules.
template <Weighing kWeighing>
class Arithmetic {
  using V = Vec<float>;
  using I = Vec<int32_t>;

 public:
  INLINED explicit Arithmetic(const QuantizedTables& tables)
      : ratio_(all(tables.ratio)), shift_(all(tables.shift)), x_zero_(I{} + tables.x_zero), y_zero_(I{} + tables.y_zero),
        weight_(tables.weight) {
    if constexpr (kTableBits > 0) {
      for (int j = 0; j < kFactors; ++j) std::memcpy(&factor_[j], tables.weight + (j << kFactorBits), kVectorBytes);
    }
  }

  // One more cell of a window, whose largest logit is `top`.
  INLINED void add(I q, I logit, I top, Sums* sums) const {
    const Cell cell = weigh(q, logit, top);
    sums->w = sums->w + cell.w, sums->p = fma(cell.w, cell.x, sums->p);
  }

  struct Cell {
    V w, x;
  };
  INLINED Cell weigh(I q, I logit, I top) const {
    if constexpr (kWeighing == kRectified) {
      const V w = larger(__builtin_convertvector(q - x_zero_, V), V{});
      return {w, w};
    } else {
      return {weight(kWeighing == kRanged ? top - logit : logit), __builtin_convertvector(q, V)};
    }
  }

  INLINED static V mean(const Sums& sums) {
    const V y = quotient(sums.p, sums.w);
    return kWeighing == kRectified ? (sums.w == 0 ? V{} : y) : y;
  }
  // As it is to be stored, but for saturation.
  INLINED I stored(V mean) const { return rounded(fma(mean, ratio_, shift_)) + y_zero_; }

 private:
  INLINED V weight(I index) const {
    if constexpr (kTableBits > 0) {
      const auto i = reinterpret_cast<Vec<uint32_t>>(index);
      V w = reinterpret_cast<V>(look_up(factor_[0], i));
      UNROLL_ALL
      for (int j = 1; j < kFactors; ++j) w = w * reinterpret_cast<V>(look_up(factor_[j], i >> (j * kFactorBits)));
      return w;
    } else {
      V w;
      for (int lane = 0; lane < kLanes<float>; ++lane) w[lane] = weight_[static_cast<uint8_t>(index[lane])];
      return w;
    }
  }

  V ratio_, shift_;
  I x_zero_, y_zero_;
  const float* weight_;
  Vec<uint32_t> factor_[static_cast<size_t>(kFactors)] = {};
};

template <class Byte, bool kLogits, Weighing kWeighing>
class QuantizedLoop {
  using V = Vec<float>;
  using I = Vec<int32_t>;
  using Numbers = Arithmetic<kWeighing>;
  static constexpr int64_t kN = kLanes<float>;

 public:
  QuantizedLoop(const QuantizedPlan& plan, const QuantizedTables& tables, const void* const* inputs, void* output)
      : plan_(plan), tables_(tables), x_(static_cast<const Byte*>(inputs[0])),
        logit_(static_cast<const Byte*>(inputs[kLogits ? 1 : 0])), y_(static_cast<Byte*>(output)) {}

  void step(int64_t index) {
    const Plan& plan = plan_.plan;
    const int64_t part = index % plan_.chunks, tile = index / plan_.chunks % plan_.tiles;
    const int64_t bands = (plan.height.out + kBand - 1) / kBand, band = index / plan_.chunks / plan_.tiles;
    const int64_t h = band % bands * kBand, z = band / bands % plan.depth.out, n = band / bands / plan.depth.out;
    const Rows rows{n, z, h, least(h + kBand, plan.height.out), tile * plan_.tile,
                    least((tile + 1) * plan_.tile, plan.width.out)};
    const int64_t end = least(plan_.channels, (part + 1) * plan_.chunk);
    int64_t channel = part * plan_.chunk;
    if (end - channel < kN) return pool_windows<true>(rows, rows.h, rows.end, channel, end - channel);
    for (; channel + kN <= end; channel += kN) pool_rows(rows, channel);
    if (channel < end) pool_rows(rows, end - kN);  // some for a second time
  }

 private:
  // Outputs [from, to) of output rows [h, end), kBand at most.
  struct Rows {
    int64_t n, z, h, end, from, to;
  };
  template <bool kPart>
  INLINED static I cells(const Byte* from, int64_t count) {
    return kPart ? load_bytes_part(from, count) : load_bytes(from);
  }

  INLINED Byte* output(const Rows& rows, int64_t h, int64_t w, int64_t channel) const {
    const Plan& plan = plan_.plan;
    const int64_t row = (rows.n * plan.depth.out + rows.z) * plan.height.out + h;
    return y_ + (row * plan.width.out + w) * plan_.channels + channel;
  }

  void pool_rows(const Rows& rows, int64_t channel) const {
    const PlannedAxis &depth = plan_.plan.depth, &height = plan_.plan.height, &width = plan_.plan.width;
    const bool square = height.kernel == width.kernel && height.stride == width.stride;
    const bool close = depth.kernel == 1 && height.dilation == 1 && width.dilation == 1;
    if (kWeighing != kRanged && square && close) {
      if (width.kernel == 2 && width.stride == 2) return pool_columns<2, 2>(rows, channel);
      if (width.kernel == 3 && width.stride == 2) return pool_columns<3, 2>(rows, channel);
      if (width.kernel == 3 && width.stride == 1) return pool_columns<3, 1>(rows, channel);
    }
    pool_windows<false>(rows, rows.h, rows.end, channel, kN);
  }

  // Output rows [h, end) one window after the other; kPart: of the first `count` lanes.
  template <bool kPart>
  KEEP_CALL void pool_windows(const Rows& rows, int64_t h, int64_t end, int64_t channel, int64_t count) const {
    const PlannedAxis &depth = plan_.plan.depth, &height = plan_.plan.height, &width = plan_.plan.width;
    const Numbers numbers(tables_);
    for (; h < end; ++h) {
      for (int64_t w = rows.from; w < rows.to; ++w) {
        const Reach reach[] = {{depth, rows.z}, {height, h}, {width, w}};
        const int64_t total = reach[0].cells() * reach[1].cells() * reach[2].cells();
        const V y = total <= kHeld ? pool_window<kPart>(numbers, rows.n, reach, channel, count)
                                   : pool_large<kPart>(numbers, rows.n, reach, channel, count);
        Byte* const to = output(rows, h, w, channel);
        if constexpr (kPart) store_bytes_part(numbers.stored(y), count, to);
        else store_bytes(numbers.stored(y), to);
      }
    }
  }

  template <class Visit>
  INLINED void each(int64_t n, const Reach (&reach)[3], int64_t channel, Visit visit) const {
    const Plan& plan = plan_.plan;
    for (int64_t i = reach[0].first; i < reach[0].end; i += reach[0].step) {
      for (int64_t j = reach[1].first; j < reach[1].end; j += reach[1].step) {
        const int64_t row = ((n * plan.depth.in + i) * plan.height.in + j) * plan.width.in;
        for (int64_t k = reach[2].first; k < reach[2].end; k += reach[2].step) {
          visit((row + k) * plan_.channels + channel);
        }
      }
    }
  }

  template <bool kPart>
  INLINED I top_of(int64_t n, const Reach (&reach)[3], int64_t channel, int64_t count) const {
    I top = I{} - 128;
    if constexpr (kWeighing == kRanged) {
      each(n, reach, channel, [&](int64_t at) INLINED {
        const I l = cells<kPart>((kLogits ? logit_ : x_) + at, count);
        top = l > top ? l : top;
      });
    }
    return top;
  }

  template <bool kPart>
  INLINED void add(const Numbers& numbers, int64_t at, int64_t count, I top, Sums* sums) const {
    const I q = cells<kPart>(x_ + at, count);
    numbers.add(q, kLogits ? cells<kPart>(logit_ + at, count) : q, top, sums);
  }

  template <bool kPart>
  INLINED V pool_window(const Numbers& numbers, int64_t n, const Reach (&reach)[3], int64_t channel,
                        int64_t count) const {
    const I top = top_of<kPart>(n, reach, channel, count);
    Sums sums{};
    each(n, reach, channel, [&](int64_t at) INLINED { add<kPart>(numbers, at, count, top, &sums); });
    return Numbers::mean(sums);
  }

  template <bool kPart>
  KEEP_CALL V pool_large(const Numbers& numbers, int64_t n, const Reach (&reach)[3], int64_t channel,
                         int64_t count) const {
    const I top = top_of<kPart>(n, reach, channel, count);
    double w[kRoom<float>] = {}, p[kRoom<float>] = {};
    Sums sums{};
    int64_t held = 0;
    const auto flush = [&]() INLINED {
      for (int64_t lane = 0; lane < kN; ++lane) {
        w[lane] += static_cast<double>(sums.w[lane]), p[lane] += static_cast<double>(sums.p[lane]);
      }
      sums = Sums{}, held = 0;
    };
    each(n, reach, channel, [&](int64_t at) INLINED {
      add<kPart>(numbers, at, count, top, &sums);
      if (++held == kHeld) flush();
    });
    flush();
    V y = {};
    for (int64_t lane = 0; lane < kN; ++lane) {
      if (w[lane] > 0) y[lane] = static_cast<float>(p[lane] / w[lane]);
    }
    return y;
  }

  // Squares of 2 or 3 cells: sums of columns, which windows beside each other share, and of two rows of outputs at once,
  // which share rows of cells.
  template <int kKernel, int kStride>
  void pool_columns(const Rows& rows, int64_t channel) const {
    const auto whole = [&](int64_t row) { return Reach(plan_.plan.height, row).cells() == kKernel; };
    constexpr bool kShared = kKernel > kStride;
    if (kShared && rows.h + 2 == rows.end && whole(rows.h) && whole(rows.h + 1)) {
      return pool_strip<kKernel, kStride, kShared ? 2 : 1>(rows, rows.h, channel);
    }
    for (int64_t h = rows.h; h < rows.end; ++h) {
      if (whole(h)) pool_strip<kKernel, kStride, 1>(rows, h, channel);
      else pool_windows<false>(rows, h, h + 1, channel, kN);
    }
  }

  // kRows rows of outputs from h on, all of whose cells are rows of the input.
  template <int kKernel, int kStride, int kRows>
  KEEP_CALL void pool_strip(const Rows& rows, int64_t h, int64_t channel) const {
    constexpr int kLines = kKernel + (kRows - 1) * kStride;
    const PlannedAxis& height = plan_.plan.height;
    const Numbers numbers(tables_);
    const int64_t channels = plan_.channels, width = plan_.plan.width.in, last = rows.to;
    const int64_t line = (rows.n * plan_.plan.depth.in + rows.z * plan_.plan.depth.stride) * height.in;
    const int64_t pitch = width * channels;  // from row to row
    const int64_t first = (line + Reach(height, h).first) * pitch + channel;
    const Byte *const x = x_ + first, *const logit = logit_ + first;
    struct Column {
      Sums of[static_cast<size_t>(kRows)];
    };
    const auto column = [&](int64_t w) INLINED {
      Column sums{};
      if (w < 0 || w >= width) return sums;
      UNROLL_ALL
      for (int r = 0; r < kLines; ++r) {
        const int64_t at = w * channels + r * pitch;
        const I q = load_bytes(x + at);
        const auto cell = numbers.weigh(q, kLogits ? load_bytes(logit + at) : q, I{});
        UNROLL_ALL
        for (int row = 0; row < kRows; ++row) {
          Sums& own = sums.of[row];
          if (r == row * kStride) own = {cell.w, cell.w * cell.x};
          else if (r > row * kStride && r < row * kStride + kKernel) own = {own.w + cell.w, fma(cell.w, cell.x, own.p)};
        }
      }
      return sums;
    };
    Column columns[static_cast<size_t>(kKernel)];
    int64_t w = rows.from * kStride - plan_.plan.width.pad;
    UNROLL_ALL
    for (int k = kStride; k < kKernel; ++k) columns[k] = column(w + k - kStride);
    Byte* to = output(rows, h, rows.from, channel);
    const int64_t below = plan_.plan.width.out * channels;
    for (int64_t o = rows.from; o < last; ++o, w += kStride, to += channels) {
      UNROLL_ALL
      for (int k = 0; k < kKernel - kStride; ++k) columns[k] = columns[k + kStride];
      UNROLL_ALL
      for (int k = kKernel - kStride; k < kKernel; ++k) columns[k] = column(w + k);
      UNROLL_ALL
      for (int row = 0; row < kRows; ++row) {
        Sums sums = columns[0].of[row];
        UNROLL_ALL
        for (int k = 1; k < kKernel; ++k) sums = sums + columns[k].of[row];
        store_bytes(numbers.stored(Numbers::mean(sums)), to + row * below);
      }
    }
  }

  const QuantizedPlan& plan_;
  const QuantizedTables& tables_;
  const Byte *const x_, *const logit_;
  Byte* const y_;
};

template <class Byte, bool kLogits, Weighing kWeighing>
void run_quantized(const QuantizedPlan& plan, const QuantizedTables& tables, const void* const* inputs, void* output,
                   int64_t index) {
  QuantizedLoop<Byte, kLogits, kWeighing> loop(plan, tables, inputs, output);
  const int64_t begin = index * plan.steps_per_task, end = least(begin + plan.steps_per_task, plan.steps);
  for (int64_t step = begin; step < end; ++step) loop.step(step);
}

template <class Byte, bool kLogits, bool kExponential>
void quantized_task(const QuantizedPlan& plan, const QuantizedTables& tables, const void* const* inputs, void* output,
                    int64_t index) {
  if constexpr (!kExponential) return run_quantized<Byte, kLogits, kRectified>(plan, tables, inputs, output, index);
  if (tables.ranged) return run_quantized<Byte, kLogits, kRanged>(plan, tables, inputs, output, index);
  run_quantized<Byte, kLogits, kPlain>(plan, tables, inputs, output, index);
}

template <bool kLogits, bool kExponential>
constexpr QuantizedKernel quantized_kernel(const char* name) {
  return {name, kLogits ? size_t{2} : size_t{1}, prepare<kExponential>,
          {quantized_task<uint8_t, kLogits, kExponential>, quantized_task<int8_t, kLogits, kExponential>}};
}

}  // namespace onnxpool::ONNXPOOL_ISA
