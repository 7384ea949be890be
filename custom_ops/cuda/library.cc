// libonnxpool_cuda.so: the table that library.h describes, over the kernels of each method's .cu file.
#include "library.h"

#include <cstring>

#include "../numbers.h"
#include "kernel.h"

namespace onnxpool::cuda {
namespace {

constexpr const CudaKernel* kKernels[] = {&soft, &local_importance, &stochastic};
constexpr const CudaGradient* kGradients[] = {&soft_gradient, &local_importance_gradient, &stochastic_gradient};

// Copies a reason to the caller; returns 1, a status.
int refuse(const Message& message, char* why, size_t room) {
  std::snprintf(why, room, "%s", message.text());
  return 1;
}

int devices(char* why, size_t room) {
  int count = 0, driver = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return count;
  const bool no_driver = cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0;
  const char* const reason = no_driver ? "no NVIDIA driver is installed" : cudaGetErrorString(status);
  refuse(Message().add("no CUDA device can be used: %s", reason), why, room);
  return 0;
}

// Calls start(kernel) for the one of this name among `kernels`; its status.
template <class Kernels, class Start>
int launch(const Kernels& kernels, const char* op_type, char* why, size_t room, Start start) {
  for (const auto* kernel : kernels) {
    if (std::strcmp(kernel->name, op_type) != 0) continue;
    const cudaError_t status = start(*kernel);
    if (status == cudaSuccess) return 0;
    return refuse(Message().add("the CUDA kernel could not be started: %s", cudaGetErrorString(status)), why, room);
  }
  return refuse(Message().add("there is no CUDA kernel of the name '%s'", op_type), why, room);
}

int launch(const char* op_type, int element, const Window* window, const Shape* in, const Shape* out,
           const void* const* inputs, void* output, void* stream, char* why, size_t room) {
  return launch(kKernels, op_type, why, room, [&](const CudaKernel& kernel) {
    return kernel.start[element](pooling_of(*window, *in, *out), inputs, output, static_cast<cudaStream_t>(stream));
  });
}

// Checks plain numbers, and calls start(window, in, out) where there is something to compute.
template <class Start>
int checked(const char* op_type, int element, int64_t rank, const int64_t* shape, const int64_t* numbers, char* why,
            size_t room, Start start) {
  Window window;
  Shape in, out;
  Message message = Message().add("%s: ", op_type);
  if (element < 0 || element >= kCudaElements) {
    return refuse(message.add("element type %d is unknown; 0 is float32, 1 float64, 2 float16, 3 bfloat16", element),
                  why, room);
  }
  if (!read_numbers(rank, shape, numbers, &window, &in, &out, &message)) return refuse(message, why, room);
  if (in.dims[0] * in.dims[1] == 0) return 0;
  return start(window, in, out);
}

int pool(const char* op_type, int element, int64_t rank, const int64_t* shape, const int64_t* numbers,
         const void* const* inputs, void* output, void* stream, char* why, size_t room) {
  return checked(op_type, element, rank, shape, numbers, why, room,
                 [&](const Window& window, const Shape& in, const Shape& out) {
                   return launch(op_type, element, &window, &in, &out, inputs, output, stream, why, room);
                 });
}

int gradients(const char* op_type, int element, int64_t rank, const int64_t* shape, const int64_t* numbers,
              const void* const* inputs, const void* grad, void* const* slopes, void* scratch, void* stream, char* why,
              size_t room) {
  const auto start = [&](const Window& window, const Shape& in, const Shape& out) {
    return launch(kGradients, op_type, why, room, [&](const CudaGradient& kernel) {
      return kernel.start[element](pooling_of(window, in, out), inputs, grad, slopes, scratch,
                                   static_cast<cudaStream_t>(stream));
    });
  };
  return checked(op_type, element, rank, shape, numbers, why, room, start);
}

}  // namespace
}  // namespace onnxpool::cuda

extern "C" __attribute__((visibility("default"))) const onnxpool::CudaLibrary* OnnxpoolCuda() {
  using namespace onnxpool::cuda;
  static constexpr onnxpool::CudaLibrary kLibrary = {onnxpool::kCudaVersion, ONNXPOOL_CUDA_ARCHITECTURES, devices,
                                                     launch, pool, gradients};
  return &kLibrary;
}
