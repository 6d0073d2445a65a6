// C5 and C7: conjugate gradients on mini-batches.
//
//   c5_slope_ratio.csv  network,checkpoint,b1,b2,step,repetitions,on_b1,on_b2,on_d,biased_ratio,
//                       biased_ratio_se,debiased_ratio,debiased_ratio_se,curvature_b1,curvature_b2,
//                       curvature_d
//     Along the unit vector of the direction that conjugate gradients on B1 took in `step` (from
//     1): slopes at the checkpoint (negative: downhill) on B1, B2 and D, ratios of their means to
//     those on D, and mean GGN curvatures. Rows end at the first step that a repetition did not
//     reach.
//   c7_cg_curves.csv network,checkpoint,b1,b2,damping,variant,step,repetitions,loss_b1,loss_b1_se,
//                       loss_d,loss_d_se,accuracy_d,accuracy_d_se
//     Mean loss on the batch of conjugate gradients and on D after `step` steps; step 0 is the
//     checkpoint. variant: single (B1), equal_budget (B1 and B2 as one batch), debiased (directions
//     of B1, lengths of B2), oracle (a large batch apart, one repetition). A run that ends earlier
//     keeps its last iterate.
//
// Slopes, curvatures and steps are of the training objective with weight decay, losses without.
// checkpoint: trained (C5 only, and not with --quick) and early.
#pragma once

#include "tests/bench/paper/experiment.h"

namespace laplaced::paper {

// slopes: C5; curves: C7.
void MeasureConjugateGradients(const Options& options, const Experiment& experiment, bool slopes,
                               bool curves);

}  // namespace laplaced::paper
