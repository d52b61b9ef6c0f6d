// Dense layers of many runs at a small batch, for one CPU core: the forward pass, and the backward pass with update.
//
// Per run, all row-major float32:
//   Forward           s = z W + b
//   BackwardUpdate    zᵉ = error Wᵀ,  W ← W + zᵀ error,  b ← b + Σ error      (W read once and written once)
//
// Every element of s, W and b is summed in the order of its index, one fused multiply-add at a time, whatever the
// blocking; an element of zᵉ is summed by lanes, in an order that the layer's shape decides. So the bits of a run
// depend neither on the runs beside it nor on where its arrays lie.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace {

using Size = std::size_t;

// Lanes of a vector; then what registers have room for: rows of a batch with two vectors of sums each beside what they
// are multiplied with, and rows of W that are updated together.
#if defined(__AVX512F__)
constexpr Size kLanes = 16, kMostRows = 12, kUpdatedRows = 8;
#elif defined(__AVX__)
constexpr Size kLanes = 8, kMostRows = 5, kUpdatedRows = 4;
#elif defined(__aarch64__)
constexpr Size kLanes = 4, kMostRows = 10, kUpdatedRows = 8;
#else
constexpr Size kLanes = 4, kMostRows = 5, kUpdatedRows = 4;
#endif

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
typedef float Anywhere __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

#define UNROLL _Pragma("GCC unroll 32")
#define INLINE inline __attribute__((always_inline))

constexpr Size kPanel = 2 * kLanes;      // columns of a panel
constexpr Size kStreamed = 512 * 1024;   // bytes of a matrix from which on it is fetched ahead of its use
constexpr Size kStreamedRows = 32;       // rows of W that a streamed forward pass works on at a time
constexpr Size kBlock = 512;             // columns of errors kept close by in a backward pass
constexpr Size kTransposedColumns = 48;  // columns of W below which it is transposed instead of summed over lanes
constexpr Size kTransposed = 128;        // columns that are transposed at a time

const float kZeros[4 * kLanes] = {};

INLINE Vector Load(const float* from) { return *reinterpret_cast<const Anywhere*>(from); }

INLINE void Store(float* to, Vector value) { *reinterpret_cast<Anywhere*>(to) = value; }

// Has a value in a register, where compilers would rather read it from memory at each of its uses.
INLINE void Keep(Vector& value) {
#if defined(__AVX512F__)
  asm("" : "+v"(value));
#elif defined(__SSE__)
  asm("" : "+x"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#else
  (void)value;
#endif
}

INLINE Vector Splat(float value) {
#if defined(__AVX512F__)
  return (Vector)_mm512_set1_ps(value);
#else
  Vector all;
  for (Size lane = 0; lane < kLanes; ++lane) all[lane] = value;
  return all;
#endif
}

// The first `count` lanes; the others are 0 and their memory is not touched.
INLINE Vector LoadPart(const float* from, Size count) {
#if defined(__AVX512F__)
  return (Vector)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
#else
  Vector some = {};
  for (Size lane = 0; lane < count; ++lane) some[lane] = from[lane];
  return some;
#endif
}

INLINE void StorePart(float* to, Vector value, Size count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), (__m512)value);
#else
  for (Size lane = 0; lane < count; ++lane) to[lane] = value[lane];
#endif
}

template <bool kPart>
INLINE Vector LoadSome(const float* from, Size count) {
  return kPart ? LoadPart(from, count) : Load(from);
}

template <bool kPart>
INLINE void StoreSome(float* to, Vector value, Size count) {
  kPart ? StorePart(to, value, count) : Store(to, value);
}

struct Matrix {
  const float* data;
  Size stride;
};

