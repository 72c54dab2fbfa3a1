// Launching kernels, with or without a CUDA device.
//
// With UNIFIED_EMULATE the kernels are compiled as C++ and run on the CPU, thread by thread (see
// ../emulation/emulate.h): slow, but their indexing and their use of shared memory can be tested anywhere.
#pragma once

#include "../common.h"

#ifdef UNIFIED_EMULATE

#include "../emulation/emulate.h"
#define UNIFIED_LAUNCH(kernel, grid, block, shared, like, ...) \
  ::emulate::launch(grid, block, shared, [=] { kernel(__VA_ARGS__); })
#define UNIFIED_DISPATCH_KEY CPU

#else

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#define UNIFIED_DISPATCH_KEY CUDA
#define UNIFIED_LAUNCH(kernel, grid, block, shared, like, ...)                                              \
  do {                                                                                                      \
    const torch::stable::accelerator::DeviceGuard guard((like).get_device_index());                         \
    void* stream = nullptr;                                                                                 \
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream((like).get_device_index(), &stream));  \
    if ((shared) > 48 * 1024) {                                                                             \
      STD_CUDA_CHECK(cudaFuncSetAttribute(                                                                  \
          kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));                  \
    }                                                                                                       \
    kernel<<<grid, block, shared, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__);                        \
    STD_CUDA_KERNEL_LAUNCH_CHECK();                                                                         \
  } while (0)

#endif

namespace unified {

#ifdef UNIFIED_EMULATE
inline unsigned char* shared_memory() { return ::emulate::shared(); }
#else
extern __shared__ __align__(16) unsigned char unified_shared[];
__device__ inline unsigned char* shared_memory() { return unified_shared; }
#endif

constexpr int kThreads = 256;

// Blocks that keep a large device busy.
constexpr int64_t kBlocks = 1024;

template <class T, int Count>
struct alignas(sizeof(T) * Count) Vec {
  T v[Count];
};

inline bool is_aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;  // true for nullptr
}

__host__ __device__ inline int floor_div_int(int a, int b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
__host__ __device__ inline int floor_mod_int(int a, int b) { return a - floor_div_int(a, b) * b; }

template <class F>
auto with_type(const Tensor& x, const F& f) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return f(float{});
    case ScalarType::Double: return f(double{});
    case ScalarType::Half: return f(c10::Half{});
    case ScalarType::BFloat16: return f(c10::BFloat16{});
    default: STD_TORCH_CHECK(false, "expected float32, float64, float16 or bfloat16"); return f(float{});
  }
}

inline std::optional<Tensor> packed(const std::optional<Tensor>& x) {
  return x ? std::optional<Tensor>(torch::stable::contiguous(*x)) : std::nullopt;
}

template <class T>
const T* pointer(const std::optional<Tensor>& x) {
  return x ? static_cast<const T*>(x->const_data_ptr()) : nullptr;
}

}  // namespace unified
