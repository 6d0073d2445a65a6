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
                       "above the threshold")) {}

  Family<Counter>& scored;
  Family<Counter>& flagged;
  Family<Histogram>& score;
  Family<Gauge>& rate;
  Family<Gauge>& window;
  Family<Gauge>& calibrated;
  Family<Gauge>& upper;
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
    if (score_ != nullptr) AddScores(sample.values);
  }

 private:
  // What is no number lies above every bound, as it does above the threshold; the sum is of finite
  // scores, because it could never recover from any other.
  void AddScores(const std::vector<double>& values) {
    std::vector<double> counts(bounds_.size() + 1, 0);
    double sum = 0;
    for (const double value : values) {
      const auto bucket = std::isnan(value)
                              ? bounds_.end()
                              : std::lower_bound(bounds_.begin(), bounds_.end(), value);
      ++counts[static_cast<size_t>(bucket - bounds_.begin())];
      if (std::isfinite(value)) sum += value;
    }
    score_->ObserveMultiple(counts, sum);
  }

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

struct Source {
  OodSource id;
  Time last_answer;
  std::map<std::string, Series> scores;
};

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
      const Labels labels = {{"model", id.model},
                             {"version", std::to_string(id.version)},
                             {"posterior", id.posterior_id},
                             {"score", sample.score}};
      found = source.scores
                  .emplace(std::piecewise_construct, std::forward_as_tuple(sample.score),
                           std::forward_as_tuple(families_, labels, sample))
                  .first;
    }
    found->second.Add(sample);
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

}  // namespace laplaced
