#include "server/linalg/lanczos.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "server/linalg/status_macros.h"

namespace laplaced {
namespace {

using at::indexing::None;
using at::indexing::Slice;

// The basis and the projected matrix. Rows of `basis` are this rank's coordinates of the vectors;
// `projected` is Q A Q' of the first `size` of them, the same on all ranks.
struct KrylovSpace {
  const Ranks& ranks;
  int64_t n = 0;         // of the whole vectors
  Share share;           // this rank's coordinates
  at::Tensor basis;      // [max_basis + 1, share]
  at::Tensor projected;  // [max_basis, max_basis]
  int64_t size = 0;      // vectors in it

  at::Tensor Mine(const at::Tensor& whole) const {
    return whole.narrow(0, share.begin, share.size());
  }
  // Of the vectors in the space.
  at::Tensor Projected() const { return projected.narrow(0, 0, size).narrow(1, 0, size); }
};

absl::StatusOr<double> Norm(const KrylovSpace& space, const at::Tensor& w) {
  at::Tensor square = at::dot(w, w).view({1});
  LAPLACED_RETURN_IF_ERROR(space.ranks.Sum(square));
  return std::sqrt(square.item<double>());
}

// Removes the components of w along the first `count` basis vectors, twice; returns the sum of the
// coefficients.
absl::StatusOr<at::Tensor> Orthogonalise(const KrylovSpace& space, int64_t count, at::Tensor& w) {
  const at::Tensor q = space.basis.narrow(0, 0, count);
  at::Tensor h = at::mv(q, w);
  LAPLACED_RETURN_IF_ERROR(space.ranks.Sum(h));
  w.addmv_(q.t(), h, 1, -1);
  at::Tensor correction = at::mv(q, w);
  LAPLACED_RETURN_IF_ERROR(space.ranks.Sum(correction));
  w.addmv_(q.t(), correction, 1, -1);
  return h + correction;
}

// A random unit vector orthogonal to the first `count` basis vectors; undefined if they span the
// whole space.
absl::StatusOr<at::Tensor> FreshVector(const KrylovSpace& space, int64_t count,
                                       at::Generator& generator) {
  if (count >= space.n) return at::Tensor();
  for (int attempt = 0; attempt < 3; ++attempt) {
    at::Tensor w = space.Mine(at::randn({space.n}, generator, space.basis.options())).clone();
    LAPLACED_ASSIGN_OR_RETURN(const double before, Norm(space, w));
    if (count > 0) LAPLACED_RETURN_IF_ERROR(Orthogonalise(space, count, w).status());
    LAPLACED_ASSIGN_OR_RETURN(const double after, Norm(space, w));
    if (after > 1e-8 * before) {
      w.div_(after);
      if (count > 0) LAPLACED_RETURN_IF_ERROR(Orthogonalise(space, count, w).status());
      LAPLACED_ASSIGN_OR_RETURN(const double norm, Norm(space, w));
      return w.div_(norm);
    }
  }
  return at::Tensor();
}

// A v, this rank's coordinates of both.
absl::StatusOr<at::Tensor> Product(const LinearOperator& op, const KrylovSpace& space,
                                   const at::Tensor& v) {
  if (space.ranks.size() == 1) {
    LAPLACED_ASSIGN_OR_RETURN(const at::Tensor product, op.Apply(v.unsqueeze(1)));
    return product.squeeze(1);
  }
  // An operator that computes in fp32 would round the vector anyway, and half of it travels.
  const bool single = op.ProductPrecision() > 1e-8;
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor whole,
                            space.ranks.Gather(single ? v.to(at::kFloat) : v));
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor product, op.Apply(whole.to(at::kDouble).unsqueeze(1)));
  return space.Mine(product.squeeze(1)).clone();
}

struct RitzPairs {
  at::Tensor values;     // [m] descending
  at::Tensor rotations;  // [m, m], column i belongs to value i
  at::Tensor residuals;  // [m]
};

