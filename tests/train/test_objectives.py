"""Every objective from data to export: stopped, gone on with, and loaded by others."""

from __future__ import annotations

import dataclasses
import io
import signal
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from simjax.checkpoint.config import CheckpointConfig
from simjax.data.augment import Delete
from simjax.errors import SimjaxError, UsageError
from simjax.mesh import MeshConfig
from simjax.models.latents import LatentsConfig
from simjax.objectives.config import (
    AngleConfig,
    ContrastiveConfig,
    CosentConfig,
    CosineConfig,
    DistillationConfig,
    MatryoshkaConfig,
    SigmoidConfig,
    SoftmaxConfig,
    TensionConfig,
    VaeConfig,
)
from simjax.sentence_encoder import SentenceEncoder
from simjax.train import loop
from simjax.train.config import ModelConfig, RunConfig, TokenizerConfig, TrainConfig, validate
from simjax.train.setup import load_run_tokenizer, make_encoder
from simjax.train.start import make_model
from tests.train.systems import BATCH, SYSTEMS, TRIPLES, config_of, write_scored
from tests.train.tiny_run import (
    StopAfter,
    assert_same_bits,
    figures,
    lines,
    saved_steps,
    start,
    state_at,
    train,
)

SAVED = CheckpointConfig(every=2, keep=6)
STOPPED = 3
"""A step that is not saved by itself."""


@pytest.fixture(scope="module")
def teacher(whole) -> str:
    """A folder of the width of what is trained here."""
    return str(Path(whole[0].output) / "export")


@pytest.fixture(scope="module", autouse=True)
def scored(data):
    """The triples' pairs, with classes and scores."""
    write_scored(data)


def stop(config: RunConfig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "StopRequest", StopAfter)
        patch.setattr(StopAfter, "steps", STOPPED)
        assert train(config)["stopped"]
    assert saved_steps(config) == {2, STOPPED}


def kill(config: RunConfig) -> None:
    folder, options = Path(config.output).parent, (str(STOPPED),)
    ended = start(config, folder, module="tests.train.killed", options=options)
    printed = "".join(ended.communicate())
    assert ended.returncode == -signal.SIGKILL, printed
    assert saved_steps(config) == {2}


# Of two encoders, and of a mixture with classes, runs are stopped in the fast tier.
@pytest.mark.parametrize(
    ("name", "interrupt"),
    [
        ("tension", stop),
        ("label_spaces", stop),
        *(pytest.param(name, kill, marks=pytest.mark.slow) for name in SYSTEMS),
    ],
)
def test_an_interrupted_run_ends_as_one_that_was_not(name, interrupt, data, tmp_path, teacher):
    whole = config_of(name, data, tmp_path / "whole", teacher, checkpoint=SAVED)
    train(whole)
    losses = [line["loss"] for line in lines(Path(whole.output)) if "loss" in line]
    assert len(losses) == 6 and np.isfinite(losses).all() and len({*losses}) == 6
    other = dataclasses.replace(whole, output=str(tmp_path / "interrupted"))
    interrupt(other)
    saved = max(saved_steps(other))
    said = io.StringIO()
    train(other, Console(file=said, width=200))
    assert f"going on from step {saved} of 6" in said.getvalue()
    assert figures(Path(other.output)) == figures(Path(whole.output))
    assert_same_bits(state_at(other), state_at(whole))
    export = Path(whole.output) / "export"
    from sentence_transformers import SentenceTransformer

    texts = ["ba lan ce", "di nis", "fo pot gu ruk"]
    ours = SentenceEncoder.from_pretrained(str(export)).encode(texts)
    theirs = SentenceTransformer(str(export), device="cpu").encode(texts)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["cosent", "tension", "similarity", "sigmoid", "masked", "paraphrases"],
)
def test_layouts_of_the_devices_give_one_run(name, data, tmp_path, teacher):
    """Devices, split parameters and micro-batches make no difference but of rounding."""
    found = []
    for number, (mesh, micro) in enumerate(
        ((MeshConfig(data=1), 32), (MeshConfig(data=2), 8), (MeshConfig(data=1, fsdp=4), 8))
    ):
        config = config_of(name, data, tmp_path / str(number), teacher)
        changed = dataclasses.replace(config.train, micro_batch=micro)
        config = dataclasses.replace(config, mesh=mesh, train=changed)
        train(config)
        found.append([line["loss"] for line in lines(Path(config.output)) if "loss" in line])
    np.testing.assert_allclose(found[1], found[0], rtol=2e-4)
    np.testing.assert_allclose(found[2], found[0], rtol=2e-4)


