// A window and a shape as plain numbers, for programs that call kernels by pointers: `shape` has rank + 2 of them,
// `window` kernel, strides, pads (begin..., end...), dilations and ceil_mode, 5 * rank + 1.
#pragma once

#include <cstring>

#include "kernels/geometry.h"

namespace onnxpool {

// read_window's view of them.
struct WindowNumbers {
  size_t rank;
  const int64_t* window;

  bool ints(const char* name, int64_t* out, size_t room, size_t* count) const {
    const bool pads = std::strcmp(name, "pads") == 0;
    const size_t at = std::strcmp(name, "kernel_shape") == 0 ? 0 : std::strcmp(name, "strides") == 0 ? 1 : pads ? 2 : 4;
    *count = pads ? 2 * rank : rank;
    if (*count > room) return false;
    std::memcpy(out, window + at * rank, *count * sizeof *out);
    return true;
  }
  bool integer(const char*, int64_t* out) const {
    *out = window[5 * rank];
    return true;
  }
};

// Checks them all; false leaves the reason in `why`.
inline bool read_numbers(int64_t rank, const int64_t* shape, const int64_t* numbers, Window* window, Shape* in,
                         Shape* out, Message* why) {
  if (rank < 1 || rank > kMostAxes) {
    why->add("rank %lld; expected 1, 2 or 3", static_cast<long long>(rank));
    return false;
  }
  in->rank = static_cast<size_t>(rank) + 2;
  std::memcpy(in->dims, shape, in->rank * sizeof *shape);
  return read_window(WindowNumbers{static_cast<size_t>(rank), numbers}, window, why) &&
         output_shape(*window, *in, out, why);
}

}  // namespace onnxpool
