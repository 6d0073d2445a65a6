"""The two-moons example: what its picture is there to show."""

from __future__ import annotations

import importlib
import pathlib

import numpy as np
import pytest

from laplace_client import Client, ClientOptions

from conftest import ROOT, Server

pytest.importorskip("torch", reason="needs torch: install python3-torch")
pytest.importorskip("matplotlib", reason="needs matplotlib: install python3-matplotlib")


def test_unsure_far_away_and_sure_among_the_data(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "client" / "demo" / "two_moons"))
    script = importlib.import_module("two_moons")
    registry = tmp_path / "registry"
    registry.mkdir()
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    far = np.stack([0.5 + 3.5 * np.cos(angle), 0.25 + 2.75 * np.sin(angle)], axis=1)
    with Server(registry) as server, Client(server.address, ClientOptions()) as client:
        (x, y), version = script.fit(client, registry)
        assert version == 1
        near = script.ask(client, version, x)
        away = script.ask(client, version, far.astype(np.float32))
        out = tmp_path / "picture.png"
        picture = script.Picture(*(np.resize(a, (4, 5)) for a in vars(near).values()))
        script.draw(x, y, (np.arange(5), np.arange(4)), picture).savefig(out)

    def sureness(p: np.ndarray) -> float:
        return float(np.maximum(p, 1 - p).mean())

    assert ((near.laplace > 0.5) == (y == 1)).mean() > 0.94
    assert sureness(away.plain) > 0.97
    assert sureness(away.laplace) < sureness(away.plain) - 0.1
    assert sureness(near.laplace) > sureness(near.plain) - 0.03
    assert np.median(away.variance) > 30 * np.median(near.variance)
    assert out.read_bytes().startswith(b"\x89PNG")
