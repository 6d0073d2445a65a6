#include "server/observe/ood_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <algorithm>
#include <bitset>
#include <cmath>
#include <list>
#include <map>
#include <mutex>
#include <utility>

#include "server/observe/register.h"

namespace laplaced {
namespace {

using Time = std::chrono::steady_clock::time_point;
using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;

// How many of the last kWindow examples were flagged.
class RollingWindow {
 public:
  void Add(bool flagged) {
    flagged_ += flagged;
    if (size_ == bits_.size()) {
      flagged_ -= bits_[next_];
    } else {
      ++size_;
    }
    bits_[next_] = flagged;
    next_ = (next_ + 1) % bits_.size();
  }
  double size() const { return static_cast<double>(size_); }
  double rate() const { return size_ == 0 ? 0 : static_cast<double>(flagged_) / size(); }

 private:
  std::bitset<OodMetrics::kWindow> bits_;
  size_t next_ = 0, size_ = 0, flagged_ = 0;
};

std::vector<double> BucketBounds(std::vector<double> quantiles) {
  const auto infinite = [](double value) { return !std::isfinite(value); };
  quantiles.erase(std::remove_if(quantiles.begin(), quantiles.end(), infinite), quantiles.end());
  std::sort(quantiles.begin(), quantiles.end());
  quantiles.erase(std::unique(quantiles.begin(), quantiles.end()), quantiles.end());
  return quantiles;
}

// Nats of a categorical likelihood are at most a few; variances of a regression have its own unit.
std::vector<double> HalfDecades() {
  return {1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03,
          0.1,  0.3,  1,    3,    10,   30,   100,  300,  1000};
}

// How many of `values` fall into each of `bounds` and beyond the last. What is no number lies above
// every bound, as it does above a threshold; the sum is of finite values, because it could never
// recover from any other.
void AddValues(const std::vector<double>& bounds, const std::vector<double>& values,
               Histogram& histogram) {
  std::vector<double> counts(bounds.size() + 1, 0);
  double sum = 0;
  for (const double value : values) {
    const auto bucket =
        std::isnan(value) ? bounds.end() : std::lower_bound(bounds.begin(), bounds.end(), value);
    ++counts[static_cast<size_t>(bucket - bounds.begin())];
    if (std::isfinite(value)) sum += value;
  }
  histogram.ObserveMultiple(counts, sum);
}

struct Families {
  explicit Families(prometheus::Registry& to)
      : scored(Register(prometheus::BuildCounter(), to, "laplace_ood_scored_total",
                        "Examples with an out-of-distribution verdict")),
        flagged(Register(prometheus::BuildCounter(), to, "laplace_ood_flagged_total",
                         "Examples flagged as out-of-distribution")),
        score(Register(prometheus::BuildHistogram(), to, "laplace_ood_score",
                       "Scores; the bounds are quantiles of the calibration scores")),
        rate(Register(prometheus::BuildGauge(), to, "laplace_ood_rate",
                      "Share flagged of the last laplace_ood_window_examples examples")),
        window(Register(prometheus::BuildGauge(), to, "laplace_ood_window_examples",
                        "Examples that laplace_ood_rate is a share of, at most 1000")),
        calibrated(Register(prometheus::BuildGauge(), to, "laplace_ood_calibrated_rate",
                            "Share of in-distribution examples that calibration aimed to flag")),
        upper(Register(prometheus::BuildGauge(), to, "laplace_ood_calibrated_rate_upper",
                       "Upper end of the 95 % interval for the share of in-distribution examples "
                       "above the threshold")),
        epistemic(Register(prometheus::BuildHistogram(), to, "laplace_epistemic",
                           "Epistemic part of predictions: nats, or variance in a regression; "
                           "mean over the outputs where each has its own")) {}

  Family<Counter>& scored;
  Family<Counter>& flagged;
  Family<Histogram>& score;
  Family<Gauge>& rate;
  Family<Gauge>& window;
  Family<Gauge>& calibrated;
  Family<Gauge>& upper;
  Family<Histogram>& epistemic;
};

// The series of one score of one source; they leave the registry with it.
class Series {
 public:
  Series(Families& families, const Labels& labels, const OodSample& sample)
      : families_(families),
        bounds_(BucketBounds(sample.id_quantiles)),
        scored_(families.scored.Add(labels)),
        flagged_(families.flagged.Add(labels)),
        score_(bounds_.empty() ? nullptr : &families.score.Add(labels, bounds_)),
        rate_(families.rate.Add(labels)),
        window_size_(families.window.Add(labels)),
        calibrated_(families.calibrated.Add(labels)),
        upper_(families.upper.Add(labels)) {
    calibrated_.Set(sample.target_id_rate);
    upper_.Set(sample.rate_upper);
  }
  ~Series() {
    families_.scored.Remove(&scored_);
    families_.flagged.Remove(&flagged_);
    if (score_ != nullptr) families_.score.Remove(score_);
    families_.rate.Remove(&rate_);
    families_.window.Remove(&window_size_);
    families_.calibrated.Remove(&calibrated_);
    families_.upper.Remove(&upper_);
  }
  Series(const Series&) = delete;
  Series& operator=(const Series&) = delete;

