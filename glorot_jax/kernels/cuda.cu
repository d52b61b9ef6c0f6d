// Dense layers of many runs at a small batch, for NVIDIA's GPUs: the forward pass, and the backward pass with update.
//
// Per run, all row-major float32:
//   Forward           s = z W + b
//   BackwardUpdate    zᵉ = error Wᵀ,  W ← W + zᵀ error,  b ← b + Σ error      (W read once and written once)
//
// At a batch this small a layer takes the time that its weights need to come from memory and go back, so each weight
// is read once a pass, 16 bytes a thread and several of them under way, and all examples are worked on while it is in a
// register. Sums are float32 and have an order that the layer's shape alone decides: no atomics, nothing tuned. The
// library is built for one size of batch, GLOROT_BATCH.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "xla/ffi/api/ffi.h"

namespace {

constexpr int kBatch = GLOROT_BATCH;
constexpr int kLanes = 32;          // threads of a warp
constexpr int kRows = 4;            // rows of W that a warp works on at a time
constexpr int kAhead = 2;           // such groups that are under way to it meanwhile
constexpr int kStages = kAhead + 1;
constexpr int kManyRows = 256;      // rows of W from which on eight warps share a strip of columns, else two
constexpr int kForwardWarps = 16;   // of a multiprocessor at least, as registers have to last for them
constexpr int kBackwardWarps = 4;   // of a block
constexpr int kBackwardGroups = 4;  // groups of rows that a warp goes through, one after the other
constexpr int kBackwardBlocks = kBatch > 10 ? 3 : 4;  // of a multiprocessor at least
constexpr unsigned kAll = 0xffffffffu;

// So many neighbours in a row, moved in one go.
template <int kWide>
struct alignas(4 * kWide) Line {
  float of[kWide];
};

template <int kWide>
__device__ __forceinline__ Line<kWide> Load(const float* from) {
  Line<kWide> line;
  if constexpr (kWide == 4) {
    const float4 four = __ldg(reinterpret_cast<const float4*>(from));
    line.of[0] = four.x, line.of[1] = four.y, line.of[2] = four.z, line.of[3] = four.w;
  } else if constexpr (kWide == 2) {
    const float2 two = __ldg(reinterpret_cast<const float2*>(from));
    line.of[0] = two.x, line.of[1] = two.y;
  } else {
    line.of[0] = __ldg(from);
  }
  return line;
}

// Past the first cache, which is left to what is read again.
template <int kWide>
__device__ __forceinline__ void Store(float* to, const Line<kWide>& line) {
  if constexpr (kWide == 4) {
    __stcg(reinterpret_cast<float4*>(to), make_float4(line.of[0], line.of[1], line.of[2], line.of[3]));
  } else if constexpr (kWide == 2) {
    __stcg(reinterpret_cast<float2*>(to), make_float2(line.of[0], line.of[1]));
  } else {
    __stcg(to, line.of[0]);
  }
}

// Four neighbouring inputs of an example, those behind the last as 0.
template <bool kWholeGroups>
__device__ __forceinline__ Line<kRows> LoadInputs(const float* z, int row, int fan_in) {
  if constexpr (kWholeGroups) {
    return Load<kRows>(z + row);
  } else {
    Line<kRows> line;
#pragma unroll
    for (int r = 0; r < kRows; ++r) line.of[r] = row + r < fan_in ? __ldg(z + row + r) : 0.0f;
    return line;
  }
}

// Groups of rows on their way from W into shared memory. A thread reads what it has asked for, and nothing else: there
// is nobody to wait for.
template <int kWide, int kWarps>
class Stream {
 public:
  static constexpr int kFloats = kStages * kWarps * kRows * kLanes * kWide;

  __device__ __forceinline__ explicit Stream(float* shared)
      : own_(shared + threadIdx.x / kLanes * kRows * kLanes * kWide + threadIdx.x % kLanes * kWide) {}

