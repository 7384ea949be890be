// The body of the CUDA kernels on the host, thread by thread: for tests/test_cuda.py, which compiles this file, on
// machines without a GPU. It is not part of the library.
//
// A grid runs one block after the other, and in it one warp after the other. The lanes of a warp are 32 contexts that
// take turns: each runs until it exchanges a number, and goes on when all lanes have come to the same exchange. A lane
// that comes to another one, or to none, is a fault on a GPU and an error here.
#include <ucontext.h>

#include <memory>
#include <vector>

#include "../kernels/kernel.h"
#include "../kernels/local_importance.h"
#include "../kernels/soft.h"
#include "../kernels/stochastic.h"
#include "pool.h"

namespace onnxpool::ONNXPOOL_ISA {
namespace {

class Warp {
 public:
  template <class Body>
  bool run(Body body) {
    Call<Body> call{this, &body};
    for (int lane = 0; lane < kWarp; ++lane) start(lane, &Call<Body>::enter, &call);
    for (int done = 0; done < kWarp;) {
      done = 0;
      for (lane_ = 0; lane_ < kWarp; ++lane_) {
        if (!finished_[lane_]) swapcontext(&home_, &context_[lane_]);
        done += finished_[lane_] ? 1 : 0;
      }
      for (int lane = 0; lane < kWarp; ++lane) {
        if (finished_[lane] != finished_[0] || exchanges_[lane] != exchanges_[0]) return false;
      }
      std::swap(given_, taken_);
    }
    return true;
  }

  double exchange(double value, int distance) {
    const int lane = lane_;
    given_[lane] = value;
    ++exchanges_[lane];
    swapcontext(&context_[lane], &home_);
    return taken_[lane ^ distance];
  }

 private:
  static constexpr size_t kStack = 64 * 1024;

  template <class Body>
  struct Call {
    Warp* warp;
    Body* body;
    static void enter(unsigned high, unsigned low) {
      auto* const call = reinterpret_cast<Call*>(static_cast<uintptr_t>(high) << 32 | low);
      const int lane = call->warp->lane_;
      (*call->body)(lane);
      call->warp->finished_[lane] = true;
    }
  };

  void start(int lane, void (*enter)(unsigned, unsigned), void* call) {
    getcontext(&context_[lane]);
    if (stacks_[lane].empty()) stacks_[lane].resize(kStack);
    context_[lane].uc_stack.ss_sp = stacks_[lane].data();
    context_[lane].uc_stack.ss_size = kStack;
    context_[lane].uc_link = &home_;
    const auto address = reinterpret_cast<uintptr_t>(call);
    makecontext(&context_[lane], reinterpret_cast<void (*)()>(enter), 2, static_cast<unsigned>(address >> 32),
                static_cast<unsigned>(address));
    finished_[lane] = false;
    exchanges_[lane] = 0;
  }

  int lane_ = 0;
  bool finished_[kWarp] = {};
  int exchanges_[kWarp] = {};
  double buffers_[2][kWarp] = {};
  double *given_ = buffers_[0], *taken_ = buffers_[1];
  ucontext_t home_, context_[kWarp];
  std::vector<char> stacks_[kWarp];
};

template <class Index, int kTeam>
struct HostTeam : Seat<Index, kTeam> {
  Warp* warp;

