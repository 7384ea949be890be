// draw.h on the CPU. Draws: each lane is a plane, as in gradient.h; a task is a part of as many planes' outputs as a
// register has lanes. Their gradients: a task is a part of one plane's input, or several planes; every cell adds up what
// windows send to it in the order of outputs, so that bits do not depend on tasks.
#include "draw.h"

#include "gradient.h"

namespace onnxpool::ONNXPOOL_ISA {

// As many numbers, or places, as a register holds doubles, to and from doubles: a piece of a register.
template <class Value>
struct Piece;
template <>
struct Piece<double> {
  using Number = Vec<double>;
  using Place = Vec<int64_t>;
  INLINED static Vec<double> widen(Number x) { return x; }
  INLINED static Number narrow(Vec<double> x) { return x; }
  INLINED static Place whole(Vec<double> x) { return __builtin_convertvector(x, Place); }
};
template <>
struct Piece<float> {
  typedef float Number __attribute__((vector_size(kVectorBytes / 2)));
  typedef int32_t Place __attribute__((vector_size(kVectorBytes / 2)));
#if defined(__AVX512F__)
  INLINED static Vec<double> widen(Number x) { return reinterpret_cast<Vec<double>>(_mm512_maskz_cvtps_pd(0xff, x)); }
  INLINED static Number narrow(Vec<double> x) { return reinterpret_cast<Number>(_mm512_maskz_cvtpd_ps(0xff, x)); }
  INLINED static Place whole(Vec<double> x) { return reinterpret_cast<Place>(_mm512_maskz_cvttpd_epi32(0xff, x)); }
#elif defined(__AVX2__)
  INLINED static Vec<double> widen(Number x) { return reinterpret_cast<Vec<double>>(_mm256_cvtps_pd(x)); }
  INLINED static Number narrow(Vec<double> x) { return reinterpret_cast<Number>(_mm256_cvtpd_ps(x)); }
  INLINED static Place whole(Vec<double> x) { return reinterpret_cast<Place>(_mm256_cvttpd_epi32(x)); }
#else
  INLINED static Vec<double> widen(Number x) { return __builtin_convertvector(x, Vec<double>); }
  INLINED static Number narrow(Vec<double> x) { return __builtin_convertvector(x, Number); }
  INLINED static Place whole(Vec<double> x) { return __builtin_convertvector(x, Place); }
#endif
};

// Some outputs along an axis, and the cells that their windows reach.
struct OutputPart {
  int64_t output, output_end, cell, cell_end;

  OutputPart(const PlannedAxis& axis, const GradientParts& parts, int64_t index) {
    output = index * parts.own, output_end = least(axis.out, output + parts.own);
    cell = most(0, output * axis.stride - axis.pad);
    cell_end = most(cell, least(axis.in, (output_end - 1) * axis.stride - axis.pad + axis.extent));
  }
  int64_t cells() const { return cell_end - cell; }
  int64_t outputs() const { return output_end - output; }
};

template <class T>
class DrawLoop {
  using Value = Wide<T>;
  using V = Vec<Value>;
  using D = Vec<double>;
  using I = Ints<double>;
  static constexpr int64_t kN = kLanes<Value>;
  static constexpr size_t kPieces = sizeof(double) / sizeof(Value);
  static constexpr int64_t kCells = 2048;  // of a part, about: what is held of it fits the second cache

 public:
  static GradientSchedule schedule(const Plan& plan) {
    GradientSchedule s;
    const int64_t slices = least(plan.depth.in, 2 * plan.depth.extent), rows = least(plan.height.in, plan.height.extent);
    s.width = parts(plan.width, kCells / (slices * rows));
    s.height = parts(plan.height, kCells / (slices * s.width.cells));
    s.depth = parts(plan.depth, kCells / (s.height.cells * s.width.cells));
    s.groups = (plan.planes + kN - 1) / kN;
    s.tasks = s.groups * s.depth.parts * s.height.parts * s.width.parts;
    const size_t window = static_cast<size_t>(window_cells(plan));
    s.scratch_bytes = static_cast<size_t>(cells(s) + 3 * outputs(s)) * kVectorBytes + window * 2 * sizeof(int64_t);
    return s;
  }

  static void task(const Plan& plan, const GradientSchedule& s, const void* x, const void* uniforms, void* y,
                   void* places, int64_t index, void* scratch) {
    DrawLoop(plan, s, index)
        .run(static_cast<const T*>(x), static_cast<const Value*>(uniforms), static_cast<T*>(y),
             static_cast<Value*>(places), static_cast<V*>(scratch));
  }

