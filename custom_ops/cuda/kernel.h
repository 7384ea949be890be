// What a method's file of device code offers: a function for each element type that starts its kernel.
#pragma once

#include <cuda_runtime.h>

#include "../kernels/kernel.h"

namespace onnxpool::ONNXPOOL_ISA {

using Start = cudaError_t (*)(const Plan& plan, const void* const* inputs, void* output, cudaStream_t stream);

struct CudaKernel {
  const char* name;
  Start start[kElementTypes];
};

extern const CudaKernel soft, local_importance, stochastic;

}  // namespace onnxpool::ONNXPOOL_ISA
