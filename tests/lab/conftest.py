import argparse
import csv
import gzip
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simjax.lab.bench import texts
from tests.tiny_models import write_folder

WORDS = ["the", "cat", "man", "woman", "fish", "park", "sit", "run"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random transformers folder."""
    return write_folder(tmp_path_factory.mktemp("model"), "bert")


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets: 12 distinct sentences of STS-B, 40 triples."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    made = (" ".join(words) for words in itertools.product(WORDS, repeat=3))
    first = [next(made) for _ in range(6)]
    sts = folder / texts.STS
    sts.parent.mkdir(parents=True)
    rows = [f"{a}\t{a} {a}\t{score}.0" for score, a in enumerate(first)]
    sts.write_text("\n".join(["sentence1\tsentence2\tscore", *rows, rows[0]]) + "\n")

    triples = folder / f"{texts.TRIPLES}.gz"
    triples.parent.mkdir(parents=True)
    with gzip.open(triples, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sent0", "sent1", "hard_neg"])
        for _ in range(40):
            writer.writerow([" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(3)])
    return folder


@pytest.fixture
def run() -> Callable[..., dict[str, Any]]:
    """Runs a benchmark as the command line does."""

    def call(bench: Any, *arguments: object) -> dict[str, Any]:
        parser = argparse.ArgumentParser()
        bench.add_arguments(parser)
        return bench.run(parser.parse_args([str(argument) for argument in arguments]))

    return call
