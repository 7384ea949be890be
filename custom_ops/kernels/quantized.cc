// Pooling of tensors of 8 bits: quantized_loops.h has the arithmetic and the loops.
#include "quantized_loops.h"

namespace onnxpool::ONNXPOOL_ISA {

extern const QuantizedKernel quantized[kQuantized];
constexpr QuantizedKernel quantized[kQuantized] = {
    quantized_kernel<false, true>("QLinearSoftPool"),
    quantized_kernel<true, true>("QLinearLocalImportancePool"),
    quantized_kernel<false, false>("QLinearStochasticPool"),
};

}  // namespace onnxpool::ONNXPOOL_ISA
