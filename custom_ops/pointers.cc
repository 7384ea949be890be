// The table that pointers.h describes, over the kernels of each method.
#include "pointers.h"

#include <atomic>

#include "exported.h"
#include "instruction_sets.h"
#include "numbers.h"

namespace onnxpool {
namespace {

// Memory that is aligned to 64 bytes; null where there is none left.
class Aligned {
 public:
  explicit Aligned(size_t bytes) : all_(bytes == 0 ? nullptr : std::malloc(bytes + 64)) {}
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  ~Aligned() { std::free(all_); }

  void* start() const { return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(all_) + 63) / 64 * 64); }

 private:
  void* all_;
};

// By the first call: the environment is not read again, since that is not safe beside a thread that changes it.
std::atomic<const Kernels*> chosen{nullptr};

// One call, checked.
struct Call {
  const Kernels* kernels = nullptr;
  Plan plan;
  Message why;

  bool read(const char* op_type, int element, int64_t rank, const int64_t* shape, const int64_t* numbers) {
    why.add("%s: ", op_type);
    if (!choose()) return false;
    if (kernel(op_type) == nullptr || element < 0 || element >= kElementTypes) {
      why.add("there is no kernel of this name for element type %d; 0 is float32, 1 float64, 2 float16, 3 bfloat16",
              element);
      return false;
    }
    Window window;
    Shape in, out;
    if (!read_numbers(rank, shape, numbers, &window, &in, &out, &why)) return false;
    plan = make_plan(window, in, out);
    return true;
  }

  bool choose() {
    kernels = chosen.load(std::memory_order_relaxed);
    if (kernels == nullptr) kernels = choose_kernels(&why);
    if (kernels != nullptr) chosen.store(kernels, std::memory_order_relaxed);
    return kernels != nullptr;
  }
  const Kernel* kernel(const char* op_type) const {
    for (const Kernel* kernel : kernels->of) {
      if (std::strcmp(kernel->name, op_type) == 0) return kernel;
    }
    return nullptr;
  }

  int refuse(char* to, size_t room) const {
    std::snprintf(to, room, "%s", why.text());
    return 1;
  }
  // What a call returns whose tasks were done, or for which there was no memory.
  int finish(bool done, char* to, size_t room) {
    if (done) return 0;
    why.add("out of memory");
    return refuse(to, room);
  }
};

// Runs task(index, scratch) for each index below `tasks`, with scratch memory for each range of them; false where there
// is none left.
template <class Task>
bool run_tasks(int64_t tasks, size_t scratch_bytes, Parallel parallel, const Task& task) {
  struct Work {
    const Task& task;
    size_t scratch_bytes;
    std::atomic<bool> failed;
  } work{task, scratch_bytes, {false}};
  const auto body = [](int64_t begin, int64_t end, void* user) {
    auto* const own = static_cast<Work*>(user);
    const Aligned scratch(own->scratch_bytes);
    if (own->scratch_bytes > 0 && scratch.start() == nullptr) {
      own->failed.store(true, std::memory_order_relaxed);
      return;
    }
    for (int64_t i = begin; i < end; ++i) own->task(i, scratch.start());
  };
  if (parallel == nullptr) {
    body(0, tasks, &work);
    return !work.failed.load();
  }
  return parallel(0, tasks, 1, body, &work) == 0 && !work.failed.load();
}

int pool(const char* op_type, int element, int64_t rank, const int64_t* shape, const int64_t* window,
         const void* const* inputs, void* output, Parallel parallel, char* why, size_t room) {
  Call call;
  if (!call.read(op_type, element, rank, shape, window)) return call.refuse(why, room);
  const Plan& plan = call.plan;
  if (plan.planes == 0) return 0;
  const ElementKernel& kernel = call.kernel(op_type)->of[element];
  const Schedule schedule = kernel.schedule(plan);
  const Aligned shared(schedule.shared_bytes);
  const bool done = (schedule.shared_bytes == 0 || shared.start() != nullptr) &&
                    run_tasks(schedule.tasks, schedule.scratch_bytes, parallel, [&](int64_t index, void* scratch) {
                      kernel.task(plan, schedule, inputs, output, index, scratch, shared.start());
                    });
  if (done && schedule.shared_bytes > 0) kernel.finish(plan, schedule, inputs, output, shared.start());
  return call.finish(done, why, room);
}

