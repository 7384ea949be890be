// What kernels/quantized.cc offers: pooling of tensors of 8 bits with channels last, (N, *spatial, C), in which a stored q
// stands for scale * (q - zero). One array of kernels for each instruction set.
#pragma once

#include "geometry.h"

namespace onnxpool {

// How one node's tensors are stored. Where there are no logits, `logit_scale` is x_scale. A logit's zero point plays no
// part: weights relative to each other are all that a mean depends on.
struct Quantization {
  float x_scale = 1, logit_scale = 1, y_scale = 1;
  int32_t x_zero = 0, y_zero = 0;
  bool is_signed = false;  // int8, else uint8
};

// The largest ratio of x_scale to y_scale, so that what rounding takes from a mean is far less than a step of y; and the
// smallest, below which every y is its zero point.
constexpr float kMostRatio = 0x1p8F, kLeastRatio = 0x1p-24F;

// What a node needs of that, made once.
struct QuantizedTables {
  float weight[256] = {};          // or factors of weights, a register of them for each part of q
  bool ranged = false;             // weights are relative to the window's largest logit
  float ratio = 1, shift = 0;      // stored y = mean of q * ratio + shift + y_zero
  int32_t x_zero = 0, y_zero = 0;
};

constexpr int64_t kBand = 2;  // rows of outputs in a step

// A window over a tensor, and how it is divided: a step is a band of rows of outputs, or a tile of one, of some channels.
struct QuantizedPlan {
  Plan plan;  // its planes are the batch's
  int64_t channels = 0;
  int64_t tile = 1, tiles = 1, chunk = 1, chunks = 1;
  int64_t steps = 0, steps_per_task = 1, tasks = 0;
};

struct QuantizedKernel {
  const char* name;
  size_t inputs;  // 2 where there are logits
  void (*prepare)(const Quantization& stored, QuantizedTables* tables);
  void (*task[2])(const QuantizedPlan& plan, const QuantizedTables& tables, const void* const* inputs, void* output,
                  int64_t index);  // of uint8, of int8
};

constexpr size_t kQuantized = 3;

namespace baseline {
extern const QuantizedKernel quantized[kQuantized];
}
namespace avx2 {
extern const QuantizedKernel quantized[kQuantized];
}
namespace avx512 {
extern const QuantizedKernel quantized[kQuantized];
}

}  // namespace onnxpool
