"""Request messages from Python's arguments, for both clients. ValueError names the argument."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Iterator, Sequence

import grpc
import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _api
from .arrays import as_inputs, as_targets, to_tensor

_V1 = "laplace.v1."
# What the server says of a data set that it lacks; the same upload repairs a damaged one, too.
WORTH_AN_UPLOAD = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.DATA_LOSS)

_ENUMS = {
    "link_approx": "LinkApprox",
    "variance_mode": "VarianceMode",
    "priority": "Priority",
    "debiasing": "DebiasingStrategy",
    "residual": "ResidualKind",
    "structure": "PosteriorStructure",
    "curvature": "CurvatureKind",
    "kfac_eigenvalues": "KfacEigenvalues",
    "prior_method": "PriorMethod",
    "noise_method": "NoiseMethod",
    "variant": "NewtonVariant",
}


def build(name: str, /, **fields: Any) -> Any:
    """A message of laplace.v1. None leaves a field unset; enums are given by their words, and one text stands
    for a list of it. TypeError for a field that there is not, ValueError for a value that does not fit."""
    message = _api.message(_V1 + name)()
    known = message.DESCRIPTOR.fields_by_name
    for field, value in fields.items():
        if field not in known:
            raise TypeError(f"{name} has no {field!r}; it has {', '.join(known.keys())}")
        if value is None:
            continue
        if field in _ENUMS:
            try:
                value = _api.enum_value(_ENUMS[field], value)
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from None
        repeated = known[field].label == known[field].LABEL_REPEATED
        try:
            if repeated and isinstance(value, str):
                getattr(message, field).append(value)
            elif repeated:
                getattr(message, field).extend(value)
            elif isinstance(value, (list, tuple, np.ndarray)):
                raise ValueError(f"expected one value, got {value!r}")
            elif hasattr(value, "DESCRIPTOR"):
                getattr(message, field).CopyFrom(value)
            else:
                setattr(message, field, value.item() if isinstance(value, np.generic) else value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{field}: {error}") from None
    return message


_SCORE = ("version", "variance_mode", "samples", "seed", "priority")
_PREDICT = _SCORE + (
    "prior_precision", "temperature", "link_approx", "return_covariance", "return_joint_covariance",
    "return_samples", "top_classes",
)  # fmt: skip


def predict(model: str, x: ArrayLike | None, arguments: dict[str, Any]) -> Any:
    """`arguments` are those of the method that is called; what is no option is passed over."""
    return _work("PredictRequest", _PREDICT, model, x, arguments)


def score(model: str, x: ArrayLike | None, arguments: dict[str, Any]) -> Any:
    return _work("ScoreRequest", _SCORE, model, x, arguments)


def _work(
    name: str, options: Sequence[str], model: str, x: ArrayLike | None, arguments: dict[str, Any]
) -> Any:
    scores: Sequence[str] | str | None = arguments["ood_scores"]
    return build(
        name,
        model=model,
        inputs=None if x is None else to_tensor(as_inputs(x)),
        ood_scores=[scores] if isinstance(scores, str) else list(scores or ()),
        **{option: arguments[option] for option in options if option in arguments},
    )


@dataclass(frozen=True)
class Upload:
    """A data set on its way: its content id, by which a server that has it saves the way, and the
    messages that carry it."""

    inputs: NDArray[Any]
    targets: NDArray[Any]
    header: Any
    id: str

    def messages(self, chunk_bytes: int) -> Iterator[tuple[int, Any]]:
        """(rows sent so far, message): the header, then chunks of rows of about that many bytes."""
        request = _api.message(_V1 + "UploadDatasetRequest")
        yield 0, request(header=self.header)
        row_bytes = max(1, (self.inputs.nbytes + self.targets.nbytes) // len(self.inputs))
        step = max(1, chunk_bytes // row_bytes)
        chunk = _api.message(_V1 + "DatasetChunk")
        for begin in range(0, len(self.inputs), step):
            x, y = self.inputs[begin : begin + step], self.targets[begin : begin + step]
            message = request(chunk=chunk(inputs=to_tensor(x), targets=to_tensor(y)))
            yield begin + len(x), message


def upload(x: ArrayLike, y: ArrayLike) -> Upload:
    inputs, targets = as_inputs(x), as_targets(y)
    if inputs.ndim == 0 or len(inputs) == 0:
        raise ValueError("inputs: expected rows, got none")
    if targets.ndim == 0 or len(targets) != len(inputs):
        got = len(targets) if targets.ndim else "a single value"
        raise ValueError(
            f"targets: expected {len(inputs)} rows, one for each input, got {got}"
        )
    tensors = [to_tensor(a[:0]) for a in (inputs, targets)]
    header = build(
        "DatasetHeader",
        input_dtype=tensors[0].dtype,
        example_shape=inputs.shape[1:],
        target_dtype=tensors[1].dtype,
        target_shape=targets.shape[1:],
        n_rows=len(inputs),
    )
    return Upload(inputs, targets, header, _dataset_id(inputs, targets))


def _dataset_id(inputs: NDArray[Any], targets: NDArray[Any]) -> str:
    """formats/dataset_id.h says what it is the hash of."""

    def line(array: NDArray[Any]) -> str:
        return f"{array.dtype.name} [{', '.join(map(str, array.shape[1:]))}]"

    text = f"laplaced-dataset-1\n{line(inputs)}\n{line(targets)}\n{len(inputs)}\n"
    digest = hashlib.sha256(text.encode())
    for array in (inputs, targets):
        digest.update(hashlib.sha256(array.data.cast("B")).digest())
    return "sha256-" + digest.hexdigest()
