#include "server/observe/process_metrics.h"

#include <prometheus/metric_family.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/types/optional.h"

namespace laplaced {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

void Add(const char* name, const char* help, MetricType type, double value,
         std::vector<MetricFamily>& to) {
  prometheus::ClientMetric metric;
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  to.push_back({name, help, type, {std::move(metric)}});
}

std::string ReadAll(const char* path) {
  std::ifstream file(path);
  std::ostringstream all;
  all << file.rdbuf();
  return all.str();
}

// Fields of /proc/self/stat by their numbers in proc(5), from 3 on: what stands before, the name of
// the program, may hold anything.
struct ProcessStat {
  double user_ticks = 0, system_ticks = 0;  // 14, 15
  double threads = 0;                       // 20
  double start_ticks = 0;                   // 22, since boot
  double virtual_bytes = 0;                 // 23
  double resident_pages = 0;                // 24
};

absl::optional<ProcessStat> ReadStat() {
  const std::string all = ReadAll("/proc/self/stat");
  const size_t name_end = all.rfind(')');
  if (name_end == std::string::npos) return absl::nullopt;
  std::istringstream in(all.substr(name_end + 1));
  std::vector<std::string> fields;
  for (std::string field; in >> field;) fields.push_back(field);
  constexpr size_t kFirst = 3, kLast = 24;
  if (fields.size() <= kLast - kFirst) return absl::nullopt;
  const auto field = [&](size_t number) { return std::atof(fields[number - kFirst].c_str()); };
  return ProcessStat{field(14), field(15), field(20), field(22), field(23), field(24)};
}

// Seconds since 1970 at which the machine started; negative if unknown.
double BootTime() {
  std::istringstream in(ReadAll("/proc/stat"));
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("btime ", 0) == 0) return std::atof(line.c_str() + 6);
  }
  return -1;
}

// Negative if unknown.
double OpenFiles() {
  std::error_code error;
  double count = 0;
  auto it = std::filesystem::directory_iterator("/proc/self/fd", error);
  for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) ++count;
  return error ? -1 : count - 1;  // without the one that looks
}

void Collect(double boot_time, std::vector<MetricFamily>& to) {
  if (const auto stat = ReadStat()) {
    const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
    Add("process_cpu_seconds_total", "Seconds of user and system CPU time", MetricType::Counter,
        (stat->user_ticks + stat->system_ticks) / ticks, to);
    Add("process_resident_memory_bytes", "Resident memory in bytes", MetricType::Gauge,
        stat->resident_pages * static_cast<double>(sysconf(_SC_PAGESIZE)), to);
    Add("process_virtual_memory_bytes", "Virtual memory in bytes", MetricType::Gauge,
        stat->virtual_bytes, to);
    Add("process_threads", "Threads of the process", MetricType::Gauge, stat->threads, to);
    if (boot_time >= 0) {
      Add("process_start_time_seconds", "When the process began, in seconds since 1970",
          MetricType::Gauge, boot_time + stat->start_ticks / ticks, to);
    }
  }
  const double open_files = OpenFiles();
  if (open_files >= 0) {
    Add("process_open_fds", "Open file descriptors", MetricType::Gauge, open_files, to);
  }
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    Add("process_max_fds", "Most file descriptors that may be open", MetricType::Gauge,
        static_cast<double>(limit.rlim_cur), to);
  }
}

}  // namespace

void AddProcessMetrics(Metrics& metrics) {
  metrics.AddCollector([boot_time = BootTime()](std::vector<MetricFamily>& families) {
    Collect(boot_time, families);
  });
}

}  // namespace laplaced
