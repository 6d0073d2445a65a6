"""export_torchscript: each check fails on a module made for it; the server loads what it writes."""

from __future__ import annotations

import builtins
import copy
import json
import math
import pathlib
import sys
from typing import Any, Callable

import numpy as np
import pytest

from laplace_client import Client, ClientOptions
from laplace_client.export import ExportError, export_torchscript

from conftest import Server

torch = pytest.importorskip("torch", reason="needs torch: install python3-torch")
nn = torch.nn
F = torch.nn.functional

OPTIONS: dict[str, Any] = {"likelihood": "categorical", "n_data": 100, "weight_decay": 1e-3}


class Function(nn.Module):
    """A linear layer, 4 to 3, and whatever `then` makes of the input and its outputs."""

    def __init__(self, then: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.then = then

    def forward(self, x: Any) -> Any:
        return self.then(x, self.linear(x))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(3)


@pytest.fixture
def x() -> Any:
    return torch.randn(5, 4)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "registry" / "models" / "net" / "1"


def small_net() -> Any:
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    ).eval()


def refuses(path: pathlib.Path, message: str, model: Any, x: Any, **options: Any) -> None:
    """The export fails with `message` (a regular expression) and leaves nothing behind."""
    with pytest.raises(ExportError, match=message):
        export_torchscript(model, x, path, **{**OPTIONS, **options})
    assert not path.parent.exists() or not list(path.parent.iterdir())


# What is written


