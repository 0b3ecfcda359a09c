"""A model folder small enough to load in no time, and the command called in-process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

TEXTS = (
    "a dog runs in the park",
    "a cat sleeps on the sofa",
    "the sun sets behind the hills",
    "two dogs run across a field",
    "the cat is asleep",
)


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def simjax(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`simjax(*arguments)` as the shell would call it."""
    from simjax.cli.main import main

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Outcome(status, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of one layer as a plain Hugging Face folder."""
    from flax import nnx
    from safetensors.numpy import save_file

    from simjax.data.tokenizer import train_wordpiece
    from simjax.models.encoder import EncoderConfig
    from simjax.models.hf import hf_config, state_dict
    from simjax.models.sentence_model import SentenceModel

    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_wordpiece(TEXTS, 120)
    tokenizer.save_pretrained(folder)
    config = EncoderConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=32,
        max_positions=64,
    )
    model = SentenceModel(config, "mean", rngs=nnx.Rngs(0))
    save_file(state_dict(model), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hf_config(config)), encoding="utf-8")
    return folder
