// Largest eigenpairs of a symmetric operator by thick-restart Lanczos (Wu & Simon 2000) with full
// re-orthogonalisation.
//
// Recurrence, inner products and basis are fp64 whatever the operator computes in. Each new vector
// is orthogonalised twice against the whole basis, so ||Q'Q - I|| stays at rounding level and no
// pair is ever found twice. When the Krylov space is exhausted (breakdown) the recurrence goes on
// from a fresh random vector orthogonal to everything found, which also finds repeated eigenvalues;
// when that vector is mapped to zero, the operator's rank is exhausted and what exists is returned.
// A run whose pairs all converge before a breakdown may end with fewer copies of an eigenvalue that
// is repeated exactly than there are: a Krylov space holds one of them.
//
// Convergence: the residual norm of pair i is ||A u_i - theta_i u_i|| = beta |s_mi| (last component
// of the i-th eigenvector of the projected matrix); the run ends when it is <= tolerance * max
// |theta| for all wanted pairs, or at max_products.
//
// Of several ranks, each keeps its share of the coordinates (ShareOf) of every basis vector, so
// that memory and orthogonalisation are divided among them; the operator's products, in which they
// take part together, see whole vectors. A run can go on from a LanczosState, on other ranks too,
// and with a smaller basis than it had: then it begins with a restart.
// Free function on values; thread-safe if the operator is.
#pragma once

#include <ATen/ATen.h>

#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "server/linalg/linear_operator.h"
#include "server/linalg/ranks.h"

namespace laplaced {

// Between two products: all that the rest of a run depends on. In exact arithmetic and in fact, a
// run that goes on from it with the same basis on as many ranks ends with the same bits.
struct LanczosState {
  at::Tensor basis;      // [size + 1, this rank's coordinates] fp64; the last is next
  at::Tensor projected;  // [size, size] fp64
  int64_t products = 0;
  int64_t breakdowns = 0;
  int64_t since_fresh = 0;  // products since the last vector that continued no recurrence
  bool fresh = false;       // the next vector continues none
  double scale = 0;         // of the products so far
  at::Tensor random;        // state of the generator, bytes
  int64_t max_basis = 0;    // of the run
};

struct LanczosOptions {
  int64_t rank = 50;  // pairs wanted; at most the operator's size
  double tolerance = 1e-3;
  int64_t max_products = 0;  // 0: 10 * rank, at least 20
  // Basis vectors kept at once, in fp64; 0: rank + 8. Memory is (max_basis + 4) vectors at the
  // most, and those of `start` until they have been taken over.
  int64_t max_basis = 0;
  uint64_t seed = 0;  // start vector
  const Ranks* ranks = &OneRank();
  // Of a run with the same options but for max_basis and ranks; then freed.
  absl::optional<LanczosState> start = absl::nullopt;
  // Called after every product; an error ends the run with that error (cancellation).
  std::function<absl::Status(int64_t products, int64_t converged)> on_product = nullptr;
  // Called before every further product, with tensors that are only valid during the call;
  // likewise.
  std::function<absl::Status(const LanczosState& state)> on_state = nullptr;
};

struct EigenPairs {
  at::Tensor values;     // [k] fp64, descending
  at::Tensor vectors;    // [n, k] fp64, orthonormal columns; of several ranks, this one's rows
  at::Tensor residuals;  // [k] fp64, ||A u - theta u||
  int64_t products = 0;
  int64_t breakdowns = 0;       // times the Krylov space closed before the end
  bool converged = false;       // all residuals below tolerance
  bool rank_exhausted = false;  // k < rank because the operator has no more non-zero eigenvalues
};

// INVALID_ARGUMENT if the operator is not square and self-adjoint or rank is not in [1, n]; errors
// of Apply, on_product, on_state and the ranks are passed on; a product that is not finite is
// FAILED_PRECONDITION.
absl::StatusOr<EigenPairs> Lanczos(const LinearOperator& op, LanczosOptions options);

}  // namespace laplaced