 private:
  DrawLoop(const Plan& plan, const GradientSchedule& s, int64_t index)
      : plan_(plan),
        schedule_(s),
        depth_(plan.depth, s.depth, index / s.groups / s.width.parts / s.height.parts),
        height_(plan.height, s.height, index / s.groups / s.width.parts % s.height.parts),
        width_(plan.width, s.width, index / s.groups % s.width.parts) {
    cells_.first = index % s.groups * kN;
    cells_.used = least(kN, plan.planes - cells_.first);
    numbers_.first = cells_.first, numbers_.used = cells_.used;
  }

  // Parts of about so many cells, but of several windows, so that not too many cells are loaded twice.
  static GradientParts parts(const PlannedAxis& axis, int64_t wanted) {
    GradientParts found;
    const int64_t outputs = (most(wanted, 4 * axis.extent) - axis.extent) / axis.stride + 1;
    found.parts = (axis.out + outputs - 1) / outputs;
    found.own = found.outputs = (axis.out + found.parts - 1) / found.parts;
    found.parts = (axis.out + found.own - 1) / found.own;
    found.cells = least(axis.in, (found.own - 1) * axis.stride + axis.extent);
    return found;
  }

  // In registers, with room for what whole registers write beyond.
  static int64_t cells(const GradientSchedule& s) { return s.depth.cells * s.height.cells * s.width.cells + kN; }
  static int64_t outputs(const GradientSchedule& s) { return s.depth.outputs * s.height.outputs * s.width.outputs + kN; }
  static int64_t window_cells(const Plan& plan) {
    const auto most_inside = [](const PlannedAxis& axis) { return least(axis.kernel, axis.in); };
    return most_inside(plan.depth) * most_inside(plan.height) * most_inside(plan.width);
  }

  // The cells of a window: where they are in the box, and in the plane, from its start on.
  struct Cells {
    int64_t* box;
    double* plane;
    int64_t count;
  };

  void run(const T* x, const Value* uniforms, T* y, Value* places, V* scratch) {
    V* const box = scratch;
    V* const numbers = box + cells(schedule_);
    V* const drawn = numbers + outputs(schedule_);
    V* const at = drawn + outputs(schedule_);
    auto* const plane_of = reinterpret_cast<double*>(at + outputs(schedule_));
    auto* const box_of = reinterpret_cast<int64_t*>(plane_of + window_cells(plan_));
    load_box(x, box);
    const int64_t slice = plan_.height.out * plan_.width.out, plane = plan_.depth.out * slice;
    each_run([&](int64_t to, int64_t count, int64_t from) {
      numbers_.load_run(uniforms, plane, to, count, numbers + from);
    });
    draw(box, numbers, drawn, at, Cells{box_of, plane_of, 0});
    // From the first run to the last: a register's worth beyond a run is the next one's.
    each_run([&](int64_t to, int64_t count, int64_t from) {
      cells_.store_run(drawn + from, plane, to, count, y);
      numbers_.store_run(at + from, plane, to, count, places);
    });
  }

  // Every window, in the order of outputs.
  KEEP_CALL void draw(const V* box, const V* numbers, V* drawn, V* places, Cells window) const {
    Clip z, h, w, known_z, known_h, known_w;
    for (int64_t i = depth_.output; i < depth_.output_end; ++i) {
      z = Clip(plan_.depth, i);
      for (int64_t j = height_.output; j < height_.output_end; ++j) {
        h = Clip(plan_.height, j);
        for (int64_t k = width_.output; k < width_.output_end; ++k) {
          w = Clip(plan_.width, k);
          if (!z.same_cells(known_z) || !h.same_cells(known_h) || !w.same_cells(known_w)) {
            window.count = place(z, h, w, window);
            known_z = z, known_h = h, known_w = w;
          }
          const int64_t row = (z.start - depth_.cell) * height_.cells() + h.start - height_.cell;
          const V* const start = box + (row * width_.cells() + w.start - width_.cell);
          const int64_t in_plane = (z.start * plan_.height.in + h.start) * plan_.width.in + w.start;
          one(start, window, static_cast<double>(in_plane), numbers++, drawn++, places++);
        }
      }
    }
  }

