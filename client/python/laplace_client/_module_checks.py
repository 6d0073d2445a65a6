"""What the server relies on in a network, checked on a module and its TorchScript. Imports torch.

Trial inputs are like the server's: uniform in [0, 1), from a fixed seed. Functions raise
ExportError.
"""

from __future__ import annotations

import contextlib
import copy
import io
from dataclasses import dataclass
from typing import Any, Iterator, Sequence

import torch

from ._manifest import ExportError

_REPETITIONS = 16
_TRIAL_ROWS = 8


@dataclass(frozen=True)
class Verdict:
    """What a comparison of module and export found; see export.Export."""

    n_parameters: int
    unused_parameters: tuple[str, ...]
    largest_difference: float


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).rsplit(".", maxsplit=1)[-1]


@contextlib.contextmanager
def own_torch_state() -> Iterator[None]:
    """Gradients on, whatever the caller has chosen; random numbers are put back afterwards."""
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        yield


def private_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A deep copy of a module in evaluation mode: nothing that follows can change the module."""
    if not isinstance(model, torch.nn.Module):
        raise ExportError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    # A frozen TorchScript module has no such flag.
    training = [name for name, m in model.named_modules() if getattr(m, "training", False)]
    if training:
        raise ExportError(
            f"model: {_listed(training)} in training mode: call model.eval() before the export"
        )
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ExportError(
            f"model: cannot be copied ({_first_line(error)}); a usual cause are tensors that are "
            "computed from parameters and kept in the module: with weight_norm or spectral_norm, "
            "call remove_weight_norm or remove_spectral_norm first"
        ) from error


def check_parameters(model: torch.nn.Module) -> torch.dtype:
    """The one precision of all parameters."""
    parameters = dict(model.named_parameters())
    if not parameters:
        raise ExportError(
            "model: has no parameters; was it frozen (torch.jit.freeze, optimize_for_inference), "
            "or are its weights plain tensors instead of torch.nn.Parameter?"
        )
    first, dtype = next((name, p.dtype) for name, p in parameters.items())
    for name, p in parameters.items():
        if p.dtype not in (torch.float32, torch.float64):
            raise ExportError(
                f"model: parameter {name} has type {name_of(p.dtype)}, expected float32 or "
                "float64: call model.float() first"
            )
        if p.dtype != dtype:
            raise ExportError(
                f"model: parameters mix types, {first} is {name_of(dtype)} and {name} is "
                f"{name_of(p.dtype)}: call model.float() or model.double() first"
            )
        if p.device.type != "cpu":
            raise ExportError(f"model: parameter {name} is on {p.device}: call model.cpu() first")
        if not bool(p.isfinite().all()):
            raise ExportError(f"model: parameter {name} holds values that are not finite")
    still = [name for name, p in parameters.items() if not p.requires_grad]
    if still:
        raise ExportError(
            f"model: {_listed(still)} without requires_grad; the server would count them as "
            "trained all the same: call model.requires_grad_(True), and say at the fit which "
            'parameters the posterior is of (parameters=[...], or structure="last_layer")'
        )
    return dtype


def check_example(example: Any, dtype: torch.dtype) -> torch.Tensor:
    """The example as a tensor [B, ...] without history."""
    inputs = torch.as_tensor(example).detach()
    if inputs.device.type != "cpu":
        raise ExportError(f"example: is on {inputs.device}: pass example.cpu()")
    if inputs.dim() < 1 or inputs.numel() == 0:
        raise ExportError(
            f"example: expected inputs [B, ...] with B >= 1, got the shape {list(inputs.shape)}"
        )
    if inputs.dtype != dtype:
        raise ExportError(
            f"example: expected {name_of(dtype)}, as the parameters, got {name_of(inputs.dtype)}; "
            "the server feeds the network floating-point inputs only"
        )
    if not bool(inputs.isfinite().all()):
        raise ExportError("example: holds values that are not finite")
    return inputs.clone()


def check_behaviour(model: torch.nn.Module, example: torch.Tensor, likelihood: str) -> int:
    """C, the number of outputs of a module that behaves as a function of each row."""
    batches = _batches(example)
    outputs = [_outputs(model, x) for x in batches]
    widths = {f.shape[1] for f in outputs}
    if len(widths) > 1:
        raise ExportError(f"model: the number of outputs changes with the batch: {sorted(widths)}")
    x, f = batches[-1], outputs[-1]
    # Several times: dropout on few units often draws the same mask twice.
    for _ in range(_REPETITIONS):
        if _differ(f, _outputs(model, x)):
            raise ExportError(
                "model: the same input gives different outputs; is dropout on in spite of eval(), "
                "such as F.dropout(x, 0.5) without training=self.training?"
            )
    for row in range(len(x)):
        if _differ(f[row : row + 1], _outputs(model, x[row : row + 1])):
            raise ExportError(
                f"model: the output of row {row} depends on the other rows of its batch; does "
                "batch norm use the batch's statistics (track_running_stats=False), or something "
                "average over dimension 0?"
            )
    if likelihood == "categorical" and all(map(_like_probabilities, outputs)):
        raise ExportError(
            "model: the outputs look like probabilities (not negative, sum 1); a categorical "
            "likelihood needs logits: export the module without its final softmax"
        )
    return int(f.shape[1])


def to_torchscript(model: torch.nn.Module, example: torch.Tensor, method: str) -> bytes:
    """The bytes of model.pt."""
    try:
        if method == "trace":
            module = torch.jit.trace(model, (example.clone(),), check_trace=False)
        else:
            module = torch.jit.script(model)
        buffer = io.BytesIO()
        torch.jit.save(module, buffer)
    except Exception as error:
        other = "script" if method == "trace" else "trace"
        raise ExportError(
            f"model: torch.jit.{method} fails, method={other!r} may do: {error}"
        ) from error
    return buffer.getvalue()


def check_export(
    model: torch.nn.Module, checkpoint: bytes, example: torch.Tensor, method: str
) -> Verdict:
    """Loads `checkpoint` as the server does; compares parameters and outputs with the module's."""
    loaded = torch.jit.load(io.BytesIO(checkpoint), map_location="cpu").eval()
    _check_survival(model, loaded)
    largest = 0.0
    for x in _batches(example):
        expected, rows = _outputs(model, x), len(x)
        try:
            got = _outputs(loaded, x)
        except ExportError as error:
            raise ExportError(f"{_not_the_module(method, rows)} ({error})") from error
        if got.shape != expected.shape or _differ(got, expected, _rounding(x.dtype)):
            raise ExportError(_not_the_module(method, rows))
        largest = max(largest, float((got - expected).abs().max()))
    unused = _unused_parameters(loaded, example[:2])
    used = {name: p for name, p in loaded.named_parameters() if name not in unused}
    if not used:
        raise ExportError(
            "model: the outputs do not depend on the parameters; does forward detach them, or "
            "compute under torch.no_grad()?"
        )
    return Verdict(sum(p.numel() for p in used.values()), tuple(unused), largest)