def refused(config: RunConfig) -> str:
    with pytest.raises((SimjaxError, UsageError)) as caught:
        validate(config)
        train(config)
    return str(caught.value)


def test_data_that_an_objective_cannot_learn_from_is_refused(data, tmp_path, teacher):
    def asked(name, **changes):
        config = config_of(name, data, tmp_path / "run", teacher)
        source = dataclasses.replace(config.data.source, **changes)
        return dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))

    assert refused(asked("cosent", score=None)) == (
        "objective.name is cosent, and example 1 has no score: name the column of scores in "
        "data.source.score"
    )
    assert refused(asked("softmax", label=None)).startswith(
        "objective.name is softmax, and example 1 has no class"
    )
    for name in ("triplet", "margin", "kl"):
        assert "the examples have 1 positives and 0 hard negatives" in refused(
            asked(name, negatives=())
        )
    assert "compares two texts, and the examples have 3" in refused(
        dataclasses.replace(
            asked("cosine"),
            data=dataclasses.replace(asked("triplet").data, source=TRIPLES),
        )
    )
    flat = {"path": "flat.csv", "label": None}
    (data / "flat.csv").write_text("anchor,positive,score\n" + "a man,a woman,3\n" * BATCH)
    for name in ("cosent", "angle"):
        assert refused(asked(name, **flat)) == (
            f"objective.name is {name}, and all examples have the score 3: there is nothing to rank"
        )
    odd = dataclasses.replace(
        asked("angle"), objective=AngleConfig(matryoshka=MatryoshkaConfig((16, 7)))
    )
    assert "needs embeddings of an even width, not 7" in refused(odd)
    alone = dataclasses.replace(
        asked("softmax"), objective=SoftmaxConfig(label_spaces=(("yes", "maybe"), ("no", "never")))
    )
    assert "no example has another than" in refused(alone)
    narrow = dataclasses.replace(asked("cosine"), objective=CosineConfig(score_range=(0.0, 1.0)))
    assert "objective.score_range is 0 to 1, and example" in refused(narrow)


