// The body of the CUDA kernels on the host, thread by thread: for tests/test_cuda.py, which compiles this file, on
// machines without a GPU. It is not part of the library.
//
// A grid runs one block after the other, and in it one warp after the other. The lanes of a warp are 32 contexts that
// take turns: each runs until it exchanges a number, and goes on when all lanes have come to the same exchange. A lane
// that comes to another one, or to none, is a fault on a GPU and an error here.
#include <ucontext.h>

#include <memory>
#include <vector>

#include "gradient.h"
#include "march.h"

namespace onnxpool::cuda {

// What a GPU's units may err, 2 ULP of 2^x and 1 of 1/x, upwards or downwards as a number's last bits have it; 0 where
// they are right.
static float ex2_ulps = 0, rcp_ulps = 0;

static float wrong(double right, float by, float ulps) {
  if (!std::isfinite(right) || right == 0) return static_cast<float>(right);
  const double sign = bits<uint32_t>(by) * 0x9e3779b1U >> 31 != 0 ? 1 : -1;
  const auto result = static_cast<float>(right + sign * std::ldexp(static_cast<double>(ulps), std::ilogb(right) - 23));
  return std::fabs(result) >= 0x1p-126F ? result : 0.0F;
}

float hardware::ex2(float x) { return wrong(std::exp2(static_cast<double>(x)), x, ex2_ulps); }
float hardware::rcp(float x) { return wrong(1 / static_cast<double>(x), x, rcp_ulps); }

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

template <class Seat>
struct HostTeam : Seat {
  Warp* warp;

