// What all kernels on a GPU share: a thread's team, and the launch.
#pragma once

#include <cuda_runtime.h>

#include "pool.h"

namespace onnxpool::cuda {

template <class Seat>
struct DeviceTeam : Seat {
  template <class T>
  __device__ T exchange(T value, int distance) const {
    return __shfl_xor_sync(0xffffffff, value, distance);
  }
};

// The launch's own status; nothing waits for the kernel.
template <class Kernel>
cudaError_t launch(Kernel kernel, int64_t blocks, void** arguments, cudaStream_t stream) {
  const auto* const code = reinterpret_cast<const void*>(kernel);
  const cudaError_t status =
      cudaLaunchKernel(code, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), arguments, 0, stream);
  if (status != cudaSuccess) cudaGetLastError();  // it is reported here, and not once more to who looks next
  return status;
}

}  // namespace onnxpool::cuda