@pytest.mark.parametrize("method", ["trace", "script"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_writes_module_and_manifest(path: pathlib.Path, x: Any, method: str, dtype: str) -> None:
    model, x = small_net().to(getattr(torch, dtype)), x.to(getattr(torch, dtype))
    result = export_torchscript(
        model, x, path, **OPTIONS, class_names=("a", "b", "ü"), bias_weight_decay=1e-5,
        description="small", uint8_scale=1 / 255, uint8_mean=[0.1, 0.2, 0.3, 0.4],
        uint8_std=np.array([1, 2, 3, 4]), method=method,
    )  # fmt: skip
    assert sorted(entry.name for entry in path.iterdir()) == ["model.json", "model.pt"]
    assert [entry.name for entry in path.parent.iterdir()] == ["1"]
    assert json.loads((path / "model.json").read_text()) == {
        "likelihood": "categorical",
        "input": {
            "shape": [4], "dtype": dtype, "uint8_scale": 1 / 255,
            "uint8_mean": [0.1, 0.2, 0.3, 0.4], "uint8_std": [1, 2, 3, 4],
        },
        "n_outputs": 3, "class_names": ["a", "b", "ü"], "n_data": 100, "weight_decay": 1e-3,
        "bias_weight_decay": 1e-5, "description": "small",
    }  # fmt: skip
    loaded = torch.jit.load(str(path / "model.pt"))
    torch.testing.assert_close(loaded(x), model(x))
    assert result.folder == path and result.dtype == dtype
    assert result.input_shape == (4,) and result.n_outputs == 3
    assert result.n_parameters == sum(p.numel() for p in model.parameters())
    assert result.unused_parameters == () and result.largest_difference < 1e-6


def test_optional_keys_are_left_out(path: pathlib.Path, x: Any) -> None:
    export_torchscript(nn.Linear(4, 1).eval(), x.numpy(), path, likelihood="gaussian")
    assert json.loads((path / "model.json").read_text()) == {
        "likelihood": "gaussian", "input": {"shape": [4], "dtype": "float32"}, "n_outputs": 1,
    }  # fmt: skip


def test_shared_and_unused_parameters(path: pathlib.Path, x: Any) -> None:
    model = Tied()
    model.spare = nn.Linear(2, 2)
    result = export_torchscript(model.eval(), x, path, **OPTIONS)
    assert result.n_parameters == 16 + 4 + 4
    assert result.unused_parameters == ("spare.weight", "spare.bias")


def test_leaves_module_and_random_numbers_as_they_were(path: pathlib.Path, x: Any) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Any) -> Any:
            self.calls += 1
            return self.linear(x) + 0 * torch.rand(())

    model, given = Counting().eval(), x.clone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    with torch.no_grad():
        export_torchscript(model, x, path, **OPTIONS)
    assert torch.equal(torch.random.get_rng_state(), state) and torch.equal(x, given)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert not isinstance(model, torch.jit.ScriptModule) and not model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_versions_never_change(path: pathlib.Path, x: Any) -> None:
    export_torchscript(small_net(), x, path, **OPTIONS)
    before = (path / "model.pt").read_bytes()
    (path.parent / "7").mkdir()
    with pytest.raises(ExportError, match=r"versions never change.*net/8"):
        export_torchscript(small_net(), x, path, **OPTIONS)
    assert (path / "model.pt").read_bytes() == before


def test_nothing_appears_if_writing_fails(
    path: pathlib.Path, x: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*unused: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export_torchscript(small_net(), x, path, **OPTIONS)
    assert list(path.parent.iterdir()) == []


def test_says_that_torch_is_missing(
    path: pathlib.Path, x: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_torch(name: str, *arguments: Any, **more: Any) -> Any:
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'")
        return real(name, *arguments, **more)

    monkeypatch.delitem(sys.modules, "laplace_client._module_checks", raising=False)
    monkeypatch.delattr("laplace_client._module_checks", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(ImportError, match="needs PyTorch.*python3-torch"):
        export_torchscript(small_net(), x, path, **OPTIONS)


# What is refused


@pytest.mark.parametrize("name", ["", "v1", "0", "01", "-1"])
def test_path_must_be_a_version(path: pathlib.Path, x: Any, name: str) -> None:
    refuses(path.parent / name / "", "path: expected a version folder", small_net(), x)


def test_path_must_have_a_model_name(path: pathlib.Path, x: Any) -> None:
    refuses(path.parent / "two words" / "1", "path: expected a version folder", small_net(), x)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"likelihood": "softmax"}, "likelihood: expected one of categorical"),
        ({"method": "onnx"}, "method: expected one of trace, script"),
        ({"class_names": ["a", "b"]}, "class_names: expected one for each of 3 outputs, got 2"),
        ({"class_names": "abc"}, "class_names: expected a list"),
        ({"class_names": ["a", "b", 3]}, r"class_names\[2\]: expected text"),
        ({"n_data": 0}, "n_data: expected a positive whole number"),
        ({"n_data": 1.5}, "n_data: expected a positive whole number"),
        ({"n_data": True}, "n_data: expected a positive whole number"),
        ({"weight_decay": -1}, "weight_decay: expected a number >= 0"),
        ({"weight_decay": math.nan}, "weight_decay: expected a number >= 0"),
        ({"weight_decay": "1e-4"}, "weight_decay: expected a number >= 0"),
        ({"bias_weight_decay": 0}, "bias_weight_decay: expected a number > 0"),
        ({"bias_weight_decay": 1, "weight_decay": None}, "needs a weight_decay > 0"),
        ({"sigma_noise": 0.1}, "sigma_noise: belongs to a gaussian likelihood"),
        ({"sigma_noise": 0, "likelihood": "gaussian"}, "sigma_noise: expected a number > 0"),
        ({"description": 3}, "description: expected text"),
        ({"description": "x" * (1 << 20)}, "more than the 1 MiB"),
        ({"uint8_scale": 0}, "uint8_scale: expected a number > 0"),
        ({"uint8_mean": [0.0] * 4}, "uint8_mean: needs uint8_scale"),
        ({"uint8_mean": [0.0], "uint8_scale": 1}, "uint8_mean: expected a number for each of"),
        ({"uint8_std": [1, 1, 1, 0], "uint8_scale": 1}, "uint8_std: expected numbers > 0"),
    ],
)
def test_arguments(path: pathlib.Path, x: Any, options: dict[str, Any], message: str) -> None:
    refuses(path, message, small_net(), x, **options)