  // Pieces of registers in memory.
  INLINED static D read(const V* from, size_t piece) {
    typename Piece<Value>::Number number;
    std::memcpy(&number, reinterpret_cast<const unsigned char*>(from) + piece * sizeof number,
                sizeof number);
    return Piece<Value>::widen(number);
  }
  template <class Stored>
  INLINED static void write(Stored stored, size_t piece, V* to) {
    std::memcpy(reinterpret_cast<unsigned char*>(to) + piece * sizeof stored, &stored, sizeof stored);
  }
  // max(x, 0); NaN stays.
  INLINED static D rectified(const V* from, size_t piece) { return larger(D{}, read(from, piece)); }

  // One window of each plane.
  INLINED static void one(const V* start, const Cells& window, double in_plane, const V* number, V* drawn, V* places) {
    D scale[kPieces], total[kPieces] = {}, threshold[kPieces], before[kPieces] = {}, value[kPieces] = {};
    D place[kPieces];
    if constexpr (kPieces == 1) scale[0] = down(start, window);
    for (int64_t i = 0; i < window.count; ++i) {
      UNROLL_ALL
      for (size_t n = 0; n < kPieces; ++n) {
        const D x = rectified(start + window.box[i], n);
        total[n] = total[n] + (kPieces == 1 ? x * scale[n] : x);
      }
    }
    UNROLL_ALL
    for (size_t n = 0; n < kPieces; ++n) threshold[n] = read(number, n) * total[n], place[n] = D{} - 1 - in_plane;
    for (int64_t i = 0; i < window.count; ++i) {
      const D here = all(window.plane[i]);
      UNROLL_ALL
      for (size_t n = 0; n < kPieces; ++n) {
        const D x = rectified(start + window.box[i], n), share = kPieces == 1 ? x * scale[n] : x;
        const I own = (share > 0) & (before[n] <= threshold[n]);
        value[n] = own ? x : value[n], place[n] = own ? here : place[n];
        before[n] = before[n] + share;
      }
    }
    UNROLL_ALL
    for (size_t n = 0; n < kPieces; ++n) {
      const I some = total[n] < infinity<double>();
      write(Piece<Value>::narrow(some ? value[n] : all(-infinity<double>() * 0)), n, drawn);
      write(Piece<Value>::whole(some ? place[n] + in_plane : D{} - 1), n, places);
    }
  }

  // What sums of doubles are to be multiplied by: a power of two, so that they neither overflow nor lose digits.
  INLINED static D down(const V* start, const Cells& window) {
    D top = all(0x1p-1022);
    for (int64_t i = 0; i < window.count; ++i) top = larger(rectified(start + window.box[i], 0), top);
    const D power = number_of<double>(whole_bits<double>(top) & INT64_C(0x7ff0000000000000));
    return larger(1 / power, all(0x1p-1022));  // and where a cell is infinite
  }

  int64_t place(const Clip& z, const Clip& h, const Clip& w, const Cells& to) const {
    int64_t count = 0;
    for (int64_t i = z.first; i < z.last; ++i) {
      for (int64_t j = h.first; j < h.last; ++j) {
        const int64_t slice = i * plan_.depth.dilation, row = j * plan_.height.dilation;
        for (int64_t k = w.first; k < w.last; ++k, ++count) {
          const int64_t column = k * plan_.width.dilation;
          to.box[count] = (slice * height_.cells() + row) * width_.cells() + column;
          to.plane[count] = static_cast<double>((slice * plan_.height.in + row) * plan_.width.in + column);
        }
      }
    }
    return count;
  }

  // Rows that follow each other without a gap are one run.
  void load_box(const T* x, V* box) const {
    const PlannedAxis &height = plan_.height, &width = plan_.width;
    const int64_t plane = plan_.depth.in * height.in * width.in;
    const bool whole_rows = width_.cells() == width.in;
    const int64_t run = whole_rows ? height_.cells() * width.in : width_.cells();
    for (int64_t i = depth_.cell; i < depth_.cell_end; ++i) {
      for (int64_t j = height_.cell; j < (whole_rows ? height_.cell + 1 : height_.cell_end); ++j, box += run) {
        cells_.load_run(x, plane, (i * height.in + j) * width.in + width_.cell, run, box);
      }
    }
  }
  // visit(where it is in a plane of outputs, how many, where in the part) for each run of outputs.
  template <class Visit>
  void each_run(const Visit& visit) const {
    const PlannedAxis &height = plan_.height, &width = plan_.width;
    const bool whole_rows = width_.outputs() == width.out;
    const int64_t run = whole_rows ? height_.outputs() * width.out : width_.outputs();
    int64_t from = 0;
    for (int64_t i = depth_.output; i < depth_.output_end; ++i) {
      for (int64_t j = height_.output; j < (whole_rows ? height_.output + 1 : height_.output_end); ++j, from += run) {
        visit((i * height.out + j) * width.out + width_.output, run, from);
      }
    }
  }

