// Pooling on a GPU, any window of any input: what one thread computes.
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

#include "job.h"
#include "methods.h"

namespace onnxpool::cuda {

// A thread's place in the grid.
template <class Index, int kTeam>
struct Seat {
  static constexpr int kLanes = kTeam;
  Index block, blocks;
  int thread, threads;

  GPU_HOST int lane() const { return thread % kTeam; }
  GPU_HOST Index first() const { return block * (threads / kTeam) + thread / kTeam; }
  GPU_HOST Index step() const { return blocks * (threads / kTeam); }
};

// A sum, and what rounding has taken from it (Knuth's two-sum): the error of a plain one would grow with its length.
template <class T>
struct Total {
  T sum = 0, lost = 0;

  GPU_HOST void add(T value) {
    const T total = sum + value, back = total - sum;
    lost += (sum - (total - back)) + (value - back);
    sum = total;
  }
  template <class Team>
  GPU_HOST void gather(const Team& team) {
    for (int distance = Team::kLanes / 2; distance > 0; distance /= 2) {
      lost += team.exchange(lost, distance);
      add(team.exchange(sum, distance));
    }
  }
  // What a sum that became infinite has lost is NaN.
  GPU_HOST T value() const { return lost == lost ? sum + lost : sum; }
};

template <class T, class Team>
GPU_HOST inline T largest(T value, const Team& team) {
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
  GPU_HOST Pieces(const Job<Index>&, const Place<Index>&, const T* x, const T* logit) : x_(x), logit_(logit) {}

  // Calls visit(x, logit), arrays of kCells, for each piece of this thread's share of the window.
  template <class Index, class Team, class Visit>
  GPU_HOST void each(const Job<Index>& job, const Place<Index>& place, const Team& team, Visit visit) const {
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
  GPU_HOST void read(Index i, int32_t left, int32_t step, Visit& visit) const {
    constexpr auto kRoom = static_cast<size_t>(kPiece);
    Value values[kRoom], logits[kRoom];
    for (int k = 0; k < kPiece; ++k) {
      const bool inside = k * step < left;
      values[k] = inside ? widen(x_[i + k * step]) : -kInfinity<Value>;
      logits[k] = Method::kInputs == 1 ? values[k] : inside ? widen(logit_[i + k * step]) : -kInfinity<Value>;
    }
    visit(values, logits);
  }

  const T *x_, *logit_;
};

template <class Method, class Value, class Cells, class T, class Index, class Team>
GPU_HOST inline void pool_window(const Job<Index>& job, const T* x, const T* logit, T* y, Index output,
                                    const Team& team) {
  const Place<Index> place = place_of(job, output);
  const Cells cells(job, place, x, logit);
  Value top = -kInfinity<Value>, size = 0;
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
GPU_HOST inline void pool(const Job<Index>& job, const T* x, const T* logit, T* y, const Team& team) {
  for (Index output = team.first(); output < job.outputs; output += team.step()) {
    pool_window<Method, Value, Cells>(job, x, logit, y, output, team);
  }
}

}  // namespace onnxpool::cuda
