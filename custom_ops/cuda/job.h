// What one launch computes: a pooling as a GPU's threads want it. Index arithmetic only, the same on the host, where
// tests/test_cuda.py runs it.
//
// An Index counts cells and windows: 32 bits where a tensor allows that, since 64 cost a GPU several instructions each.
// Inside a window, positions along an axis are counted from the window's start, which may lie in the padding.
#pragma once

#include <type_traits>

#include "../kernels/geometry.h"
#include "numeric.h"

namespace onnxpool::cuda {

// The upper half of a product.
GPU_HOST inline uint32_t high_half(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
}
GPU_HOST inline uint64_t high_half(uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(a, b);
#else
  const uint64_t low = 0xffffffff, middle = (a & low) * (b >> 32) + ((a & low) * (b & low) >> 32);
  return (a >> 32) * (b >> 32) + (middle >> 32) + (((a >> 32) * (b & low) + (middle & low)) >> 32);
#endif
}

// Divides by one number, up to half of what Index holds, by multiplying: a GPU has no division of whole numbers.
template <class Index>
class Divisor {
  using Unsigned = std::make_unsigned_t<Index>;
  static constexpr int kBits = 8 * sizeof(Index);

 public:
  Divisor() = default;
  explicit Divisor(Index divisor) : divisor_(divisor), factor_(0) {
    while (Index{1} << shift_ < divisor) ++shift_;
    // ceil(2^(kBits - 1 + shift) / divisor), by long division: no type holds the dividend.
    Unsigned rest = 0;
    for (int bit = kBits - 1 + shift_; bit >= 0; --bit) {
      rest = static_cast<Unsigned>(2 * rest + (bit == kBits - 1 + shift_ ? 1U : 0U));
      const bool fits = rest >= static_cast<Unsigned>(divisor);
      if (fits) rest -= static_cast<Unsigned>(divisor);
      factor_ = static_cast<Unsigned>(2 * factor_ + (fits ? 1U : 0U));
    }
    factor_ += rest != 0 ? 1U : 0U;
  }

  GPU_HOST Index divide(Index number, Index* rest) const {
    const auto quotient = static_cast<Index>(high_half(2 * static_cast<Unsigned>(number), factor_) >> shift_);
    *rest = number - quotient * divisor_;
    return quotient;
  }