// Ranks on other processors may round otherwise: all take what rank 0 finds.
absl::StatusOr<RitzPairs> SolveProjected(const Ranks& ranks, const at::Tensor& projected,
                                         double beta) {
  auto [values, vectors] = at::linalg_eigh(projected.clone(), "L");
  RitzPairs pairs;
  pairs.values = values.flip(0);
  pairs.rotations = vectors.flip(1).contiguous();
  LAPLACED_RETURN_IF_ERROR(ranks.Broadcast(pairs.values));
  LAPLACED_RETURN_IF_ERROR(ranks.Broadcast(pairs.rotations));
  pairs.residuals = pairs.rotations[projected.size(0) - 1].abs() * beta;
  return pairs;
}

// Writes the leading `keep` Ritz vectors of the basis `from` to `to`, which may be the same, block
// by block of coordinates, so that no second copy of the basis is needed.
void Rotate(const at::Tensor& from, const at::Tensor& rotations, int64_t keep,
            const at::Tensor& to) {
  const at::Tensor s = rotations.narrow(1, 0, keep).t().contiguous();
  const int64_t n = from.size(1);
  constexpr int64_t kBlock = 16384;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t width = std::min(kBlock, n - begin);
    const at::Tensor block = from.narrow(1, begin, width).narrow(0, 0, rotations.size(0));
    to.narrow(1, begin, width).narrow(0, 0, keep).copy_(at::mm(s, block));
  }
}

// Thick restart: replaces the vectors of the basis `from` by Ritz vectors, more than the wanted
// ones, which speeds up the last of them.
void Restart(KrylovSpace& space, const at::Tensor& from, const RitzPairs& ritz, int64_t rank) {
  const int64_t max_basis = space.projected.size(0);
  const int64_t keep = std::min(ritz.values.size(0) - 1, rank + (max_basis - rank) / 2);
  Rotate(from, ritz.rotations, keep, space.basis);
  space.size = keep;
  space.projected.zero_();
  space.Projected().copy_(at::diag(ritz.values.narrow(0, 0, keep)));
}