  template <class T>
  T exchange(T value, int distance) const {
    return static_cast<T>(warp->exchange(static_cast<double>(value), distance));
  }
};

// Calls body(block, thread, warp) for each thread of a grid.
template <class Index, class Body>
bool run_grid(const Job<Index>& job, Body body) {
  const auto warp = std::make_unique<Warp>();
  for (Index block = 0; block < job.blocks; ++block) {
    for (int first = 0; first < job.threads; first += job.team) {
      const auto lane_of = [&](int lane) { body(block, first + lane, warp.get()); };
      if (job.team == 1) {
        lane_of(0);
      } else if (!warp->run(lane_of)) {
        return false;
      }
    }
  }
  return true;
}

template <class Method, class Value, class T, class Index, int kTeam, int kPiece>
bool run_pools(const Job<Index>& job, const T* x, const T* logit, T* y) {
  return run_grid(job, [&](Index block, int thread, Warp* warp) {
    const HostTeam<Seat<Index, kTeam>> team{{block, job.blocks, thread, job.threads}, warp};
    pool<Method, Value, kPiece>(job, x, logit, y, team);
  });
}

// How the caller wants it: a grid of blocks and threads, or 0 for those of the job; an index of 64 bits in any case;
// pool.h in any case; rows of a thread in march.h, or 0 for what fits the tensor.
struct Wish {
  int64_t blocks;
  int threads;
  bool wide, general;
  int64_t rows;
};

template <class Method, class Value, class T, class Index>
bool run_pool(const Pooling& pooling, const T* x, const T* logit, T* y, const Wish& wish) {
  Job<Index> job = make_job<Index>(pooling);
  if (wish.blocks > 0) job.blocks = static_cast<Index>(wish.blocks);
  if (wish.threads > 0) job.threads = wish.threads;
  return job.team > 1 ? run_pools<Method, Value, T, Index, kWarp, 1>(job, x, logit, y)
                      : run_pools<Method, Value, T, Index, 1, 3>(job, x, logit, y);
}

template <class Method, class T>
void run_march(const Pooling& pooling, MarchShape shape, const T* x, const T* logit, T* y, const Wish& wish) {
  const March march = make_march(pooling, wish.rows > 0 ? wish.rows : rows_of(pooling));
  const Job<int64_t> job = make_job<int64_t>(pooling);
  with_fixed(shape, [&](auto fixed) {
    for (int32_t thread = 0; thread < march.threads; ++thread) {
      march_strip<Method, T, decltype(fixed)>(march, job, x, logit, y, thread);
    }
  });
}

template <class Method, class Value, class T>
bool run(const Pooling& pooling, const void* const* inputs, void* output, const Wish& wish) {
  const auto *x = static_cast<const T*>(inputs[0]), *logit = static_cast<const T*>(inputs[Method::kInputs - 1]);
  auto* const y = static_cast<T*>(output);
  if constexpr (sizeof(Value) == 4) {
    const MarchShape shape = shape_of(pooling, aligned<T>(x) && aligned<T>(logit));
    if (shape.rows != 0 && !wish.general) return run_march<Method>(flattened(pooling), shape, x, logit, y, wish), true;
  }
  return fits_32_bits(pooling) && !wish.wide ? run_pool<Method, Value, T, int32_t>(pooling, x, logit, y, wish)
                                             : run_pool<Method, Value, T, int64_t>(pooling, x, logit, y, wish);
}

template <template <class> class OfMethod>
bool run_element(int element, const Pooling& pooling, const void* const* inputs, void* output, const Wish& wish) {
  using Single = OfMethod<float>;
  constexpr bool (*kRun[])(const Pooling&, const void* const*, void*, const Wish&) = {
      run<Single, float, float>, run<OfMethod<double>, double, double>, run<Single, float, Half>,
      run<Single, float, Bfloat>};
  return kRun[element](pooling, inputs, output, wish);
}

// What a gradient is computed of, and where it goes.
struct Slopes {
  const void* const* inputs;
  const void* grad;
  void* const* slopes;
  void* scratch;
};

template <class Gradient, class Value, class T>
bool run_gradient(const Pooling& pooling, const Slopes& of, int64_t blocks) {
  constexpr int kLast = Gradient::Method::kInputs - 1;
  const auto *x = static_cast<const T*>(of.inputs[0]), *logit = static_cast<const T*>(of.inputs[kLast]);
  const auto* const grad = static_cast<const T*>(of.grad);
  auto *const dx = static_cast<T*>(of.slopes[0]), *const dlogit = static_cast<T*>(of.slopes[kLast]);
  auto* const kept = static_cast<Kept<Value>*>(of.scratch);
  Job<int64_t> job = make_job<int64_t>(pooling);
  const Gather from(pooling);
  if (blocks > 0) job.blocks = blocks;
  const bool together = run_grid(job, [&](int64_t block, int thread, Warp* warp) {
    const HostTeam<AnySeat> team{{block, job.blocks, thread, job.threads, job.team}, warp};
    keep_windows<Gradient>(job, x, logit, grad, kept, team);
  });
  const int64_t threads = (blocks > 0 ? blocks : from.blocks) * kThreads;
  for (int64_t i = 0; i < threads; ++i) gather<Gradient>(from, x, logit, kept, dx, dlogit, i, threads);
  return together;
}

template <template <class> class OfGradient>
bool run_gradient_element(int element, const Pooling& pooling, const Slopes& of, int64_t blocks) {
  using Single = OfGradient<float>;
  constexpr bool (*kRun[])(const Pooling&, const Slopes&, int64_t) = {
      run_gradient<Single, float, float>, run_gradient<OfGradient<double>, double, double>,
      run_gradient<Single, float, Half>, run_gradient<Single, float, Bfloat>};
  return kRun[element](pooling, of, blocks);
}

// The joined pooling for plain numbers, as in library.h's `pool`; they must be right.
Pooling pooling_of_numbers(int64_t rank, const int64_t* shape, const int64_t* numbers) {
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
  return joined(pooling_of(window, in, out));
}

}  // namespace
}  // namespace onnxpool::cuda

using namespace onnxpool;
using namespace onnxpool::cuda;

