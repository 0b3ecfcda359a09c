"""What a step sends by formula, beside the collectives of the step that is compiled for CPUs."""

from __future__ import annotations

import dataclasses

import pytest

from simjax.mesh import MeshConfig
from simjax.objectives.config import MaskedLmConfig
from simjax.plan.collectives import bytes_sent
from simjax.plan.layout import Held, layout_of
from simjax.plan.parts import activations
from simjax.plan.transfers import moved, sent, sent_round
from tests.plan.small import GUIDE, program, recipe, with_adapters

SMALL = {"batch_size": 128, "hidden_size": 64, "num_layers": 2, "intermediate_size": 128}


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(
            recipe(
                **SMALL,
                mesh=MeshConfig(fsdp=2, tensor=2),
                objective={"mlm": MaskedLmConfig(), "directions": "symmetric"},
            ),
            marks=pytest.mark.slow,
        ),
        recipe(
            **SMALL,
            remat="layer",
            mesh=MeshConfig(fsdp=8, gather="layer"),
            objective={"mlm": MaskedLmConfig()},
        ),
        recipe(
            **SMALL,
            mesh=MeshConfig(keys="ring"),
            objective={"guide": GUIDE, "directions": "symmetric"},
        ),
        with_adapters(
            recipe(**SMALL, mesh=MeshConfig(fsdp=4), objective={"directions": "joint"}), rank=4
        ),
    ],
    ids=["tensor, masked tokens", "by layer, masked tokens", "a guide on the ring", "adapters"],
)
def test_the_formula_is_what_a_compiled_step_sends(config):
    planned = program(config)
    layout = layout_of(planned)
    expected = sum(sent(layout, "cpu").values())
    found = sum(bytes_sent(planned.compile(), planned.mesh.size).values())
    # Ids, log-sum-exps and metrics are a few numbers for each key beside its vector.
    few = 64 * layout.num_keys
    assert 0.97 * expected <= found <= 1.03 * expected + few


def test_what_goes_round_when_all_views_meet_all():
    """64 keys of 32 floats on 8 devices; both sides are keys, and positives are keys once more."""
    share = 7 * 64 * 32 * 4 // 8
    for keys, platform, expected in (
        ("all_gather", "tpu", 3 * share),
        ("all_gather", "gpu", 0),
        ("ring", "gpu", 3 * (64 * 32 * 12 + 64 * 32 // 8 * 4)),
    ):
        mesh = MeshConfig(keys=keys)
        layout = layout_of(program(recipe(mesh=mesh, objective={"directions": "joint"})))
        assert sent_round(layout, platform) == expected
        gathered = 3 * 2 * share - share
        assert sent(layout, platform)["keys"] == (gathered if keys == "all_gather" else expected)


def test_what_goes_to_and_from_memory_as_a_hand_counts_it():
    layout = layout_of(program(recipe(batch_size=1024, micro_batch=None)))
    nothing = Held(parameters=0, optimizer=0, layers=0, rest=0, trained=1.0)
    state = Held(parameters=10, optimizer=20, layers=6, rest=4, trained=1.0)

    def of(held, **changes):
        return moved(dataclasses.replace(layout, held=held, **changes), "gpu")

    # Read in three passes' products and for the update, gradients written and read twice: with the
    # moments 3 x 10 + 10 + 2 x (10 + 20) + 3 x 10.
    assert of(state) - of(nothing) == pytest.approx(130)
    # Of 128 micro-batches each reads them once more, and adds to the gradients.
    several = of(state, micro=1) - of(nothing, micro=1)
    assert several == pytest.approx(128 * (4 * 10 + 3 * 10) + 60 + 30)
    # Two tiles of 512 anchors, each by 1,024 keys of width 32 and their gradients.
    keys = 2 * 1024 * 32 * (2 * 4 + 2 * 4)
    tokens, kept = layout.own_tokens, activations(layout, "gpu")
    scores = 4 * (4 * 64 + 96) * 3 * tokens
    assert of(nothing) == pytest.approx(keys + 2 * (kept + scores) * (1 + 1))
    again = dataclasses.replace(layout, remat="layer")
    kept = activations(again, "gpu")
    assert of(nothing, remat="layer") == pytest.approx(keys + 2 * (kept + scores) * (2 + 1))
