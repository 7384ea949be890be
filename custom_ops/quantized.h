// The operators that take tensors of 8 bits: QLinearSoftPool, QLinearLocalImportancePool, QLinearStochasticPool. No file
// holds them: onnxpool/graph/integers.py puts them in the place of `DequantizeLinear -> pooling -> QuantizeLinear` when a
// model is loaded.
#pragma once

#include "kernels/quantized.h"

namespace onnxpool {

OrtStatus* add_quantized(const Ort& ort, const QuantizedKernel* kernels, OrtCustomOpDomain* domain);

}  // namespace onnxpool