// Runs a whole grid. Returns 0 where lanes did not keep together.
extern "C" int host_pool(int method, int element, int64_t rank, const int64_t* shape, const int64_t* numbers,
                         const void* const* inputs, void* output, int64_t blocks, int threads, int wide,
                         int general, int64_t rows) {
  const Pooling pooling = pooling_of_numbers(rank, shape, numbers);
  const Wish wish{blocks, threads, wide != 0, general != 0, rows};
  if (method == 0) return run_element<Soft>(element, pooling, inputs, output, wish);
  if (method == 1) return run_element<LocalImportance>(element, pooling, inputs, output, wish);
  return run_element<Stochastic>(element, pooling, inputs, output, wish);
}

// Both passes, as library.h's `gradients`; a grid of `blocks`, or 0 for those of the job.
extern "C" int host_gradients(int method, int element, int64_t rank, const int64_t* shape, const int64_t* numbers,
                              const void* const* inputs, const void* grad, void* const* slopes, void* scratch,
                              int64_t blocks) {
  const Pooling pooling = pooling_of_numbers(rank, shape, numbers);
  const Slopes of{inputs, grad, slopes, scratch};
  if (method == 0) return run_gradient_element<SoftGradient>(element, pooling, of, blocks);
  if (method == 1) return run_gradient_element<LocalImportanceGradient>(element, pooling, of, blocks);
  return run_gradient_element<StochasticGradient>(element, pooling, of, blocks);
}

// The windows that hold a cell, as indices into the output; no tensor is needed. Returns how many; the grid's blocks.
extern "C" int64_t host_windows(int64_t rank, const int64_t* shape, const int64_t* numbers, int64_t cell,
                                int64_t* outputs, int64_t room, int64_t* blocks) {
  const Gather from(pooling_of_numbers(rank, shape, numbers));
  int64_t count = 0;
  *blocks = from.blocks;
  from.each_window(cell, [&](int64_t output) {
    if (count < room) outputs[count] = output;
    ++count;
  });
  return count;
}

// outputs, team and blocks of a job, whether 32 bits do; rows, columns, shared rows and pairing of march; its threads.
extern "C" void host_job(int64_t rank, const int64_t* shape, const int64_t* numbers, int64_t* facts) {
  const Pooling pooling = pooling_of_numbers(rank, shape, numbers);
  const Job<int64_t> job = make_job<int64_t>(pooling);
  facts[0] = job.outputs, facts[1] = job.team, facts[2] = job.blocks, facts[3] = fits_32_bits(pooling) ? 1 : 0;
  const MarchShape marched = shape_of(pooling, true);
  facts[4] = marched.rows, facts[5] = marched.columns, facts[6] = marched.shared, facts[7] = marched.paired ? 1 : 0;
  const Pooling flat = flattened(pooling);
  facts[8] = marched.rows == 0 ? 0 : make_march(flat, rows_of(flat)).threads;
}

namespace {

template <class Index>
int64_t cells_of(const Pooling& pooling, int64_t output, int lane, int lanes, int64_t* cells, int64_t room) {
  const Job<Index> job = make_job<Index>(pooling);
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
  const Pooling pooling = pooling_of_numbers(rank, shape, numbers);
  return fits_32_bits(pooling) ? cells_of<int32_t>(pooling, output, lane, lanes, cells, room)
                            : cells_of<int64_t>(pooling, output, lane, lanes, cells, room);
}

// What ex2 and rcp err from now on.
extern "C" void host_hardware(float ex2, float rcp) { ex2_ulps = ex2, rcp_ulps = rcp; }

extern "C" int64_t host_divide(int64_t number, int64_t divisor, int64_t* rest) {
  return Divisor<int64_t>(divisor).divide(number, rest);
}

extern "C" int32_t host_divide_32(int32_t number, int32_t divisor, int32_t* rest) {
  return Divisor<int32_t>(divisor).divide(number, rest);
}