  void Add(const OodSample& sample) {
    for (const bool flagged : sample.flagged) window_.Add(flagged);
    const auto flagged = std::count(sample.flagged.begin(), sample.flagged.end(), true);
    scored_.Increment(static_cast<double>(sample.flagged.size()));
    flagged_.Increment(static_cast<double>(flagged));
    rate_.Set(window_.rate());
    window_size_.Set(window_.size());
    if (score_ != nullptr) AddValues(bounds_, sample.values, *score_);
  }

 private:
  Families& families_;
  const std::vector<double> bounds_;
  Counter& scored_;
  Counter& flagged_;
  Histogram* const score_;  // null without quantiles
  Gauge& rate_;
  Gauge& window_size_;
  Gauge& calibrated_;
  Gauge& upper_;
  RollingWindow window_;
};

// Of one source; leaves the registry with it.
class EpistemicSeries {
 public:
  EpistemicSeries(Families& families, const Labels& labels)
      : family_(families.epistemic),
        bounds_(HalfDecades()),
        histogram_(family_.Add(labels, bounds_)) {}
  ~EpistemicSeries() { family_.Remove(&histogram_); }
  EpistemicSeries(const EpistemicSeries&) = delete;
  EpistemicSeries& operator=(const EpistemicSeries&) = delete;

  void Add(const std::vector<double>& values) { AddValues(bounds_, values, histogram_); }

 private:
  Family<Histogram>& family_;
  const std::vector<double> bounds_;
  Histogram& histogram_;
};

struct Source {
  OodSource id;
  Time last_answer;
  std::map<std::string, Series> scores;
  std::unique_ptr<EpistemicSeries> epistemic;  // null before the first prediction
};

Labels LabelsOf(const OodSource& id) {
  return {
      {"model", id.model}, {"version", std::to_string(id.version)}, {"posterior", id.posterior_id}};
}

bool SameModel(const OodSource& a, const OodSource& b) {
  return a.model == b.model && a.version == b.version;
}

}  // namespace

class OodMetrics::Impl {
 public:
  Impl(prometheus::Registry& registry, Now now) : families_(registry), now_(std::move(now)) {}

  void Observe(const OodSource& id, const OodSample& sample) {
    std::lock_guard<std::mutex> lock(mutex_);
    Source& source = Touch(id);
    auto found = source.scores.find(sample.score);
    if (found == source.scores.end()) {
      Labels labels = LabelsOf(id);
      labels["score"] = sample.score;
      found = source.scores
                  .emplace(std::piecewise_construct, std::forward_as_tuple(sample.score),
                           std::forward_as_tuple(families_, labels, sample))
                  .first;
    }
    found->second.Add(sample);
  }

  void ObserveEpistemic(const OodSource& id, const std::vector<double>& values) {
    std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<EpistemicSeries>& series = Touch(id).epistemic;
    if (series == nullptr) series = std::make_unique<EpistemicSeries>(families_, LabelsOf(id));
    series->Add(values);
  }

 private:
  // The source, in front of the others; drops those that have had their time. REQUIRES: mutex_
  // held.
  Source& Touch(const OodSource& id) {
    const Time now = now_();
    const auto found = std::find_if(sources_.begin(), sources_.end(), [&](const Source& source) {
      return SameModel(source.id, id) && source.id.posterior_id == id.posterior_id;
    });
    if (found == sources_.end()) {
      sources_.emplace_front();
      sources_.front().id = id;
    } else {
      sources_.splice(sources_.begin(), sources_, found);
    }
    sources_.front().last_answer = now;
    sources_.remove_if([&](const Source& source) {
      return SameModel(source.id, id) && now - source.last_answer > kStaleAfter;
    });
    if (sources_.size() > kMaxSources) sources_.pop_back();
    return sources_.front();
  }

  Families families_;
  const Now now_;
  std::mutex mutex_;
  std::list<Source> sources_;  // the one that answered last first
};

OodMetrics::OodMetrics(Metrics& metrics, Now now)
    : impl_(std::make_unique<Impl>(metrics.registry(), std::move(now))) {}

OodMetrics::~OodMetrics() = default;

void OodMetrics::Observe(const OodSource& source, const OodSample& sample) {
  impl_->Observe(source, sample);
}

void OodMetrics::ObserveEpistemic(const OodSource& source, const std::vector<double>& values) {
  impl_->ObserveEpistemic(source, values);
}

}  // namespace laplaced
