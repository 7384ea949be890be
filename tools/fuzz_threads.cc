// Runs the kernels on plain threads, built with a thread sanitizer: fuzz_threads SEED SECONDS, see tools/fuzz.py.
//
// ONNX Runtime's thread pool is not built for the sanitizer, which would take every hand-over to a thread for a race.
// So threads of our own take tasks here, as the pool's do: any thread any task, each with scratch memory of its own.
// Drawn windows, shapes and values, every kernel and element type, planes and blocks of channels; the output must be the
// bits that one thread gives. The first race ends the program.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "kernel.h"

namespace {

using namespace onnxpool;

constexpr size_t kElementBytes[kElementTypes] = {4, 8, 2, 2};
constexpr int kThreads = 4;

struct Task {
  const Kernel* kernel;
  ElementType element;
  Window window;
  Shape in, out;
  int64_t block;  // channels beside each other, or 1
};

int64_t draw(std::mt19937_64& random, int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(random);
}

// False where no window fits the shape.
bool draw_task(std::mt19937_64& random, Task* task) {
  const Kernel* const kernels[] = {&baseline::soft, &baseline::local_importance, &baseline::stochastic};
  task->kernel = kernels[draw(random, 0, 2)];
  task->element = static_cast<ElementType>(draw(random, 0, kElementTypes - 1));
  Window& window = task->window;
  window.rank = draw(random, 1, 3);
  const int64_t longest[] = {20000, 300, 30};
  task->in.rank = static_cast<size_t>(window.rank) + 2;
  task->in.dims[0] = draw(random, 1, 3);
  task->in.dims[1] = draw(random, 1, 8);
  const bool ceil = draw(random, 0, 1) == 1;
  for (int64_t i = 0; i < window.rank; ++i) {
    Axis& axis = window.axis[i];
    axis.kernel = draw(random, 1, 5), axis.stride = draw(random, 1, 5), axis.dilation = draw(random, 1, 3);
    axis.extent = axis.dilation * (axis.kernel - 1) + 1;
    axis.pad = draw(random, 0, axis.extent / 2);
    const int64_t overlap = axis.extent - axis.stride;
    axis.tail = ceil ? (axis.pad < overlap ? axis.pad : overlap) + axis.stride - 1 : axis.pad;
    task->in.dims[2 + i] = draw(random, 1, longest[window.rank - 1]);
  }
  task->block = 1;
  if (window.rank == 2 && task->element == kF32 && draw(random, 0, 1) == 1) {
    task->block = task->kernel->lanes << draw(random, 0, 2);
    task->in.dims[1] = task->block * draw(random, 1, 2);
  }
  Message ignored;
  return output_shape(window, task->in, &task->out, &ignored);
}

size_t cells(const Shape& shape) {
  size_t count = 1;
  for (size_t i = 0; i < shape.rank; ++i) count *= static_cast<size_t>(shape.dims[i]);
  return count;
}

// Random bits: every exponent, NaN and infinities among them; or numbers around 1, for the kernels' fast way.
std::vector<unsigned char> draw_input(std::mt19937_64& random, const Task& task) {
  const size_t bytes = cells(task.in) * kElementBytes[task.element];
  std::vector<unsigned char> input(bytes);
  const bool ordinary = draw(random, 0, 1) == 1;
  const uint64_t one[] = {0x3f8000003f800000, 0x3ff0000000000000, 0x3c003c003c003c00, 0x3f803f803f803f80};
  const uint64_t free[] = {0x803fffff803fffff, 0x800fffffffffffff, 0x83ff83ff83ff83ff, 0x803f803f803f803f};
  for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
    const uint64_t drawn = random(), bits = ordinary ? (drawn & free[task.element]) | one[task.element] : drawn;
    std::memcpy(input.data() + i, &bits, bytes - i < sizeof bits ? bytes - i : sizeof bits);
  }
  return input;
}

unsigned char* aligned(std::vector<unsigned char>* memory, size_t bytes) {
  memory->resize(bytes + 64);
  return reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(memory->data()) + 63) / 64 * 64);
}

void run(const Task& task, const Plan& plan, const Schedule& schedule, const void* const* inputs, void* output,
         void* shared, std::atomic<int64_t>* next) {
  std::vector<unsigned char> memory;
  void* const scratch = aligned(&memory, schedule.scratch_bytes);
  for (int64_t i = next->fetch_add(1); i < schedule.tasks; i = next->fetch_add(1)) {
    task.kernel->of[task.element].task(plan, schedule, inputs, output, i, scratch, shared);
  }
}

std::vector<unsigned char> pooled(const Task& task, const void* const* inputs, int threads) {
  std::vector<unsigned char> output(cells(task.out) * kElementBytes[task.element]), memory;
  const ElementKernel& kernel = task.kernel->of[task.element];
  Plan plan = make_plan(task.window, task.in, task.out);
  plan.block = task.block;
  const Schedule schedule = kernel.schedule(plan);
  void* const shared = aligned(&memory, schedule.shared_bytes);
  std::atomic<int64_t> next{0};
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) {
    others.emplace_back(run, std::cref(task), std::cref(plan), std::cref(schedule), inputs, output.data(), shared, &next);
  }
  run(task, plan, schedule, inputs, output.data(), shared, &next);
  for (std::thread& other : others) other.join();
  if (schedule.shared_bytes > 0) kernel.finish(plan, schedule, inputs, output.data(), shared);
  return output;
}

bool holds(std::mt19937_64& random, const Task& task) {
  const std::vector<unsigned char> first = draw_input(random, task), second = draw_input(random, task);
  const void* const inputs[] = {first.data(), second.data()};
  return pooled(task, inputs, 1) == pooled(task, inputs, kThreads);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return std::fprintf(stderr, "usage: fuzz_threads SEED SECONDS\n"), 2;
  std::mt19937_64 random(std::strtoull(arguments[1], nullptr, 10));
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::atof(arguments[2]));
  int64_t tasks = 0;
  while (tasks == 0 || std::chrono::steady_clock::now() < end) {
    Task task{};
    if (!draw_task(random, &task)) continue;
    if (!holds(random, task)) {
      std::printf("FAIL: %s, element type %d, differs by the number of threads\n", task.kernel->name, task.element);
      return 1;
    }
    ++tasks;
  }
  std::printf("pass: %lld tensors on %d threads\n", static_cast<long long>(tasks), kThreads);
  return 0;
}
