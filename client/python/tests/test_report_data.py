"""Files of data for the report, the answers that it gathers, and its command."""

from __future__ import annotations

import dataclasses
import gzip
import pathlib
import struct
from types import SimpleNamespace
from typing import Any, Iterable, Iterator

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib")

import report_values as values  # noqa: E402
from laplace_client import NotFoundError, OodScore, Posterior  # noqa: E402
from laplace_client.errors import make_error  # noqa: E402
from laplace_client.report import __main__ as command  # noqa: E402
from laplace_client.report import data  # noqa: E402

ROWS = 600  # more than two batches


class FakeClient:
    """Answers with what the row holds: class of the first value, score of the second."""

    answering = "p-1"
    target: str | None = None

    def __init__(self, target: str | None = None) -> None:
        FakeClient.target = target

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *unused: object) -> None:
        pass

    def get_model(self, name: str, version: int = 0) -> Any:
        return values.model(name=name, version=version)

    def get_posterior(self, model: str, version: int = 0, posterior_id: str = "") -> Posterior:
        if model != "net":
            import grpc

            raise make_error(grpc.StatusCode.NOT_FOUND, f"no model {model}")
        return dataclasses.replace(values.posterior(), id=posterior_id or "p-1")

    def predict_stream(
        self,
        model: str,
        batches: Iterable[np.ndarray],
        *,
        version: int,
        ood_scores: Any,
        priority: str,
    ) -> Iterator[Any]:
        assert (model, version, priority) == ("net", 3, "bulk")
        for batch in batches:
            rows = batch.reshape(len(batch), -1)
            mean = np.full((len(rows), 3), 0.05, np.float32)
            mean[np.arange(len(rows)), rows[:, 0].astype(int)] = 0.9
            yield Answer(mean, rows[:, 1].astype(np.float64), ood_scores)


class Answer(SimpleNamespace):
    def __init__(self, mean: np.ndarray, strange: np.ndarray, scores: list[str]) -> None:
        ood = {name: OodScore(name, strange, 1.0 if name == "energy" else None) for name in scores}
        super().__init__(posterior_id=FakeClient.answering, mean=mean, map_mean=mean, ood=ood)

    def __len__(self) -> int:
        return len(self.mean)


def rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, ROWS)
    x = np.stack([y, random.normal(size=ROWS), np.zeros(ROWS), np.zeros(ROWS)], 1)
    return x.astype(np.float32), y


def idx(array: np.ndarray, code: int) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


def test_all_kinds_of_files_hold_the_same_rows(tmp_path: pathlib.Path) -> None:
    x, y = rows()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    np.savez(tmp_path / "both.npz", inputs=x, labels=y)
    (tmp_path / "x.idx").write_bytes(idx(x.astype(">f4"), 13))
    (tmp_path / "y.idx.gz").write_bytes(gzip.compress(idx(y.astype(np.uint8), 8)))
    for files in ("x.npy,y.npy", "both.npz", "x.idx,y.idx.gz"):
        paths = ",".join(str(tmp_path / part) for part in files.split(","))
        found = data.read_set("ID", paths, values.model(), with_targets=True)
        # The model's rows are [1, 4].
        np.testing.assert_array_equal(found.inputs, x[:, None, :], files)
        np.testing.assert_array_equal(found.targets, y, files)
    few = data.read_set("ID", f"{tmp_path}/x.npy,{tmp_path}/y.npy", values.model(), limit=7)
    assert len(few.inputs) == len(few.targets) == 7
    assert data.read_set("far", f"{tmp_path}/both.npz", values.model()).targets is None


@pytest.mark.parametrize(
    "x, y, words",
    [
        (np.zeros((5, 3)), np.zeros(5, int), r"rows of the shape \[1, 4\] for net, got \[3\]"),
        (np.zeros((5, 4)), np.zeros(4, int), "5 inputs, but 4 targets"),
        (np.zeros((5, 4)), np.zeros(5), "integer labels"),
        (np.zeros((5, 4)), np.full(5, 3), r"labels in \[0, 3\), got 3 to 3"),
        (np.zeros((0, 4)), np.zeros(0, int), "at least one row"),
    ],
)
def test_data_that_do_not_fit_are_refused(
    tmp_path: pathlib.Path, x: np.ndarray, y: np.ndarray, words: str
) -> None:
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    with pytest.raises(ValueError, match=words):
        data.read_set("ID", f"{tmp_path}/x.npy,{tmp_path}/y.npy", values.model())