def test_one_output_is_not_categorical(path: pathlib.Path, x: Any) -> None:
    refuses(path, 'expected at least 2.*likelihood="bernoulli"', nn.Linear(4, 1).eval(), x)


def test_module(path: pathlib.Path, x: Any) -> None:
    refuses(path, "expected a torch.nn.Module, got builtin_function", torch.tanh, x)


def test_training_mode_is_refused(path: pathlib.Path, x: Any) -> None:
    model = small_net()
    model[3].train()
    refuses(path, r"model: 3 is in training mode: call model.eval\(\)", model, x)
    refuses(path, r"\(root\), 0, 1.* and 1 more are in training mode", small_net().train(), x)


def test_modules_that_cannot_be_copied(path: pathlib.Path, x: Any) -> None:
    refuses(path, "remove_weight_norm", nn.utils.weight_norm(nn.Linear(4, 3)).eval(), x)


def test_parameters(path: pathlib.Path, x: Any) -> None:
    refuses(path, "has no parameters", nn.ReLU().eval(), x)
    frozen = torch.jit.freeze(torch.jit.script(nn.Linear(4, 3).eval()))
    refuses(path, "has no parameters; was it frozen", frozen, x)
    refuses(path, "0.weight has type float16", small_net().half(), x)
    mixed = small_net()
    mixed[4].double()
    refuses(path, "0.weight is float32 and 4.weight is float64", mixed, x)
    infinite = small_net()
    infinite[0].bias.data[2] = math.inf
    refuses(path, "0.bias holds values that are not finite", infinite, x)
    still = small_net()
    still[0].requires_grad_(False)
    refuses(path, "0.weight, 0.bias are without requires_grad", still, x)


def test_example(path: pathlib.Path, x: Any) -> None:
    refuses(path, "example: expected float32, as .* got float64", small_net(), x.double())
    refuses(path, "example: expected float32, as .* got int64", small_net(), x.long())
    refuses(path, r"expected inputs \[B, ...\]", small_net(), x[:0])
    refuses(path, "example: holds values that are not finite", small_net(), x / 0)
    refuses(path, r"model: fails on inputs of shape \[5, 3\]", small_net(), x[:, :3])


@pytest.mark.parametrize(
    "then, message",
    [
        (lambda x, f: (f, x), "expected one tensor .* got tuple"),
        (lambda x, f: f[:, 0], r"expected outputs \[5, C\] .* got \[5\]"),
        (lambda x, f: f.squeeze(0), r"expected outputs \[1, C\] for inputs of shape \[1, 4\]"),
        (lambda x, f: f.mean(0, keepdim=True), r"expected outputs \[5, C\] .* got \[1, 3\]"),
        (lambda x, f: f.double(), "outputs have type float64, parameters and inputs float32"),
        (lambda x, f: (f - 100).log(), "are not finite"),
        (lambda x, f: F.dropout(f, 0.1), "different outputs; is dropout on"),
        (lambda x, f: f - f.mean(0), "depends on the other rows"),
        (lambda x, f: f.cumsum(0), "row [1-9].* depends on the other rows"),
        (lambda x, f: f.softmax(1), "look like probabilities.*without its final softmax"),
        (lambda x, f: f.detach(), "do not depend on the parameters"),
        (lambda x, f: f.view(5, 3) if len(x) == 5 else f.view(5, -1), r"of shape \[1, 4\]"),
        (lambda x, f: f + x.add_(1)[:, :3], "writes into its inputs"),
    ],
)
def test_behaviour(path: pathlib.Path, x: Any, then: Any, message: str) -> None:
    refuses(path, message, Function(then).eval(), x)


def test_probabilities_are_fine_as_means(path: pathlib.Path, x: Any) -> None:
    model = Function(lambda x, f: f.softmax(1)).eval()
    export_torchscript(model, x, path, likelihood="gaussian", sigma_noise=0.1)
    assert json.loads((path / "model.json").read_text())["sigma_noise"] == 0.1


