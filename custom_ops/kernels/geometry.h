// The pooling window and the plan: attributes, checked when a model loads; with a shape they give a frozen plan when it
// runs, and the loops over a plan ask nothing about arguments any more.
//
// Along an axis of n cells, with extent = dilation * (kernel - 1) + 1:
//
//   output = floor((n + pad + tail - extent) / stride) + 1
//   tail = pad, or in ceil_mode min(pad, extent - stride) + stride - 1
//
// Tail is how far windows may reach beyond the end: in ceil_mode as far as they like, unless they would start there.
// The rule of onnxpool/window.py, PyTorch and ONNX Runtime's MaxPool.
#pragma once

#include "../ort.h"

namespace onnxpool {

// No single number and no extent may pass this, so that no product in a plan overflows. (16 million cells.)
constexpr int64_t kMostCells = int64_t{1} << 24;
constexpr int64_t kMostAxes = 3;

struct Axis {
  int64_t kernel = 1, stride = 1, pad = 0, dilation = 1;
  int64_t extent = 1;

  int64_t tail = 0;

  // Output cells = floor((n + shift()) / stride) + 1: below 1 where no window fits.
  int64_t shift() const { return pad + tail - extent; }
  int64_t output(int64_t n) const {
    const int64_t last = n + shift();
    return (last >= 0 ? last / stride : -((stride - 1 - last) / stride)) + 1;
  }

  // A dilated window that starts in the padding steps over an input shorter than its step: no cell would be inside.
  bool misses(int64_t n) const {
    for (int64_t start = -pad; start < 0 && dilation > n; start += stride) {
      if ((start % dilation + dilation) % dilation >= n) return true;
    }
    return false;
  }

  // One window, over every cell.
  bool whole(int64_t n) const { return output(n) == 1 && extent - pad >= n && (dilation == 1 || n == 1); }
};

struct Window {
  int64_t rank = 0;
  Axis axis[kMostAxes];
};

// Always three axes (depth, height, width): what a 1d or 2d input lacks is an axis of one cell and a window of one.
struct PlannedAxis : Axis {
  int64_t in = 1, out = 1;
};

// A window over a shape.
struct Plan {
  int64_t planes = 0;  // N * C, each pooled by itself
  int64_t block = 1;   // channels that lie beside each other in memory, (N, C / block, *spatial, block); or 1, (N, C, *spatial)
  PlannedAxis depth, height, width;