@pytest.mark.parametrize(
    "content, words",
    [
        (b"hello", "expected a .npy, .npz or IDX file"),
        (b"\0\0\x08\x02\0\0\0\x05", "ends within its header"),
        (idx(np.zeros((2, 4), np.uint8), 8)[:-1], "expected 8 bytes for the shape .2, 4., got 7"),
    ],
)
def test_damaged_files_are_refused(tmp_path: pathlib.Path, content: bytes, words: str) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        data.read_array(str(tmp_path / "x.bin"), ())


def test_answers_of_all_batches_stand_in_order() -> None:
    x, y = rows()
    told: list[int] = []
    found = data.evaluate(
        FakeClient(), values.posterior(), data.DataSet("ID", x, y), ["msp", "energy"], told.append
    )
    assert told == [256, 512, 600]
    np.testing.assert_array_equal(found.mean.argmax(1), y)
    np.testing.assert_array_equal(found.scores["energy"], x[:, 1])
    assert found.thresholds == {"energy": 1.0}


def test_scores_to_compare_with_are_those_that_exist() -> None:
    assert data.default_scores(values.posterior()) == ["energy", "msp"]
    older = values.posterior(available_ood_scores=())
    assert data.default_scores(older) == ["energy"]
    assert data.default_scores(dataclasses.replace(older, ood_thresholds=())) == []


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    monkeypatch.setattr(command, "Client", FakeClient)
    monkeypatch.setattr(FakeClient, "answering", "p-1")
    return FakeClient


def test_command_writes_the_page(fake: type[FakeClient], tmp_path: pathlib.Path) -> None:
    x, y = rows()
    np.savez(tmp_path / "in.npz", x=x, y=y)
    np.save(tmp_path / "far.npy", x + np.float32([0, 3, 0, 0]))
    page = tmp_path / "report.html"
    assert (
        command.main(
            ["net", "--out", str(page), "--server", "elsewhere:1", "--id", str(tmp_path / "in.npz"),
             "--ood", f"shifted={tmp_path}/far.npy", "--ood", f"{tmp_path}/far.npy",
             "--ood-score", "energy"]
        )
        == 0
    )  # fmt: skip
    assert fake.target == "elsewhere:1"
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 7
    for words in ("ID against shifted", "ID against far", "100.0 %"):
        assert words in text
    assert "msp" not in text
    assert [file.name for file in tmp_path.glob("report*")] == ["report.html"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["lost"], "no model lost"),
        (["net", "--ood-score", "energy,oracle"], "--ood-score oracle: expected one of msp, energy"),
        (["net", "--ood", "=x.npy"], "--ood =x.npy: expected NAME=INPUTS"),
        (["net", "--id", "missing.npy"], "missing.npy"),
        (["net", "--limit", "-1"], "--limit"),
        (
            ["net", "--posterior", "p-0", "--id", "{x}"],
            "expected answers of posterior p-0, got some of p-1",
        ),
        (["net", "--id", "{x}", "--ood", "ID={x}"], "the name ID is taken"),
    ],
)
def test_command_says_what_is_wrong_and_writes_nothing(
    fake: type[FakeClient],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    np.save(tmp_path / "x.npy", rows()[0])
    filled = [argument.replace("{x}", str(tmp_path / "x.npy")) for argument in arguments]
    assert command.main([*filled, "--out", str(tmp_path / "page.html")]) == 1
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("page*"))


def test_command_draws_a_posterior_of_a_real_server(
    server: Any, data: tuple[np.ndarray, np.ndarray], tmp_path: pathlib.Path
) -> None:
    x, y = data
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    np.save(tmp_path / "far.npy", 8 * x)
    page = tmp_path / "report.html"
    arguments = ["mlp", "--server", server.address, "--out", str(page)]
    arguments += ["--id", f"{tmp_path}/x.npy,{tmp_path}/y.npy", "--ood", f"far={tmp_path}/far.npy"]
    assert command.main(arguments) == 0
    text = page.read_text(encoding="utf-8")
    # Its residual is isotropic, of which there is no figure.
    assert text.count("<svg") == 6
    assert "ID against far" in text
