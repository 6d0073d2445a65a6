#include "server/model/torch_runtime.h"

#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>

namespace laplaced {
namespace {

// CPUs of the cgroup's bandwidth limit; 0 if there is none.
double CgroupCpus() {
  if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2) {
    std::string quota;
    double period = 0;
    if (v2 >> quota >> period && quota != "max" && period > 0) {
      return std::atof(quota.c_str()) / period;
    }
    return 0;
  }
  std::ifstream quota_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream period_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (quota_file >> quota && period_file >> period && quota > 0 && period > 0) {
    return quota / period;
  }
  return 0;
}

std::atomic<int> default_threads{1};

}  // namespace

void ReexecWithPassiveOpenMp(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "PASSIVE", 0);
  execv("/proc/self/exe", argv);
  // Without /proc the program goes on with spinning threads: slower beside neighbours, equally
  // right.
}

int CpuQuotaThreads() {
  cpu_set_t mask;
  int cpus = 1;
  if (sched_getaffinity(0, sizeof(mask), &mask) == 0) cpus = std::max(1, CPU_COUNT(&mask));
  if (const double quota = CgroupCpus(); quota > 0) {
    cpus = std::min(cpus, std::max(1, static_cast<int>(std::ceil(quota))));
  }
  return cpus;
}

int64_t MemoryLimitBytes() {
  int64_t limit = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  for (const char* path :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    int64_t bytes = 0;
    if (std::ifstream(path) >> bytes && bytes > 0) limit = std::min(limit, bytes);
  }
  return limit;
}

absl::Status InitTorchRuntime(int threads, bool allow_slow_blas) {
  default_threads = threads > 0 ? threads : CpuQuotaThreads();
  InitTorchThread();
  at::set_num_interop_threads(1);
  const bool openblas = dlsym(RTLD_DEFAULT, "openblas_get_config") != nullptr;
  if (!openblas && !allow_slow_blas) {
    return absl::FailedPreconditionError(
        "linear algebra is not served by OpenBLAS and would be about 40 times slower. Install it "
        "(apt-get install libopenblas0-openmp) or, if another BLAS is installed too, choose it "
        "(update-alternatives --config libblas.so.3-x86_64-linux-gnu). To start anyway: "
        "--allow-slow-blas");
  }
  return absl::OkStatus();
}

void InitTorchThread() { at::set_num_threads(default_threads.load()); }

}  // namespace laplaced