int gradients(const char* op_type, int element, int64_t rank, const int64_t* shape, const int64_t* window,
              const void* const* inputs, const void* grad, void* const* slopes, Parallel parallel, char* why,
              size_t room) {
  Call call;
  if (!call.read(op_type, element, rank, shape, window)) return call.refuse(why, room);
  if (call.plan.planes == 0) return 0;
  const GradientKernel& kernel = call.kernel(op_type)->gradient[element];
  const GradientSchedule schedule = kernel.schedule(call.plan);
  const auto task = [&](int64_t index, void* scratch) {
    kernel.task(call.plan, schedule, inputs, grad, slopes, index, scratch);
  };
  return call.finish(run_tasks(schedule.tasks, schedule.scratch_bytes, parallel, task), why, room);
}

constexpr char kDrawn[] = "StochasticPool";

int draw(int element, int64_t rank, const int64_t* shape, const int64_t* window, const void* x, const void* uniforms,
         void* y, void* places, Parallel parallel, char* why, size_t room) {
  Call call;
  if (!call.read(kDrawn, element, rank, shape, window)) return call.refuse(why, room);
  const Plan& plan = call.plan;
  if (plan.planes == 0) return 0;
  if (plan.height.in * plan.width.in > kMostPlaces / plan.depth.in) {
    call.why.add("planes of more than 2^31 - 1 cells");
    return call.refuse(why, room);
  }
  const DrawKernel& kernel = call.kernels->draw[element];
  const GradientSchedule schedule = kernel.schedule(plan);
  const auto task = [&](int64_t index, void* scratch) {
    kernel.task(plan, schedule, x, uniforms, y, places, index, scratch);
  };
  return call.finish(run_tasks(schedule.tasks, schedule.scratch_bytes, parallel, task), why, room);
}

int drawn_slopes(int element, int64_t rank, const int64_t* shape, const int64_t* window, const void* grad,
                 const void* places, void* slopes, Parallel parallel, char* why, size_t room) {
  Call call;
  if (!call.read(kDrawn, element, rank, shape, window)) return call.refuse(why, room);
  if (call.plan.planes == 0) return 0;
  const DrawKernel& kernel = call.kernels->draw[element];
  const GradientSchedule schedule = kernel.schedule_slopes(call.plan);
  const auto task = [&](int64_t index, void* scratch) {
    kernel.task_slopes(call.plan, schedule, grad, places, slopes, index, scratch);
  };
  return call.finish(run_tasks(schedule.tasks, schedule.scratch_bytes, parallel, task), why, room);
}

int turn(size_t bytes, int64_t count, int64_t rows, int64_t columns, const void* from, void* to, Parallel parallel,
         char* why, size_t room) {
  Call call;
  if (!call.choose()) return call.refuse(why, room);
  if (bytes != 4 && bytes != 8) {
    call.why.add("numbers of %d bytes; expected 4 or 8", static_cast<int>(bytes));
    return call.refuse(why, room);
  }
  const int64_t parts = (columns + kTurned - 1) / kTurned;
  const auto task = [&](int64_t index, void*) {
    const int64_t begin = index % parts * kTurned, end = begin + kTurned < columns ? begin + kTurned : columns;
    const size_t skip = static_cast<size_t>(index / parts * rows * columns) * bytes;
    call.kernels->turn(bytes, rows, columns, begin, end, static_cast<const char*>(from) + skip,
                       static_cast<char*>(to) + skip);
  };
  return call.finish(rows == 0 || run_tasks(count * parts, 0, parallel, task), why, room);
}

}  // namespace
}  // namespace onnxpool

extern "C" ONNXPOOL_EXPORT const onnxpool::CpuLibrary* OnnxpoolCpu() {
  static constexpr onnxpool::CpuLibrary kLibrary = {onnxpool::kCpuVersion, onnxpool::pool, onnxpool::gradients,
                                                    onnxpool::draw, onnxpool::drawn_slopes, onnxpool::turn};
  return &kLibrary;
}
