// Runs CUDA kernels on the CPU: the blocks one after the other, the threads of a block as coroutines that change
// at __syncthreads(). For tests of kernels where there is no device.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulate {

inline dim3 thread_index, block_index, block_size, grid_size;

struct Block {
  std::vector<unsigned char> memory;
  std::vector<ucontext_t> threads;
  std::vector<std::unique_ptr<char[]>> stacks;
  std::vector<char> done;
  ucontext_t scheduler;
  size_t current = 0;
  const std::function<void()>* body = nullptr;
};

inline Block block;

inline unsigned char* shared() { return block.memory.data(); }
inline void synchronise() { swapcontext(&block.threads[block.current], &block.scheduler); }
inline void enter() {
  (*block.body)();
  block.done[block.current] = 1;
}

inline void launch(dim3 grid, dim3 size, size_t shared_bytes, const std::function<void()>& body) {
  constexpr size_t kStack = 1 << 16;
  const size_t count = static_cast<size_t>(size.x) * size.y * size.z;
  block.body = &body;
  block.threads.resize(count);
  while (block.stacks.size() < count) block.stacks.push_back(std::make_unique<char[]>(kStack));
  block_size = size, grid_size = grid;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = dim3(x, y, z);
        block.memory.assign(shared_bytes, 0xff);  // NaN: what a kernel forgets to write shows in the result
        block.done.assign(count, 0);
        for (size_t t = 0; t < count; ++t) {
          getcontext(&block.threads[t]);
          block.threads[t].uc_stack.ss_sp = block.stacks[t].get();
          block.threads[t].uc_stack.ss_size = kStack;
          block.threads[t].uc_link = &block.scheduler;
          makecontext(&block.threads[t], enter, 0);
        }
        for (bool running = true; running;) {
          running = false;
          for (size_t t = 0; t < count; ++t) {
            if (block.done[t]) continue;
            running = true;
            block.current = t;
            thread_index = dim3(t % size.x, t / size.x % size.y, t / size.x / size.y);
            swapcontext(&block.scheduler, &block.threads[t]);
          }
        }
      }
    }
  }
}

}  // namespace emulate

#define threadIdx ::emulate::thread_index
#define blockIdx ::emulate::block_index
#define blockDim ::emulate::block_size
#define gridDim ::emulate::grid_size
#define __syncthreads() ::emulate::synchronise()
