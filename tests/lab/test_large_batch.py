import json

import numpy as np
import pytest

from simjax.data import builtin
from simjax.errors import UsageError
from simjax.lab.bench import large_batch, memory, pair_runs

TINY = ("--width", 32, "--layers", 1, "--vocab_size", 2000, "--dtype", "float32")


@pytest.mark.slow
def test_figures_agree_with_each_other(run, tmp_path, monkeypatch) -> None:
    file = tmp_path / "figures.json"
    forgotten = []
    monkeypatch.setattr(memory, "settle", lambda: forgotten.append(memory.highest()))
    figures = run(
        large_batch,
        *("--batch_size", 64, "--micro_batch", 16, "--steps", 2, "--json", file, *TINY),
    )
    assert json.loads(file.read_text()) == figures
    (row,) = figures["contenders"].values()
    assert len(row["seconds"]) == len(row["assemble_seconds"]) == len(row["loss"]) == 2
    assert row["pairs_per_second"] == pytest.approx(64 * 2 / sum(row["seconds"]))
    # Random unit vectors of a batch of 64: the loss begins at the logarithm of its keys.
    assert row["loss"][0] == pytest.approx(np.log(64), abs=0.7)
    assert 0 < row["fill"] <= 1
    assert len(forgotten) == 1  # peaks of earlier precisions
    assert row["process_bytes"] > row["temporary_bytes"] > 0


def test_pairs_are_distinct_parts_of_sentences(tmp_path) -> None:
    pair_runs.write_pairs(tmp_path, 131_072)
    lines = (tmp_path / "pairs.tsv").read_text().splitlines()[1:]
    assert len(set(lines)) > 0.99 * len(lines) == 0.99 * 131_072
    sentences = {" ".join(words.split()) for words in builtin.corpus().sentences}
    assert all(line.replace("\t", " ") in sentences for line in lines)
    assert all(len(part.split()) >= 3 for line in lines[:1000] for part in line.split("\t"))


def test_what_cannot_be_measured_is_refused(run, tmp_path) -> None:
    with pytest.raises(UsageError, match="--micro_batch 7 does not divide --batch_size 64"):
        run(large_batch, "--batch_size", 64, "--micro_batch", 7, *TINY)
    with pytest.raises(UsageError, match="--width 48 is no multiple of 32"):
        run(large_batch, "--width", 48)
    with pytest.raises(UsageError, match="the built-in corpus makes fewer pairs"):
        pair_runs.write_pairs(tmp_path, 10**8)
