#include "client/cli/bench_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/table.h"

namespace laplace::cli {
namespace {

using client::LatencyHistogram;
using client::LoadResult;

// A generator that is later than this puts its own delays into the latencies.
constexpr double kBehindSeconds = 0.01;

std::string Milliseconds(double seconds) { return absl::StrFormat("%.2f", 1e3 * seconds); }

std::string LoadName(const BenchRun& run) {
  if (run.load.concurrency > 0) return absl::StrCat(run.load.concurrency, " in flight");
  const std::string rate = absl::StrCat(Number(run.load.rate), "/s");
  return run.of_peak > 0 ? absl::StrCat(run.of_peak, " x peak, ", rate) : rate;
}

std::string OtherOutcomes(const LoadResult& result) {
  std::string others;
  const auto add = [&](const std::string& name, int64_t count) {
    absl::StrAppend(&others, others.empty() ? "" : ", ", name, " ", Count(count));
  };
  for (const auto& [code, count] : result.codes) {
    if (code != "OK") add(code, count);
  }
  if (result.not_sent > 0) add("not sent", result.not_sent);
  return others;
}

Json Quantiles(const LatencyHistogram& histogram) {
  return {{"mean", histogram.mean()},          {"p50", histogram.Quantile(0.5)},
          {"p90", histogram.Quantile(0.9)},    {"p99", histogram.Quantile(0.99)},
          {"p999", histogram.Quantile(0.999)}, {"max", histogram.max()}};
}

}  // namespace

std::string BenchTable(const std::vector<BenchRun>& runs) {
  using Align = Table::Align;
  Table table({{"LOAD", Align::kRight},
               {"OFFERED/S", Align::kRight},
               {"ANSWERS/S", Align::kRight},
               {"P50 MS", Align::kRight},
               {"P90", Align::kRight},
               {"P99", Align::kRight},
               {"P99.9", Align::kRight},
               {"MAX", Align::kRight},
               {"QUEUE P50", Align::kRight},
               {"COMPUTE P50", Align::kRight},
               {"OVERHEAD P50", Align::kRight},
               {"P99", Align::kRight},
               {"OTHER OUTCOMES"}});
  std::string notes;
  for (const BenchRun& run : runs) {
    const LoadResult& r = run.result;
    table.AddRow({LoadName(run),
                  absl::StrFormat("%.1f", static_cast<double>(r.offered) / r.seconds),
                  absl::StrFormat("%.1f", r.goodput()), Milliseconds(r.latency.Quantile(0.5)),
                  Milliseconds(r.latency.Quantile(0.9)), Milliseconds(r.latency.Quantile(0.99)),
                  Milliseconds(r.latency.Quantile(0.999)), Milliseconds(r.latency.max()),
                  Milliseconds(r.queue.Quantile(0.5)), Milliseconds(r.compute.Quantile(0.5)),
                  Milliseconds(r.overhead.Quantile(0.5)), Milliseconds(r.overhead.Quantile(0.99)),
                  OtherOutcomes(r)});
    if (r.behind_seconds > kBehindSeconds) {
      absl::StrAppend(&notes, "note: ", LoadName(run), ": the generator was up to ",
                      Milliseconds(r.behind_seconds),
                      " ms late, which is part of these latencies\n");
    }
  }
  return table.ToString() + notes;
}

Json BenchJson(const BenchRun& run, int64_t rows) {
  const LoadResult& result = run.result;
  Json json;
  if (run.load.concurrency > 0) json["concurrency"] = run.load.concurrency;
  if (run.load.rate > 0) json["rate"] = run.load.rate;
  if (run.of_peak > 0) json["of_peak"] = run.of_peak;
  json["seconds"] = result.seconds;
  json["offered"] = result.offered;
  json["not_sent"] = result.not_sent;
  json["generator_behind_seconds"] = result.behind_seconds;
  json["codes"] = Json(result.codes);
  json["answers_per_second"] = result.goodput();
  json["rows_per_second"] = static_cast<double>(rows) * result.goodput();
  json["latency_seconds"] = Quantiles(result.latency);
  json["queue_seconds"] = Quantiles(result.queue);
  json["compute_seconds"] = Quantiles(result.compute);
  json["overhead_seconds"] = Quantiles(result.overhead);
  Json bins = Json::array();
  for (const auto& [upper, count] : result.latency.Octaves()) {
    bins.push_back({{"below_seconds", upper}, {"count", count}});
  }
  json["latency_histogram"] = std::move(bins);
  return json;
}

double PeakOf(const std::vector<BenchRun>& runs) {
  double peak = 0;
  for (const BenchRun& run : runs) {
    if (run.load.concurrency > 0) peak = std::max(peak, run.result.goodput());
  }
  return peak;
}

Overload OverloadOf(const std::vector<BenchRun>& sweep) {
  const double peak = PeakOf(sweep);
  const auto lowest =
      std::find_if(sweep.begin(), sweep.end(), [](const BenchRun& run) { return run.of_peak > 0; });
  if (lowest == sweep.end() || peak == 0) return {};
  const double unloaded = lowest->result.latency.Quantile(0.99);
  const LoadResult& most = sweep.back().result;
  return {sweep.back().of_peak, unloaded > 0 ? most.latency.Quantile(0.99) / unloaded : 0,
          most.goodput() / peak};
}

}  // namespace laplace::cli