 private:
  Index divisor_ = 1;
  Unsigned factor_ = Unsigned{1} << (kBits - 1);
  int shift_ = 0;
};

constexpr int kWarp = 32, kThreads = 256;  // threads of a warp, and of a block

template <class Index>
struct JobAxis {
  Index in = 1, stride = 1, pad = 0;
  int32_t dilation = 1, extent = 1;
  Divisor<Index> out;
};

template <class Index>
struct Job {
  Index outputs = 0;  // of all planes together, counted along width first
  JobAxis<Index> depth, height, width;
  int team = 1;   // threads for one window: 1, or the 32 of a warp
  int threads = kThreads;
  Index blocks = 0;
};

// Where the cells of one window lie along an axis: start + first, start + first + dilation, ... below start + last.
template <class Index>
struct Reach {
  Index start;
  int32_t first, last;
};

template <class Index>
GPU_HOST inline Reach<Index> reach_of(const JobAxis<Index>& axis, Index output) {
  const Index start = output * axis.stride - axis.pad, room = axis.in - start;
  const int32_t outside = start < 0 ? static_cast<int32_t>(-start) : 0;
  const int32_t step = axis.dilation;
  const int32_t first = step == 1 ? outside : (outside + step - 1) / step * step;
  return {start, first, room < axis.extent ? static_cast<int32_t>(room) : axis.extent};
}

// One window: its plane's first cell, and its reach along each axis.
template <class Index>
struct Place {
  Index plane;
  Reach<Index> depth, height, width;
};

template <class Index>
GPU_HOST inline Place<Index> place_of(const Job<Index>& job, Index output) {
  Index z, h, w;
  const Index rows = job.width.out.divide(output, &w), slices = job.height.out.divide(rows, &h);
  const Index plane = job.depth.out.divide(slices, &z);
  return {plane * job.depth.in * job.height.in * job.width.in, reach_of(job.depth, z), reach_of(job.height, h),
          reach_of(job.width, w)};
}

// Calls visit(index of a cell, how many cells of its row are left) for the cells of a window that are in the input, row
// by row in pieces: for the first of each piece.
template <int kPiece, class Index, class Visit>
GPU_HOST inline void each_piece(const Job<Index>& job, const Place<Index>& at, Visit visit) {
  const JobAxis<Index> &depth = job.depth, &height = job.height, &width = job.width;
  for (int32_t z = at.depth.first; z < at.depth.last; z += depth.dilation) {
    const Index slice = at.plane + (at.depth.start + z) * height.in * width.in;
    for (int32_t h = at.height.first; h < at.height.last; h += height.dilation) {
      const Index row = slice + (at.height.start + h) * width.in + at.width.start;
      for (int32_t w = at.width.first; w < at.width.last; w += kPiece * width.dilation) {
        visit(row + w, at.width.last - w);
      }
    }
  }
}

// Calls visit(index of a cell) for a lane's share of them: those whose number in the window is lane, lane + lanes, ...
template <class Index, class Visit>
GPU_HOST inline void each_cell(const Job<Index>& job, const Place<Index>& at, int32_t lane, int32_t lanes,
                                  Visit visit) {
  const auto count = [](const Reach<Index>& reach, int32_t step) {
    return (reach.last - reach.first + step - 1) / step;
  };
  const int32_t columns = count(at.width, job.width.dilation), rows = count(at.height, job.height.dilation);
  const int32_t cells = columns * rows * count(at.depth, job.depth.dilation);
  const Index along_height = job.height.dilation * job.width.in;
  const Index along_depth = job.depth.dilation * job.height.in * job.width.in;
  const Index first = at.plane +
                      ((at.depth.start + at.depth.first) * job.height.in + at.height.start + at.height.first) *
                            job.width.in + at.width.start + at.width.first;
  int32_t w = lane % columns, h = lane / columns % rows, z = lane / columns / rows;
  const int32_t next_w = lanes % columns, next_h = lanes / columns;
  for (int32_t cell = lane; cell < cells; cell += lanes) {
    visit(first + z * along_depth + h * along_height + w * job.width.dilation);
    w += next_w;
    h += next_h;
    if (w >= columns) w -= columns, ++h;
    while (h >= rows) h -= rows, ++z;
  }
}

// Always three axes (depth, height, width): what a 1d or 2d input lacks is an axis of one cell and a window of one.
struct PooledAxis : Axis {
  int64_t in = 1, out = 1;
};

struct Pooling {
  int64_t planes = 0;  // N * C, each pooled by itself
  PooledAxis depth, height, width;
};

// Shapes have been checked by output_shape.
inline Pooling pooling_of(const Window& window, const Shape& in, const Shape& out) {
  Pooling pooling;
  pooling.planes = in.dims[0] * in.dims[1];
  PooledAxis* const last[] = {&pooling.depth, &pooling.height, &pooling.width};
  for (int64_t i = 0; i < window.rank; ++i) {
    PooledAxis& axis = *last[3 - window.rank + i];
    static_cast<Axis&>(axis) = window.axis[i];
    axis.in = in.dims[2 + i];
    axis.out = out.dims[2 + i];
  }
  return pooling;
}

// A window over whole rows is one long row: an axis whose window is all of it is joined to the next one out.
inline bool join(PooledAxis* outer, PooledAxis* inner) {
  const bool whole = inner->kernel == inner->in && inner->pad == 0 && inner->dilation == 1 && inner->out == 1;
  if (!whole || outer->dilation != 1) return false;
  outer->kernel *= inner->in, outer->extent *= inner->in, outer->stride *= inner->in;
  outer->pad *= inner->in, outer->in *= inner->in;
  *inner = *outer;
  *outer = PooledAxis();
  return true;
}

inline int64_t outputs_of(const Pooling& pooling) {
  return pooling.planes * pooling.depth.out * pooling.height.out * pooling.width.out;
}

inline Pooling joined(Pooling pooling) {
  if (join(&pooling.height, &pooling.width)) join(&pooling.depth, &pooling.width);
  return pooling;
}

// Whether 32 bits hold every number that a job of this pooling, once joined, comes to.
inline bool fits_32_bits(const Pooling& pooling) {
  constexpr int64_t kMost = int64_t{1} << 30;
  const PooledAxis &depth = pooling.depth, &height = pooling.height, &width = pooling.width;
  return outputs_of(pooling) < kMost && pooling.planes * depth.in * height.in * width.in < kMost &&
         depth.extent * height.in * width.in < kMost && height.extent * width.in < kMost && depth.stride < kMost &&
         height.stride < kMost && width.stride < kMost;
}

// Of a grid for so many threads; beyond these, a thread does several things.
inline int64_t blocks_for(int64_t threads) {
  constexpr int64_t kMostBlocks = int64_t{1} << 24;
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  return blocks < kMostBlocks ? blocks : kMostBlocks;
}

// The pooling must be joined.
template <class Index>
Job<Index> make_job(const Pooling& pooling) {
  Job<Index> job;
  const int64_t outputs = outputs_of(pooling);
  const int64_t cells = pooling.depth.kernel * pooling.height.kernel * pooling.width.kernel;
  job.outputs = static_cast<Index>(outputs);
  job.team = cells > kWarp ? kWarp : 1;
  job.blocks = static_cast<Index>(blocks_for(outputs * job.team));
  const PooledAxis* const from[] = {&pooling.depth, &pooling.height, &pooling.width};
  JobAxis<Index>* const to[] = {&job.depth, &job.height, &job.width};
  for (int i = 0; i < 3; ++i) {
    to[i]->in = static_cast<Index>(from[i]->in), to[i]->stride = static_cast<Index>(from[i]->stride);
    to[i]->pad = static_cast<Index>(from[i]->pad), to[i]->out = Divisor<Index>(static_cast<Index>(from[i]->out));
    to[i]->dilation = static_cast<int32_t>(from[i]->dilation);
    to[i]->extent = static_cast<int32_t>(from[i]->extent);
  }
  return job;
}

}  // namespace onnxpool::cuda
