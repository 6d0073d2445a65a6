// Start-up of LibTorch in a process: thread counts, BLAS check, OpenMP waiting policy. No LibTorch
// in this header.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace laplaced {

// Idle OpenMP threads that spin take the core away from whoever needs it (a batch of one was
// measured 20 times slower beside a busy neighbour). The policy is read from the environment when
// the process starts, so this sets OMP_WAIT_POLICY=PASSIVE and executes the same program again,
// once, unless the variable is set already. Call first in main.
void ReexecWithPassiveOpenMp(char** argv);

// CPUs that this process may use: the smaller of the affinity mask and the cgroup's quota (v1 or
// v2), at least 1.
int CpuQuotaThreads();

// Bytes of memory that this process may use: the smaller of the machine's memory and the cgroup's
// limit (v1 or v2).
int64_t MemoryLimitBytes();

// Sets LibTorch's thread count for the process (0: CpuQuotaThreads) and checks which BLAS serves
// it. FAILED_PRECONDITION without OpenBLAS unless `allow_slow_blas`; the message says what to
// install. Call once, before any tensor work.
absl::Status InitTorchRuntime(int threads, bool allow_slow_blas);

// Settings that LibTorch keeps per thread, as given to InitTorchRuntime; call at the start of every
// thread that computes.
void InitTorchThread();

}  // namespace laplaced
