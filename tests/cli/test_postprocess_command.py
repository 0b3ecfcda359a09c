import gzip
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from simjax.model_card import WITHOUT_FLOW
from simjax.postprocess.flow_fit import FlowFit
from simjax.sentence_encoder import SentenceEncoder

# Of many words, since a small random model makes little more of them than their mean.
WORDS = ("dog", "runs", "park", "cat", "sleeps", "sofa", "sun", "sets", "behind", "hills", "field")
WORDS += ("two", "dogs", "run", "across", "on", "in", "asleep", "is")
SENTENCES = [" ".join(random.Random(i).sample(WORDS, 1 + i % 5)) for i in range(36)]


@pytest.fixture
def files(tmp_path):
    """The sentences, in two files."""
    (tmp_path / "a.txt").write_text("\n".join(SENTENCES[:20]) + "\n\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("\n".join(SENTENCES[20:]).encode()))
    return tmp_path / "a.txt", tmp_path / "b.txt.gz"


def test_whitening(simjax, model_folder, files, tmp_path) -> None:
    output = tmp_path / "white"
    status, out, err = simjax(
        "postprocess", "whitening", model_folder, *files, output, "--dimension", 4
    )
    assert status == 0, err
    assert out.startswith(f"{output}: {model_folder} whitened to 4 of 16 dimensions, in which ")
    assert out.endswith(" % of the variance of 36 sentences lies\n")
    # A plain folder is not normalised, nor is this one.
    found = SentenceEncoder.from_pretrained(output).encode(SENTENCES)
    np.testing.assert_allclose(np.cov(found.T, bias=True), np.eye(4), atol=1e-3)
    card = (output / "README.md").read_text()
    assert "a whitening (Su et al. 2021" in card and "fitted on a.txt, b.txt.gz" in card
    again = simjax("postprocess", "whitening", model_folder, *files, output, "--dimension", 4)
    assert again.status == 1 and "is not empty" in again.err


def test_whitening_of_all_dimensions_that_are_in_use(simjax, model_folder, files, tmp_path) -> None:
    arguments = ["postprocess", "whitening", model_folder, *files, tmp_path / "white"]
    # The last layer normalisation takes one away.
    outcome = simjax(*arguments, "--dimension", 16)
    assert outcome.status == 1
    assert "vary in 15 of 16 dimensions, too few for whitening to 16" in outcome.err
    outcome = simjax(*arguments)
    assert outcome.status == 0 and "to 15 of 16 dimensions, in which 100.0 %" in outcome.out


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ([], 1, "needs at least 17 different sentences and there are 12: give more, or a dim"),
        (["--dimension", "12"], 1, "or a dimension of at most 11"),
        (["--dimension", "17"], 2, "dimension 17: embeddings have 16; choose from 1 to that"),
        (["--dimension", "0"], 2, "'0' is not a whole number of at least 1"),
    ],
)
def test_dimensions_that_cannot_be(simjax, model_folder, tmp_path, options, status, says) -> None:
    (tmp_path / "few.txt").write_text("\n".join(SENTENCES[:12]))
    output = tmp_path / "white"
    outcome = simjax(
        "postprocess", "whitening", model_folder, tmp_path / "few.txt", output, *options
    )
    assert outcome.status == status and says in outcome.err
    assert not output.exists()


