// The body of the CUDA kernels on the host, thread by thread: for tests/test_cuda.py, which compiles this file, on machines
// without a GPU. It is no part of the library.
//
// A grid runs one block after the other, and in it one warp after the other. The lanes of a warp are 32 contexts that
// take turns: each runs until it exchanges a number, and goes on when all lanes have come to the same exchange. A lane
// that comes to another one, or to none, is a fault on a GPU and an error here.
#include <ucontext.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include "../kernels/local_importance.h"
#include "../kernels/kernel.h"
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
    stacks_[lane].resize(kStack);
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

template <int kTeam>
struct HostTeam : Seat<kTeam> {
  Warp* warp;

  template <class T>
  T exchange(T value, int distance) const {
    return static_cast<T>(warp->exchange(static_cast<double>(value), distance));
  }
};

template <class Method, class Value, class T, int kTeam>
bool run_grid(const Job& job, const void* const* inputs, void* output) {
  const auto warp = std::make_unique<Warp>();
  const auto *x = static_cast<const T*>(inputs[0]), *logit = static_cast<const T*>(inputs[Method::kInputs - 1]);
  for (int64_t block = 0; block < job.blocks; ++block) {
    for (int first = 0; first < job.threads; first += kTeam) {
      const auto body = [&](int lane) {
        const HostTeam<kTeam> team{{block, job.blocks, first + lane, job.threads}, warp.get()};
        pool<Method, Value>(job, x, logit, static_cast<T*>(output), team);
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

template <class Method, class Value, class T>
bool run(const Job& job, const void* const* inputs, void* output) {
  const auto grid = job.team == 1 ? run_grid<Method, Value, T, 1> : run_grid<Method, Value, T, kWarp>;
  return grid(job, inputs, output);
}

template <template <class, class> class OfMethod>
bool run_element(int element, const Job& job, const void* const* inputs, void* output) {
  using Single = OfMethod<float, float>;
  constexpr bool (*kRun[])(const Job&, const void* const*, void*) = {
      run<Single, float, float>, run<OfMethod<double, double>, double, double>, run<Single, float, Half>,
      run<Single, float, Bfloat>};
  return kRun[element](job, inputs, output);
}

// The job for plain numbers, as in library.h's `pool`; they must be right.
Job job_of(int64_t rank, const int64_t* shape, const int64_t* numbers) {
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
  return make_job(make_plan(window, in, out));
}

}  // namespace
}  // namespace onnxpool::ONNXPOOL_ISA

using namespace onnxpool::ONNXPOOL_ISA;

// Runs a whole grid. `blocks` and `threads` may be 0, for those of the job. Returns 0 where lanes did not keep together.
extern "C" int host_pool(int method, int element, int64_t rank, const int64_t* shape, const int64_t* numbers,
                         const void* const* inputs, void* output, int64_t blocks, int threads) {
  Job job = job_of(rank, shape, numbers);
  if (blocks > 0) job.blocks = blocks;
  if (threads > 0) job.threads = threads;
  if (method == 0) return run_element<Soft>(element, job, inputs, output);
  if (method == 1) return run_element<LocalImportance>(element, job, inputs, output);
  return run_element<Stochastic>(element, job, inputs, output);
}

// outputs, team, threads, blocks of a job.
extern "C" void host_job(int64_t rank, const int64_t* shape, const int64_t* numbers, int64_t* facts) {
  const Job job = job_of(rank, shape, numbers);
  facts[0] = job.outputs, facts[1] = job.team, facts[2] = job.threads, facts[3] = job.blocks;
}

// The cells of one window that a lane visits, as indices into the tensor; no tensor is needed. Returns how many.
extern "C" int64_t host_cells(int64_t rank, const int64_t* shape, const int64_t* numbers, int64_t output, int lane,
                              int lanes, int64_t* cells, int64_t room) {
  const Job job = job_of(rank, shape, numbers);
  int64_t count = 0;
  const auto visit = [&](int64_t i) {
    if (count < room) cells[count] = i;
    ++count;
  };
  if (lanes == 1) each_cell(job, place_of(job, output), visit);
  else each_cell(job, place_of(job, output), lane, lanes, visit);
  return count;
}

extern "C" int64_t host_divide(int64_t number, int64_t divisor, int64_t* rest) {
  return Divisor(divisor).divide(number, rest);
}
