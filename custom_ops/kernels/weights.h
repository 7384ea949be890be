// Weights of cells, a register at a time, for a method that is a quotient of two sums over the window (see method.h).
//
// Plainly, a weight is a number of the type that is computed in. That serves where all logits are near 0; whether they
// are, `near` knows afterwards. In `Ranged` form it is w * 2^n, which serves all cells but the hugest: a window's
// largest n takes the place of its largest logit. Scaling by powers of two is exact, and both forms take the same steps,
// so a window gives the same bits in either, and which one is taken need not depend on the window alone.
//
// NaN in a window gives NaN in either form. Infinities and cells that even the ranged form cannot hold are looked for
// only where `be_careful` was called; whether that is needed, `right` knows afterwards. Then such a cell becomes NaN
// (or, masked, weighs nothing), and where that is not `right` either, windows that come out NaN are to be done by the
// formula.
#pragma once

#include "cells.h"

namespace onnxpool::ONNXPOOL_ISA {

// A cell's value, and its weight w * 2^n. Where n is kNone, w is 0; where it is kBad, NaN. (Plainly, n is not used.)
template <class Value>
struct Cells {
  Vec<Value> x, w, n;
};
template <class Value>
constexpr Value kNone = -1000000;
template <class Value>
constexpr Value kBad = 1000000;

template <class Value>
INLINE Cells<Value> no_cells() {
  return {Vec<Value>{}, Vec<Value>{}, all<Value>(kNone<Value>)};
}

// Cells that are not within a mask weigh nothing.
template <bool kRanged, class Value>
INLINE void keep_within(Ints<Value> within, Cells<Value>* cells) {
  cells->w = kept<Value>(within, cells->w);
  if constexpr (kRanged) {
    cells->n = within ? cells->n : all(kNone<Value>);
    cells->x = kept<Value>(within, cells->x);
  }
}

// exp, with an error of about 1.2 ULP within its range. The lowest kTableBits bits of t choose a table's entry: powers
// of two of whole sixteenths (or eighths); what is left of the exponent is so small that a cubic does. Where a register
// is no table, and for double, exponents are whole and the polynomial is longer.
template <class Value>
class Exp {
  using K = ExpConstants<Value>;
  using V = Vec<Value>;
  using Unsigned = typename K::Unsigned;
  using Signed = typename K::Signed;
  static constexpr int kBits = same<Value, float> ? kTableBits : 0;
  static constexpr Value kMagic = K::magic / (1 << kBits);
  static constexpr int kShift = K::kMantissa - kBits;
  static constexpr bool kOneStep = kFused && same<Value, float>;

 public:
  // Weights are exp(l) * 2^offset.
  INLINED explicit Exp(int offset) : offset_(all(static_cast<Unsigned>(offset) << K::kMantissa)) {
    if constexpr (kBits > 0) {
      constexpr float kPowers[] = {1.0F, 0x1.0b5586p+0F, 0x1.172b84p+0F, 0x1.2387a6p+0F,
                                   0x1.306fep+0F, 0x1.3dea64p+0F, 0x1.4bfdaep+0F, 0x1.5ab07ep+0F,
                                   0x1.6a09e6p+0F, 0x1.7a1148p+0F, 0x1.8ace54p+0F, 0x1.9c4918p+0F,
                                   0x1.ae89fap+0F, 0x1.c199bep+0F, 0x1.d5818ep+0F, 0x1.ea4afap+0F};
      for (int j = 0; j < kLanes<Value>; ++j) powers_[j] = bits<Unsigned>(kPowers[j << (4 - kBits)]);
      // The low bits of t come along when t is shifted into the exponent; they are taken off here.
      table_ = (powers_ - (reinterpret_cast<Words<Value>>(count_up<Value>()) << kShift)) + offset_;
    }
  }

  INLINED V operator()(V l) const {
    const Step step = reduce(l);
    const Words<Value> shifted = words<Value>(step.t) << kShift;
    if constexpr (kBits > 0) {
      return power(step.r, number_of_words<Value>(look_up(table_, words<Value>(step.t)) + shifted));
    } else {
      constexpr Unsigned kOne = Unsigned{K::kBias} << K::kMantissa;
      return power(step.r, V{}) * number_of_words<Value>(shifted + kOne + offset_);
    }
  }

