"""Answers as plain values. B rows, C outputs (classes, labels or regression targets).

The attributes of Model, Operation, Dataset and Posterior (with what it consists of) have the names of the
API's fields (proto/laplace/v1), where each is described; enums are their words in lower case ("low_rank").
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Callable, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from . import _api
from .arrays import from_tensor
from .errors import malformed

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class OodScore:
    """One score of every row; larger is stranger.

    threshold: above it a row counts as out of distribution; None if the score was not calibrated.
    is_ood: [B] bool, None without threshold.
    target_id_rate: the share of in-distribution rows that the threshold was set to flag.
    """

    name: str
    values: NDArray[np.float64]  # [B]
    threshold: float | None = None
    is_ood: NDArray[np.bool_] | None = None
    target_id_rate: float = 0.0


@dataclass(frozen=True)
class Prediction:
    """Predictive distributions of B rows.

    mean: [B, C], under the posterior: probabilities (categorical, Bernoulli) or means (Gaussian).
    map_mean: [B, C], likewise of the plain network.
    variance: [B, C], functional variance diag V of the outputs (logits or means), V = J Sigma J'. In the
        mode top_classes [B, m], of the outputs that variance_outputs names.
    epistemic, aleatoric: [B] in nats (categorical), [B, C] in nats (Bernoulli) or squared units (Gaussian).
    ood: score by name.
    covariance, joint_covariance, samples: [B, C, C], [B, C, B, C], [S, B, C], None unless asked for.
    variance_relative_error: relative standard error of each variance in the mode sampled, else 0.
    """

    model: str
    version: int
    posterior_id: str
    mean: Floats
    map_mean: Floats
    functional_mean: Floats  # [B, C], outputs of the network
    variance: Floats
    epistemic: Floats
    aleatoric: Floats
    ood: dict[str, OodScore]
    prior_precision: float
    temperature: float
    variance_mode: str
    variance_relative_error: float = 0.0
    covariance: Floats | None = None
    joint_covariance: Floats | None = None
    samples: Floats | None = None
    variance_outputs: NDArray[np.int64] | None = None  # [B, m], top_classes only
    left_out_probability: Floats | None = None  # [B], top_classes only
    left_out_bound: Floats | None = None  # [B], top_classes only
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.mean)


@dataclass(frozen=True)
class Scores:
    """OOD scores of B rows, by name."""

    model: str
    version: int
    posterior_id: str
    ood: dict[str, OodScore]
    variance_mode: str = ""
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0

    def __getitem__(self, name: str) -> OodScore:
        return self.ood[name]


@dataclass(frozen=True)
class Model:
    name: str
    version: int
    state: str  # "available", "ready", "failed"
    state_message: str
    likelihood: str  # "categorical", "gaussian", "bernoulli"
    input_shape: tuple[int, ...]
    input_dtype: str
    accepts_uint8: bool
    n_outputs: int
    n_parameters: int
    class_names: tuple[str, ...]
    n_data: int
    weight_decay: float
    bias_weight_decay: float
    checkpoint_sha256: str
    active_posterior_id: str
    captured_parameters: tuple[str, ...]
    generic_parameters: tuple[str, ...]
    last_layer_parameters: tuple[str, ...]
    sigma_noise: float
    description: str
    memory_bytes: int


@dataclass(frozen=True)
class Dataset:
    id: str
    n_rows: int
    input_dtype: str
    example_shape: tuple[int, ...]
    target_dtype: str
    target_shape: tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    id: str
    state: str  # "running", "succeeded", "failed", "cancelled"
    description: str
    phase: str
    done: int
    total: int
    fraction: float  # 0 to 1
    seconds_left: float
    posterior_id: str
    error_code: int
    error_message: str
    start_time: str
    end_time: str
    model_version: int = 0  # made by a Newton step, and what it gained
    result: str = ""

    @property
    def finished(self) -> bool:
        return self.state != "running"


@dataclass(frozen=True)
class FitOptions:
    """How a posterior was fitted; what is None was left to the server."""

    rank: int
    direction_batch_size: int
    curvature_batch_size: int
    debiasing: str
    residual: str
    seed: int
    prior_precision: float | None
    ood_prior_precision: float | None
    lanczos_tolerance: float
    max_products: int
    target_id_rate: float
    max_validation_examples: int
    structure: str
    curvature: str
    parameters: tuple[str, ...]
    kfac_eigenvalues: str
    prior_method: str
    temperature: float
    noise_method: str
    sigma_noise: float | None
    target_relative_standard_error: float
    variance_correction: bool
    memory_limit_bytes: int
    fisher_samples: int
    feature_layer: str


@dataclass(frozen=True)
class FeatureSummary:
    layer: str
    n_features: int
    count: int
    bank_size: int
    knn_k: int
    vim_dimensions: int


@dataclass(frozen=True)
class ParameterBlock:
    name: str
    n_parameters: int
    kind: str
    trace: float
    residual: float
    biased_sum: float
    debiased_sum: float


@dataclass(frozen=True)
class PriorCandidate:
    prior_precision: float
    validation_nll: float
    log_marginal_likelihood: float


@dataclass(frozen=True)
class OodThreshold:
    score: str
    threshold: float
    target_id_rate: float
    count: int
    rate_lower: float
    rate_upper: float
    id_quantiles: NDArray[np.float64]


@dataclass(frozen=True)
class FitCost:
    seconds: float
    curvature_products: int
    lanczos_seconds: float
    curvature_seconds: float
    validation_seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Posterior:
    id: str
    model: str
    version: int
    active: bool
    options: FitOptions
    n_data: int
    n_parameters: int
    rank: int
    prior_precision: float
    ood_prior_precision: float
    biased_eigenvalues: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    lanczos_residuals: NDArray[np.float64]
    residual: float
    trace: float
    trace_standard_error: float
    log_marginal_likelihood: float
    effective_parameters: float
    mean_train_loss: float
    prior_candidates: tuple[PriorCandidate, ...]
    validation_nll_map: float
    ood_thresholds: tuple[OodThreshold, ...]
    default_ood_score: str
    train_dataset_id: str
    validation_dataset_id: str
    checkpoint_sha256: str
    code_version: str
    create_time: str
    cost: FitCost
    mc_samples: int
    warnings: tuple[str, ...]
    blocks: tuple[ParameterBlock, ...]
    residual_share: float
    curvature_count: int
    clipped_directions: int
    parent_posterior_id: str
    updated_examples: int
    updated_dataset_ids: tuple[str, ...]
    calibration_dataset_id: str
    available_ood_scores: tuple[str, ...]
    features: FeatureSummary | None


_CLASSES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        Model, Dataset, Operation, FitOptions, FeatureSummary, ParameterBlock, PriorCandidate,
        OodThreshold, FitCost, Posterior,
    )
}  # fmt: skip

T = TypeVar("T")


F = TypeVar("F", bound=Callable[..., Any])


def _of_an_answer(read: F) -> F:
    """What cannot be read is a LaplaceError, as everything that a call may fail with."""

    @functools.wraps(read)
    def checked(*arguments: Any) -> Any:
        try:
            return read(*arguments)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise malformed(error) from error

    return cast(F, checked)


@_of_an_answer
def from_message(cls: type[T], message: Any) -> T:
    """A message as the dataclass of its name, field by field."""
    return _from_message(cls, message)


def _from_message(cls: type[T], message: Any) -> T:
    values = {}
    for member in dataclasses.fields(cls):
        values[member.name] = _value(message, message.DESCRIPTOR.fields_by_name[member.name])
    return cls(**values)


def _value(message: Any, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.label == field.LABEL_REPEATED:
        if field.message_type is not None:
            return tuple(_from_message(_CLASSES[field.message_type.name], item) for item in value)
        if field.cpp_type == field.CPPTYPE_DOUBLE:
            return np.array(value, np.float64)
        return tuple(value)
    if field.message_type is not None:
        if not message.HasField(field.name):
            return None
        return _from_message(_CLASSES[field.message_type.name], value)
    if field.enum_type is not None:
        return _api.enum_word(field.enum_type, value)
    # `optional` in proto3 is a oneof of its own.
    if field.containing_oneof is not None and not message.HasField(field.name):
        return None
    return value


def _scores(messages: Any) -> dict[str, OodScore]:
    scores = {}
    for m in messages:
        known = m.HasField("threshold")
        scores[m.name] = OodScore(
            m.name,
            np.array(m.values, np.float64),
            m.threshold if known else None,
            np.array(m.is_ood, np.bool_) if known else None,
            m.target_id_rate,
        )
    return scores


def _mode(message: Any) -> str:
    return _api.enum_word(
        message.DESCRIPTOR.fields_by_name["variance_mode"].enum_type, message.variance_mode
    )


@_of_an_answer
def prediction(m: Any) -> Prediction:
    """A PredictResponse as a value."""

    def optional(name: str) -> Any:
        return from_tensor(getattr(m, name)) if m.HasField(name) else None

    return Prediction(
        model=m.model,
        version=m.version,
        posterior_id=m.posterior_id,
        mean=from_tensor(m.mean),
        map_mean=from_tensor(m.map_mean),
        functional_mean=from_tensor(m.functional_mean),
        variance=from_tensor(m.functional_variance),
        epistemic=from_tensor(m.epistemic),
        aleatoric=from_tensor(m.aleatoric),
        ood=_scores(m.ood_scores),
        prior_precision=m.prior_precision,
        temperature=m.temperature,
        variance_mode=_mode(m),
        variance_relative_error=m.variance_relative_error,
        covariance=optional("functional_covariance"),
        joint_covariance=optional("joint_covariance"),
        samples=optional("function_samples"),
        variance_outputs=optional("variance_outputs"),
        left_out_probability=optional("left_out_probability"),
        left_out_bound=optional("left_out_bound"),
        queue_seconds=m.timing.queue_seconds,
        compute_seconds=m.timing.compute_seconds,
    )


@_of_an_answer
def scores(m: Any) -> Scores:
    """A ScoreResponse as a value."""
    return Scores(
        m.model,
        m.version,
        m.posterior_id,
        _scores(m.ood_scores),
        _mode(m),
        m.timing.queue_seconds,
        m.timing.compute_seconds,
    )
