"""Writes a PyTorch module as a model version that the server loads. Needs torch, 1.13 or later.

    from laplace_client.export import export_torchscript

    export_torchscript(
        model.eval(), x[:8], "registry/models/fashion_cnn/1",
        likelihood="categorical", n_data=50_000, weight_decay=5e-4,
    )

torch is imported when a module is exported, not before.
"""

from __future__ import annotations

import os
import pathlib
import re
import secrets
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Sequence

from ._manifest import ExportError, check_likelihood, manifest_text

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["Export", "ExportError", "export_torchscript"]

METHODS = ("trace", "script")

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Export:
    """What was written.

    folder: holds model.pt and model.json.
    n_parameters: how many numbers the parameters have that the outputs depend on.
    unused_parameters: names of those that they do not; the server leaves them out.
    largest_difference: between outputs of the module and of the export, over all compared.
    """

    folder: pathlib.Path
    input_shape: tuple[int, ...]
    dtype: str
    n_outputs: int
    n_parameters: int
    unused_parameters: tuple[str, ...]
    largest_difference: float


def export_torchscript(
    model: torch.nn.Module,
    example: torch.Tensor | NDArray[Any],
    path: str | os.PathLike[str],
    *,
    likelihood: str,
    class_names: Sequence[str] | None = None,
    n_data: int | None = None,
    weight_decay: float | None = None,
    bias_weight_decay: float | None = None,
    sigma_noise: float | None = None,
    description: str = "",
    uint8_scale: float | None = None,
    uint8_mean: Sequence[float] | None = None,
    uint8_std: Sequence[float] | None = None,
    method: str = "trace",
) -> Export:
    """Writes `path`/model.pt and `path`/model.json, both or neither, after many checks.

    model: in evaluation mode, on the CPU, all parameters float32 or all float64 and trainable.
        Maps [B, ...] to [B, C] for every B: logits (categorical, bernoulli) or means (gaussian).
        Left as it is.
    example: typical inputs [B, ...] of the parameters' dtype, B >= 1.
    path: a version folder that does not exist yet, REGISTRY/models/NAME/VERSION.
    likelihood: "categorical", "bernoulli" or "gaussian".
    class_names: one for each output.
    n_data: number of examples that the module was trained on.
    weight_decay: b of b/2 ||theta||^2 next to the mean loss.
    bias_weight_decay: another b for parameters with at most one dimension (biases, norms).
    sigma_noise: standard deviation of the targets' noise, gaussian only; a fit can estimate it.
    uint8_scale, uint8_mean, uint8_std: raw pixels become (value * scale - mean) / std, with a mean
        and a std for each entry of an example's first dimension (channel).
    method: "trace" follows the example through the module; "script" compiles its code, for modules
        whose path through the code depends on values.

    The export is loaded again and compared with the module, on batches of several sizes. Raises
    ExportError, a ValueError, that says what is wrong, where, and what to do; ImportError without
    torch. The server checks once more when it loads the version, also that derivatives are right.
    """
    check_likelihood(likelihood)
    if method not in METHODS:
        raise ExportError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    folder = _new_version(path)
    try:
        from . import _module_checks as checks
    except ImportError as error:
        raise ImportError(
            "export_torchscript needs PyTorch, which cannot be imported: install Debian's "
            "python3-torch, or torch from PyPI"
        ) from error

    with checks.own_torch_state():
        module = checks.private_copy(model)
        dtype = checks.check_parameters(module)
        inputs = checks.check_example(example, dtype)
        n_outputs = checks.check_behaviour(module, inputs, likelihood)
        manifest = manifest_text(
            likelihood=likelihood,
            input_shape=inputs.shape[1:],
            input_dtype=checks.name_of(dtype),
            n_outputs=n_outputs,
            class_names=class_names,
            n_data=n_data,
            weight_decay=weight_decay,
            bias_weight_decay=bias_weight_decay,
            sigma_noise=sigma_noise,
            description=description,
            uint8_scale=uint8_scale,
            uint8_mean=uint8_mean,
            uint8_std=uint8_std,
        )
        checkpoint = checks.to_torchscript(module, inputs, method)
        verdict = checks.check_export(module, checkpoint, inputs, method)
    _write_version(folder, checkpoint, manifest)
    return Export(
        folder=folder,
        input_shape=tuple(inputs.shape[1:]),
        dtype=checks.name_of(dtype),
        n_outputs=n_outputs,
        n_parameters=verdict.n_parameters,
        unused_parameters=verdict.unused_parameters,
        largest_difference=verdict.largest_difference,
    )


def _new_version(path: str | os.PathLike[str]) -> pathlib.Path:
    """The absolute folder, which must have a name that the server finds and must not exist."""
    folder = pathlib.Path(os.path.abspath(path))
    if not _VERSION.fullmatch(folder.name) or not _NAME.fullmatch(folder.parent.name):
        raise ExportError(
            "path: expected a version folder such as registry/models/NAME/1, where NAME has "
            "letters, digits, '.', '_' and '-' and the version is a positive whole number, got "
            f"{path}"
        )
    if os.path.lexists(folder):
        taken = [int(entry) for entry in os.listdir(folder.parent) if _VERSION.fullmatch(entry)]
        raise ExportError(
            f"path: {path} exists, and versions never change, because posteriors belong to them: "
            f"write the next one, {pathlib.Path(path).parent / str(max(taken) + 1)}"
        )
    return folder


def _write_version(folder: pathlib.Path, checkpoint: bytes, manifest: str) -> None:
    """Makes the folder appear as a whole, and last."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".tmp-{secrets.token_hex(8)}"
    temporary.mkdir()
    try:
        _write_file(temporary / "model.pt", checkpoint)
        _write_file(temporary / "model.json", manifest.encode())
        _sync_folder(temporary)
        try:
            temporary.rename(folder)
        except OSError as error:
            if not folder.exists():
                raise
            raise ExportError(
                f"path: {folder} was made by somebody else meanwhile: write the next version"
            ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(folder.parent)


def _write_file(path: pathlib.Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