  // What rises with exp(l), and the whole number n that it stands for: 2^n is near exp(l).
  INLINED V rank(V l) const { return fma(l, log2e_, magic_); }
  INLINED static V exponent(V rank) {
    return number_of<Value>(whole_bits<Value>(rank) & ~((Signed{1} << kBits) - 1)) - kMagic;
  }
  INLINED static V rank_of(V n) { return n + kMagic; }

  // exp(l) * 2^-n for down = n * 2^kMantissa; right where that is a normal number.
  INLINED V operator()(V l, Words<Value> down, V* rank) const {
    const Step step = reduce(l);
    const Words<Value> shifted = (words<Value>(step.t) << kShift) - down;
    *rank = step.t;
    if constexpr (kBits > 0) {
      return power(step.r, number_of_words<Value>(look_up(table_, words<Value>(step.t)) + shifted));
    } else {
      constexpr Unsigned kOne = Unsigned{K::kBias} << K::kMantissa;
      return power(step.r, V{}) * number_of_words<Value>(shifted + kOne + offset_);
    }
  }

  // exp(l) = result * 2^n.
  INLINED V split(V l, V* n) const {
    const Step step = reduce(l);
    *n = exponent(step.t);
    if constexpr (kBits > 0) return power(step.r, number_of_words<Value>(look_up(powers_, words<Value>(step.t))));
    return power(step.r, V{});
  }

 private:
  struct Step {
    V t, r;
  };
  INLINED Step reduce(V l) const {
    const V t = fma(l, log2e_, magic_), n = t - magic_;
    // What log 2 lacks as one float takes 3e-9 of itself from all logits: of no account in a ratio of weights.
    if constexpr (kOneStep) return {t, fma(n, minus_ln2_high_, l)};
    return {t, fma(n, minus_ln2_low_, fma(n, minus_ln2_high_, l))};
  }
  INLINED V power(V r, [[maybe_unused]] V times) const {
    // No r * r: where values are tiny that is below the normal numbers, which processors are slow with.
    if constexpr (kBits > 0) return fma(times * r, fma(fma(r, third_, second_), r, one_), times);
    return fma(fma(polynomial(r), r, one_), r, one_);
  }
  INLINED Vec<float> polynomial(Vec<float> r) const {
    return fma(fma(fma(fma(terms_[0], r, terms_[1]), r, terms_[2]), r, terms_[3]), r, terms_[4]);
  }
  INLINED Vec<double> polynomial(Vec<double> r) const {
    constexpr double kTerms[] = {0x1.28adce7339679p-22, 0x1.71df262c451e1p-19, 0x1.a01999adcb23bp-16,
                                 0x1.a01a0129b4612p-13, 0x1.6c16c1844b01cp-10, 0x1.1111111127e83p-7,
                                 0x1.55555555507f1p-5,  0x1.55555555554f9p-3,  0x1.000000000000ap-1};
    Vec<double> sum = all(0x1.ad7f02ab63935p-26);
    for (const double term : kTerms) sum = fma(sum, r, all(term));
    return sum;
  }

  V log2e_ = held(K::log2e), magic_ = held(kMagic);
  V minus_ln2_high_ = held(kOneStep ? -K::ln2 : -K::ln2_high), minus_ln2_low_ = held(-K::ln2_low);
  V third_ = held(Value(kBits == 4 ? 0.16666979F : 0.16667919F));
  V second_ = held(Value(kBits == 4 ? 0.50001618F : 0.5000648F));
  V one_ = held(Value(1));
  V terms_[5] = {held(Value(0x1.6a2352p-10F)), held(Value(0x1.123a6cp-7F)), held(Value(0x1.5558f4p-5F)),
                 held(Value(0x1.555490p-3F)), held(Value(0x1.fffffcp-2F))};  // of float's polynomial
  Words<Value> offset_, powers_ = {}, table_ = {};
};

// SoftPool and local importance: w = exp(l). Logits l are the values themselves where there are none.
template <class Value, bool kLogits>
class ExponentialWeights {
  using V = Vec<Value>;
  static constexpr bool kFloat = same<Value, float>;
  // With logits within +-kMost, values may be of any size, and so weights are kept above 1; else weights and products
  // stay in range by themselves, with sums of up to 64 cells or of any number.
  static constexpr int kOffset = kLogits ? (kFloat ? 44 : 440) : 0;
  static constexpr Value kMost = kLogits ? (kFloat ? 30 : 300) : (kFloat ? 80 : 600);
  static constexpr Value kMostOfMany = kLogits ? kMost : (kFloat ? 64 : 600);
  static constexpr int64_t kMany = 64;
  static constexpr Value kMostSum = kFloat ? 0x1p39F : Value(0x1p140);  // of values, times a weight, without overflow
  // Beyond these a cell is huge: exponents would not be exact, sums would overflow.
  static constexpr Value kHugeLogit = ScaledExp<Value>::kMostReference, kHuge = kFloat ? 0x1p90F : Value(0x1p900);

