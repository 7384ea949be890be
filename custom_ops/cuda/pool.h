// Methods that are a quotient of two sums over the window (kernels/method.h) on a GPU: what one thread computes.
//
// Every window is computed by itself, in two looks at its cells: first its largest logit and magnitude, then the sums
// relative to these. That is right for every input, so there is no second path; overlapping windows meet in the cache.
// A small window is one thread's; a large one is shared by a warp. The body knows no CUDA: a Team says which thread
// this is and carries numbers between threads, so that tests/test_cuda.py runs the same body on the host.
//
//   Team::kLanes                   threads for one window
//   lane(), first(), step()        this thread's number in its team; its team's first window, and how far to its next
//   exchange(value, distance)      the value of lane `lane() ^ distance`, called by all lanes of a team alike
#pragma once

#include "../kernels/method.h"
#include "job.h"

namespace onnxpool::ONNXPOOL_ISA {

// A thread's place in the grid.
template <class Index, int kTeam>
struct Seat {
  static constexpr int kLanes = kTeam;
  Index block, blocks;
  int thread, threads;

  HOST_DEVICE int lane() const { return thread % kTeam; }
  HOST_DEVICE Index first() const { return block * (threads / kTeam) + thread / kTeam; }
  HOST_DEVICE Index step() const { return blocks * (threads / kTeam); }
};

// A sum, and what rounding has taken from it (Knuth's two-sum): the error of a plain one would grow with its length.
template <class T>
struct Total {
  T sum = 0, lost = 0;

  HOST_DEVICE void add(T value) {
    const T total = sum + value, back = total - sum;
    lost += (sum - (total - back)) + (value - back);
    sum = total;
  }
  template <class Team>
  HOST_DEVICE void gather(const Team& team) {
    for (int distance = Team::kLanes / 2; distance > 0; distance /= 2) {
      lost += team.exchange(lost, distance);
      add(team.exchange(sum, distance));
    }
  }
  // What a sum that became infinite has lost is NaN.
  HOST_DEVICE T value() const { return lost == lost ? sum + lost : sum; }
};

template <class T, class Team>
HOST_DEVICE inline T largest(T value, const Team& team) {
  for (int distance = Team::kLanes / 2; distance > 0; distance /= 2) {
    const T other = team.exchange(value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// The cells of a window in pieces of kPiece, read anew in each look. Outside the input is -inf, as methods want.
template <class Method, class Value, class T, int kPiece>
class Pieces {
 public:
  static constexpr int kCells = kPiece;

  template <class Index>
  HOST_DEVICE Pieces(const Job<Index>&, const Place<Index>&, const T* x, const T* logit) : x_(x), logit_(logit) {}

  // Calls visit(x, logit), arrays of kCells, for each piece of this thread's share of the window.
  template <class Index, class Team, class Visit>
  HOST_DEVICE void each(const Job<Index>& job, const Place<Index>& place, const Team& team, Visit visit) const {
    if constexpr (Team::kLanes > 1) {
      static_assert(kPiece == 1, "lanes take single cells");
      each_cell(job, place, team.lane(), Team::kLanes, [this, &visit](Index i) { read(i, 1, 1, visit); });
    } else {
      const int32_t step = job.width.dilation;
      each_piece<kPiece>(job, place, [this, step, &visit](Index i, int32_t left) { read(i, left, step, visit); });
    }
  }

 private:
  template <class Index, class Visit>
  HOST_DEVICE void read(Index i, int32_t left, int32_t step, Visit& visit) const {
    constexpr auto kRoom = static_cast<size_t>(kPiece);
    Value values[kRoom], logits[kRoom];
    for (int k = 0; k < kPiece; ++k) {
      const bool inside = k * step < left;
      values[k] = inside ? widen(x_[i + k * step]) : -infinity<Value>();
      logits[k] = Method::kInputs == 1 ? values[k] : inside ? widen(logit_[i + k * step]) : -infinity<Value>();
    }
    visit(values, logits);
  }

  const T *x_, *logit_;
};

// The same for a square window of kSide, row by row, read once and held in registers.
template <class Method, class Value, class T, int kSide>
class Square {
 public:
  static constexpr int kCells = kSide;

  template <class Index>
  HOST_DEVICE Square(const Job<Index>& job, const Place<Index>& place, const T* x, const T* logit) {
    const JobAxis<Index> &height = job.height, &width = job.width;
    const Index slice = place.plane + place.depth.start * height.in * width.in;
    for (int row = 0; row < kSide; ++row) {
      const Index h = place.height.start + row * height.dilation;
      for (int column = 0; column < kSide; ++column) {
        const Index w = place.width.start + column * width.dilation, i = slice + h * width.in + w;
        const bool inside = (h >= 0) & (h < height.in) & (w >= 0) & (w < width.in);
        const int k = row * kSide + column;
        values_[k] = inside ? widen(x[i]) : -infinity<Value>();
        logits_[k] = Method::kInputs == 1 ? values_[k] : inside ? widen(logit[i]) : -infinity<Value>();
      }
    }
  }

  template <class Index, class Team, class Visit>
  HOST_DEVICE void each(const Job<Index>&, const Place<Index>&, const Team&, Visit visit) const {
    for (int row = 0; row < kSide; ++row) visit(values_ + row * kSide, logits_ + row * kSide);
  }

 private:
  static constexpr auto kRoom = static_cast<size_t>(kSide * kSide);
  Value values_[kRoom], logits_[kRoom];
};

template <class Method, class Value, class Cells, class T, class Index, class Team>
HOST_DEVICE inline void pool_window(const Job<Index>& job, const T* x, const T* logit, T* y, Index output,
                                    const Team& team) {
  const Place<Index> place = place_of(job, output);
  const Cells cells(job, place, x, logit);
  Value top = -infinity<Value>(), size = 0;
  cells.each(job, place, team, [&top, &size](const Value* values, const Value* logits) {
    for (int k = 0; k < Cells::kCells; ++k) Method::see(values[k], logits[k], &top, &size);
  });
  top = largest(top, team);
  size = largest(size, team);
  Total<Value> weights, products;
  cells.each(job, place, team, [&, top, size](const Value* values, const Value* logits) {
    Value weight, product;
    for (int k = 0; k < Cells::kCells; ++k) {
      Method::weigh(values[k], logits[k], top, size, &weight, &product);
      weights.add(weight);
      products.add(product);
    }
  });
  weights.gather(team);
  products.gather(team);
  if (team.lane() == 0) narrow(Method::result(products.value(), weights.value(), top, size), y + output);
}

template <class Method, class Value, class Cells, class T, class Index, class Team>
HOST_DEVICE inline void pool(const Job<Index>& job, const T* x, const T* logit, T* y, const Team& team) {
  for (Index output = team.first(); output < job.outputs; output += team.step()) {
    pool_window<Method, Value, Cells>(job, x, logit, y, output, team);
  }
}

}  // namespace onnxpool::ONNXPOOL_ISA
