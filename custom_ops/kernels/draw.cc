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
struct OutputsPart {
  Range outputs, cells;

  OutputsPart(const PlannedAxis& axis, const GradientParts& parts, int64_t index) {
    outputs = {index * parts.own, least(axis.out, (index + 1) * parts.own)};
    cells.begin = most(0, outputs.begin * axis.stride - axis.pad);
    cells.end = most(cells.begin, least(axis.in, (outputs.end - 1) * axis.stride - axis.pad + axis.extent));
  }
};

template <class T>
class DrawLoop : PartLoop<OutputsPart, T> {
  using Base = PartLoop<OutputsPart, T>;
  using typename Base::V;
  using typename Base::Value;
  using Base::plan_, Base::planes_, Base::schedule_;
  using D = Vec<double>;
  using I = Ints<double>;
  static constexpr size_t kPieces = sizeof(double) / sizeof(Value);

 public:
  static GradientSchedule schedule(const Plan& plan) {
    GradientSchedule s = Base::divided(plan, parts);
    const size_t window = static_cast<size_t>(Base::window_cells(plan));
    s.scratch_bytes =
        static_cast<size_t>(Base::cells(s) + 3 * Base::outputs(s)) * kVectorBytes + window * 2 * sizeof(int64_t);
    return s;
  }

  static void task(const Plan& plan, const GradientSchedule& s, const void* x, const void* uniforms, void* y,
                   void* places, int64_t index, void* scratch) {
    DrawLoop(plan, s, index)
        .run(static_cast<const T*>(x), static_cast<const Value*>(uniforms), static_cast<T*>(y),
             static_cast<Value*>(places), static_cast<V*>(scratch));
  }

 private:
  using Base::Base;

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

  // The cells of a window: where they are in the box, and in the plane, from its start on.
  struct Cells {
    int64_t* box;
    double* plane;
    int64_t count;
  };

  void run(const T* x, const Value* uniforms, T* y, Value* places, V* scratch) {
    const int64_t outputs_room = Base::outputs(schedule_);
    V* const box = scratch;
    V* const numbers = box + Base::cells(schedule_);
    V* const drawn = numbers + outputs_room;
    V* const at = drawn + outputs_room;
    auto* const plane_of = reinterpret_cast<double*>(at + outputs_room);
    auto* const box_of = reinterpret_cast<int64_t*>(plane_of + Base::window_cells(plan_));
    const PlanesInLanes<Value> wide{planes_.first, planes_.used};
    const int64_t inputs = plan_.depth.in * plan_.height.in * plan_.width.in;
    const int64_t outputs = plan_.depth.out * plan_.height.out * plan_.width.out;
    Base::each_run_of_cells([&](int64_t from, int64_t count, int64_t in_box) {
      planes_.load_run(x, inputs, from, count, box + in_box);
    });
    Base::each_run_of_outputs([&](int64_t from, int64_t count, int64_t in_box) {
      wide.load_run(uniforms, outputs, from, count, numbers + in_box);
    });
    draw(box, numbers, drawn, at, Cells{box_of, plane_of, 0});
    // From the first run to the last: a register's worth beyond a run is the next one's.
    Base::each_run_of_outputs([&](int64_t to, int64_t count, int64_t in_box) {
      planes_.store_run(drawn + in_box, outputs, to, count, y);
      wide.store_run(at + in_box, outputs, to, count, places);
    });
  }

  KEEP_CALL void draw(const V* box, const V* numbers, V* drawn, V* places, Cells window) const {
    const auto place = [&](const Clip& z, const Clip& h, const Clip& w) {
      window.count = 0;
      Base::each_cell(z, h, w, [&](int64_t in_box, int64_t in_plane) {
        window.box[window.count] = in_box, window.plane[window.count++] = static_cast<double>(in_plane);
      });
    };
    Base::each_window(place, [&](int64_t z, int64_t h, int64_t w, int64_t start) INLINED {
      const int64_t in_plane = (z * plan_.height.in + h) * plan_.width.in + w;
      one(box + start, window, static_cast<double>(in_plane), numbers++, drawn++, places++);
    });
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
    const CellsPart part(axis, s.depth, index % s.depth.parts);
    const int64_t own = part.own.begin * slice, count = part.own.count() * slice;
    const int64_t begin = part.outputs.begin * (outputs / axis.out), end = part.outputs.end * (outputs / axis.out);
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