def _batches(example: torch.Tensor) -> list[torch.Tensor]:
    """The example, batches of other sizes (1 and 3 rows), and last a larger one of unlike rows."""
    generator = torch.Generator().manual_seed(1)
    shape = (_TRIAL_ROWS, *example.shape[1:])
    trial = torch.rand(shape, generator=generator, dtype=example.dtype)
    few = torch.cat([example[:1], trial[:2]])
    return [example, example[:1], few, torch.cat([example[:4], trial])]


def _outputs(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """model(x) without gradients, [B, C], finite and of the type of x."""
    shape = list(x.shape)
    try:
        # Without the optimising executors, as in the server.
        with torch.no_grad(), torch.jit.optimized_execution(False):
            given = x.clone()
            f = model(given)
    except Exception as error:
        raise ExportError(f"model: fails on inputs of shape {shape}: {error}") from error
    if not torch.equal(given, x):
        raise ExportError(
            "model: writes into its inputs; does it begin with an in-place operation, such as "
            "x += 1 or ReLU(inplace=True)?"
        )
    if not isinstance(f, torch.Tensor):
        raise ExportError(
            f"model: expected one tensor for inputs of shape {shape}, got {type(f).__name__}; wrap "
            "the module in one that returns the logits or means only"
        )
    if f.dim() != 2 or f.shape[0] != x.shape[0] or f.shape[1] < 1:
        raise ExportError(
            f"model: expected outputs [{x.shape[0]}, C] for inputs of shape {shape}, got "
            f"{list(f.shape)}"
        )
    if f.dtype != x.dtype:
        raise ExportError(
            f"model: outputs have type {name_of(f.dtype)}, parameters and inputs "
            f"{name_of(x.dtype)}; is there a conversion or autocast inside?"
        )
    if not bool(f.isfinite().all()):
        raise ExportError(f"model: outputs for inputs of shape {shape} are not finite")
    return f


def _check_survival(model: torch.nn.Module, loaded: torch.nn.Module) -> None:
    """Names, shapes, values and trainability of all parameters; tied ones must still be one."""
    before, after = dict(model.named_parameters()), dict(loaded.named_parameters())
    lost = [name for name in before if name not in after]
    if lost:
        raise ExportError(f"model: {_listed(lost)} missing in the export")
    new = [name for name in after if name not in before]
    if new:
        raise ExportError(
            f"model: {_listed(new)} in the export, but not in the module; parameters that are "
            "shared under several names have come apart"
        )
    for name, p in before.items():
        q = after[name]
        if p.shape != q.shape or p.dtype != q.dtype or not torch.equal(p, q):
            raise ExportError(
                f"model: parameter {name} has another shape, type or value in the export"
            )
        if not q.requires_grad:
            raise ExportError(f"model: parameter {name} is not trainable in the export")


def _unused_parameters(loaded: torch.nn.Module, x: torch.Tensor) -> list[str]:
    """Names of the parameters that no reverse pass from the outputs reaches."""
    parameters = dict(loaded.named_parameters())
    with torch.enable_grad(), torch.jit.optimized_execution(False):
        f = loaded(x)
        if not f.requires_grad:
            return list(parameters)
        grads = torch.autograd.grad(f.sum(), list(parameters.values()), allow_unused=True)
    return [name for name, grad in zip(parameters, grads) if grad is None]


def _differ(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4) -> bool:
    """True if the two differ by more than rounding in batches of unlike sizes."""
    scale = max(1.0, float(a.abs().max()))
    return not float((a - b).abs().max()) <= tolerance * scale


def _rounding(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float32 else 1e-12


def _like_probabilities(f: torch.Tensor) -> bool:
    return bool((f >= 0).all()) and float((f.sum(1) - 1).abs().max()) < 1e-4


def _not_the_module(method: str, rows: int) -> str:
    advice = (
        "a trace keeps sizes and branches as the example had them: use x.flatten(1) or x.size(0) "
        "instead of numbers from len() and int(), or method='script'"
        if method == "trace"
        else "try method='trace'"
    )
    return f"model: the export does not reproduce the module on a batch of {rows}; {advice}"


def _listed(names: Sequence[str]) -> str:
    """'a, b are', 'a is', with '(root)' for the module itself."""
    shown = [name or "(root)" for name in names[:5]]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(shown)}{more} {'is' if len(names) == 1 else 'are'}"


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", maxsplit=1)[0]