  // Asks for the lines at ``from`` and below it, or for zeros.
  __device__ __forceinline__ void Ask(const float* from, int fan_out, int rows) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(Place(asked_, r)));
      const int bytes = r < rows ? 4 * kWide : 0;
      const float* line = r < rows ? from + r * fan_out : from;
      if constexpr (kWide == 4) {  // 16 bytes can go past the first cache
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(line), "r"(bytes) : "memory");
      } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(line), "n"(4 * kWide), "r"(bytes)
                     : "memory");
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    asked_ = asked_ + 1 == kStages ? 0 : asked_ + 1;
  }

  // Waits for the group that was asked for kAhead groups ago.
  __device__ __forceinline__ void Wait() { asm volatile("cp.async.wait_group %0;" ::"n"(kAhead - 1) : "memory"); }

  __device__ __forceinline__ Line<kWide> Row(int r) const {
    return *reinterpret_cast<const Line<kWide>*>(Place(read_, r));
  }

  __device__ __forceinline__ void Next() { read_ = read_ + 1 == kStages ? 0 : read_ + 1; }

  __device__ __forceinline__ void End() { asm volatile("cp.async.wait_all;" ::: "memory"); }

 private:
  __device__ __forceinline__ float* Place(int stage, int r) const {
    return own_ + (stage * kWarps * kRows + r) * kLanes * kWide;
  }

  float* own_;
  int asked_ = 0, read_ = 0;
};

// strips: blocks of a run; blocks of a run are neighbours.
struct Layer {
  int fan_in, fan_out, strips;
};

// A block: one run, a strip of 32 · kWide columns. A warp has every kWarps-th group of rows.
template <int kWide, int kWarps, bool kWholeGroups>
__global__ void __launch_bounds__(kWarps* kLanes, kForwardWarps / kWarps)
    ForwardStrip(const float* __restrict__ z, int64_t z_step, const float* __restrict__ w, int64_t w_step,
                 const float* __restrict__ b, int64_t b_step, float* __restrict__ s, Layer layer) {
  constexpr int kStrip = kLanes * kWide;
  extern __shared__ __align__(16) float shared[];
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int64_t run = blockIdx.x / layer.strips;
  const int column = blockIdx.x % layer.strips * kStrip + lane * kWide;
  const bool here = column < layer.fan_out;
  z += run * z_step, w += run * w_step + (here ? column : 0), b += run * b_step;

  Stream<kWide, kWarps> stream(shared);
  int ahead = warp * kRows;
  const auto ask = [&] {
    const int rows = here ? layer.fan_in - ahead : 0;
    stream.Ask(rows > 0 ? w + static_cast<int64_t>(ahead) * layer.fan_out : w, layer.fan_out, rows);
    ahead += kWarps * kRows;
  };
#pragma unroll
  for (int n = 0; n < kAhead; ++n) ask();
  float sum[kBatch][kWide] = {};
#pragma unroll 1
  for (int row = warp * kRows; row < layer.fan_in; row += kWarps * kRows) {
    stream.Wait();
    Line<kWide> lines[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) lines[r] = stream.Row(r);
    ask();
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const Line<kRows> inputs = LoadInputs<kWholeGroups>(z + i * layer.fan_in, row, layer.fan_in);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int c = 0; c < kWide; ++c) sum[i][c] = fmaf(inputs.of[r], lines[r].of[c], sum[i][c]);
      }
    }
    stream.Next();
  }
  stream.End();
  __syncthreads();
  // The warps' sums are added by halves.
  const auto place = [&](int of, int i, int c) { return shared + ((of * kBatch + i) * kWide + c) * kLanes + lane; };
#pragma unroll
  for (int half = kWarps / 2; half > 0; half /= 2) {
    if (warp >= half && warp < 2 * half) {
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
#pragma unroll
        for (int c = 0; c < kWide; ++c) *place(warp - half, i, c) = sum[i][c];
      }
    }
    __syncthreads();
    if (warp < half) {
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
#pragma unroll
        for (int c = 0; c < kWide; ++c) sum[i][c] += *place(warp, i, c);
      }
    }
    __syncthreads();
  }
  if (warp > 0 || !here) return;
  const Line<kWide> biases = Load<kWide>(b + column);
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    Line<kWide> line;
#pragma unroll
    for (int c = 0; c < kWide; ++c) line.of[c] = sum[i][c] + biases.of[c];
    Store<kWide>(s + (run * kBatch + i) * layer.fan_out + column, line);
  }
}