// Fills the space with the vectors of `start`, or with Ritz vectors of them if there is no room.
absl::Status TakeOver(KrylovSpace& space, const LanczosState& start, int64_t rank) {
  const int64_t size = start.projected.size(0);
  if (start.basis.size(0) != size + 1 || start.basis.size(1) != space.share.size()) {
    return absl::InvalidArgumentError("the state to start from belongs to a run of another size");
  }
  if (size < space.projected.size(0)) {
    space.size = size;
    space.basis.narrow(0, 0, size).copy_(start.basis.narrow(0, 0, size));
    space.Projected().copy_(start.projected);
  } else {
    LAPLACED_ASSIGN_OR_RETURN(const RitzPairs ritz,
                              SolveProjected(space.ranks, start.projected, 0));
    Restart(space, start.basis, ritz, rank);
  }
  space.basis[space.size].copy_(start.basis[size]);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<EigenPairs> Lanczos(const LinearOperator& op, LanczosOptions options) {
  const int64_t n = op.Rows();
  if (!op.SelfAdjoint() || op.Cols() != n) {
    return absl::InvalidArgumentError("Lanczos needs a square, self-adjoint operator");
  }
  const int64_t rank = options.rank;
  if (rank < 1 || rank > n) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank: expected 1 to ", n, " (the operator's size), got ", rank));
  }
  const int64_t max_products =
      options.max_products > 0 ? options.max_products : std::max<int64_t>(10 * rank, 20);
  const int64_t max_basis =
      std::min(n, std::max(options.max_basis > 0 ? options.max_basis : rank + 8, rank + 2));
  const double precision = op.ProductPrecision();

  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(options.seed);
  const Share share = ShareOf(n, *options.ranks);
  KrylovSpace space{*options.ranks, n, share, at::empty({max_basis + 1, share.size()}, at::kDouble),
                    at::zeros({max_basis, max_basis}, at::kDouble)};

  EigenPairs result;
  RitzPairs ritz;
  double scale = 0;         // lower bound of max |theta|
  bool fresh = true;        // the vector in turn does not continue a recurrence
  int64_t since_fresh = 0;  // products since the last fresh vector
  bool space_full = false;  // nothing is left to orthogonalise against

  if (options.start) {
    const LanczosState& start = *options.start;
    LAPLACED_RETURN_IF_ERROR(TakeOver(space, start, rank));
    result.products = start.products;
    result.breakdowns = start.breakdowns;
    since_fresh = start.since_fresh;
    fresh = start.fresh;
    scale = start.scale;
    generator.set_state(start.random);
    options.start.reset();
  } else {
    LAPLACED_ASSIGN_OR_RETURN(const at::Tensor first, FreshVector(space, 0, generator));
    space.basis[0].copy_(first);
  }

  while (true) {
    const int64_t j = space.size;
    if (options.on_state) {
      const LanczosState state{space.basis.narrow(0, 0, j + 1),
                               space.Projected(),
                               result.products,
                               result.breakdowns,
                               since_fresh,
                               fresh,
                               scale,
                               generator.get_state(),
                               max_basis};
      LAPLACED_RETURN_IF_ERROR(options.on_state(state));
    }
    LAPLACED_ASSIGN_OR_RETURN(at::Tensor w, Product(op, space, space.basis[j]));
    ++result.products;
    since_fresh = fresh ? 1 : since_fresh + 1;
    LAPLACED_ASSIGN_OR_RETURN(const double product_norm, Norm(space, w));
    if (!std::isfinite(product_norm)) {
      return absl::FailedPreconditionError(
          "a curvature product is not finite: the network's outputs or derivatives overflow on "
          "this "
          "data");
    }
    LAPLACED_ASSIGN_OR_RETURN(const at::Tensor h, Orthogonalise(space, j + 1, w));
    space.projected.index_put_({Slice(None, j + 1), j}, h);
    space.projected.index_put_({j, Slice(None, j + 1)}, h);
    space.size = j + 1;
    LAPLACED_ASSIGN_OR_RETURN(double beta, Norm(space, w));
    scale = std::max(scale, product_norm);

    const bool breakdown = beta <= precision * scale;
    if (breakdown) beta = 0;
    LAPLACED_ASSIGN_OR_RETURN(ritz, SolveProjected(space.ranks, space.Projected(), beta));
    const double largest = ritz.values.abs().max().item<double>();
    const int64_t wanted = std::min(rank, space.size);
    const int64_t converged =
        (ritz.residuals.narrow(0, 0, wanted) <= options.tolerance * largest).sum().item<int64_t>();
    if (options.on_product) {
      if (absl::Status s = options.on_product(result.products, converged); !s.ok()) return s;
    }

    if (fresh && product_norm <= precision * scale) {
      // A random direction is mapped to nothing: no curvature is left outside what has been found.
      result.rank_exhausted = true;
    }
    if (result.rank_exhausted || space.size == n) {
      space_full = true;
    } else if (breakdown) {
      ++result.breakdowns;
    }
    // After a breakdown the pairs found are exact, but larger ones may hide in the rest of the
    // space: the fresh vector's own recurrence must have had time to find them.
    const bool searched = result.breakdowns == 0 || since_fresh >= rank;
    if (space_full || result.products >= max_products ||
        (space.size >= rank && converged == rank && !breakdown && searched)) {
      result.converged = converged == wanted && (space_full || !breakdown);
      break;
    }

    if (space.size == max_basis) Restart(space, space.basis, ritz, rank);
    if (breakdown) {
      LAPLACED_ASSIGN_OR_RETURN(const at::Tensor next, FreshVector(space, space.size, generator));
      if (!next.defined()) {
        LAPLACED_ASSIGN_OR_RETURN(ritz, SolveProjected(space.ranks, space.Projected(), 0));
        result.converged = true;
        break;
      }
      space.basis[space.size].copy_(next);
      fresh = true;
    } else {
      space.basis[space.size].copy_(w.div_(beta));
      fresh = false;
    }
  }

  int64_t found = std::min(rank, space.size);
  if (space_full && found > 0) {
    // Directions without curvature came in as fresh vectors; they are not eigenpairs that exist.
    const double floor = precision * std::sqrt(static_cast<double>(n)) * scale;
    const int64_t nonzero = (ritz.values.abs() > floor).sum().item<int64_t>();
    if (nonzero < found) {
      found = nonzero;
      result.rank_exhausted = true;
    } else {
      result.rank_exhausted = result.rank_exhausted && found < rank;
    }
  }
  Rotate(space.basis, ritz.rotations, found, space.basis);
  result.values = ritz.values.narrow(0, 0, found).clone();
  result.residuals = ritz.residuals.narrow(0, 0, found).clone();
  result.vectors = space.basis.narrow(0, 0, found).t();
  return result;
}

}  // namespace laplaced