def test_batch_norm_of_the_batch_is_refused(path: pathlib.Path, x: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    # One row has no variance: the module refuses before the comparison, or is caught by it.
    refuses(path, "fails on inputs|depends on the other rows", model, x)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "then",
    [
        lambda x, f: f.reshape(len(x.tolist()), 3),  # the trace fails with other sizes
        lambda x, f: f * (len(x.tolist()) / x.size(0)),  # it gives other numbers
    ],
)
def test_frozen_batch_sizes_are_refused(path: pathlib.Path, x: Any, then: Any) -> None:
    refuses(path, "does not reproduce the module on a batch of 1", Function(then).eval(), x)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_frozen_branches_are_refused_and_can_be_scripted(path: pathlib.Path, x: Any) -> None:
    class OnRows(nn.Module):
        """Rows that are negative everywhere count twice."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):  # type: ignore[no-untyped-def]
            y = self.linear(x)
            rows = []
            for i in range(x.size(0)):
                if bool(x[i].max() < 0):
                    rows.append(y[i] * 2)
                else:
                    rows.append(y[i])
            return torch.stack(rows)

    x = -x.abs()
    refuses(path, "does not reproduce .* method='script'", OnRows().eval(), x)
    export_torchscript(OnRows().eval(), x, path, **OPTIONS, method="script")
    loaded = torch.jit.load(str(path / "model.pt"))
    torch.testing.assert_close(loaded(x), 2 * loaded.linear(x))
    torch.testing.assert_close(loaded(-x), loaded.linear(-x))


def test_code_that_cannot_be_scripted_is_refused(path: pathlib.Path, x: Any) -> None:
    model = Function(lambda x, f: f).eval()
    refuses(path, "torch.jit.script fails, method='trace' may do", model, x, method="script")


def test_parameters_that_an_export_loses_or_changes(path: pathlib.Path, x: Any) -> None:
    from laplace_client import _module_checks as checks

    def layer(outputs: int) -> Any:
        model = Function(lambda x, f: f)
        model.linear = nn.Linear(4, outputs)
        return model.eval()

    model = layer(3)
    more = copy.deepcopy(model)
    more.extra = nn.Linear(1, 1)
    fixed = copy.deepcopy(model).requires_grad_(False)
    for other, message in (
        (nn.Linear(4, 3), "linear.weight, linear.bias are missing in the export"),
        (more, "extra.weight, extra.bias are in the export, but not in the module"),
        (layer(5), "linear.weight has another shape, type or value"),
        (layer(3), "linear.weight has another shape, type or value"),
        (fixed, "linear.weight is not trainable in the export"),
    ):
        checkpoint = checks.to_torchscript(other.eval(), x, "trace")
        with pytest.raises(ExportError, match=message):
            checks.check_export(model, checkpoint, x, "trace")


# The server


@pytest.mark.parametrize("method", ["trace", "script"])
def test_the_server_answers_as_torch(path: pathlib.Path, x: Any, method: str) -> None:
    model = small_net()
    random = np.random.default_rng(0)
    inputs = random.normal(size=(200, 4)).astype(np.float32)
    targets = (inputs[:, 0] > 0).astype(np.int64) + (inputs[:, 1] > 0.5)
    export_torchscript(model, x, path, **OPTIONS, class_names=["a", "b", "c"], method=method)
    registry = path.parents[2]
    with Server(registry) as server, Client(server.address, ClientOptions()) as client:
        loaded = client.load_model("net")
        assert loaded.state == "ready" and loaded.state_message == ""
        assert loaded.class_names == ("a", "b", "c") and loaded.n_data == 100
        assert loaded.n_parameters == sum(p.numel() for p in model.parameters())
        client.fit(
            "net", (inputs, targets), rank=5, direction_batch_size=50, curvature_batch_size=100
        )
        for rows in (1, 3, 7):
            answer = client.predict("net", inputs[:rows])
            expected = model(torch.from_numpy(inputs[:rows])).detach()
            np.testing.assert_allclose(answer.functional_mean, expected, atol=1e-6, rtol=1e-6)
            np.testing.assert_allclose(answer.map_mean, expected.softmax(1), atol=1e-6)
