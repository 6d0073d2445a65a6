// C1 to C4 and C6: curvature along the top eigenvectors of mini-batches.
//
//   c1_bias_ratio.csv      network,b1,index,repetitions,on_b1,on_d,ratio,ratio_se,on_d_se
//     Mean curvature along eigenvector `index` (from 1) of G_B1, on B1 itself (the eigenvalue) and
//     on D; ratio = mean(on_b1) / mean(on_d): 1 without bias.
//     on_d_se is the standard error of the curvature on D of one direction, from the spread of its
//     examples: D is the same in all repetitions, so that ratio_se does not have it.
//   c2_debiased_ratio.csv  network,b1,b2,index,repetitions,on_b2,on_d,ratio,ratio_se,on_d_se
//     The same directions measured on B2.
//   c3_relative_sd.csv     network,b1,index,b2,draws,relative_sd,predicted
//     How far curvature on B2 scatters from draw to draw, over its mean: for the directions of the
//     first repetition, from disjoint draws out of D; `predicted` from the spread of single
//     examples, sd / sqrt(b2) / mean.
//   c4_overlap.csv         network,batch,k,repetitions,overlap,overlap_se,chance
//     ||U'V||_F^2 / k of the top-k spaces of two independent batches of that size, for neighbouring
//     repetitions (each takes part in two pairs, so the error is a little too small); chance = k /
//     P.
//   c6_quadratics.csv      network,b1,seed,measured_on,loss,slope1,slope2,c11,c12,c22
//     q(a, b) = loss + a slope1 + b slope2 + (c11 a^2 + 2 c12 a b + c22 b^2) / 2 at theta + a u1 +
//     b u2, u1 and u2 the top eigenvectors of G_B1, of the first repetition (seed 1); measured_on
//     b1, b2, d.
//   c6_cut.csv             network,b1,seed,a,b,q_b1,q_b2,q_d,loss_d
//     On a grid that reaches to where q_D has risen by 1 nat along each axis (from slope 0); loss_d
//     is the true mean loss of the first rows of D.
//
// All curvature is GGN, of the mean loss without weight decay.
#pragma once

#include "tests/bench/paper/experiment.h"

namespace laplaced::paper {

void MeasureSpectra(const Options& options, const Experiment& experiment);

}  // namespace laplaced::paper