// s [kRows, panel] = from + z [kRows, depth] w [depth, panel], the panel kVectors wide or, kPart, `part` columns.
template <Size kRows, Size kVectors, bool kPart, bool kAhead>
void MultiplyPanel(Matrix z, Matrix w, Matrix from, float* s, Size s_stride, Size depth, Size part, Size ahead) {
  Vector sum[kRows][kVectors];
  UNROLL for (Size i = 0; i < kRows; ++i) {
    UNROLL for (Size v = 0; v < kVectors; ++v) {
      sum[i][v] = LoadSome<kPart>(from.data + i * from.stride + v * kLanes, part);
    }
  }
  const float* row = w.data;
  for (Size k = 0; k < depth; ++k, row += w.stride) {
    Vector weights[kVectors];
    UNROLL for (Size v = 0; v < kVectors; ++v) {
      weights[v] = LoadSome<kPart>(row + v * kLanes, part);
      if (kAhead) __builtin_prefetch(row + ahead + v * kLanes, 0, 3);
    }
    UNROLL for (Size i = 0; i < kRows; ++i) {
      const Vector input = Splat(z.data[i * z.stride + k]);
      UNROLL for (Size v = 0; v < kVectors; ++v) sum[i][v] += input * weights[v];
    }
  }
  UNROLL for (Size i = 0; i < kRows; ++i) {
    UNROLL for (Size v = 0; v < kVectors; ++v) {
      StoreSome<kPart>(s + i * s_stride + v * kLanes, sum[i][v], part);
    }
  }
}

using PanelFunction = void (*)(Matrix, Matrix, Matrix, float*, Size, Size, Size, Size);

struct PanelFunctions {
  PanelFunction wide, wide_ahead, narrow, part;
};

template <Size... kIndex>
constexpr auto MakePanelFunctions(std::index_sequence<kIndex...>) {
  struct Table {
    PanelFunctions of[sizeof...(kIndex)];
  };
  return Table{{{MultiplyPanel<kIndex + 1, 2, false, false>, MultiplyPanel<kIndex + 1, 2, false, true>,
                 MultiplyPanel<kIndex + 1, 1, false, false>, MultiplyPanel<kIndex + 1, 1, true, false>}...}};
}

constexpr auto kPanelFunctions = MakePanelFunctions(std::make_index_sequence<kMostRows>());

// s [rows, columns] = from + z [rows, depth] w [depth, columns]; of what lies `ahead` floats after w, if not 0, memory
// is told to send it.
void Multiply(Matrix z, Matrix w, Matrix from, float* s, Size s_stride, Size rows, Size depth, Size columns,
              Size ahead) {
  const Size chunks = (rows + kMostRows - 1) / kMostRows;
  const Size chunk = (rows + chunks - 1) / chunks;
  for (Size n = 0; n < columns;) {
    const Size left = columns - n;
    const Size width = left >= kPanel ? kPanel : std::min(left, kLanes);
    for (Size i = 0; i < rows; i += chunk) {
      const PanelFunctions& functions = kPanelFunctions.of[std::min(chunk, rows - i) - 1];
      const PanelFunction function = width == kPanel   ? (ahead && i == 0 ? functions.wide_ahead : functions.wide)
                                     : width == kLanes ? functions.narrow
                                                       : functions.part;
      const Matrix start{from.data + i * from.stride + n, from.stride};
      function({z.data + i * z.stride, z.stride}, {w.data + n, w.stride}, start, s + i * s_stride + n, s_stride, depth,
               width, ahead);
    }
    n += width;
  }
}

void Forward(const float* z, const float* w, const float* b, float* s, Size batch, Size fan_in, Size fan_out) {
  const bool streamed = fan_in * fan_out * sizeof(float) >= kStreamed;
  const Size rows = streamed ? kStreamedRows : std::max<Size>(fan_in, 1);
  Matrix from{b, 0};
  for (Size k = 0; k == 0 || k < fan_in; k += rows) {
    const Size depth = std::min(rows, fan_in - k);
    Multiply({z + k, fan_in}, {w + k * fan_out, fan_out}, from, s, fan_out, batch, depth, fan_out,
             streamed ? rows * fan_out : 0);
    from = {s, fan_out};
  }
}

// kLanes rows of a vector each.
struct Square {
  Vector row[kLanes];
};

#if defined(__AVX512F__)