def test_files_of_sentences_that_are_none(simjax, model_folder, files, tmp_path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    for what in ("whitening", "flow"):
        for name, says in (("empty.txt", "holds no text"), ("absent.txt", "no such file")):
            outcome = simjax(
                "postprocess", what, model_folder, files[0], tmp_path / name, tmp_path / "x"
            )
            assert outcome.status == 1 and f"{tmp_path / name}: {says}" in outcome.err
            assert not list(tmp_path.glob("x*"))


FIT = ("--epochs", 3, "--fit_batch_size", 8, "--hidden", 8, "--depth", 2)


def flow_of(folder: Path) -> bytes:
    return (folder / "flow" / "model.safetensors").read_bytes()


def test_flow(simjax, model_folder, files, tmp_path) -> None:
    output = tmp_path / "flowed"
    status, out, err = simjax("postprocess", "flow", model_folder, *files, output, *FIT)
    assert status == 0, err
    said = f"{output}: {model_folder} with a flow; held-out log-likelihood of a sentence "
    assert out.startswith(said) and " nats before and " in out and out.endswith("of 3\n")
    assert "a flow over the 15 of 16 dimensions" in err
    assert "epoch 0 of 3: held-out log-likelihood of a sentence " in err
    assert err.splitlines()[-1] == f"{output}: {WITHOUT_FLOW}"
    card = (output / "README.md").read_text()
    assert "fitted on 36 sentences of a.txt, b.txt.gz; held-out" in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt.gz", "flowed"]

    # An epoch that made it worse is not kept.
    outcome = simjax(
        *("postprocess", "flow", model_folder, *files, output, *FIT),
        *("--overwrite", "--learning_rate", 1),
    )
    assert outcome.status == 0 and outcome.out.endswith("after 0 epochs of 3\n")

    assert simjax("encode", output, files[0], tmp_path / "x.npy").status == 0
    encoder = SentenceEncoder.from_pretrained(output)
    found = np.load(tmp_path / "x.npy")
    assert found.shape == (21, 15)
    np.testing.assert_allclose(found[:20], encoder.encode(SENTENCES[:20]), atol=1e-5)
    status, out, err = simjax("export", output, tmp_path / "again")
    assert status == 0 and err == f"{tmp_path / 'again'}: {WITHOUT_FLOW}\n"
    assert flow_of(tmp_path / "again") == flow_of(output)
    outcome = simjax("postprocess", "whitening", output, *files, tmp_path / "y")
    assert outcome.status == 2 and "the model has a flow" in outcome.err


def test_the_last_epoch_is_kept_where_it_is_the_best(simjax, model_folder, tmp_path) -> None:
    path = tmp_path / "many.txt"
    path.write_text("\n".join(" ".join(random.Random(i).sample(WORDS, 4)) for i in range(600)))
    fit = ("--epochs", 2, "--fit_batch_size", 32, "--learning_rate", 1e-2)
    status, out, err = simjax("postprocess", "flow", model_folder, path, tmp_path / "x", *fit)
    told = [line.rpartition(" ")[2] for line in err.splitlines() if line.startswith("epoch ")]
    assert status == 0 and len(told) == 3 and float(told[2]) > float(told[1]) > float(told[0])
    assert out.endswith(f" {told[0]} nats before and {told[2]} after 2 epochs of 2\n")


def test_flows_that_cannot_be(simjax, model_folder, files, tmp_path) -> None:
    (tmp_path / "few.txt").write_text("\n".join(SENTENCES[:17]))
    command = ["postprocess", "flow", model_folder]
    for sentences, options, status, says in (
        (tmp_path / "few.txt", [], 1, "needs at least 18 different sentences and there are 17"),
        (files[0], ["--learning_rate", "0"], 2, "learning_rate 0.0: must be above 0"),
        ("-", [], 2, "give files, not -"),
    ):
        outcome = simjax(*command, sentences, tmp_path / "x", *options)
        assert outcome.status == status and says in outcome.err
        assert not list(tmp_path.glob("x*"))
    # A step so large that nothing is left.
    outcome = simjax(*command, *files, tmp_path / "x", *FIT, "--learning_rate", "1e30")
    assert outcome.status == 1 and not (tmp_path / "x").exists()
    assert f"remove {tmp_path / 'x.fit'} and give a lower learning rate" in outcome.err


def test_a_stopped_fit_goes_on(simjax, model_folder, files, tmp_path, monkeypatch) -> None:
    command = ["postprocess", "flow", model_folder, *files]
    assert simjax(*command, tmp_path / "whole", *FIT).status == 0
    steps, step = [], FlowFit.step

    def stopped_in_the_middle(self, state, number):
        steps.append(number)
        if number == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, state, number)

    monkeypatch.setattr(FlowFit, "step", stopped_in_the_middle)
    output = tmp_path / "x"
    status, out, _ = simjax(*command, output, *FIT)
    work = tmp_path / "x.fit"
    assert (status, out) == (
        0,
        f"SIGTERM: saved in {work}; the same command goes on from there\n",
    )
    assert steps == [0, 1, 2, 3, 4, 5] and not output.exists()
    outcome = simjax(*command, output, *FIT, "--seed", 1)
    assert outcome.status == 1 and "refused: fit.seed (0 there, 1 here)" in outcome.err
    outcome = simjax("postprocess", "flow", model_folder, files[0], files[0], output, *FIT)
    assert outcome.status == 1 and "refused: sentences (" in outcome.err

    status, _, err = simjax(*command, output, *FIT)
    assert status == 0 and "going on from step 6 of 12" in err
    assert steps == list(range(12)) and not work.exists()
    assert flow_of(output) == flow_of(tmp_path / "whole")


@pytest.mark.faults
def test_a_killed_fit_goes_on(simjax, model_folder, files, tmp_path) -> None:
    fit = [*FIT[2:], "--epochs", 150]
    command = ["postprocess", "flow", model_folder, *files]
    output, work = tmp_path / "x", tmp_path / "x.fit"
    process = subprocess.Popen(
        [sys.executable, "-m", "simjax", *map(str, [*command, output, *fit])],
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 600
    while not list(work.glob("checkpoints/[1-9]*/simjax_sha256.json")):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not output.exists()
    status, _, err = simjax(*command, output, *fit)
    assert status == 0 and "going on from step " in err and not work.exists()
    assert simjax(*command, tmp_path / "whole", *fit).status == 0
    assert flow_of(output) == flow_of(tmp_path / "whole")