 public:
  static constexpr bool kSquares = false;
  static constexpr double kPlainExponent = -kOffset;  // plain sums are relative to 2 to this power

  // Windows have so many cells, or those of them that are summed at once.
  INLINED explicit ExponentialWeights(int64_t cells, Value = 1)
      : exp_(kOffset), limit_(cells > kMany ? kMostOfMany : kMost), largest_(kMostSum / static_cast<Value>(cells)) {}

  INLINED V weight(V x, V l) {
    const V logit = kLogits ? l : x;
    top_ = larger_magnitude<Value>(logit, top_);
    if constexpr (kLogits) size_ = larger_magnitude<Value>(x, size_);
    return exp_(logit);
  }
  INLINED void see(V, V) {}
  INLINED bool near(bool) const { return !any(top_ > limit_) && !(kLogits && any(size_ > largest_)); }
  INLINED bool calm() const { return near(true); }
  INLINED Value other_scale() const { return 0; }
  INLINED V unscale() const { return V{}; }

  struct Reference {
    V n;
    Words<Value> down;
    V least;  // ranks below this weigh nothing

    INLINED Reference of_lane(int64_t i) const { return {all(n[i]), down[i] - Words<Value>{}, all(least[i])}; }
  };
  INLINED static V no_rank() { return Exp<Value>::rank_of(all(kNone<Value>)); }
  INLINED V rank(V, V l) {
    top_ = larger_magnitude<Value>(l, top_);
    const V rank = exp_.rank(l);
    if (!careful_) return rank;
    return l < -kHugeLogit ? no_rank() : l <= kHugeLogit ? rank : Exp<Value>::rank_of(all(kBad<Value>));
  }
  INLINED static Reference reference(V rank) {
    using K = ExpConstants<Value>;
    const V n = Exp<Value>::exponent(rank);
    return {n, words<Value>(n + (K::magic + kOffset)) << K::kMantissa, Exp<Value>::rank_of(n - kMostBelow)};
  }
  INLINED Cells<Value> relative(V x, V l, const Reference& from) {
    V rank;
    Cells<Value> cells{x, exp_(l, from.down, &rank), from.n};
    cells.w = rank < from.least ? V{} : cells.w;  // NaN stays
    if constexpr (kLogits) size_ = larger_magnitude<Value>(x, size_);
    if (careful_) correct(l, &cells);
    return cells;
  }

  INLINED Cells<Value> split(V x, V l) {
    const V logit = kLogits ? l : x;
    Cells<Value> cells;
    cells.x = x;
    cells.w = exp_.split(logit, &cells.n);
    top_ = larger_magnitude<Value>(logit, top_);
    if constexpr (kLogits) size_ = larger_magnitude<Value>(x, size_);
    if (careful_) correct(logit, &cells);
    return cells;
  }
  INLINED void be_careful() { careful_ = true; }
  INLINED bool right() const {
    return careful_ ? !any(huge_) : !any(top_ > kHugeLogit) && !(kLogits && any(size_ > kHuge));
  }
  INLINED static V result(V y, V, V) { return y; }
  INLINED static V result_at(V y, V, V) { return y; }