INLINE __m512 Low(Vector a, Vector b) { return _mm512_unpacklo_ps((__m512)a, (__m512)b); }
INLINE __m512 High(Vector a, Vector b) { return _mm512_unpackhi_ps((__m512)a, (__m512)b); }
INLINE __m512 LowPairs(__m512 a, __m512 b) {
  return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
INLINE __m512 HighPairs(__m512 a, __m512 b) {
  return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
INLINE __m512 EvenQuarters(__m512 a, __m512 b) { return _mm512_shuffle_f32x4(a, b, 0x88); }
INLINE __m512 OddQuarters(__m512 a, __m512 b) { return _mm512_shuffle_f32x4(a, b, 0xdd); }

INLINE Square Transpose(const Square& a) {
  __m512 fours[16];  // fours[4 g + j]: column j of each quarter, from rows 4 g to 4 g + 3
  UNROLL for (Size g = 0; g < 16; g += 4) {
    const __m512 low01 = Low(a.row[g], a.row[g + 1]), high01 = High(a.row[g], a.row[g + 1]);
    const __m512 low23 = Low(a.row[g + 2], a.row[g + 3]), high23 = High(a.row[g + 2], a.row[g + 3]);
    fours[g] = LowPairs(low01, low23);
    fours[g + 1] = HighPairs(low01, low23);
    fours[g + 2] = LowPairs(high01, high23);
    fours[g + 3] = HighPairs(high01, high23);
  }
  Square out;
  UNROLL for (Size j = 0; j < 4; ++j) {
    const __m512 even_upper = EvenQuarters(fours[j], fours[4 + j]), odd_upper = OddQuarters(fours[j], fours[4 + j]);
    const __m512 even_lower = EvenQuarters(fours[8 + j], fours[12 + j]);
    const __m512 odd_lower = OddQuarters(fours[8 + j], fours[12 + j]);
    out.row[j] = (Vector)EvenQuarters(even_upper, even_lower);
    out.row[4 + j] = (Vector)EvenQuarters(odd_upper, odd_lower);
    out.row[8 + j] = (Vector)OddQuarters(even_upper, even_lower);
    out.row[12 + j] = (Vector)OddQuarters(odd_upper, odd_lower);
  }
  return out;
}

// Lane j of the result is the sum over the lanes of row j.
INLINE Vector SumOfLanes(const Square& a) {
  __m512 fours[4];
  UNROLL for (Size g = 0; g < 4; ++g) {
    const Vector* row = a.row + 4 * g;
    const __m512 pairs01 = Low(row[0], row[1]) + High(row[0], row[1]);
    const __m512 pairs23 = Low(row[2], row[3]) + High(row[2], row[3]);
    fours[g] = LowPairs(pairs01, pairs23) + HighPairs(pairs01, pairs23);
  }
  const __m512 upper = EvenQuarters(fours[0], fours[1]) + OddQuarters(fours[0], fours[1]);
  const __m512 lower = EvenQuarters(fours[2], fours[3]) + OddQuarters(fours[2], fours[3]);
  return (Vector)(EvenQuarters(upper, lower) + OddQuarters(upper, lower));
}

#else

INLINE Square Transpose(const Square& a) {
  Square out;
  for (Size i = 0; i < kLanes; ++i) {
    for (Size j = 0; j < kLanes; ++j) out.row[j][i] = a.row[i][j];
  }
  return out;
}

INLINE Vector SumOfLanes(const Square& a) {
  const Square columns = Transpose(a);
  Vector sum = columns.row[0];
  for (Size j = 1; j < kLanes; ++j) sum += columns.row[j];
  return sum;
}

#endif

// w [kRows, panel] += zᵀ error, z [batch, kRows], error [batch, panel].
template <Size kRows, Size kVectors, bool kPart>
INLINE void UpdatePanel(Matrix z, Matrix error, float* w, Size w_stride, Size batch, Size part) {
  Vector sum[kRows][kVectors];
  UNROLL for (Size r = 0; r < kRows; ++r) {
    UNROLL for (Size v = 0; v < kVectors; ++v) sum[r][v] = LoadSome<kPart>(w + r * w_stride + v * kLanes, part);
  }
  for (Size i = 0; i < batch; ++i) {
    Vector errors[kVectors];
    UNROLL for (Size v = 0; v < kVectors; ++v) {
      errors[v] = LoadSome<kPart>(error.data + i * error.stride + v * kLanes, part);
    }
    UNROLL for (Size r = 0; r < kRows; ++r) {
      const Vector input = Splat(z.data[i * z.stride + r]);
      UNROLL for (Size v = 0; v < kVectors; ++v) sum[r][v] += input * errors[v];
    }
  }
  UNROLL for (Size r = 0; r < kRows; ++r) {
    UNROLL for (Size v = 0; v < kVectors; ++v) StoreSome<kPart>(w + r * w_stride + v * kLanes, sum[r][v], part);
  }
}

template <Size kRows>
void UpdateRows(Matrix z, Matrix error, float* w, Size w_stride, Size batch, Size columns) {
  Size n = 0;
  for (; n + kPanel <= columns; n += kPanel) {
    UpdatePanel<kRows, 2, false>(z, {error.data + n, error.stride}, w + n, w_stride, batch, 0);
  }
  if (n + kLanes <= columns) {
    UpdatePanel<kRows, 1, false>(z, {error.data + n, error.stride}, w + n, w_stride, batch, 0);
    n += kLanes;
  }
  if (n < columns) {
    UpdatePanel<kRows, 1, true>(z, {error.data + n, error.stride}, w + n, w_stride, batch, columns - n);
  }
}

// w [rows, columns] += zᵀ error, z [batch, rows], error [batch, columns].
void Update(Matrix z, Matrix error, float* w, Size w_stride, Size batch, Size rows, Size columns) {
  Size r = 0;
  for (; r + kUpdatedRows <= rows; r += kUpdatedRows) {
    UpdateRows<kUpdatedRows>({z.data + r, z.stride}, error, w + r * w_stride, w_stride, batch, columns);
  }
  for (; r < rows; ++r) UpdateRows<1>({z.data + r, z.stride}, error, w + r * w_stride, w_stride, batch, columns);
}

// What a thread keeps to work in, from call to call.
class Workspace {
 public:
  float* OfAtLeast(Size floats) {
    if (floats > size_) {
      held_.reset(static_cast<float*>(::operator new[](floats * sizeof(float), std::align_val_t(64))));
      size_ = floats;
    }
    return held_.get();
  }

 private:
  struct Free {
    void operator()(float* held) const { ::operator delete[](held, std::align_val_t(64)); }
  };
  std::unique_ptr<float[], Free> held_;
  Size size_ = 0;
};

// Turns w [rows, columns], at most kPanel rows, into [columns, kPanel]; rows that are missing become 0.
void TransposePanel(const float* w, Size w_stride, Size rows, Size columns, float* out) {
  for (Size first = 0; first < kPanel; first += kLanes) {
    const float* from = w + first * w_stride;
    Size n = 0;
    if (first + kLanes <= rows) {
      for (; n + kLanes <= columns; n += kLanes) {
        Square square;
        UNROLL for (Size r = 0; r < kLanes; ++r) square.row[r] = Load(from + r * w_stride + n);
        square = Transpose(square);
        UNROLL for (Size c = 0; c < kLanes; ++c) Store(out + (n + c) * kPanel + first, square.row[c]);
      }
    }
    for (; n < columns; n += kLanes) {
      const Size width = std::min(kLanes, columns - n);
      Square square;
      UNROLL for (Size r = 0; r < kLanes; ++r) {
        square.row[r] = first + r < rows ? LoadPart(from + r * w_stride + n, width) : Vector{};
      }
      square = Transpose(square);
      for (Size c = 0; c < width; ++c) Store(out + (n + c) * kPanel + first, square.row[c]);
    }
  }
}

// By tiles of W: transposed, then updated while they are close by; zᵉ from the transposed tile.
void BackwardByTransposing(const float* z, const float* error, float* w, float* input_error, Size batch, Size fan_in,
                           Size fan_out) {
  alignas(64) float transposed[kTransposed * kPanel];
  for (Size k = 0; k < fan_in; k += kPanel) {
    const Size rows = std::min(kPanel, fan_in - k);
    Matrix from{kZeros, 0};
    for (Size n = 0; n < fan_out; n += kTransposed) {
      const Size columns = std::min(kTransposed, fan_out - n);
      float* tile = w + k * fan_out + n;
      TransposePanel(tile, fan_out, rows, columns, transposed);
      Update({z + k, fan_in}, {error + n, fan_out}, tile, fan_out, batch, rows, columns);
      Multiply({error + n, fan_out}, {transposed, kPanel}, from, input_error + k, fan_in, batch, columns, rows, 0);
      from = {input_error + k, fan_in};
    }
  }
}

// kRows rows of W and some columns: adds error · W to `sums`, by lanes, then zᵀ error to W.
//
// errors: packed, vector of columns by vector, in each the kBatch examples. sums, inputs: [example, kLanes rows].
template <Size kBatch, Size kRows, bool kAhead>
void BackwardRows(const float* errors, const float* inputs, float* w, Size w_stride, Vector* sums, bool first,
                  Size columns, Size ahead) {
  Vector sum[kBatch][kRows];
  UNROLL for (Size i = 0; i < kBatch; ++i) {
    UNROLL for (Size r = 0; r < kRows; ++r) sum[i][r] = first ? Vector{} : sums[i * kLanes + r];
  }
  const auto one = [&](auto part, Size n, Size count) __attribute__((always_inline)) {
    Vector before[kRows], after[kRows];
    UNROLL for (Size r = 0; r < kRows; ++r) {
      before[r] = after[r] = LoadSome<part>(w + r * w_stride + n, count);
      if (kAhead) __builtin_prefetch(w + r * w_stride + n + ahead, 1, 3);
    }
    UNROLL for (Size i = 0; i < kBatch; ++i) {
      Vector e = Load(errors + n * kBatch + i * kLanes);
      Keep(e);
      UNROLL for (Size r = 0; r < kRows; ++r) {
        after[r] += Splat(inputs[i * kLanes + r]) * e;
        sum[i][r] += before[r] * e;
      }
    }
    UNROLL for (Size r = 0; r < kRows; ++r) StoreSome<part>(w + r * w_stride + n, after[r], count);
  };
  Size n = 0;
  for (; n + kLanes <= columns; n += kLanes) one(std::false_type(), n, kLanes);
  if (n < columns) one(std::true_type(), n, columns - n);
  UNROLL for (Size i = 0; i < kBatch; ++i) {
    UNROLL for (Size r = 0; r < kRows; ++r) sums[i * kLanes + r] = sum[i][r];
  }
}

// All kLanes rows, or fewer, by twos.
template <Size kBatch, bool kAhead>
void BackwardGroup(const float* errors, const float* inputs, float* w, Size w_stride, Vector* sums, bool first,
                   Size rows, Size columns, Size ahead) {
  Size r = 0;
  for (; r + 2 <= rows; r += 2) {
    BackwardRows<kBatch, 2, kAhead>(errors, inputs + r, w + r * w_stride, w_stride, sums + r, first, columns, ahead);
  }
  if (r < rows) {
    BackwardRows<kBatch, 1, kAhead>(errors, inputs + r, w + r * w_stride, w_stride, sums + r, first, columns, ahead);
  }
}

using GroupFunction = void (*)(const float*, const float*, float*, Size, Vector*, bool, Size, Size, Size);

template <Size... kIndex>
constexpr auto MakeGroupFunctions(std::index_sequence<kIndex...>) {
  struct Table {
    GroupFunction of[sizeof...(kIndex)][2];
  };
  return Table{{{BackwardGroup<kIndex + 1, false>, BackwardGroup<kIndex + 1, true>}...}};
}

constexpr auto kGroupFunctions = MakeGroupFunctions(std::make_index_sequence<kMostRows>());

// By rows of W, each read and written once: at most kMostRows examples.
void BackwardByRows(const float* z, const float* error, float* w, float* input_error, Size batch, Size fan_in,
                    Size fan_out) {
  thread_local Workspace workspace;
  const Size padded = (fan_out + kLanes - 1) / kLanes * kLanes;
  float* errors = workspace.OfAtLeast(padded * batch);
  for (Size n = 0; n < fan_out; n += kLanes) {
    for (Size i = 0; i < batch; ++i) {
      Store(errors + n * batch + i * kLanes, LoadPart(error + i * fan_out + n, std::min(kLanes, fan_out - n)));
    }
  }
  const bool streamed = fan_in * fan_out * sizeof(float) >= kStreamed;
  const GroupFunction function = kGroupFunctions.of[batch - 1][streamed];
  Vector sums[kMostRows * kLanes];
  alignas(64) float inputs[kMostRows * kLanes];
  for (Size k = 0; k < fan_in; k += kLanes) {
    const Size rows = std::min(kLanes, fan_in - k);
    for (Size i = 0; i < batch; ++i) Store(inputs + i * kLanes, LoadPart(z + i * fan_in + k, rows));
    for (Size n = 0; n < fan_out; n += kBlock) {
      function(errors + n * batch, inputs, w + k * fan_out + n, fan_out, sums, n == 0, rows,
               std::min(kBlock, fan_out - n), 4 * fan_out);
    }
    for (Size i = 0; i < batch; ++i) {
      Square square;
      UNROLL for (Size r = 0; r < kLanes; ++r) square.row[r] = sums[i * kLanes + r];
      StorePart(input_error + i * fan_in + k, SumOfLanes(square), rows);
    }
  }
}

void BackwardUpdate(const float* z, const float* error, float* w, float* b, float* input_error, Size batch, Size fan_in,
                    Size fan_out) {
  if (input_error == nullptr) {
    Update({z, fan_in}, {error, fan_out}, w, fan_out, batch, fan_in, fan_out);
  } else if (batch > kMostRows || fan_out < kTransposedColumns) {
    BackwardByTransposing(z, error, w, input_error, batch, fan_in, fan_out);
  } else {
    BackwardByRows(z, error, w, input_error, batch, fan_in, fan_out);
  }
  for (Size n = 0; n < fan_out; n += kLanes) {
    const Size width = std::min(kLanes, fan_out - n);
    Vector sum = LoadPart(b + n, width);
    for (Size i = 0; i < batch; ++i) sum += LoadPart(error + i * fan_out + n, width);
    StorePart(b + n, sum, width);
  }
}

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Array>;

// Floats from one run's array to the next one's: 0 where all runs share it, [1, …].
Size Step(const Array& array, Size runs) {
  const auto dimensions = array.dimensions();
  if (dimensions[0] == 1 && runs > 1) return 0;
  return array.element_count() / dimensions[0];
}

// z [runs or 1, batch, fan_in], w [runs or 1, fan_in, fan_out], b [runs or 1, fan_out] -> s [runs, batch, fan_out].
ffi::Error ForwardCall(Array z, Array w, Array b, Result s) {
  const auto dimensions = s->dimensions();
  const Size runs = dimensions[0], batch = dimensions[1], fan_out = dimensions[2], fan_in = z.dimensions()[2];
  const Size z_step = Step(z, runs), w_step = Step(w, runs), b_step = Step(b, runs), s_step = batch * fan_out;
  for (Size r = 0; r < runs; ++r) {
    Forward(z.typed_data() + r * z_step, w.typed_data() + r * w_step, b.typed_data() + r * b_step,
            s->typed_data() + r * s_step, batch, fan_in, fan_out);
  }
  return ffi::Error::Success();
}

// As ForwardCall's, w and b of every run; updated in place, or copied first where the caller keeps what was before. A
// run all of whose error is 0 is left as it is, also where its z or w is not finite.
ffi::Error BackwardUpdateOf(Array z, Array error, Array w, Array b, Array* input_error, Result w_after,
                            Result b_after) {
  const auto dimensions = w.dimensions();
  const Size runs = dimensions[0], fan_in = dimensions[1], fan_out = dimensions[2], batch = z.dimensions()[1];
  if (w_after->typed_data() != w.typed_data()) std::memcpy(w_after->typed_data(), w.typed_data(), w.size_bytes());
  if (b_after->typed_data() != b.typed_data()) std::memcpy(b_after->typed_data(), b.typed_data(), b.size_bytes());
  const Size z_step = Step(z, runs), error_step = Step(error, runs);
  for (Size r = 0; r < runs; ++r) {
    const float* own_error = error.typed_data() + r * error_step;
    float* own_input_error = input_error == nullptr ? nullptr : input_error->typed_data() + r * batch * fan_in;
    if (std::all_of(own_error, own_error + batch * fan_out, [](float e) { return e == 0; })) {
      if (own_input_error != nullptr) std::fill_n(own_input_error, batch * fan_in, 0.0f);
      continue;
    }
    BackwardUpdate(z.typed_data() + r * z_step, own_error, w_after->typed_data() + r * fan_in * fan_out,
                   b_after->typed_data() + r * fan_out, own_input_error, batch, fan_in, fan_out);
  }
  return ffi::Error::Success();
}

ffi::Error BackwardUpdateCall(Array z, Array error, Array w, Array b, Result input_error, Result w_after,
                              Result b_after) {
  return BackwardUpdateOf(z, error, w, b, &*input_error, w_after, b_after);
}

ffi::Error UpdateCall(Array z, Array error, Array w, Array b, Result w_after, Result b_after) {
  return BackwardUpdateOf(z, error, w, b, nullptr, w_after, b_after);
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(GlorotForward, ForwardCall,
                              ffi::Ffi::Bind().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(GlorotBackwardUpdate, BackwardUpdateCall,
                              ffi::Ffi::Bind()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    GlorotUpdate, UpdateCall,
    ffi::Ffi::Bind().Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>().Ret<Array>());
