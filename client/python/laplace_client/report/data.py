"""Data files, and what the model says about their rows."""

from __future__ import annotations

import gzip
import math
import pathlib
import struct
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..client import Client
from ..types import Model, Posterior

BATCH_ROWS = 256

_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


@dataclass(frozen=True)
class DataSet:
    """name: what the report calls it. inputs: [N, ...] in the model's shape. targets: [N] labels,
    [N, C] for the other likelihoods, or None."""

    name: str
    inputs: NDArray[Any]
    targets: NDArray[Any] | None = None


@dataclass(frozen=True)
class Evaluated:
    """Answers for the N rows of a data set, C outputs.

    map_mean: [N, C] of the plain network. mean: [N, C] under the posterior. targets: as in DataSet.
    scores: name to [N]. thresholds: name to the threshold; scores without one are not in it.
    """

    name: str
    map_mean: NDArray[Any]
    mean: NDArray[Any]
    targets: NDArray[Any] | None = None
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.mean)


def read_array(path: str, keys: Sequence[str]) -> NDArray[Any]:
    """One array of a .npy, .npz or IDX file, which may be gzipped; in a .npz the first of `keys`.

    ValueError names the file, what was expected and what it holds; OSError if it cannot be read.
    """
    if path.endswith(".npy"):
        return _loaded(path, np.load(path, allow_pickle=False))
    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as arrays:
            for key in keys:
                if key in arrays.files:
                    return _loaded(path, arrays[key])
            raise ValueError(f"{path}: expected an array {' or '.join(keys)}, has {arrays.files}")
    content = pathlib.Path(path).read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    return _idx(path, content)


def _loaded(path: str, array: Any) -> NDArray[Any]:
    if not isinstance(array, np.ndarray) or array.ndim < 1:
        raise ValueError(f"{path}: expected an array with rows, got a single value")
    return array


def _idx(path: str, content: bytes) -> NDArray[Any]:
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise ValueError(f"{path}: expected a .npy, .npz or IDX file, got something else")
    dtype, n_dims = np.dtype(_IDX_TYPES[content[2]]), content[3]
    start = 4 + 4 * n_dims
    if len(content) < start:
        raise ValueError(f"{path}: the file ends within its header")
    shape = struct.unpack(f">{n_dims}I", content[4:start])
    if len(content) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{path}: expected {math.prod(shape) * dtype.itemsize} bytes for the shape "
            f"{list(shape)}, got {len(content) - start}"
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return _loaded(path, array.astype(dtype.newbyteorder("=")))


def read_set(
    name: str, files: str, model: Model, limit: int = 0, with_targets: bool = False
) -> DataSet:
    """Rows from "inputs" or "inputs,targets"; a .npz may hold both.

    limit: at most so many of the first rows; 0 takes all.
    with_targets: read the targets of a .npz if there are any.
    ValueError says what does not fit the model.
    """
    paths = files.split(",") if not pathlib.Path(files).exists() else [files]
    if len(paths) > 2 or not all(paths):
        raise ValueError(f"{files}: expected INPUTS or INPUTS,TARGETS")
    end = limit or None
    inputs = _shaped(paths[0], read_array(paths[0], ("x", "inputs")), model)
    targets = None
    keys = ("y", "targets", "labels")
    if len(paths) == 2:
        targets = read_array(paths[1], keys)
    elif with_targets and paths[0].endswith(".npz") and _has_any(paths[0], keys):
        targets = read_array(paths[0], keys)
    if targets is not None:
        if len(targets) != len(inputs):
            raise ValueError(f"{files}: {len(inputs)} inputs, but {len(targets)} targets")
        targets = _checked_targets(paths[-1], targets[:end], model)
    if not len(inputs):
        raise ValueError(f"{paths[0]}: expected at least one row")
    return DataSet(name, inputs[:end], targets)


def _has_any(path: str, keys: Sequence[str]) -> bool:
    with np.load(path, allow_pickle=False) as arrays:
        return any(key in arrays.files for key in keys)


def _shaped(path: str, inputs: NDArray[Any], model: Model) -> NDArray[Any]:
    """In the model's shape, where only dimensions of size 1 have to be added or dropped."""
    wanted, given = tuple(model.input_shape), inputs.shape[1:]
    if [n for n in given if n != 1] != [n for n in wanted if n != 1]:
        raise ValueError(
            f"{path}: expected rows of the shape {list(wanted)} for {model.name}, got {list(given)}"
        )
    return inputs.reshape(len(inputs), *wanted)


def _checked_targets(path: str, targets: NDArray[Any], model: Model) -> NDArray[Any]:
    if model.likelihood == "categorical":
        if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
            raise ValueError(
                f"{path}: expected integer labels [N], got {targets.dtype} {list(targets.shape)}"
            )
        if targets.min(initial=0) < 0 or targets.max(initial=0) >= model.n_outputs:
            raise ValueError(
                f"{path}: expected labels in [0, {model.n_outputs}), got {targets.min()} to "
                f"{targets.max()}"
            )
        return targets
    targets = targets.reshape(len(targets), -1)
    if targets.shape[1] != model.n_outputs:
        raise ValueError(
            f"{path}: expected targets [N, {model.n_outputs}], got {list(targets.shape)}"
        )
    if model.likelihood == "bernoulli" and not np.isin(targets, (0, 1)).all():
        raise ValueError(f"{path}: expected labels 0 and 1 only")
    return targets


def default_scores(posterior: Posterior) -> list[str]:
    """Its default score, and three well-known ones of the plain network to compare it with."""
    wanted = [posterior.default_ood_score, "msp", "energy", "mahalanobis"]
    return [s for s in dict.fromkeys(wanted) if s in known_scores(posterior)]


def known_scores(posterior: Posterior) -> tuple[str, ...]:
    """Scores that it can give; if an older version fitted it, those with a threshold."""
    return posterior.available_ood_scores or tuple(t.score for t in posterior.ood_thresholds)


def evaluate(
    client: Client,
    posterior: Posterior,
    data: DataSet,
    scores: Sequence[str],
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Evaluated:
    """Asks the server about every row, under `posterior`, which must be the active one.

    scores: names; without any the posterior's default. on_rows: told the rows answered so far.
    RuntimeError if another posterior answers; LaplaceError.
    """
    maps, means = [], []
    values: dict[str, list[NDArray[np.float64]]] = {}
    thresholds: dict[str, float] = {}
    done = 0
    for answer in client.predict_stream(
        posterior.model,
        _batches(data.inputs),
        version=posterior.version,
        ood_scores=list(scores) or None,
        priority="bulk",
    ):
        if answer.posterior_id != posterior.id:
            raise RuntimeError(
                f"expected answers of posterior {posterior.id}, got some of {answer.posterior_id}: "
                "another one was activated; run the report again"
            )
        maps.append(answer.map_mean)
        means.append(answer.mean)
        for name, score in answer.ood.items():
            values.setdefault(name, []).append(score.values)
            if score.threshold is not None:
                thresholds[name] = score.threshold
        done += len(answer)
        on_rows(done)
    return Evaluated(
        data.name,
        np.concatenate(maps),
        np.concatenate(means),
        data.targets,
        {name: np.concatenate(parts) for name, parts in values.items()},
        thresholds,
    )


def _batches(inputs: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for begin in range(0, len(inputs), BATCH_ROWS):
        yield inputs[begin : begin + BATCH_ROWS]
