// What one launch computes: a plan as a GPU's threads want it. Index arithmetic only, the same on the host, where
// tests/test_cuda.py runs it.
//
// Cells of a tensor are counted in 64 bits. Inside a window, positions along an axis are counted from the window's start
// in 32 bits, since no window spans more than kMostCells.
#pragma once

#include "../kernels/geometry.h"
#include "../kernels/numeric.h"

namespace onnxpool::ONNXPOOL_ISA {

// Divides numbers below 2^63 by one of up to 2^62, by multiplying: a GPU has no division of whole numbers.
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(int64_t divisor) : divisor_(divisor) {
    while (int64_t{1} << shift_ < divisor) ++shift_;
    // ceil(2^(63 + shift) / divisor), by long division: the dividend may have 127 bits.
    uint64_t rest = 0;
    factor_ = 0;
    for (int bit = 63 + shift_; bit >= 0; --bit) {
      rest = 2 * rest + (bit == 63 + shift_ ? 1 : 0);
      factor_ = 2 * factor_ + (rest >= static_cast<uint64_t>(divisor) ? 1 : 0);
      if (rest >= static_cast<uint64_t>(divisor)) rest -= static_cast<uint64_t>(divisor);
    }
    factor_ += rest != 0 ? 1 : 0;
  }

  HOST_DEVICE int64_t divide(int64_t number, int64_t* rest) const {
#if defined(__CUDA_ARCH__)
    const uint64_t high = __umul64hi(2 * static_cast<uint64_t>(number), factor_);
#else
    const uint64_t n = 2 * static_cast<uint64_t>(number), low = 0xffffffff;
    const uint64_t middle = (n & low) * (factor_ >> 32) + ((n & low) * (factor_ & low) >> 32);
    const uint64_t high = (n >> 32) * (factor_ >> 32) + (middle >> 32) +
                          (((n >> 32) * (factor_ & low) + (middle & low)) >> 32);
#endif
    const auto quotient = static_cast<int64_t>(high >> shift_);
    *rest = number - quotient * divisor_;
    return quotient;
  }

 private:
  int64_t divisor_ = 1;
  uint64_t factor_ = uint64_t{1} << 63;
  int shift_ = 0;
};

constexpr int kWarp = 32, kThreads = 256;  // threads of a warp, and of a block

struct JobAxis {
  int64_t in = 1, stride = 1, pad = 0;
  int32_t dilation = 1, extent = 1;
  Divisor out;
};

struct Job {
  int64_t outputs = 0;  // of all planes together, counted along width first
  JobAxis depth, height, width;
  int team = 1;  // threads for one window: 1, or the 32 of a warp
  int threads = kThreads;
  int64_t blocks = 0;
};

// Where the cells of one window lie along an axis: start + first, start + first + dilation, ... below start + last.
struct Reach {
  int64_t start;
  int32_t first, last;
};

HOST_DEVICE inline Reach reach_of(const JobAxis& axis, int64_t output) {
  const int64_t start = output * axis.stride - axis.pad, room = axis.in - start;
  const int32_t outside = start < 0 ? static_cast<int32_t>(-start) : 0;
  const int32_t step = axis.dilation;
  const int32_t first = step == 1 ? outside : (outside + step - 1) / step * step;
  return {start, first, room < axis.extent ? static_cast<int32_t>(room) : axis.extent};
}

// One window: its plane's first cell, and its reach along each axis.
struct Place {
  int64_t plane;
  Reach depth, height, width;
};

HOST_DEVICE inline Place place_of(const Job& job, int64_t output) {
  int64_t z, h, w;
  const int64_t rows = job.width.out.divide(output, &w), slices = job.height.out.divide(rows, &h);
  const int64_t plane = job.depth.out.divide(slices, &z);
  return {plane * job.depth.in * job.height.in * job.width.in, reach_of(job.depth, z), reach_of(job.height, h),
          reach_of(job.width, w)};
}

// Calls visit(index of a cell) for the cells of a window that are in the input: for all of them, row by row.
template <class Visit>
HOST_DEVICE inline void each_cell(const Job& job, const Place& at, Visit visit) {
  const JobAxis &depth = job.depth, &height = job.height, &width = job.width;
  for (int32_t z = at.depth.first; z < at.depth.last; z += depth.dilation) {
    const int64_t slice = at.plane + (at.depth.start + z) * height.in * width.in;
    for (int32_t h = at.height.first; h < at.height.last; h += height.dilation) {
      const int64_t row = slice + (at.height.start + h) * width.in + at.width.start;
      for (int32_t w = at.width.first; w < at.width.last; w += width.dilation) visit(row + w);
    }
  }
}

// The same for a lane's share of them: the cells whose number in the window is lane, lane + lanes, ...
template <class Visit>
HOST_DEVICE inline void each_cell(const Job& job, const Place& at, int32_t lane, int32_t lanes, Visit visit) {
  const auto count = [](const Reach& reach, int32_t step) { return (reach.last - reach.first + step - 1) / step; };
  const int32_t columns = count(at.width, job.width.dilation), rows = count(at.height, job.height.dilation);
  const int32_t cells = columns * rows * count(at.depth, job.depth.dilation);
  const int64_t along_height = job.height.dilation * job.width.in;
  const int64_t along_depth = job.depth.dilation * job.height.in * job.width.in;
  const int64_t first = at.plane +
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

// A window over whole rows is one long row: an axis whose window is all of it is joined to the next one out.
inline bool join(PlannedAxis* outer, PlannedAxis* inner) {
  const bool whole = inner->kernel == inner->in && inner->pad == 0 && inner->dilation == 1 && inner->out == 1;
  if (!whole || outer->dilation != 1) return false;
  outer->kernel *= inner->in, outer->extent *= inner->in, outer->stride *= inner->in;
  outer->pad *= inner->in, outer->in *= inner->in;
  *inner = *outer;
  *outer = PlannedAxis();
  return true;
}

inline Job make_job(Plan plan) {
  constexpr int64_t kMostBlocks = int64_t{1} << 24;  // beyond these, threads take several windows
  Job job;
  job.outputs = plan.planes * plan.depth.out * plan.height.out * plan.width.out;
  if (join(&plan.height, &plan.width)) join(&plan.depth, &plan.width);
  const int64_t cells = plan.depth.kernel * plan.height.kernel * plan.width.kernel;
  job.team = cells > kWarp ? kWarp : 1;
  const int64_t teams = kThreads / job.team, blocks = (job.outputs + teams - 1) / teams;
  job.blocks = blocks < kMostBlocks ? blocks : kMostBlocks;
  const PlannedAxis* const from[] = {&plan.depth, &plan.height, &plan.width};
  JobAxis* const to[] = {&job.depth, &job.height, &job.width};
  for (int i = 0; i < 3; ++i) {
    to[i]->in = from[i]->in, to[i]->stride = from[i]->stride, to[i]->pad = from[i]->pad;
    to[i]->dilation = static_cast<int32_t>(from[i]->dilation);
    to[i]->extent = static_cast<int32_t>(from[i]->extent);
    to[i]->out = Divisor(from[i]->out);
  }
  return job;
}

}  // namespace onnxpool::ONNXPOOL_ISA
