"""The training script: what it trains, and that a run that was interrupted is the run that was not."""
import csv
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs python3-torch")

import cifar_splits
import train_all_cnn_c
from all_cnn_c import AllCnnC


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """12 training, 10 validation and 10 test images; batches of 4, so three steps an epoch."""
    monkeypatch.setattr(cifar_splits, "N_TRAIN", 12)
    monkeypatch.setattr(train_all_cnn_c, "BATCH", 4)
    random = np.random.default_rng(0)
    for split, n in (("train", 22), ("test", 10)):
        np.save(tmp_path / f"{split}_images.npy", random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", np.arange(n) % 10)
    return tmp_path


def run(cifar, out, monkeypatch, *more):
    monkeypatch.setattr("sys.argv", ["train", "--cifar", str(cifar), "--out", str(out), "--epochs", "2", "--device", "cpu", *more])
    train_all_cnn_c.main()
    return torch.load(out / "all_cnn_c.pth")


def test_has_the_shape_and_size_of_all_cnn_c():
    net = AllCnnC(10).eval()
    assert sum(p.numel() for p in net.parameters()) == 1_369_738
    maps = {}
    for i in (2, 3, 6, 7, 9):
        getattr(net, f"conv{i}").register_forward_hook(lambda _, __, out, i=i: maps.update({i: tuple(out.shape[1:])}))
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert maps == {2: (96, 32, 32), 3: (96, 16, 16), 6: (192, 8, 8), 7: (192, 6, 6), 9: (10, 6, 6)}
    assert sorted(net.state_dict()) == sorted(f"conv{i}.{what}" for i in range(1, 10) for what in ("weight", "bias"))
    assert torch.all(net.conv3.bias == 0.1)
    fans = 9 * (96 + 192)  # Xavier-normal: variance 2 / (fan in + fan out)
    assert net.conv4.weight.var().item() == pytest.approx(2 / fans, rel=0.05)


def test_learning_rates_are_the_papers():
    b = train_all_cnn_c.SETTINGS["B"]
    rates = [train_all_cnn_c.learning_rate(b, epoch, 350) for epoch in (0, 199, 200, 249, 250, 299, 300, 349)]
    assert rates == pytest.approx([0.025, 0.025, 0.0025, 0.0025, 0.00025, 0.00025, 0.000025, 0.000025])
    assert train_all_cnn_c.learning_rate(train_all_cnn_c.SETTINGS["A"], 349, 350) == 0.171234


def test_decay_is_of_weights_alone(cifar, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train", "--cifar", str(cifar), "--out", str(tmp_path / "o")])
    groups = train_all_cnn_c.Run(train_all_cnn_c.parse(), 10).optimiser.param_groups
    assert [(g["weight_decay"], {p.dim() for p in g["params"]}) for g in groups] == [(1e-3, {4}), (0.0, {1})]


def test_an_interrupted_run_ends_as_the_whole_one(cifar, tmp_path, monkeypatch):
    monkeypatch.setattr(train_all_cnn_c, "export_torchscript", lambda *_, **__: None)
    whole = run(cifar, tmp_path / "whole", monkeypatch)
    run(cifar, tmp_path / "parts", monkeypatch, "--minutes", "1e-9")  # one step, then the time is over
    parts = run(cifar, tmp_path / "parts", monkeypatch)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with open(tmp_path / "parts" / "metrics.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "3", "6"]
    with pytest.raises(SystemExit, match="of another run"):
        run(cifar, tmp_path / "parts", monkeypatch, "--seed", "1")


def test_keeps_the_weights_of_the_epochs_asked_for(cifar, tmp_path, monkeypatch):
    monkeypatch.setattr(train_all_cnn_c, "export_torchscript", lambda *_, **__: None)
    last = run(cifar, tmp_path, monkeypatch, "--keep", "1,2")
    kept = [torch.load(tmp_path / f"all_cnn_c_epoch_{n}.pth") for n in (1, 2)]
    assert all(torch.equal(kept[1][name], last[name]) for name in last)
    assert not any(torch.equal(kept[0][name], last[name]) for name in last)
    with open(tmp_path / "test.csv") as file:
        (row,) = csv.DictReader(file)
    assert (row["step"], row["images"]) == ("6", "10")


def test_augmented_images_are_shifted_and_mirrored_ones():
    x = torch.arange(1, 1 + 3 * 32 * 32).remainder(251).to(torch.uint8).view(1, 3, 32, 32).repeat(40, 1, 1, 1)
    out = train_all_cnn_c.augmented(x, np.random.default_rng(0))
    padded = torch.nn.functional.pad(x[0], (4, 4, 4, 4))
    can_be = [m for r in range(9) for c in range(9) for w in [padded[:, r : r + 32, c : c + 32]] for m in (w, w.flip(2))]
    found = [next(i for i, w in enumerate(can_be) if torch.equal(w, image)) for image in out]
    assert len({i // 2 for i in found}) > 20 and {i % 2 for i in found} == {0, 1}


def test_exports_what_it_trained(cifar, tmp_path, monkeypatch):
    weights = run(cifar, tmp_path / "out", monkeypatch)
    version = tmp_path / "out" / "all_cnn_c" / "1"
    net = AllCnnC(10).eval()
    net.load_state_dict(weights)
    x = train_all_cnn_c.normalised(torch.from_numpy(np.load(cifar / "test_images.npy")[:3]))
    assert torch.allclose(torch.jit.load(str(version / "model.pt"))(x), net(x), atol=1e-6)
    manifest = json.loads((version / "model.json").read_text())
    assert (manifest["n_data"], manifest["weight_decay"]) == (12, 1e-3)


def test_finer_labels_cut_every_class_into_ten(cifar):
    random = np.random.default_rng(3)
    images, labels = random.integers(0, 256, (600, 3, 32, 32), dtype=np.uint8), np.arange(600) % 10
    fine, (other,) = cifar_splits.finer_labels(images, labels, [(images[:200], labels[:200])])
    assert np.array_equal(fine // 10, labels) and len(np.unique(fine)) == 100
    assert np.array_equal(other, fine[:200])  # the same image goes to the same part
    thumbnails = cifar_splits._thumbnails(images)
    spread = lambda by: sum(((thumbnails[by == c] - thumbnails[by == c].mean(0)) ** 2).sum() for c in np.unique(by))
    at_random = 10 * labels + random.integers(0, 10, 600)
    assert spread(fine) < 0.97 * spread(at_random)


def test_says_where_cifar_comes_from(tmp_path):
    with pytest.raises(SystemExit, match="fetch_cifar10.py"):
        cifar_splits.load("cifar10", tmp_path)
