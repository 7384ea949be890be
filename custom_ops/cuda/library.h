// What libonnxpool_cuda.so offers: one function, OnnxpoolCuda, which returns this table. The two libraries come from
// one build and lie in one folder; the table begins with a version so that another build's is refused, not misread.
//
// It also serves programs that have pointers to device memory and no ONNX Runtime: `pool`, `gradients`.
#pragma once

#include "../kernels/geometry.h"

namespace onnxpool {

constexpr int64_t kCudaVersion = 2;

constexpr int kCudaElements = 4;  // 0 float32, 1 float64, 2 float16, 3 bfloat16, as kernels/kernel.h numbers them

// `why` takes a reason of at most `room` bytes. A status is 0 for success.
struct CudaLibrary {
  int64_t version;            // kCudaVersion
  const char* architectures;  // as CMake names them: "75-real, ..., 90-virtual"

  // How many CUDA devices there are; where that is 0, the reason.
  int (*devices)(char* why, size_t room);

  // Starts one pooling on a stream and does not wait for it. Window and shapes have been checked; there is an output.
  int (*launch)(const char* op_type, int element, const Window* window, const Shape* in, const Shape* out,
                const void* const* inputs, void* output, void* stream, char* why, size_t room);

  // The same from plain numbers, which are checked: `element` is below kCudaElements, `shape` has rank + 2 numbers,
  // `window` kernel, strides, pads (begin..., end...), dilations and ceil_mode: 5 * rank + 1 numbers.
  int (*pool)(const char* op_type, int element, int64_t rank, const int64_t* shape, const int64_t* window,
              const void* const* inputs, void* output, void* stream, char* why, size_t room);

  // Starts, in the same way, what leads from `grad`, of the output's shape, to the gradients of all inputs. `scratch` has
  // room for three numbers of each window: double for float64, float for other elements.
  int (*gradients)(const char* op_type, int element, int64_t rank, const int64_t* shape, const int64_t* window,
                   const void* const* inputs, const void* grad, void* const* slopes, void* scratch, void* stream,
                   char* why, size_t room);
};

using GetCudaLibrary = const CudaLibrary* (*)();

}  // namespace onnxpool
