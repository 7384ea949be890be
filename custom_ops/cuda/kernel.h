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

}  // namespace onnxpool::cuda