  const Plan& plan_;
  const GradientSchedule& schedule_;
  const OutputPart depth_, height_, width_;
  PlanesInLanes<T> cells_;
  PlanesInLanes<Value> numbers_;
};

// Gradients go to the cells that were drawn. The first axis that has more than one cell is divided.
template <class T>
class DrawnSlopes {
  using Value = Wide<T>;
  using Place = std::conditional_t<sizeof(Value) == 8, int64_t, int32_t>;
  static constexpr int64_t kCells = 8192;  // of a part, about

 public:
  static GradientSchedule schedule(const Plan& plan) {
    GradientSchedule s;
    const PlannedAxis& axis = first_axis(plan);
    const int64_t slice = cells(plan) / axis.in, wanted = most(most(1, kCells / slice), axis.extent);
    GradientParts& parts = s.depth;
    parts.parts = (axis.in + wanted - 1) / wanted;
    parts.own = (axis.in + parts.parts - 1) / parts.parts;
    parts.parts = (axis.in + parts.own - 1) / parts.own;
    parts.cells = parts.own * slice;
    parts.outputs = parts.parts > 1 ? 1 : most(1, kTaskCells / cells(plan));  // planes at once
    s.groups = (plan.planes + parts.outputs - 1) / parts.outputs;
    s.tasks = s.groups * parts.parts;
    s.scratch_bytes = static_cast<size_t>(parts.cells) * sizeof(Value);
    return s;
  }

  static void task(const Plan& plan, const GradientSchedule& s, const void* grad, const void* places, void* slopes,
                   int64_t index, void* scratch) {
    const PlannedAxis& axis = first_axis(plan);
    const int64_t inputs = cells(plan), outputs = plan.depth.out * plan.height.out * plan.width.out;
    const int64_t slice = inputs / axis.in, first = index / s.depth.parts * s.depth.outputs;
    const AxisPart part(axis, s.depth, index % s.depth.parts);
    const int64_t own = part.own * slice, count = (part.own_end - part.own) * slice;
    const int64_t begin = part.output * (outputs / axis.out), end = part.output_end * (outputs / axis.out);
    for (int64_t plane = first; plane < least(plan.planes, first + s.depth.outputs); ++plane) {
      add_up(static_cast<const T*>(grad) + plane * outputs, static_cast<const Place*>(places) + plane * outputs, begin, end,
             own, count, static_cast<Value*>(scratch));
      put(static_cast<const Value*>(scratch), count, static_cast<T*>(slopes) + plane * inputs + own);
    }
  }

 private:
  static int64_t cells(const Plan& plan) { return plan.depth.in * plan.height.in * plan.width.in; }
  static const PlannedAxis& first_axis(const Plan& plan) {
    const auto counts = [](const PlannedAxis& axis) { return axis.in > 1 || axis.out > 1; };
    return counts(plan.depth) ? plan.depth : counts(plan.height) ? plan.height : plan.width;
  }

  KEEP_CALL static void add_up(const T* __restrict grad, const Place* __restrict places, int64_t begin, int64_t end,
                               int64_t own, int64_t count, Value* __restrict sums) {
    std::memset(sums, 0, static_cast<size_t>(count) * sizeof *sums);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = places[i] - own;
      if (at >= 0 && at < count) sums[at] += widen(grad[i]);
    }
  }
  KEEP_CALL static void put(const Value* __restrict sums, int64_t count, T* __restrict slopes) {
    constexpr int64_t kN = kLanes<Value>;
    int64_t i = 0;
    for (; i + kN <= count; i += kN) store(load(sums + i), slopes + i);
    if (i < count) store_part(load_part(sums + i, Span<Value>(0, count - i)), Span<T>(0, count - i), slopes + i);
  }
};

template <class T>
constexpr DrawKernel draw_of() {
  return {DrawLoop<T>::schedule, DrawLoop<T>::task, DrawnSlopes<T>::schedule, DrawnSlopes<T>::task};
}

extern const DrawKernel draw[kElementTypes];
constexpr DrawKernel draw[kElementTypes] = {draw_of<float>(), draw_of<double>(), draw_of<Half>(), draw_of<Bfloat>()};

}  // namespace onnxpool::ONNXPOOL_ISA
