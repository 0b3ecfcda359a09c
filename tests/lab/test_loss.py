import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.special import logsumexp

from simjax.errors import SimjaxError
from simjax.lab.bench import accelerated, contenders, loss, memory, peers, reductions


def expected(size: int, width: int, symmetric: bool) -> float:
    x = contenders.embeddings(size, width).astype(np.float64)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    scores = 20 * x[:, 0] @ x[:, 1].T
    ways = [logsumexp(scores, axis=axis) - scores.diagonal() for axis in (1, 0)]
    return float(np.mean(ways if symmetric else ways[0]))


@pytest.mark.parametrize("name", contenders.NAMES)
def test_contenders_compute_one_loss(name: str) -> None:
    torch = peers.find_torch([])
    made = contenders.make(name, contenders.embeddings(48, 16), "float32", torch)
    assert made.run() == pytest.approx(expected(48, 16, name.endswith("symmetric")), rel=1e-5)
    assert (made.temporary_bytes is None) == ("PyTorch" in name)


@pytest.mark.parametrize("name", reductions.NAMES)
def test_reductions_are_of_the_pairs_they_name(name: str) -> None:
    x = contenders.unit_embeddings(48, 16).astype(np.float64)
    cosines = x[:, 0] @ x[:, 1].T
    off = np.where(np.eye(48, dtype=bool), -np.inf, 0.0)

    def part(scale: float, axis: int = 1) -> float:
        return np.logaddexp(0, logsumexp(scale * cosines + off, axis=axis)).mean()

    further = {
        reductions.ROWS: 0.0,
        reductions.BOTH: part(20, axis=0),
        reductions.WATCHED: part(4),
        reductions.TWO: part(5),
    }
    made = contenders.make_reduction(name, x.astype(np.float32), "float32")
    assert made.run() == pytest.approx(part(20) + further[name], rel=1e-5)


def test_the_sigmoid_contender_is_siglips_loss_with_all_its_gradients() -> None:
    x = contenders.embeddings(24, 8)

    def definition(x: np.ndarray, scale: float, bias: float) -> float:
        unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
        signs = 2 * np.eye(len(x)) - 1
        scores = signs * (scale * unit[:, 0] @ unit[:, 1].T + bias)
        return float(np.logaddexp(0, -scores).sum() / len(x))

    loss = jax.value_and_grad(partial(accelerated.sigmoid_loss, dtype="float32"), (1, 2))
    value, grads = loss(jax.numpy.asarray(x), 20.0, -10.0)
    exact = x.astype(np.float64)
    assert float(value) == pytest.approx(definition(exact, 20.0, -10.0), rel=1e-5)
    for place, grad in enumerate(grads):
        high, low = ([20.0, -10.0] for _ in range(2))
        high[place] += 1e-4
        low[place] -= 1e-4
        slope = (definition(exact, *high) - definition(exact, *low)) / 2e-4
        assert float(grad) == pytest.approx(slope, rel=1e-3)


def test_operations_are_counted_as_published() -> None:
    assert accelerated.operations("simjax", 10, 3) == 8 * 100 * 3
    assert accelerated.operations("siglip-kernel", 10, 3) == 6 * 100 * 3


@pytest.mark.parametrize("name", ["simjax", "dense PyTorch", "dense JAX"])
def test_operands_are_rounded(name: str) -> None:
    x = contenders.embeddings(48, 16)
    exact, rounded = (
        contenders.make(name, x, dtype, peers.find_torch([])).run()
        for dtype in ("float32", "bfloat16")
    )
    assert 1e-6 < abs(rounded / exact - 1) < 0.05


@pytest.mark.slow
def test_figures_agree_with_each_other(run, tmp_path: Path, monkeypatch) -> None:
    made = {"simjax": 100, "dense PyTorch": 1000, "dense JAX": 500}

    def measure(name: str, size: int, width: int, dtype: str) -> memory.Peak:
        growth = made[name.removesuffix(" symmetric")] * size
        return memory.Peak(growth, growth + 7, None, 1.5, 0.25)

    monkeypatch.setattr(memory, "measure", measure)
    monkeypatch.setattr(loss, "LARGE", 96)
    monkeypatch.setattr(loss, "GOAL_SIZE", 64)
    file = tmp_path / "figures.json"
    figures = run(loss, "--sizes", 32, 64, "--width", 8, "--rounds", 3, "--large", "--json", file)
    assert json.loads(file.read_text()) == figures
    rows, ratios = figures["contenders"], figures["ratios"]
    measured = (*contenders.NAMES, *reductions.NAMES)
    names = {f"{name}, {size}" for name in measured for size in (32, 64)}
    assert set(rows) == names | {"simjax, 96"}
    for size in (32, 64):
        ours, peer = rows[f"simjax, {size}"], rows[f"dense PyTorch, {size}"]
        assert ours["loss"] == pytest.approx(peer["loss"], rel=1e-5)
        ratio = ratios[f"time of simjax over dense PyTorch, {size}"]
        rounds = np.divide(ours["seconds"], peer["seconds"])
        assert ratio["value"] == pytest.approx(np.median(rounds))
        assert ("goal" in ratio) == (size == 64)
        assert ratios[f"memory of simjax over dense PyTorch, {size}"]["value"] == 0.1
    assert ratios["memory of simjax over dense PyTorch, 64"]["met"]
    assert not ratios["memory of simjax over dense JAX, 64"]["met"]
    assert ratios["exponent of the memory of simjax, 32 to 64"]["value"] == pytest.approx(1.0)
    for name in (reductions.BOTH, reductions.WATCHED, reductions.TWO):
        ratio = ratios[f"time of {name} over {reductions.ROWS}, 64"]
        rounds = np.divide(
            rows[f"{name}, 64"]["seconds"], rows[f"{reductions.ROWS}, 64"]["seconds"]
        )
        assert ratio["value"] == pytest.approx(np.median(rounds))
        assert "goal" in ratio
    assert rows["simjax, 96"]["seconds"] == [1.5]
    assert ratios["peak of the process at 96, in GB"]["met"]


def test_without_memory_and_without_torch(run, monkeypatch) -> None:
    monkeypatch.setattr(peers, "find_torch", lambda notes: notes.append("PyTorch skipped"))
    figures = run(loss, "--sizes", 32, "--width", 8, "--rounds", 1, "--no_memory")
    assert not [name for name in figures["contenders"] if "PyTorch" in name]
    assert "PyTorch skipped" in figures["notes"]
    assert not [name for name in figures["ratios"] if "memory" in name]


def test_memory_is_measured_in_another_process() -> None:
    size, width = 2048, 64
    peak = memory.measure(contenders.DENSE_JAX, size, width, "float32")
    scores = 4 * size * size
    assert peak.temporary_bytes is not None
    assert scores <= peak.temporary_bytes
    assert scores <= peak.growth_bytes < peak.process_bytes
    assert peak.growth_bytes < 2 * peak.temporary_bytes
    assert peak.loss == pytest.approx(expected(size, width, False), rel=1e-4)


def test_a_process_that_fails_is_reported() -> None:
    with pytest.raises(SimjaxError, match="memory of simjax at 0"):
        memory.measure(contenders.OURS, 0, 8, "float32")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from simjax.cli.main import main\n"
        "for bench in ('encode', 'train', 'loss'):\n"
        "    assert main(['lab', 'bench', bench, '--help']) == 0\n"
        "print(*sorted({'jax', 'torch', 'rich', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
    assert "--cache_batch_size" in done.stdout
