// The process in numbers, under the names that every Prometheus client library uses:
// process_cpu_seconds_total, process_resident_memory_bytes, process_virtual_memory_bytes,
// process_open_fds, process_max_fds, process_threads, process_start_time_seconds. Read from /proc
// when somebody asks; what cannot be read is left out.
#pragma once

#include "server/observe/metrics.h"

namespace laplaced {

void AddProcessMetrics(Metrics& metrics);

}  // namespace laplaced
