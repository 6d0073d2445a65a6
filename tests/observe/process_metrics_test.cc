#include "server/observe/process_metrics.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <cmath>
#include <ctime>
#include <string>
#include <vector>

#include "formats/file_handle.h"
#include "gtest/gtest.h"

namespace laplaced {
namespace {

// NaN if there is none.
double Value(const Metrics& metrics, const std::string& name) {
  const std::string text = metrics.Text(), line = "\n" + name + " ";
  const size_t at = text.find(line);
  return at == std::string::npos ? std::nan("") : std::stod(text.substr(at + line.size()));
}

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

class ProcessMetricsTest : public ::testing::Test {
 protected:
  ProcessMetricsTest() { AddProcessMetrics(metrics_); }
  Metrics metrics_;
};

TEST_F(ProcessMetricsTest, OpenFilesAreCounted) {
  const double before = Value(metrics_, "process_open_fds");
  std::vector<UniqueFd> files;
  for (int i = 0; i < 10; ++i) files.emplace_back(open("/dev/null", O_RDONLY));
  EXPECT_EQ(Value(metrics_, "process_open_fds"), before + 10);
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(Value(metrics_, "process_max_fds"), static_cast<double>(limit.rlim_cur));
}

TEST_F(ProcessMetricsTest, MemoryIsInBytes) {
  constexpr size_t kBytes = 64 << 20;
  const double before = Value(metrics_, "process_resident_memory_bytes");
  const std::vector<char> block(kBytes, 'x');
  const double grown = Value(metrics_, "process_resident_memory_bytes") - before;
  EXPECT_GT(grown, 0.9 * kBytes) << block.back();
  EXPECT_GT(Value(metrics_, "process_virtual_memory_bytes"),
            Value(metrics_, "process_resident_memory_bytes"));
}

TEST_F(ProcessMetricsTest, CpuTimeIsThatOfGetrusage) {
  const double until = CpuSeconds() + 0.1;
  while (CpuSeconds() < until) {
  }
  const double low = CpuSeconds(), got = Value(metrics_, "process_cpu_seconds_total");
  constexpr double kTicks = 0.03;  // both parts are cut to ticks of 10 ms
  EXPECT_GT(got, low - kTicks);
  EXPECT_LT(got, CpuSeconds() + kTicks);
}

TEST_F(ProcessMetricsTest, TheProcessBeganAMomentAgo) {
  const double age =
      static_cast<double>(std::time(nullptr)) - Value(metrics_, "process_start_time_seconds");
  EXPECT_GT(age, -2);
  EXPECT_LT(age, 3600);
  EXPECT_GE(Value(metrics_, "process_threads"), 1);
}

}  // namespace
}  // namespace laplaced