 private:
  // What a weight that counts beside a lane's largest is less than that, in powers of 2: more than plain form can show,
  // and so few that no step of exp comes below the normal numbers.
  static constexpr Value kMostBelow = kFloat ? 117 : 1000;

  // Cells of -inf and those far below all others weigh nothing; huge ones become NaN.
  INLINED void correct(V logit, Cells<Value>* cells) {
    const V nan = all(-infinity<Value>()) * 0;
    const auto masked = logit == -infinity<Value>(), low = logit < -kHugeLogit, high = ~(logit <= kHugeLogit);
    cells->x = masked ? V{} : cells->x;
    cells->w = low ? V{} : high ? nan : cells->w;
    cells->n = low ? all(kNone<Value>) : high ? all(kBad<Value>) : cells->n;
    huge_ |= (low & ~masked) | (logit > kHugeLogit);
    if constexpr (kLogits) {
      const auto far = magnitude<Value>(cells->x) > kHuge;
      cells->x = far ? nan : cells->x;
      huge_ |= far;
    }
  }

  Exp<Value> exp_;
  V top_ = {}, size_ = {};
  Value limit_, largest_;
  Ints<Value> huge_ = {};
  bool careful_ = false;
};

// Stochastic: w = max(x, 0), and the values are the weights. With kScaled they are plainly that times a power of two
// from 1 on: where one is out of range, another may do for all cells that follow.
template <class Value, bool kScaled>
class RectifiedWeights {
  using K = ExpConstants<Value>;
  using V = Vec<Value>;
  static constexpr bool kFloat = same<Value, float>;
  static constexpr Value kLeast = kFloat ? 0x1p-40F : Value(0x1p-400), kLeastCell = kFloat ? 0x1p-62F : Value(0x1p-500);
  static constexpr Value kHuge = kFloat ? 0x1p100F : Value(0x1p900), kSmallest = kFloat ? 0x1p-126F : Value(0x1p-1022);
  static constexpr Value kMostProduct = kFloat ? 0x1p100F : Value(0x1p900);  // sums of any number are finite
  static constexpr Value kCalm = kFloat ? 0x1p45F : Value(0x1p445);          // so are the sums of these cells' squares
  static constexpr int64_t kBelow = 20;  // an other scale makes the least weight 2 to minus this power

 public:
  static constexpr bool kSquares = true;
  static constexpr double kPlainExponent = 0;

  INLINED explicit RectifiedWeights(int64_t, Value scale = 1) : scale_(all(scale)), unscale_(all(1 / scale)) {
    const Value huge = kHuge * scale, product = huge * huge;  // as in the other form no cell may be huge
    if (product < most_product_) most_product_ = product;
  }

  INLINED V weight(V x, V) { return kScaled ? larger(V{}, x) * scale_ : larger(V{}, x); }  // NaN stays
  // A window's sums, or a cell's weight and product where these are not at hand.
  INLINED void see(V weight, V product) {
    const Words<Value> above = words<Value>(weight) - 1;  // 0 becomes the largest
    least_ = above < least_ ? above : least_;
    most_ = larger(product, most_);
  }
  INLINED bool near(bool of_cells) const {
    const Value least = of_cells ? kLeastCell : kLeast;
    return !any(least_ < words<Value>(all(least))) && !any(most_ > most_product_);
  }
  // Where weights were not near: a scale that makes the least of them so, or 0 if that is about the one there was.
  INLINED Value other_scale() const { return scale_for(least_, scale_[0]); }
  INLINED V unscale() const { return unscale_; }

  struct Reference {
    V n, down;

    INLINED Reference of_lane(int64_t i) const { return {all(n[i]), all(down[i])}; }
  };
  INLINED static V no_rank() { return V{}; }
  INLINED V rank(V x, V) {
    see(x, x);
    return x;
  }
  INLINED static Reference reference(V rank) {
    const V n = exponent_of(rank);
    return {rank > 0 ? n : all(kNone<Value>), rank > 0 ? power_of_two<Value>(-n) : all<Value>(1)};
  }
  INLINED Cells<Value> relative(V x, V, const Reference& from) {
    V w = larger(V{}, x) * from.down;
    if (careful_) {
      const auto odd = ~(x <= kHuge);
      w = odd ? all(-infinity<Value>()) * 0 : w;
      huge_ |= odd & (x == x);
    }
    return {w, w, from.n};
  }

