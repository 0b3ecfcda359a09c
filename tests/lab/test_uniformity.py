import itertools
import math

import numpy as np
import pytest

from simjax.lab.bench import contenders, memory, peers, uniformity


@pytest.mark.parametrize("name", contenders.SETS)
def test_contenders_reduce_the_same_pairs(name, monkeypatch):
    monkeypatch.setattr(contenders, "CHUNK", 16)
    x = contenders.inputs(name, 40, 8)
    value = contenders.make(name, x, "float32", peers.find_torch([])).run()
    squares = [((a.astype(np.float64) - b) ** 2).sum() for a, b in itertools.combinations(x, 2)]
    if name == contenders.TORCH_PRODUCTS:
        assert math.isnan(value)
    else:
        assert value == pytest.approx(math.log(np.mean(np.exp(-2 * np.array(squares)))), rel=1e-5)


def test_figures(run, monkeypatch):
    peak = memory.Peak(10, 2_000_000_000, None, 1.0, -2.0)
    monkeypatch.setattr(memory, "measure", lambda *arguments: peak)
    figures = run(uniformity, "--size", 64, "--width", 8, "--rounds", 2)
    rows, ratios = figures["contenders"], figures["ratios"]
    assert set(rows) == set(contenders.SETS)
    ours, peer = rows["simjax uniformity"], rows["PyTorch uniformity"]
    assert ours["uniformity"] == pytest.approx(peer["uniformity"], rel=1e-5)
    assert "uniformity" not in rows["PyTorch products alone"]
    assert ratios["peak of the process, in GB"]["value"] == 2.0
    assert not ratios["peak of the process, in GB"]["met"]
    rounds = np.divide(ours["seconds"], rows["PyTorch products alone"]["seconds"])
    ratio = ratios["time of simjax uniformity over PyTorch products alone"]
    assert ratio["value"] == pytest.approx(np.median(rounds))
