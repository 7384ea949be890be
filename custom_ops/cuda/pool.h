// Pooling on a GPU, any window of any input: what one thread computes.
//
// Every window is computed by itself, in two looks at its cells: first its largest logit and magnitude, then the sums
// relative to these. That is right for every input, so there is no second path; overlapping windows meet in the cache.
// A small window is one thread's; a large one is shared by a warp. The body knows no CUDA: a Team says which thread
// this is and carries numbers between threads, so that tests/test_cuda.py runs the same body on the host.
//
//   Team::kLanes, lanes()          threads for one window
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
  GPU_HOST static constexpr int lanes() { return kTeam; }
  Index block, blocks;
  int thread, threads;

  GPU_HOST int lane() const { return thread % kTeam; }
  GPU_HOST Index first() const { return block * (threads / kTeam) + thread / kTeam; }
  GPU_HOST Index step() const { return blocks * (threads / kTeam); }
};

// The same for teams of 1 or of a warp, as a job says when it runs: one copy of a kernel for both.
struct AnySeat {
  int64_t block, blocks;
  int thread, threads, team;

  GPU_HOST int lanes() const { return team; }
  GPU_HOST int lane() const { return thread % team; }
  GPU_HOST int64_t first() const { return block * (threads / team) + thread / team; }
  GPU_HOST int64_t step() const { return blocks * (threads / team); }
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
    for (int distance = team.lanes() / 2; distance > 0; distance /= 2) {
      lost += team.exchange(lost, distance);
      add(team.exchange(sum, distance));
    }
  }
  // What a sum that became infinite has lost is NaN.
  GPU_HOST T value() const { return lost == lost ? sum + lost : sum; }
};

template <class T, class Team>
GPU_HOST inline T largest(T value, const Team& team) {
  for (int distance = team.lanes() / 2; distance > 0; distance /= 2) {
    const T other = team.exchange(value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// The cells of a window, read anew in each look: calls visit(x, logit), arrays of kPiece cells, for this thread's
// share. Outside the input is -inf, as methods want.
template <class Method, class Value, int kPiece, class T, class Index, class Team, class Visit>
GPU_HOST inline void look(const Job<Index>& job, const Place<Index>& place, const T* x, const T* logit,
                          const Team& team, Visit visit) {
  static_assert(Team::kLanes == 1 || kPiece == 1, "lanes take single cells");
  const auto read = [&](Index i, int32_t left, int32_t step) {
    constexpr auto kRoom = static_cast<size_t>(kPiece);
    Value values[kRoom], logits[kRoom];
    for (int k = 0; k < kPiece; ++k) {
      const bool inside = k * step < left;
      values[k] = inside ? widen(x[i + k * step]) : -kInfinity<Value>;
      logits[k] = Method::kInputs == 1 ? values[k] : inside ? widen(logit[i + k * step]) : -kInfinity<Value>;
    }
    visit(values, logits);
  };
  if constexpr (Team::kLanes > 1) {
    each_cell(job, place, team.lane(), Team::kLanes, [&](Index i) { read(i, 1, 1); });
  } else {
    each_piece<kPiece>(job, place, [&](Index i, int32_t left) { read(i, left, job.width.dilation); });
  }
}

template <class Method, class Value, int kPiece, class T, class Index, class Team>
GPU_HOST inline void pool_window(const Job<Index>& job, const T* x, const T* logit, T* y, Index output,
                                 const Team& team) {
  const Place<Index> place = place_of(job, output);
  Value top = -kInfinity<Value>, size = 0;
  look<Method, Value, kPiece>(job, place, x, logit, team, [&](const Value* values, const Value* logits) {
    for (int k = 0; k < kPiece; ++k) Method::see(values[k], logits[k], &top, &size);
  });
  top = largest(top, team);
  size = largest(size, team);
  Total<Value> weights, products;
  look<Method, Value, kPiece>(job, place, x, logit, team, [&](const Value* values, const Value* logits) {
    Value weight, product;
    for (int k = 0; k < kPiece; ++k) {
      Method::weigh(values[k], logits[k], top, size, &weight, &product);
      weights.add(weight);
      products.add(product);
    }
  });
  weights.gather(team);
  products.gather(team);
  if (team.lane() == 0) narrow(Method::result(products.value(), weights.value(), top, size), y + output);
}

template <class Method, class Value, int kPiece, class T, class Index, class Team>
GPU_HOST inline void pool(const Job<Index>& job, const T* x, const T* logit, T* y, const Team& team) {
  for (Index output = team.first(); output < job.outputs; output += team.step()) {
    pool_window<Method, Value, kPiece>(job, x, logit, y, output, team);
  }
}

}  // namespace onnxpool::cuda
