// What a method's file of device code offers: a function for each element type that starts its kernel.
#pragma once

#include <cuda_runtime.h>

#include "job.h"
#include "library.h"

namespace onnxpool::cuda {

using Start = cudaError_t (*)(const Pooling& pooling, const void* const* inputs, void* output, cudaStream_t stream);

struct CudaKernel {
  const char* name;
  Start start[kCudaElements];
};

extern const CudaKernel soft, local_importance, stochastic;

using StartGradient = cudaError_t (*)(const Pooling& pooling, const void* const* inputs, const void* grad,
                                      void* const* slopes, void* scratch, cudaStream_t stream);

struct CudaGradient {
  const char* name;
  StartGradient start[kCudaElements];
};

extern const CudaGradient soft_gradient, local_importance_gradient, stochastic_gradient;

}  // namespace onnxpool::cuda
