// Methods that are a quotient of two sums over the window (kernels/method.h) on a GPU: what one thread computes.
//
// Every window is computed by itself, in two looks at its cells: first its largest logit and magnitude, then the sums
// relative to these. That is right for every input, so there is no second path; overlapping windows meet in the cache.
// A small window is one thread's; a large one is shared by a warp. The body knows no CUDA: a Team says which thread
// this is and carries numbers between threads, so that tests/test_cuda.py runs the same body on the host.
//
//   Team::kLanes        threads for one window
//   lane(), first(), step()        this thread's number in its team; its team's first window, and the distance to its next
//   exchange(value, distance)      the value of lane `lane() ^ distance`, called by all lanes of a team alike
#pragma once

#include "../kernels/method.h"
#include "job.h"

namespace onnxpool::ONNXPOOL_ISA {

// A thread's place in the grid.
template <int kTeam>
struct Seat {
  static constexpr int kLanes = kTeam;
  int64_t block, blocks;
  int thread, threads;

  HOST_DEVICE int lane() const { return thread % kTeam; }
  HOST_DEVICE int64_t first() const { return block * (threads / kTeam) + thread / kTeam; }
  HOST_DEVICE int64_t step() const { return blocks * (threads / kTeam); }
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

template <class Team, class Visit>
HOST_DEVICE inline void each_cell_of(const Job& job, const Place& place, const Team& team, Visit visit) {
  if constexpr (Team::kLanes == 1) {
    each_cell(job, place, visit);
  } else {
    each_cell(job, place, team.lane(), Team::kLanes, visit);
  }
}

template <class Method, class Value, class T, class Team>
HOST_DEVICE inline void pool_window(const Job& job, const T* __restrict x, const T* __restrict logit,
                                    T* __restrict y, int64_t output, const Team& team) {
  const Place place = place_of(job, output);
  Value top = -infinity<Value>(), size = 0;
  each_cell_of(job, place, team, [=, &top, &size](int64_t i) {
    const Value value = widen(x[i]);
    Method::see(value, Method::kInputs == 1 ? value : widen(logit[i]), &top, &size);
  });
  top = largest(top, team);
  size = largest(size, team);
  Total<Value> weights, products;
  each_cell_of(job, place, team, [=, &weights, &products](int64_t i) {
    const Value value = widen(x[i]);
    Value weight, product;
    Method::weigh(value, Method::kInputs == 1 ? value : widen(logit[i]), top, size, &weight, &product);
    weights.add(weight);
    products.add(product);
  });
  weights.gather(team);
  products.gather(team);
  if (team.lane() == 0) narrow(Method::result(products.value(), weights.value(), top, size), y + output);
}

template <class Method, class Value, class T, class Team>
HOST_DEVICE inline void pool(const Job& job, const T* x, const T* logit, T* y, const Team& team) {
  for (int64_t output = team.first(); output < job.outputs; output += team.step()) {
    pool_window<Method, Value>(job, x, logit, y, output, team);
  }
}

}  // namespace onnxpool::ONNXPOOL_ISA
