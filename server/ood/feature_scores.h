// Scores of penultimate features phi against what is known of the training data. Higher is more
// out-of-distribution. mu_c and S are class means and the covariance within classes, mu_0 and S_0
// those of all training features; f = W phi + b.
//
//   mahalanobis          min_c M_c,  M_c = (phi - mu_c)' S^+ (phi - mu_c)      Lee et al. 2018
//   relative_mahalanobis min_c M_c - M_0                                       Ren et al. 2021
//   knn                  distance of phi/||phi|| to the k-th nearest of the    Sun et al. 2022
//                        bank's, k = 1 for every 1,000 of the bank (at least 1)
//   vim                  alpha ||R'(phi - o)|| - logsumexp(f),                 Wang et al. 2022
//                        o = -W^+ b; R spans what the d leading eigenvectors of the second moment
//                        about o leave, d = 1,000 from 2,048 features, 512 from 768, else half of
//                        them; alpha = mean max_c f_c over mean ||R'(phi - o)|| in the bank
//   react                -logsumexp(W min(phi, t) + b), t the 90 % quantile    Sun et al. 2021
//                        of all entries of the bank
//
// S^+ is the pseudo-inverse over directions with more than 1e-10 of the largest variance: a feature
// that is constant in training says nothing. Classes without examples do not count. Immutable;
// thread-safe. Functions throw LibTorch exceptions.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "server/model/feature_layer.h"
#include "server/ood/feature_statistics.h"

namespace laplaced {

class FeatureScores {
 public:
  // Of a few seconds for thousands of features: two eigenvalue problems of size D.
  FeatureScores(const FeatureStatistics& statistics, FeatureLayer layer);

  const FeatureLayer& layer() const { return layer_; }
  int64_t knn_k() const { return knn_k_; }
  int64_t vim_dimensions() const { return vim_dimensions_; }
  // Whether there are classes to be relative to, and outputs that are linear in the features.
  bool has_classes() const { return class_means_.size(0) > 1; }
  bool has_head() const { return layer_.has_head(); }

  // [B] fp64 each, for phi [B, D] and f [B, C] fp64.
  at::Tensor Mahalanobis(const at::Tensor& phi) const;
  at::Tensor RelativeMahalanobis(const at::Tensor& phi) const;
  at::Tensor Knn(const at::Tensor& phi) const;
  // REQUIRES: has_head().
  at::Tensor Vim(const at::Tensor& phi, const at::Tensor& f) const;
  at::Tensor React(const at::Tensor& phi) const;

 private:
  void PrepareVim(const FeatureStatistics& statistics);

  FeatureLayer layer_;
  at::Tensor whitening_;         // A [D, r] with A A' = S^+
  at::Tensor class_means_;       // [G', r], of classes with examples, from mu_0, whitened
  at::Tensor global_whitening_;  // [D, r0]
  at::Tensor global_mean_;       // [D]
  at::Tensor bank_;              // [M, D], normalised
  at::Tensor bank_squares_;      // [M]
  int64_t knn_k_ = 1;
  at::Tensor vim_origin_;    // [D]
  at::Tensor vim_residual_;  // R [D, D - d]
  double vim_alpha_ = 0;
  int64_t vim_dimensions_ = 0;
  double react_threshold_ = 0;
};

}  // namespace laplaced
