#include "server/serving/fit_crew.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/distributed/gloo_ranks.h"
#include "server/model/torch_status.h"
#include "server/observe/log.h"
#include "server/registry/record_json.h"
#include "server/serving/fit_end.h"
#include "server/serving/fit_identity.h"
#include "server/serving/fit_start.h"

namespace laplaced {
namespace {

constexpr char kNewest[] = "fits";
constexpr std::chrono::milliseconds kLook{500};  // between looks at `stop`

std::string JobKey(int64_t number) { return absl::StrCat("fit-", number); }

// A number that may not be there as an array of none or one.
std::vector<double> ToList(const absl::optional<double>& value) {
  return value ? std::vector<double>{*value} : std::vector<double>();
}

struct WireRequest {
  FitRequest request;
  std::vector<double> prior_precision, ood_prior_precision, sigma_noise;
};

template <typename Visitor>
void VisitFields(WireRequest& wire, Visitor& visit) {
  FitRequest& r = wire.request;
  visit("model", r.model);
  visit("version", r.version);
  visit("train_dataset_id", r.train_dataset_id);
  visit("validation_dataset_id", r.validation_dataset_id);
  visit("keep_inactive", r.keep_inactive);
  visit("rank", r.rank);
  visit("direction_batch_size", r.direction_batch_size);
  visit("curvature_batch_size", r.curvature_batch_size);
  visit("debiasing", r.debiasing);
  visit("residual", r.residual);
  visit("seed", r.seed);
  visit("prior_precision", wire.prior_precision);
  visit("ood_prior_precision", wire.ood_prior_precision);
  visit("lanczos_tolerance", r.lanczos_tolerance);
  visit("max_products", r.max_products);
  visit("target_id_rate", r.target_id_rate);
  visit("max_validation_examples", r.max_validation_examples);
  visit("structure", r.structure);
  visit("curvature", r.curvature);
  visit("parameters", r.parameters);
  visit("kfac_eigenvalues", r.kfac_eigenvalues);
  visit("prior_method", r.prior_method);
  visit("temperature", r.temperature);
  visit("noise_method", r.noise_method);
  visit("sigma_noise", wire.sigma_noise);
  visit("target_relative_standard_error", r.target_relative_standard_error);
  visit("variance_correction", r.variance_correction);
  visit("memory_limit_bytes", r.memory_limit_bytes);
  visit("fisher_samples", r.fisher_samples);
  visit("feature_layer", r.feature_layer);
}

// A fit that only asks whether it should stop: this process, or because rank 0 has.
class QuietHandle : public OperationHandle {
 public:
  QuietHandle(const std::atomic<bool>& stop, const FitEndWatch& end) : stop_(stop), end_(end) {}
  bool cancelled() const override { return stop_.load() || !end_.status().ok(); }
  void Report(const std::string&, int64_t, int64_t, double) override {}

 private:
  const std::atomic<bool>& stop_;
  const FitEndWatch& end_;
};

class PlannedRanks : public Ranks {
 public:
  PlannedRanks(int64_t rank, int64_t size) : rank_(rank), size_(size) {}

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }
  absl::Status Sum(at::Tensor&) const override { return NotHere(); }
  absl::Status Broadcast(at::Tensor&) const override { return NotHere(); }
  absl::StatusOr<at::Tensor> Gather(const at::Tensor&) const override { return NotHere(); }

 private:
  static absl::Status NotHere() {
    return absl::InternalError("the other ranks have not been called yet");
  }

  const int64_t rank_, size_;
};

// This rank's share of a fit, if it is the one that rank 0 means.
absl::StatusOr<FitJob> PrepareShare(const std::string& request, const std::string& identity,
                                    const Repository& repository, const DatasetStore& datasets,
                                    const Ranks& ranks) {
  LAPLACED_ASSIGN_OR_RETURN(const FitRequest fit, DecodeFitRequest(request));
  LogInfo("fitting", {{"model", absl::StrCat(fit.model, "/", fit.version)},
                      {"rank", ranks.rank()},
                      {"ranks", ranks.size()}});
  LAPLACED_ASSIGN_OR_RETURN(const auto model, LoadModel(repository, {fit.model, fit.version}));
  LAPLACED_ASSIGN_OR_RETURN(const FitIdentity first, DecodeFitIdentity(identity));
  LAPLACED_RETURN_IF_ERROR(CheckSameFit(first, IdentityOf(*model, fit)));
  LAPLACED_ASSIGN_OR_RETURN(Dataset training,
                            LoadDataset(datasets, "train_dataset_id", fit.train_dataset_id, ranks));
  Dataset validation;
  if (!fit.validation_dataset_id.empty()) {
    LAPLACED_ASSIGN_OR_RETURN(validation, LoadDataset(datasets, "validation_dataset_id",
                                                      fit.validation_dataset_id, ranks));
  }
  return PrepareFit(model, fit, std::move(training), std::move(validation), ranks);
}

}  // namespace

std::string EncodeFitRequest(const FitRequest& request) {
  WireRequest wire{request, ToList(request.prior_precision), ToList(request.ood_prior_precision),
                   ToList(request.sigma_noise)};
  FieldWriter fields;
  VisitFields(wire, fields);
  return fields.object().dump();
}

