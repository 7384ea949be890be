// Which of the kernels' instruction sets this process runs.
#pragma once

#include <cstdlib>
#include <cstring>

#include "kernels/draw.h"
#include "kernels/kernel.h"
#include "kernels/layout.h"
#include "kernels/quantized.h"

namespace onnxpool {

struct Kernels {
  const Kernel* of[kMethods];
  const QuantizedKernel* quantized;
  const DrawKernel* draw;
  Turn* turn;
};
constexpr Kernels kBaseline{{&baseline::soft, &baseline::local_importance, &baseline::stochastic},
                            baseline::quantized, baseline::draw, baseline::turn};
#if defined(ONNXPOOL_AVX2)
constexpr Kernels kAvx2{{&avx2::soft, &avx2::local_importance, &avx2::stochastic},
                            avx2::quantized, avx2::draw, avx2::turn};
#endif
#if defined(ONNXPOOL_AVX512)
constexpr Kernels kAvx512{{&avx512::soft, &avx512::local_importance, &avx512::stochastic},
                            avx512::quantized, avx512::draw, avx512::turn};
#endif

// The kernels for the best instruction set of this processor, or for the one that ONNXPOOL_CPU names (for tests). Null
// leaves the reason in `why`.
inline const Kernels* choose_kernels(Message* why) {
  const char* const wanted = std::getenv("ONNXPOOL_CPU");
  const bool any = wanted == nullptr || *wanted == '\0';
#if defined(ONNXPOOL_AVX512)
  if ((any || std::strcmp(wanted, "avx512") == 0) && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    return &kAvx512;
  }
#endif
#if defined(ONNXPOOL_AVX2)
  if ((any || std::strcmp(wanted, "avx2") == 0) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    return &kAvx2;
  }
#endif
  if (any || std::strcmp(wanted, "baseline") == 0) return &kBaseline;
  why->add("environment variable ONNXPOOL_CPU is '%s', which this build or this processor does not have; unset it, or "
           "use 'baseline'", wanted);
  return nullptr;
}

// How many channels ONNX Runtime keeps in a block on this processor; 0 where that is not known here.
inline int64_t block_of_processor() {
#if defined(__x86_64__) || defined(_M_X64)
  return __builtin_cpu_supports("avx512f") ? 16 : 8;
#else
  return 0;
#endif
}

}  // namespace onnxpool