  template <class T>
  T exchange(T value, int distance) const {
    return static_cast<T>(warp->exchange(static_cast<double>(value), distance));
  }
};

template <class Method, class Value, class T, class Index, int kTeam, class Cells>
bool run_grid(const Job<Index>& job, const void* const* inputs, void* output) {
  const auto warp = std::make_unique<Warp>();
  const auto *x = static_cast<const T*>(inputs[0]), *logit = static_cast<const T*>(inputs[Method::kInputs - 1]);
  for (Index block = 0; block < job.blocks; ++block) {
    for (int first = 0; first < job.threads; first += kTeam) {
      const auto body = [&](int lane) {
        const HostTeam<Index, kTeam> team{{block, job.blocks, first + lane, job.threads}, warp.get()};
        pool<Method, Value, Cells>(job, x, logit, static_cast<T*>(output), team);
      };
      if (kTeam == 1) {
        body(0);
      } else if (!warp->run(body)) {
        return false;
      }
    }
  }
  return true;
}

// How the caller wants a grid: blocks and threads, or 0 for those of the job; and an index of 64 bits in any case.
struct Wish {
  int64_t blocks;
  int threads;
  bool wide;
};

template <class Method, class Value, class T, class Index>
bool run(const Plan& plan, const void* const* inputs, void* output, const Wish& wish) {
  Job<Index> job = make_job<Index>(plan);
  if (wish.blocks > 0) job.blocks = static_cast<Index>(wish.blocks);
  if (wish.threads > 0) job.threads = wish.threads;
  const auto grid = job.team > 1    ? run_grid<Method, Value, T, Index, kWarp, Pieces<Method, Value, T, 1>>
                    : job.side == 2 ? run_grid<Method, Value, T, Index, 1, Square<Method, Value, T, 2>>
                    : job.side == 3 ? run_grid<Method, Value, T, Index, 1, Square<Method, Value, T, 3>>
                                    : run_grid<Method, Value, T, Index, 1, Pieces<Method, Value, T, 3>>;
  return grid(job, inputs, output);
}

template <class Method, class Value, class T>
bool run_index(const Plan& plan, const void* const* inputs, void* output, const Wish& wish) {
  return fits_32_bits(plan) && !wish.wide ? run<Method, Value, T, int32_t>(plan, inputs, output, wish)
                                          : run<Method, Value, T, int64_t>(plan, inputs, output, wish);
}

template <template <class, class> class OfMethod>
bool run_element(int element, const Plan& plan, const void* const* inputs, void* output, const Wish& wish) {
  using Single = OfMethod<float, float>;
  constexpr bool (*kRun[])(const Plan&, const void* const*, void*, const Wish&) = {
      run_index<Single, float, float>, run_index<OfMethod<double, double>, double, double>,
      run_index<Single, float, Half>, run_index<Single, float, Bfloat>};
  return kRun[element](plan, inputs, output, wish);
}

// The joined plan for plain numbers, as in library.h's `pool`; they must be right.
Plan plan_of(int64_t rank, const int64_t* shape, const int64_t* numbers) {
  Window window;
  window.rank = rank;
  Shape in, out;
  in.rank = static_cast<size_t>(rank) + 2;
  for (size_t i = 0; i < in.rank; ++i) in.dims[i] = shape[i];
  out = in;
  for (int64_t i = 0; i < rank; ++i) {
    Axis& axis = window.axis[i];
    axis.kernel = numbers[i], axis.stride = numbers[rank + i], axis.pad = numbers[2 * rank + i];
    axis.dilation = numbers[4 * rank + i];
    axis.extent = axis.dilation * (axis.kernel - 1) + 1;
    const int64_t overlap = axis.extent - axis.stride;
    axis.tail = numbers[5 * rank] == 0 ? axis.pad : (axis.pad < overlap ? axis.pad : overlap) + axis.stride - 1;
    out.dims[2 + i] = axis.output(in.dims[2 + i]);
  }
  return joined(make_plan(window, in, out));
}

}  // namespace
}  // namespace onnxpool::ONNXPOOL_ISA

using namespace onnxpool;
using namespace onnxpool::ONNXPOOL_ISA;

// Runs a whole grid. Returns 0 where lanes did not keep together.
extern "C" int host_pool(int method, int element, int64_t rank, const int64_t* shape, const int64_t* numbers,
                         const void* const* inputs, void* output, int64_t blocks, int threads, int wide) {
  const Plan plan = plan_of(rank, shape, numbers);
  const Wish wish{blocks, threads, wide != 0};
  if (method == 0) return run_element<Soft>(element, plan, inputs, output, wish);
  if (method == 1) return run_element<LocalImportance>(element, plan, inputs, output, wish);
  return run_element<Stochastic>(element, plan, inputs, output, wish);
}

// outputs, team, side, blocks of a job, and whether 32 bits do.
extern "C" void host_job(int64_t rank, const int64_t* shape, const int64_t* numbers, int64_t* facts) {
  const Plan plan = plan_of(rank, shape, numbers);
  const Job<int64_t> job = make_job<int64_t>(plan);
  facts[0] = job.outputs, facts[1] = job.team, facts[2] = job.side, facts[3] = job.blocks;
  facts[4] = fits_32_bits(plan) ? 1 : 0;
}

namespace {

template <class Index>
int64_t cells_of(const Plan& plan, int64_t output, int lane, int lanes, int64_t* cells, int64_t room) {
  const Job<Index> job = make_job<Index>(plan);
  const Place<Index> place = place_of(job, static_cast<Index>(output));
  int64_t count = 0;
  const auto visit = [&](Index i) {
    if (count < room) cells[count] = i;
    ++count;
  };
  const auto visit_piece = [&](Index i, int32_t) { visit(i); };
  if (lanes == 1) each_piece<1>(job, place, visit_piece);
  else each_cell(job, place, lane, lanes, visit);
  return count;
}

}  // namespace

// The cells of one window that a lane visits, as indices into the tensor; no tensor is needed. Returns how many.
extern "C" int64_t host_cells(int64_t rank, const int64_t* shape, const int64_t* numbers, int64_t output, int lane,
                              int lanes, int64_t* cells, int64_t room) {
  const Plan plan = plan_of(rank, shape, numbers);
  return fits_32_bits(plan) ? cells_of<int32_t>(plan, output, lane, lanes, cells, room)
                            : cells_of<int64_t>(plan, output, lane, lanes, cells, room);
}

extern "C" int64_t host_divide(int64_t number, int64_t divisor, int64_t* rest) {
  return Divisor<int64_t>(divisor).divide(number, rest);
}

extern "C" int32_t host_divide_32(int32_t number, int32_t divisor, int32_t* rest) {
  return Divisor<int32_t>(divisor).divide(number, rest);
}