// Sums kCount numbers of each lane over the lanes of a warp. Each stage halves lanes and numbers: a lane keeps one half
// of the numbers, and gets them from the lane that keeps the other. What number a lane ends up with is Kept's to say.
template <int kCount, int kDistance>
struct Halves {
  static constexpr int kHalf = (kCount + 1) / 2;
  static __device__ __forceinline__ void Sum(float* numbers, int lane) {
    const bool upper = lane & kDistance;
#pragma unroll
    for (int n = 0; n < kHalf; ++n) {
      const float above = n + kHalf < kCount ? numbers[n + kHalf] : 0.0f;
      const float kept = upper ? above : numbers[n], given = upper ? numbers[n] : above;
      numbers[n] = kept + __shfl_xor_sync(kAll, given, kDistance);
    }
    Halves<kHalf, kDistance / 2>::Sum(numbers, lane);
  }
  // Which of kCount a lane's number at a place is; -1 if none.
  static __device__ __forceinline__ int Kept(int place, int lane) {
    const int inner = Halves<kHalf, kDistance / 2>::Kept(place, lane);
    if (inner < 0) return -1;
    const int n = inner + (lane & kDistance ? kHalf : 0);
    return n < kCount ? n : -1;
  }
  static constexpr int kLeft = Halves<kHalf, kDistance / 2>::kLeft;
};

template <int kCount>
struct Halves<kCount, 0> {
  static __device__ __forceinline__ void Sum(float*, int) {}
  static __device__ __forceinline__ int Kept(int place, int) { return place; }
  static constexpr int kLeft = kCount;
};

// A block: one run, a strip of rows. A run all of whose error is 0 is left as it is, also where z or W is not finite.
template <int kWide, bool kInputError, bool kWholeGroups>
__global__ void __launch_bounds__(kBackwardWarps* kLanes, kBackwardBlocks)
    BackwardStrip(const float* __restrict__ z, int64_t z_step, const float* __restrict__ error, int64_t error_step,
                  const float* w, float* w_after, const float* b, float* b_after, float* __restrict__ input_error,
                  Layer layer) {
  constexpr int kSums = kBatch * kRows, kStep = kBackwardWarps * kRows;
  __shared__ __align__(16) float shared[Stream<kWide, kBackwardWarps>::kFloats];
  __shared__ Line<kRows> inputs[kBackwardWarps][kBatch];
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int64_t run = blockIdx.x / layer.strips, weights = static_cast<int64_t>(layer.fan_in) * layer.fan_out;
  const int strip = blockIdx.x % layer.strips, first = strip * kBackwardGroups * kStep + warp * kRows;
  const int end = min(layer.fan_in, (strip + 1) * kBackwardGroups * kStep);
  z += run * z_step, error += run * error_step, w += run * weights, w_after += run * weights;
  if constexpr (kInputError) input_error += run * kBatch * layer.fan_in;

  Stream<kWide, kBackwardWarps> stream(shared);
  int ahead = first, ahead_column = lane * kWide;
  const auto ask = [&] {
    const int rows = ahead_column < layer.fan_out ? end - ahead : 0;
    const float* from = w + static_cast<int64_t>(ahead) * layer.fan_out + ahead_column;
    stream.Ask(rows > 0 ? from : w, layer.fan_out, rows);
    ahead_column += kLanes * kWide;
    if (ahead_column - lane * kWide >= layer.fan_out) ahead_column = lane * kWide, ahead += kStep;
  };
#pragma unroll
  for (int n = 0; n < kAhead; ++n) ask();

  int some = 0;
#pragma unroll 4
  for (int n = threadIdx.x * kWide; n < kBatch * layer.fan_out; n += kBackwardWarps * kLanes * kWide) {
    const Line<kWide> errors = Load<kWide>(error + n);
#pragma unroll
    for (int c = 0; c < kWide; ++c) some |= errors.of[c] != 0.0f;
  }
  const bool goes_on = __syncthreads_or(some);
  if (strip == 0) {
    b += run * layer.fan_out, b_after += run * layer.fan_out;
    for (int n = threadIdx.x; n < layer.fan_out; n += kBackwardWarps * kLanes) {
      float sum = b[n];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) sum += goes_on ? __ldg(error + i * layer.fan_out + n) : 0.0f;
      b_after[n] = sum;
    }
  }
  if (!goes_on && w == w_after) {  // where it is updated in place there is nothing to be written back
    stream.End();
    if constexpr (kInputError) {
      const int top = strip * kBackwardGroups * kStep, rows = end - top;
      for (int n = threadIdx.x; n < kBatch * rows; n += kBackwardWarps * kLanes) {
        input_error[n / rows * layer.fan_in + top + n % rows] = 0.0f;
      }
    }
    return;
  }