  // Where a cell of the input lies, and one of the output.
  int64_t cell_of(int64_t plane, int64_t z, int64_t h, int64_t w) const {
    return (((plane / block * depth.in + z) * height.in + h) * width.in + w) * block + plane % block;
  }
  int64_t result_of(int64_t plane, int64_t z, int64_t h, int64_t w) const {
    return (((plane / block * depth.out + z) * height.out + h) * width.out + w) * block + plane % block;
  }
};

// Names of pooling attributes elsewhere. ONNX Runtime does not list a node's attributes to its kernel, so unknown names
// cannot be found in general; these are refused because a reader would expect them to do something.
constexpr const char* kForeignAttributes[] = {
    "auto_pad", "storage_order",  "count_include_pad", "kernel_size", "kernel",           "stride",
    "pad",      "padding",        "dilation",          "ceil",        "divisor_override", "output_size",
    "output_padding", "p",        "axis",              "axes",        "beta",             "temperature"};

// Reads and checks one node's attributes. `read_ints(name, out, room, &count)` and `read_int(name, &out)` return
// whether the attribute is there with that type. False leaves the reason in `why`.
template <class Attributes>
bool read_window(const Attributes& attributes, Window* window, Message* why) {
  constexpr size_t kRoom = 2 * kMostAxes;
  int64_t kernel[kRoom], strides[kRoom], pads[kRoom], dilations[kRoom], ceil_mode = 0;
  size_t rank = 0;
  const auto read = [&](const char* name, int64_t* out, size_t expected, int64_t least) {
    size_t count = 0;
    // An attribute of another type looks like an empty list.
    if (!attributes.ints(name, out, kRoom, &count) || count == 0) {
      why->add("attribute %s is missing or is not a list of 1 to %d integers; write all of kernel_shape, strides, "
               "pads, dilations (lists) and ceil_mode (0 or 1) on the node", name, static_cast<int>(kRoom));
      return false;
    }
    if (expected != 0 && count != expected) {
      why->add("attribute %s is ", name).add(out, count);
      why->add(", %d numbers, but kernel_shape has %d axes: expected %d numbers", static_cast<int>(count),
               static_cast<int>(rank), static_cast<int>(expected));
      return false;
    }
    for (size_t i = 0; i < count; ++i) {
      if (out[i] >= least && out[i] <= kMostCells) continue;
      why->add("attribute %s is ", name).add(out, count);
      why->add("; each number must be from %d to %d", static_cast<int>(least), static_cast<int>(kMostCells));
      return false;
    }
    if (expected == 0) rank = count;
    return true;
  };
  if (!read("kernel_shape", kernel, 0, 1)) return false;
  if (rank < 1 || rank > kMostAxes) {
    why->add("attribute kernel_shape is ").add(kernel, rank).add("; expected 1, 2 or 3 numbers, one per spatial axis");
    return false;
  }
  if (!read("strides", strides, rank, 1) || !read("pads", pads, 2 * rank, 0) || !read("dilations", dilations, rank, 1))
    return false;
  if (!attributes.integer("ceil_mode", &ceil_mode) || (ceil_mode != 0 && ceil_mode != 1)) {
    why->add("attribute ceil_mode is missing or is not the integer 0 or 1; write one of them on the node");
    return false;
  }
  window->rank = static_cast<int64_t>(rank);
  int64_t cells = 1;
  for (size_t i = 0; i < rank; ++i) {
    Axis& axis = window->axis[i];
    axis.kernel = kernel[i], axis.stride = strides[i], axis.pad = pads[i], axis.dilation = dilations[i];
    axis.extent = axis.dilation * (axis.kernel - 1) + 1;
    cells *= axis.kernel;
    if (axis.extent > kMostCells || cells > kMostCells) {
      why->add("the window (kernel_shape ").add(kernel, rank).add(", dilations ").add(dilations, rank);
      why->add(") has more than %d cells or spans more positions than that; use a smaller one",
               static_cast<int>(kMostCells));
      return false;
    }
    if (pads[rank + i] != pads[i]) {
      why->add("attribute pads is ").add(pads, 2 * rank);
      why->add(", different at begin and end; write equal ones, and pad the input itself with -inf for the rest");
      return false;
    }
    if (axis.pad > axis.extent / 2) {
      why->add("attribute pads is ").add(pads, 2 * rank);
      why->add("; on axis %d at most %d is allowed, half the extent %d of the window", static_cast<int>(i),
               static_cast<int>(axis.extent / 2), static_cast<int>(axis.extent));
      return false;
    }
    const int64_t overlap = axis.extent - axis.stride;
    axis.tail = ceil_mode == 0 ? axis.pad : (axis.pad < overlap ? axis.pad : overlap) + axis.stride - 1;
  }
  return true;
}

// The output shape for an input shape, or false and the reason.
inline bool output_shape(const Window& window, const Shape& in, Shape* out, Message* why) {
  const auto rank = static_cast<size_t>(window.rank);
  if (in.rank != rank + 2) {
    why->add("the input has %d axes, but kernel_shape has %d: expected (N, C, *spatial), %d axes",
             static_cast<int>(in.rank), static_cast<int>(rank), static_cast<int>(rank + 2));
    return false;
  }
  *out = in;
  for (size_t i = 0; i < rank; ++i) {
    const Axis& axis = window.axis[i];
    const int64_t n = in.dims[2 + i];
    out->dims[2 + i] = n < 1 ? 0 : axis.output(n);
    if (out->dims[2 + i] < 1 || axis.misses(n)) {
      why->add("the input of shape ").add(in.dims, in.rank);
      why->add(" is too small on spatial axis %d: a window there spans %d positions %d apart with padding %d, and must "
               "fit the padded input and hold a cell of it",
               static_cast<int>(i), static_cast<int>(axis.extent), static_cast<int>(axis.dilation),
               static_cast<int>(axis.pad));
      return false;
    }
  }
  return true;
}

// For operators of several inputs: false and the reason where another's shape differs from the first's.
inline bool same_shape(const Shape& first, const Shape& other, Message* why) {
  bool same = first.rank == other.rank;
  for (size_t i = 0; same && i < first.rank; ++i) same = first.dims[i] == other.dims[i];
  if (same) return true;
  why->add("the inputs have the shapes ").add(first.dims, first.rank).add(" and ");
  if (other.rank <= Shape::kMost) why->add(other.dims, other.rank);
  else why->add("one of %d axes", static_cast<int>(other.rank));
  why->add("; they must be equal: expand the smaller one");
  return false;
}

// Shapes have been checked by output_shape.
inline Plan make_plan(const Window& window, const Shape& in, const Shape& out) {
  Plan plan;
  plan.planes = in.dims[0] * in.dims[1];
  PlannedAxis* const last[] = {&plan.depth, &plan.height, &plan.width};
  for (int64_t i = 0; i < window.rank; ++i) {
    PlannedAxis& axis = *last[kMostAxes - window.rank + i];
    static_cast<Axis&>(axis) = window.axis[i];
    axis.in = in.dims[2 + i];
    axis.out = out.dims[2 + i];
  }
  return plan;
}

}  // namespace onnxpool
