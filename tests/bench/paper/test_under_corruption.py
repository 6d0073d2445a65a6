"""The corruption experiment without a server: what it asks for, measures and keeps."""
import csv
import types

import numpy as np
import pytest

pytest.importorskip("grpc", reason="needs python3-grpcio")

import metrics
import under_corruption as experiment
from experiment_data import Network, Split, corrupt_grey
from under_corruption import METHODS, Method, Tables

random = np.random.default_rng(0)


class FakeClient:
    """Answers with fixed logits of the pixels' mean; posteriors halve them, more so at a small prior precision."""

    def __init__(self):
        self.fits = []

    def ensure_dataset(self, x, y):
        return types.SimpleNamespace(id=f"{len(x)} rows")

    def fit(self, name, train, validation, **options):
        self.fits.append((name, train, validation, options))

    def get_posterior(self, name):
        return types.SimpleNamespace(prior_precision=100.0, ood_prior_precision=1.0, trace=7.0, residual_share=0.5)

    def predict(self, name, x, prior_precision=None, **_):
        assert x.dtype == np.uint8 and len(x) <= 64
        logits = np.stack([x.mean((1, 2, 3)) / 50 - 2, np.zeros(len(x))], axis=1)
        share = 1.0 if prior_precision is None else prior_precision / (1 + prior_precision)
        mean = metrics.softmax(share * logits)
        return types.SimpleNamespace(mean=mean, map_mean=metrics.softmax(logits), functional_mean=logits, variance=np.full_like(logits, 1 - share),
                                     epistemic=metrics.entropy(mean), compute_seconds=0.01)  # fmt: skip


def network():
    def split(n):
        x = random.integers(0, 256, (n, 1, 28, 28), dtype=np.uint8)
        x[: n // 2] //= 3  # dark ones are of class 1
        return Split(x, np.where(np.arange(n) < n // 2, 1, 0).astype(np.int64))

    return Network("net", None, split(50), split(40), split(60), corrupt_grey)


OPTIONS = types.SimpleNamespace(images=4, corruptions=("fog", "gaussian_noise"), severities=(1, 5), b1=8, b2=16, rank=3, train_rows=30, validation=20,
                                skip=("kfac", "low_rank/none"))  # fmt: skip


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_strategies_share_the_batches_as_they_say():
    options = {m.strategy: m.fit_options(128, 1024, 30) for m in METHODS if (m.structure, m.variant) == ("low_rank", "layerwise")}
    assert [options[s]["direction_batch_size"] for s in experiment.STRATEGIES] == [128, 1152, 128]
    assert [options[s]["curvature_batch_size"] for s in experiment.STRATEGIES] == [None, None, 1024]
    assert [options[s]["debiasing"] for s in experiment.STRATEGIES] == ["none", "none", "two_batch"]
    assert Method("kfac", "factors", "debiased").fit_options(1, 2, 3)["kfac_eigenvalues"] == "factors"
    assert Method("last_layer", "", "").fit_options(1, 2, 3) == {"structure": "last_layer"}


def test_cells_hold_the_same_images_at_every_severity():
    cells = experiment.make_cells(network(), 0, OPTIONS)
    assert len(cells.y) == 2 * 4 * 3
    clean, worst = cells.y[cells.severity == 0], cells.y[cells.severity == 5]
    assert np.array_equal(clean, worst)
    distance = lambda s: np.abs(cells.x[cells.severity == s].astype(float) - cells.x[cells.severity == 0]).mean()
    assert 0 < distance(1) < distance(5)
    assert set(cells.kind[cells.severity == 0]) == {-1}


def test_a_run_that_is_started_again_does_only_what_is_missing(tmp_path):
    client, net = FakeClient(), network()
    experiment.run_seed(Tables(tmp_path, {"a": 1}), 0, client, net, OPTIONS)
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert len(client.fits) == 4 and client.fits[0][1:3] == ("30 rows", "20 rows")
    experiment.run_seed(Tables(tmp_path, {"a": 1}), 0, client, net, OPTIONS)
    assert len(client.fits) == 4 and kept == {path.name: path.read_text() for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit, match="other settings"):
        Tables(tmp_path, {"a": 2})

    # A method that is not in the last file written counts as not done, and its rows are replaced.
    fits = tmp_path / "corruption_fits.csv"
    fits.write_text("".join(line for line in fits.read_text().splitlines(True) if "biased" not in line or "debiased" in line))
    experiment.run_seed(Tables(tmp_path, {"a": 1}), 0, client, net, OPTIONS)
    assert len(client.fits) == 5
    assert sorted(rows(tmp_path / "corruption.csv"), key=str) == sorted(csv.DictReader(kept["corruption.csv"].splitlines()), key=str)


def test_measures_what_the_answers_say(tmp_path):
    client, net = FakeClient(), network()
    experiment.run_seed(Tables(tmp_path, {}), 3, client, net, OPTIONS)
    cells = experiment.make_cells(net, 3, OPTIONS)
    clean = client.predict("net", cells.x[cells.severity == 0], 100.0)
    row = next(r for r in rows(tmp_path / "corruption.csv") if (r["strategy"], r["prior"], r["severity"]) == ("debiased", "tuned", "0"))
    assert (int(row["seed"]), int(row["images"])) == (3, 8)
    assert float(row["nll"]) == pytest.approx(metrics.nll(clean.mean, cells.y[cells.severity == 0]), rel=1e-4)
    worst = client.predict("net", cells.x[cells.severity == 5])
    expected = metrics.auroc(metrics.entropy(client.predict("net", cells.x[cells.severity == 0]).map_mean), metrics.entropy(worst.map_mean))
    row = next(r for r in rows(tmp_path / "corruption_auroc.csv") if (r["structure"], r["severity"], r["score"]) == ("map", "5", "entropy"))
    assert float(row["auroc"]) == pytest.approx(expected, rel=1e-4)
    assert {r["structure"] for r in rows(tmp_path / "corruption_fits.csv")} == {"map", "temperature", "low_rank", "last_layer"}


def test_skip_names_what_there_is(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["under_corruption.py", "--out", str(tmp_path), "--skip", "kfac/none"])
    with pytest.raises(SystemExit):
        experiment.parse()
    assert "there is no kfac/none" in capsys.readouterr().err