#pragma unroll 1
  for (int row = first; row < end; row += kStep) {
    if (lane < kBatch) {
      inputs[warp][lane] = LoadInputs<kWholeGroups>(z + lane * layer.fan_in, row, layer.fan_in);
      if (!goes_on) inputs[warp][lane] = {};
    }
    __syncwarp();
    float sums[kSums] = {};
    float* to = w_after + static_cast<int64_t>(row) * layer.fan_out;
#pragma unroll 1
    for (int start = 0; start < layer.fan_out; start += kLanes * kWide) {
      const int column = start + lane * kWide;
      const bool here = column < layer.fan_out;
      stream.Wait();
      Line<kWide> before[kRows], after[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) before[r] = after[r] = stream.Row(r);
      ask();
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const Line<kRows> input = inputs[warp][i];
        Line<kWide> errors = {};
        if (here) errors = Load<kWide>(error + i * layer.fan_out + column);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int c = 0; c < kWide; ++c) {
            if constexpr (kInputError) {
              sums[i * kRows + r] = fmaf(errors.of[c], before[r].of[c], sums[i * kRows + r]);
            }
            after[r].of[c] = fmaf(input.of[r], errors.of[c], after[r].of[c]);
          }
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (here && (kWholeGroups || row + r < layer.fan_in)) Store<kWide>(to + r * layer.fan_out + column, after[r]);
      }
      stream.Next();
    }
    __syncwarp();
    if constexpr (kInputError) {
      using Lanes = Halves<kSums, kLanes / 2>;
      Lanes::Sum(sums, lane);
#pragma unroll
      for (int place = 0; place < Lanes::kLeft; ++place) {
        const int n = Lanes::Kept(place, lane), r = row + n % kRows;
        if (n >= 0 && r < layer.fan_in) input_error[n / kRows * layer.fan_in + r] = goes_on ? sums[place] : 0.0f;
      }
    }
  }
  stream.End();
}

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Array>;

// Floats from one run's array to the next one's: 0 where all runs share it, [1, …].
int64_t Step(const Array& array, int64_t runs) {
  const auto dimensions = array.dimensions();
  if (dimensions[0] == 1 && runs > 1) return 0;
  return array.element_count() / dimensions[0];
}

// Neighbouring columns that a thread takes: as many as divide the row, if all lanes then have some.
int Wide(int64_t fan_out) {
  for (int wide : {4, 2}) {
    if (fan_out % wide == 0 && fan_out >= wide * kLanes) return wide;
  }
  return 1;
}

ffi::Error Done() {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return ffi::Error::Success();
  return ffi::Error::Internal(cudaGetErrorString(error));
}

template <int kWide, int kWarps, bool kWholeGroups>
ffi::Error LaunchForward(cudaStream_t stream, const Array& z, const Array& w, const Array& b, Result& s, int64_t runs,
                         Layer layer) {
  constexpr int kBytes = sizeof(float) * std::max(Stream<kWide, kWarps>::kFloats, kWarps / 2 * kBatch * kWide * kLanes);
  const auto kernel = ForwardStrip<kWide, kWarps, kWholeGroups>;
  if (kBytes > 48 * 1024) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  layer.strips = (layer.fan_out + kLanes * kWide - 1) / (kLanes * kWide);
  kernel<<<layer.strips * runs, kWarps * kLanes, kBytes, stream>>>(z.typed_data(), Step(z, runs), w.typed_data(),
                                                                  Step(w, runs), b.typed_data(), Step(b, runs),
                                                                  s->typed_data(), layer);
  return Done();
}

template <int kWide>
ffi::Error ForwardWide(cudaStream_t stream, const Array& z, const Array& w, const Array& b, Result& s, int64_t runs,
                       Layer layer) {
  const bool whole = layer.fan_in % kRows == 0;
  if (layer.fan_in < kManyRows) {
    return whole ? LaunchForward<kWide, 2, true>(stream, z, w, b, s, runs, layer)
                 : LaunchForward<kWide, 2, false>(stream, z, w, b, s, runs, layer);
  }
  return whole ? LaunchForward<kWide, 8, true>(stream, z, w, b, s, runs, layer)
               : LaunchForward<kWide, 8, false>(stream, z, w, b, s, runs, layer);
}