absl::StatusOr<FitRequest> DecodeFitRequest(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::DataLossError("the request of a fit is damaged");
  WireRequest wire;
  FieldReader fields(json);
  VisitFields(wire, fields);
  if (!fields.status().ok()) return absl::DataLossError(fields.status().message());
  const auto one = [](const std::vector<double>& list) {
    return list.empty() ? absl::optional<double>() : list[0];
  };
  wire.request.prior_precision = one(wire.prior_precision);
  wire.request.ood_prior_precision = one(wire.ood_prior_precision);
  wire.request.sigma_noise = one(wire.sigma_noise);
  return wire.request;
}

FitCrew::FitCrew(std::unique_ptr<MeetingPoint> meeting, const Timeouts& timeouts)
    : meeting_(std::move(meeting)),
      planned_(std::make_unique<PlannedRanks>(meeting_->rank(), meeting_->size())),
      timeouts_(timeouts) {}
FitCrew::~FitCrew() = default;

absl::StatusOr<std::unique_ptr<FitCrew>> FitCrew::Open(const Launch& launch,
                                                       const Timeouts& timeouts) {
  LAPLACED_ASSIGN_OR_RETURN(MeetingPoint meeting, MeetingPoint::Open(launch, timeouts.join));
  return std::make_unique<FitCrew>(std::make_unique<MeetingPoint>(std::move(meeting)), timeouts);
}

absl::Status FitCrew::Fit(const FitRequest& request, const FitIdentity& identity,
                          const std::function<bool()>& cancelled,
                          const std::function<absl::Status(const Ranks& ranks)>& body) {
  std::unique_lock<std::timed_mutex> lock(mutex_, std::defer_lock);
  while (!lock.try_lock_for(kLook)) {
    if (cancelled()) return absl::CancelledError("the fit was cancelled before its turn came");
  }
  if (cancelled()) return absl::CancelledError("the fit was cancelled before its turn came");
  const int64_t number = fits_ + 1;
  LAPLACED_RETURN_IF_ERROR(meeting_->Post(JobKey(number), EncodeFitRequest(request)));
  LAPLACED_RETURN_IF_ERROR(meeting_->Post(kNewest, absl::StrCat(number)));
  fits_ = number;
  auto ranks = meeting_->Join(absl::StrCat(JobKey(number), "/"), timeouts_.join, timeouts_.call);
  const auto run = [&](const Ranks& all) -> absl::Status {
    std::string text = EncodeFitIdentity(identity);
    LAPLACED_RETURN_IF_ERROR(BroadcastText(all, text));
    LAPLACED_RETURN_IF_ERROR(FirstError(all, absl::OkStatus()));
    return body(all);
  };
  const absl::Status status = ranks.ok() ? run(**ranks) : ranks.status();
  // For ranks that compute, and for those that come later.
  PostFitEnd(*meeting_, number, status);
  if (ranks.ok()) (*ranks)->GiveUp(status);
  return status;
}

absl::Status FitCrew::Work(const Repository& repository, const DatasetStore& datasets,
                           const std::atomic<bool>& stop) {
  // A fit that waits for this process to come is for it, one that has ended is not.
  constexpr std::chrono::milliseconds kNow{1};
  int64_t next = 1;
  if (const auto newest = meeting_->Await(kNewest, kNow); newest.ok()) {
    int64_t last = 0;
    if (absl::SimpleAtoi(*newest, &last)) {
      next = HasFitEnded(*meeting_, last) ? last + 1 : last;
    }
  } else if (!absl::IsDeadlineExceeded(newest.status())) {
    return newest.status();
  }
  LogInfo("waiting for fits", {{"rank", meeting_->rank()}, {"ranks", meeting_->size()}});
  while (!stop.load()) {
    const auto request = meeting_->Await(JobKey(next), kLook);
    if (absl::IsDeadlineExceeded(request.status())) continue;
    if (!request.ok()) return request.status();
    const absl::Status done = HasFitEnded(*meeting_, next)
                                  ? absl::UnavailableError("it was over when this rank came")
                                  : TakePart(next, *request, repository, datasets, stop);
    if (!done.ok()) LogWarning("a fit ended early", {{"reason", std::string(done.message())}});
    ++next;
  }
  return absl::OkStatus();
}

absl::Status FitCrew::TakePart(int64_t number, const std::string& request,
                               const Repository& repository, const DatasetStore& datasets,
                               const std::atomic<bool>& stop) {
  LAPLACED_ASSIGN_OR_RETURN(const auto ranks, meeting_->Join(absl::StrCat(JobKey(number), "/"),
                                                             timeouts_.join, timeouts_.call));
  const auto end = FitEndWatch::Start(*meeting_, number);
  if (!end.ok()) {
    ranks->GiveUp(end.status());
    return end.status();
  }
  const auto run = [&]() -> absl::Status {
    std::string identity;
    LAPLACED_RETURN_IF_ERROR(BroadcastText(*ranks, identity));
    const auto job = PrepareShare(request, identity, repository, datasets, *ranks);
    LAPLACED_RETURN_IF_ERROR(FirstError(*ranks, job.status()));
    QuietHandle handle(stop, **end);
    return RunFitJob(*job, "", handle);
  };
  absl::Status status = run();
  // It was cancelled, or lost the others, because rank 0 had ended.
  if (const absl::Status given_up = (*end)->status(); !status.ok() && !given_up.ok()) {
    status = given_up;
  }
  ranks->GiveUp(status);
  return status;
}

}  // namespace laplaced
