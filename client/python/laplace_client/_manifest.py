"""model.json, what the server has to know of a checkpoint, with the checks that it makes."""

from __future__ import annotations

import json
import math
import operator
from typing import Any, Sequence

LIKELIHOODS = ("categorical", "gaussian", "bernoulli")

_MAX_BYTES = 1 << 20
_MAX_ELEMENTS = 1 << 31


class ExportError(ValueError):
    """What the server would refuse, or a module that its export does not reproduce."""


def manifest_text(
    *,
    likelihood: str,
    input_shape: Sequence[int],
    input_dtype: str,
    n_outputs: int,
    class_names: Sequence[str] | None = None,
    n_data: int | None = None,
    weight_decay: float | None = None,
    bias_weight_decay: float | None = None,
    sigma_noise: float | None = None,
    description: str = "",
    uint8_scale: float | None = None,
    uint8_mean: Sequence[float] | None = None,
    uint8_std: Sequence[float] | None = None,
) -> str:
    """The text of model.json. Raises ExportError that names the argument, if one is wrong."""
    check_likelihood(likelihood)
    if likelihood == "categorical" and n_outputs == 1:
        raise ExportError(
            "outputs: expected at least 2 with a categorical likelihood, got 1; for a binary "
            'classifier with one logit use likelihood="bernoulli" (labels [N, 1] of 0.0 and 1.0), '
            "or export the two logits [0, f]"
        )
    shape = [int(size) for size in input_shape]
    if min(shape, default=1) < 1 or math.prod(shape) > _MAX_ELEMENTS:
        raise ExportError(f"example: expected rows of 1 to 2^31 numbers, got the shape {shape}")
    entries: dict[str, Any] = {"shape": shape, "dtype": input_dtype}
    if uint8_scale is not None:
        entries["uint8_scale"] = _number("uint8_scale", uint8_scale)
    for name, values in (("uint8_mean", uint8_mean), ("uint8_std", uint8_std)):
        if values is not None:
            entries[name] = _channels(name, values, shape, uint8_scale is not None)
    manifest: dict[str, Any] = {"likelihood": likelihood, "input": entries, "n_outputs": n_outputs}
    if class_names is not None:
        manifest["class_names"] = _class_names(class_names, n_outputs)
    if n_data is not None:
        manifest["n_data"] = _count("n_data", n_data)
    if weight_decay is not None:
        manifest["weight_decay"] = _number("weight_decay", weight_decay, zero_allowed=True)
    if bias_weight_decay is not None:
        # Without decay the prior of these parameters would be flat, which is improper.
        manifest["bias_weight_decay"] = _number("bias_weight_decay", bias_weight_decay)
        if not weight_decay:
            raise ExportError("bias_weight_decay: needs a weight_decay > 0 beside it")
    if sigma_noise is not None:
        if likelihood != "gaussian":
            raise ExportError(
                f"sigma_noise: belongs to a gaussian likelihood, got {likelihood}; leave it out"
            )
        manifest["sigma_noise"] = _number("sigma_noise", sigma_noise)
    if description:
        manifest["description"] = _text("description", description)
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    if len(text) > _MAX_BYTES:
        raise ExportError(
            f"model.json would have {len(text)} bytes, more than the 1 MiB that the server reads: "
            "shorten description or class_names"
        )
    return text


def check_likelihood(likelihood: str) -> None:
    if likelihood not in LIKELIHOODS:
        wanted = ", ".join(LIKELIHOODS)
        raise ExportError(f"likelihood: expected one of {wanted}, got {likelihood!r}")


def _number(name: str, value: float, zero_allowed: bool = False) -> float:
    wanted = "a number >= 0" if zero_allowed else "a number > 0"
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero_allowed):
        raise ExportError(f"{name}: expected {wanted}, got {value!r}")
    return number


def _count(name: str, value: int) -> int:
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if not 1 <= count < 1 << 63:
        raise ExportError(f"{name}: expected a positive whole number, got {value!r}")
    return count


def _text(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise ExportError(f"{name}: expected text, got {value!r}")
    return value


def _class_names(names: Sequence[str], n_outputs: int) -> list[str]:
    if isinstance(names, str):
        raise ExportError(f"class_names: expected a list of names, got the text {names!r}")
    texts = [_text(f"class_names[{i}]", name) for i, name in enumerate(names)]
    if len(texts) != n_outputs:
        raise ExportError(
            f"class_names: expected one for each of {n_outputs} outputs, got {len(texts)}"
        )
    return texts


def _channels(name: str, values: Sequence[float], shape: list[int], scaled: bool) -> list[float]:
    if not scaled:
        raise ExportError(f"{name}: needs uint8_scale beside it, such as 1 / 255")
    channels = shape[0] if shape else 0
    numbers = [float(value) for value in values]
    if len(numbers) != channels or not all(map(math.isfinite, numbers)):
        raise ExportError(
            f"{name}: expected a number for each of the {channels} entries of the first dimension "
            f"of an example, got {numbers}"
        )
    if name == "uint8_std" and min(numbers) <= 0:
        raise ExportError(f"{name}: expected numbers > 0, got {numbers}")
    return numbers