def test_keys_that_do_not_go_together_are_refused(data, tmp_path, teacher):
    def asked(name, objective=None, **changes):
        config = config_of(name, data, tmp_path / "run", teacher)
        config = dataclasses.replace(config, **changes)
        return config if objective is None else dataclasses.replace(config, objective=objective)

    tension = asked("tension")
    columns = dataclasses.replace(tension.data, views="columns")
    assert "data.views is columns and objective.name tension" in refused(
        dataclasses.replace(tension, data=columns)
    )
    assert "data.views is single and objective.name cosent" in refused(
        dataclasses.replace(tension, objective=CosentConfig())
    )
    assert "objective.negatives is 9 and data.block_size is 8" in refused(
        asked("tension", TensionConfig(negatives=9))
    )
    assert "mesh.gather layer" in refused(
        dataclasses.replace(tension, mesh=MeshConfig(data=1, fsdp=2, gather="layer"))
    )
    wide = ContrastiveConfig(matryoshka=MatryoshkaConfig((64, 8)))
    assert "objective.matryoshka.dimensions has 64 and the embeddings are 16 wide" in refused(
        asked("matryoshka", wide)
    )
    source = dataclasses.replace(tension.data.source, path="absent.csv")
    missing = asked("matryoshka", wide, data=dataclasses.replace(tension.data, source=source))
    missing = dataclasses.replace(missing, data=dataclasses.replace(missing.data, views="columns"))
    assert "the embeddings are 16 wide" in refused(missing)  # before any text is asked for
    tail = ContrastiveConfig(matryoshka=MatryoshkaConfig((4, 8)))
    assert refused(asked("matryoshka", tail)) == (
        "objective.matryoshka.dimensions has 8 at most and the embeddings are 16 wide: no loss "
        "would see the numbers beyond; add 16"
    )
    assert "does not go with objective.name softmax" in refused(
        asked("softmax", SoftmaxConfig(matryoshka=MatryoshkaConfig((16, 8))))
    )
    still = asked("softmax")
    model = dataclasses.replace(still.model, dropout=0.0)
    assert "objective.r_drop is given and the dropout of the encoder is 0" in refused(
        dataclasses.replace(still, model=model)
    )
    equal = dataclasses.replace(still.data, dropout_masks="none")
    assert "objective.r_drop is given and data.dropout_masks is none" in refused(
        dataclasses.replace(still, data=equal)
    )
    pretrained = ModelConfig(pretrained=teacher, dropout=0.0)
    assert "objective.r_drop is given and the dropout of " in refused(
        dataclasses.replace(still, model=pretrained, tokenizer=TokenizerConfig())
    )
    for name in ("cosine", "cosent", "angle", "softmax", "triplet"):
        one = asked(name)
        twice = dataclasses.replace(one.data, views="dropout")
        assert f"data.views is dropout and objective.name {name}, which compares" in refused(
            dataclasses.replace(one, data=twice)
        )
    for objective in (SigmoidConfig, ContrastiveConfig):
        assert "objective.false_negatives is label and data.source.label names no" in refused(
            asked("sigmoid", objective(false_negatives="label"))
        )
    changed = dataclasses.replace(tension.data, augment=(Delete(),))
    assert "data.augment changes positives and data.views single has none" in refused(
        dataclasses.replace(tension, data=changed)
    )
    pairs = dataclasses.replace(still.data.source, label=None, score=None)
    single = dataclasses.replace(still.data, source=pairs, batch_size=1, block_size=1)
    assert "a batch or group of one example has no negatives" in refused(
        asked(
            "views", ContrastiveConfig(), data=single, mesh=MeshConfig(data=1), train=TrainConfig()
        )
    )
    unweighed = dataclasses.replace(still.data, source=pairs)
    assert "objective.hard_negative_weight is 2 and the examples have no hard" in refused(
        asked("views", ContrastiveConfig(hard_negative_weight=2.0), data=unweighed)
    )
    assert "objective.matryoshka does not go with objective.target cosine" in refused(
        asked(
            "similarity",
            DistillationConfig(
                teacher=teacher, target="cosine", matryoshka=MatryoshkaConfig((16, 8))
            ),
        )
    )
    encoder = dataclasses.replace(still.model.encoder, hidden_size=8, num_heads=2)
    narrow = asked(
        "embedding",
        model=dataclasses.replace(still.model, encoder=encoder),
        data=dataclasses.replace(still.data, cache=str(tmp_path / "cache")),
    )
    assert (
        "its embeddings are 16 wide and the student's 8; with objective.target similarity, margin "
        "or kl they may differ"
    ) in refused(narrow)
    assert not list((tmp_path / "cache").glob("frozen-*"))  # before any text is embedded


@pytest.mark.parametrize(
    ("objective", "kept"),
    [
        (ContrastiveConfig(), False),
        (SigmoidConfig(), False),
        (ContrastiveConfig(matryoshka=MatryoshkaConfig((16, 8))), True),
        (DistillationConfig(teacher="t"), True),
    ],
    ids=["contrastive", "sigmoid", "nested", "distilled"],
)
def test_the_layer_of_cls_mlp_is_dropped_after_unsupervised_simcse_alone(
    objective, kept, data, tmp_path
):
    """What is compared with a teacher, or nested, is what comes out of the layer."""
    config = config_of("sigmoid", data, tmp_path / "run", "")
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, pooling="cls_mlp"),
        data=dataclasses.replace(config.data, views="dropout"),
        objective=objective,
    )
    tokenizer = load_run_tokenizer(config)
    encoder = make_encoder(config, make_model(config, tokenizer), tokenizer, {})
    assert encoder.training_head == kept
    supervised = dataclasses.replace(config, data=dataclasses.replace(config.data, views="columns"))
    start = make_model(supervised, tokenizer)
    assert make_encoder(supervised, start, tokenizer, {}).training_head


def test_what_latents_have_no_use_for_is_refused(data, tmp_path):
    def said(kind, **options):
        config = config_of("reconstruction", data, tmp_path / "run", "")
        kappa = options.pop("kappa", LatentsConfig.kappa)
        latents = LatentsConfig(kind=kind, layers=1, size=4, kappa=kappa)
        return dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, latents=latents),
            objective=VaeConfig(**options),
        )

    for kind, option in (
        ("von_mises_fisher", {"kl_weight": 5.0}),
        ("von_mises_fisher", {"kl_warmup": 9}),
        ("gaussian", {"kappa": 7.0}),
    ):
        key = f"{'model.latents' if 'kappa' in option else 'objective'}.{next(iter(option))}"
        assert refused(said(kind, **option)).startswith(f"{key} is given and model.latents.kind is")
    validate(said("gaussian", kl_weight=5.0, kl_warmup=9))
    validate(said("von_mises_fisher", kappa=7.0))