  INLINED Cells<Value> split(V x, V) {
    constexpr typename K::Signed kFraction = (typename K::Signed{1} << K::kMantissa) - 1;
    const auto none = x <= 0;
    see(x, x);
    V own = x, lifted = {};
    if (careful_) {
      const auto subnormal = x < kSmallest;
      own = subnormal ? x * kLift : x, lifted = subnormal ? all(kLifted) : V{};
    }
    Cells<Value> cells;
    cells.w = number_of<Value>((whole_bits<Value>(own) & kFraction) | whole_bits<Value>(all<Value>(1)));
    cells.n = exponent_of(own) - lifted;
    cells.w = fma(x, V{}, cells.w);  // NaN stays
    cells.w = none ? V{} : cells.w;
    cells.n = none ? all(kNone<Value>) : cells.n;
    if (careful_) {
      const auto odd = ~(x <= kHuge);
      cells.n = odd ? all(kBad<Value>) : cells.n;
      cells.w = odd ? all(-infinity<Value>()) * 0 : cells.w;
      huge_ |= odd & (x == x);
    }
    cells.x = cells.w;
    return cells;
  }
  INLINED void be_careful() { careful_ = true; }
  INLINED bool right() const {
    return careful_ ? !any(huge_) : !any(least_ < words<Value>(all(kSmallest)) - 1) && !any(most_ > kHuge);
  }
  // Whether plain form would do for what was seen in the other one.
  INLINED bool calm() const { return !any(least_ < words<Value>(all(kLeast))) && !any(most_ > kCalm); }

  // 0 where there is no weight; values were scaled, by 2^-n in ranged form.
  INLINED static V result(V y, V weights, [[maybe_unused]] V unscale) {
    if constexpr (kScaled) y = y * unscale;
    return weights == 0 ? V{} : y;
  }
  INLINED static V result_at(V y, V weights, V n) {
    const V normal = larger(n, all<Value>(1 - K::kBias));  // in two steps, of which only the second may round
    return weights == 0 ? V{} : y * power_of_two<Value>(n - normal) * power_of_two<Value>(normal);
  }

 private:
  static constexpr Value kLift = Value(0x1p64), kLifted = 64;

  // Not inlined, nor a look at lanes one by one where sums are seen: they are to stay in registers there.
  KEEP_CALL static Value scale_for(Words<Value> lanes, Value scale) {
    typename K::Unsigned smallest = lanes[0];
    for (int64_t lane = 1; lane < kLanes<Value>; ++lane) smallest = lanes[lane] < smallest ? lanes[lane] : smallest;
    const auto exponent = [](typename K::Unsigned word) { return static_cast<int64_t>(word >> K::kMantissa) - K::kBias; };
    const int64_t own = exponent(bits<typename K::Unsigned>(scale));
    const int64_t wanted = own - kBelow - exponent(smallest), change = least(most(wanted, 0), K::kBias - 1) - own;
    if (change < kBelow && change > -kBelow) return 0;
    const int64_t other = own + change;  // not below 1: that would make small cells 0
    return bits<Value>(static_cast<typename K::Unsigned>(other + K::kBias) << K::kMantissa);
  }
  INLINED static V exponent_of(V x) {
    constexpr Value kShifter = Value(typename K::Unsigned{1} << K::kMantissa);
    const Ints<Value> exponent = (whole_bits<Value>(x) >> K::kMantissa) | whole_bits<Value>(all(kShifter));
    return number_of<Value>(exponent) - (kShifter + K::kBias);
  }

  V scale_, unscale_;
  Value most_product_ = kMostProduct;
  Words<Value> least_ = ~Words<Value>{};
  V most_ = {};
  Ints<Value> huge_ = {};
  bool careful_ = false;
};

template <class Method, class Value, bool kScaled>
using Weights = std::conditional_t<Method::kExponential, ExponentialWeights<Value, (Method::kInputs > 1)>,
                                   RectifiedWeights<Value, kScaled>>;

}  // namespace onnxpool::ONNXPOOL_ISA
