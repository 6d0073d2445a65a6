#include "server/serving/fit_job.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/laplace/stopwatch.h"
#include "server/model/input_transform.h"
#include "server/model/torch_runtime.h"
#include "server/model/torch_status.h"
#include "server/serving/example_blocks.h"
#include "server/serving/ood_calibration.h"

namespace laplaced {
namespace {

// Highest resident memory of the process since it was made, above what it was then.
class MemoryWatch {
 public:
  MemoryWatch() : start_(Resident()), peak_(start_) {}
  void Look() { peak_ = std::max(peak_, Resident()); }
  int64_t rise() const { return peak_ - start_; }

 private:
  static int64_t Resident() {
    std::ifstream statm("/proc/self/statm");
    int64_t total = 0, resident = 0;
    statm >> total >> resident;
    return resident * sysconf(_SC_PAGESIZE);
  }

  int64_t start_, peak_;
};

std::string Now() {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
}

// Keeps a default score that the posterior has, and warns if there is no combined because the
// calibration's examples are all equal.
void SettleScores(const OodKnowledge& knowledge, bool all_equal, PosteriorRecord& record) {
  static constexpr char kEqual[] =
      "the examples that thresholds come from have equal scores (one example, or the same one "
      "again): there is no OOD score combined. Calibrate the posterior with more data";
  std::vector<std::string>& warnings = record.warnings;
  warnings.erase(std::remove(warnings.begin(), warnings.end(), kEqual), warnings.end());
  if (all_equal) warnings.push_back(kEqual);
  const std::vector<std::string> available = OodScoreNames(knowledge);
  if (std::find(available.begin(), available.end(), record.default_ood_score) == available.end()) {
    record.default_ood_score = DefaultOodScore(knowledge);
  }
}

}  // namespace

absl::Status RunFitJob(const FitJob& job, const std::string& folder, OperationHandle& handle,
                       LanczosCheckpoint* checkpoint) {
  const Stopwatch time;
  InitTorchThread();
  MemoryWatch memory;
  const FitProgressFn progress = [&](const std::string& phase, int64_t done, int64_t total,
                                     double fraction) {
    if (handle.cancelled()) return absl::CancelledError("the fit was cancelled");
    memory.Look();
    handle.Report(phase, done, total, fraction);
    return absl::OkStatus();
  };
  PosteriorRecord record = job.record;
  OodStatistics ood;
  ood.knowledge.kind = job.risk->likelihood.kind;
  absl::optional<TrainingFeatures> training;
  if (job.features) {
    training.emplace(*job.model, *job.features, record.seed,
                     job.start ? job.before->ood.features : absl::nullopt, job.risk->data.first);
  }
  const Ranks& ranks = *job.risk->ranks;
  absl::optional<OodCalibration> calibration;
  const auto calibrate = [&](const Posterior& value) {
    if (calibration) return;
    ood.knowledge.has_directions = value.structure->has_directions();
    calibration.emplace(*job.model, ood.knowledge, ranks);
  };
  FitWatchers watchers;
  watchers.checkpoint = checkpoint;
  if (training) {
    watchers.on_training = [&](const at::Tensor& x, const at::Tensor& targets) {
      return training->Forward(x, targets);
    };
    watchers.after_training = [&]() -> absl::Status {
      LAPLACED_ASSIGN_OR_RETURN(ood.features, training->Finish(ranks));
      ood.knowledge.features =
          std::make_shared<const FeatureScores>(*ood.features, training->layer());
      training.reset();
      return absl::OkStatus();
    };
  }
  watchers.on_validation = [&](const Likelihood& likelihood, const Posterior& value,
                               const at::Tensor& x, const Linearized& batch) {
    calibrate(value);
    return calibration->Add(likelihood, x, batch);
  };
  LAPLACED_ASSIGN_OR_RETURN(
      const FitResult result,
      job.start ? RunUpdate(*job.risk, job.capture, job.validation, job.options, *job.start,
                            progress, watchers)
                : RunFit(*job.risk, job.capture, job.validation, job.options, progress, watchers));
  ood.knowledge.has_directions = result.posterior.structure->has_directions();
  // A rank may have had no validation data.
  if (job.validation.total() > 0) calibrate(result.posterior);
  if (calibration) {
    LAPLACED_ASSIGN_OR_RETURN(record.ood_thresholds,
                              calibration->Thresholds(record.target_id_rate));
    ood.knowledge = calibration->knowledge();
  }
  LAPLACED_RETURN_IF_ERROR(progress("saving", 0, 1, 0.98));
  if (ranks.rank() != 0) return absl::OkStatus();
  record.create_time = Now();
  record.fit_seconds = time.Seconds();
  record.peak_memory_bytes = memory.rise();
  SettleScores(ood.knowledge, calibration && calibration->all_equal(), record);
  return SavePosterior(folder, job.risk->network, result, ood, record);
}

absl::Status RunCalibrationJob(const CalibrationJob& job, const std::string& folder,
                               OperationHandle& handle) {
  InitTorchThread();
  const LoadedPosterior& before = *job.before;
  const LoadedModel& model = *job.model;
  PosteriorRecord record = job.record;
  OodCalibration calibration(model, before.ood.knowledge);
  LinearizeRequest request;
  request.covariance_at = {before.ood_value.precisions()};
  request.outside = true;
  const int64_t size = job.data.size(), step = JacobianBlock(model.network);
  for (int64_t begin = 0; begin < size; begin += step) {
    if (handle.cancelled()) return absl::CancelledError("the calibration was cancelled");
    const int64_t count = std::min(step, size - begin);
    handle.Report("thresholds", begin, size,
                  0.95 * static_cast<double>(begin) / static_cast<double>(size));
    LAPLACED_RETURN_IF_ERROR(CatchTorch("calibration", [&]() -> absl::Status {
      LAPLACED_ASSIGN_OR_RETURN(
          const Linearized batch,
          LinearizeBlock(model, before, request, job.data.inputs, begin, count));
      return calibration.Add(before.likelihood,
                             ToNetworkInput(job.data.inputs.narrow(0, begin, count), model.manifest,
                                            model.network.dtype()),
                             batch);
    }));
  }
  LAPLACED_ASSIGN_OR_RETURN(record.ood_thresholds, calibration.Thresholds(record.target_id_rate));
  handle.Report("saving", 0, 1, 0.98);
  record.create_time = Now();
  SettleScores(calibration.knowledge(), calibration.all_equal(), record);
  return SaveCalibrated(folder, before, calibration.knowledge(), record);
}

}  // namespace laplaced