// z [runs or 1, batch, fan_in], w [runs or 1, fan_in, fan_out], b [runs or 1, fan_out] -> s [runs, batch, fan_out].
ffi::Error ForwardCall(cudaStream_t stream, Array z, Array w, Array b, Result s) {
  const auto dimensions = s->dimensions();
  const Layer layer{static_cast<int>(z.dimensions()[2]), static_cast<int>(dimensions[2]), 0};
  if (dimensions[1] != kBatch) return ffi::Error::InvalidArgument("built for another batch");
  switch (Wide(layer.fan_out)) {
    case 4:
      return ForwardWide<4>(stream, z, w, b, s, dimensions[0], layer);
    case 2:
      return ForwardWide<2>(stream, z, w, b, s, dimensions[0], layer);
    default:
      return ForwardWide<1>(stream, z, w, b, s, dimensions[0], layer);
  }
}

template <int kWide, bool kInputError>
ffi::Error LaunchBackward(cudaStream_t stream, const Array& z, const Array& error, const Array& w, const Array& b,
                          float* input_error, Result& w_after, Result& b_after, int64_t runs, Layer layer) {
  constexpr int kStrip = kRows * kBackwardWarps * kBackwardGroups;
  layer.strips = (layer.fan_in + kStrip - 1) / kStrip;
  const auto kernel = layer.fan_in % kRows == 0 ? BackwardStrip<kWide, kInputError, true>
                                                : BackwardStrip<kWide, kInputError, false>;
  kernel<<<layer.strips * runs, kBackwardWarps * kLanes, 0, stream>>>(z.typed_data(), Step(z, runs), error.typed_data(),
                                                       Step(error, runs), w.typed_data(), w_after->typed_data(),
                                                       b.typed_data(), b_after->typed_data(), input_error, layer);
  return Done();
}

// As ForwardCall's, w and b of every run; updated in place, or beside what was before where the caller keeps that.
template <bool kInputError>
ffi::Error Backward(cudaStream_t stream, const Array& z, const Array& error, const Array& w, const Array& b,
                    float* input_error, Result& w_after, Result& b_after) {
  const auto dimensions = w.dimensions();
  const Layer layer{static_cast<int>(dimensions[1]), static_cast<int>(dimensions[2]), 0};
  if (z.dimensions()[1] != kBatch) return ffi::Error::InvalidArgument("built for another batch");
  switch (Wide(layer.fan_out)) {
    case 4:
      return LaunchBackward<4, kInputError>(stream, z, error, w, b, input_error, w_after, b_after, dimensions[0], layer);
    case 2:
      return LaunchBackward<2, kInputError>(stream, z, error, w, b, input_error, w_after, b_after, dimensions[0], layer);
    default:
      return LaunchBackward<1, kInputError>(stream, z, error, w, b, input_error, w_after, b_after, dimensions[0], layer);
  }
}

ffi::Error BackwardUpdateCall(cudaStream_t stream, Array z, Array error, Array w, Array b, Result input_error,
                              Result w_after, Result b_after) {
  return Backward<true>(stream, z, error, w, b, input_error->typed_data(), w_after, b_after);
}

ffi::Error UpdateCall(cudaStream_t stream, Array z, Array error, Array w, Array b, Result w_after, Result b_after) {
  return Backward<false>(stream, z, error, w, b, nullptr, w_after, b_after);
}

}  // namespace

#define STREAM ffi::Ffi::Bind().Ctx<ffi::PlatformStream<cudaStream_t>>()
#define TRAITS {ffi::Traits::kCmdBufferCompatible}

XLA_FFI_DEFINE_HANDLER_SYMBOL(GlorotForward, ForwardCall,
                              STREAM.Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>(), TRAITS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    GlorotBackwardUpdate, BackwardUpdateCall,
    STREAM.Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>().Ret<Array>().Ret<Array>(), TRAITS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(GlorotUpdate, UpdateCall,
                              STREAM.Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>().Ret<Array>(),
                              TRAITS);
