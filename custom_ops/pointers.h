// What libonnxpool.so offers to programs that hold plain memory and no ONNX Runtime, such as PyTorch's: one function,
// OnnxpoolCpu, which returns this table. It begins with a version so that another build's is refused, not misread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onnxpool {

constexpr int64_t kCpuVersion = 2;

// Calls body(begin, end, user) for ranges that make up [begin, end), on any threads, and returns 0 when all are done: the
// type of libtorch's torch_parallel_for. Null: everything on the calling thread.
using Parallel = int32_t (*)(int64_t begin, int64_t end, int64_t least, void (*body)(int64_t, int64_t, void*),
                             void* user);

// A status is 0 for success, else `why` has a reason of at most `room` bytes. Tensors are contiguous, as numbers.h has
// their shape and window; elements are numbered as in kernels/kernel.h: 0 float32, 1 float64, 2 float16, 3 bfloat16.
struct CpuLibrary {
  int64_t version;  // kCpuVersion

  // Pools `inputs` into `output`.
  int (*pool)(const char* op_type, int element, int64_t rank, const int64_t* shape, const int64_t* window,
              const void* const* inputs, void* output, Parallel parallel, char* why, size_t room);

  // From `grad`, of the output's shape, to the gradients of all inputs.
  int (*gradients)(const char* op_type, int element, int64_t rank, const int64_t* shape, const int64_t* window,
                   const void* const* inputs, const void* grad, void* const* slopes, Parallel parallel, char* why,
                   size_t room);

  // Stochastic pooling's draws, as kernels/draw.h says: `uniforms`, `y` and `places` have the output's shape. Planes have
  // fewer than 2^31 cells.
  int (*draw)(int element, int64_t rank, const int64_t* shape, const int64_t* window, const void* x, const void* uniforms,
              void* y, void* places, Parallel parallel, char* why, size_t room);

  // From `grad`, of the output's shape, to the gradients of x. Places that are not in the plane get none.
  int (*drawn_slopes)(int element, int64_t rank, const int64_t* shape, const int64_t* window, const void* grad,
                      const void* places, void* slopes, Parallel parallel, char* why, size_t room);

  // `count` matrices of `rows` rows of numbers of 4 or 8 bytes, each to one of `columns` rows.
  int (*turn)(size_t bytes, int64_t count, int64_t rows, int64_t columns, const void* from, void* to, Parallel parallel,
              char* why, size_t room);
};

using GetCpuLibrary = const CpuLibrary* (*)();

}  // namespace onnxpool
