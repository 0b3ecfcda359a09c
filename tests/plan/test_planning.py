"""What fits, what is best, and where a model's shape is from."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from simjax.errors import SimjaxError, UsageError
from simjax.models.sentence_model import split
from simjax.plan import planning, rows, search, topology
from simjax.plan.parts import memory
from simjax.plan.roofline import roofline
from simjax.plan.shapes import KNOWN, abstract_model
from simjax.train.config import MeshConfig, ModelConfig, TokenizerConfig
from tests.plan.small import TOKENS, recipe
from tests.tiny_models import write_folder

GPUS = topology.parse("a100:8")


def plan(config, wanted=GPUS):
    packed = rows.stated(config.data, TOKENS)
    return planning.make_plan(config, wanted, abstract_model(config), packed, compiling=False)


def test_the_largest_batch_fits_and_one_micro_batch_more_does_not():
    found = plan(recipe(micro_batch=8, mesh=MeshConfig(keys="ring")))
    blocks = found.largest_batch // (8 * found.layout.parts)
    assert blocks > found.layout.share

    def needed(count):
        return memory(found.layout.with_blocks(count, 1), "gpu").total

    assert needed(blocks) <= found.room < needed(blocks + 1)


def test_micro_batches_are_as_large_as_fits_unless_the_recipe_says():
    config = recipe(batch_size=512, mesh=MeshConfig())
    whole = plan(config)
    assert whole.layout.micro == whole.layout.share == 8
    small = dataclasses.replace(GPUS.chip, memory=0.6 * whole.total)
    found = plan(config, dataclasses.replace(GPUS, chip=small))
    micro = found.layout.micro
    assert 1 <= micro < 8 and found.fits
    larger = dataclasses.replace(found.layout, micro=2 * micro)
    assert memory(larger, "gpu").total > found.room
    assert found.config.train.micro_batch == 8 * micro
    named = dataclasses.replace(config.train, micro_batch=16)
    assert plan(dataclasses.replace(config, train=named)).layout.micro == 2


def test_a_batch_too_small_for_the_devices_is_the_smallest_that_is_not():
    config = recipe(batch_size=16, mesh=MeshConfig(tensor=2))
    assert planning.with_batch_for(config, 8).data.batch_size == 32
    assert planning.with_batch_for(config, 4) is config
    alone = recipe(batch_size=16, mesh=MeshConfig(data=2))
    assert planning.with_batch_for(alone, 8) is alone


def test_a_search_puts_the_fastest_that_fits_first():
    config = recipe(batch_size=512, mesh=MeshConfig())
    packed, shapes = rows.stated(config.data, TOKENS), abstract_model(config)
    found = search.candidates(config, GPUS, shapes, packed)
    times = [candidate.roofline.expected[1] for candidate in found]
    assert times == sorted(times)
    meshes = {(c.layout.fsdp, c.layout.tensor, c.layout.by_layer) for c in found}
    assert {(1, 1, False), (8, 1, False), (8, 1, True), (2, 2, False)} <= meshes
    assert {candidate.layout.exchange for candidate in found} == {"all_gather", "ring"}
    assert all(c.bytes <= planning.USABLE * GPUS.chip.memory for c in found)
    best = found[0]
    again = planning.make_plan(best.config, GPUS, shapes, packed, compiling=False)
    assert again.memory.total == best.bytes and again.roofline == best.roofline

    tiny = dataclasses.replace(GPUS, chip=dataclasses.replace(GPUS.chip, memory=1e5))
    with pytest.raises(UsageError, match=r"nothing fits a100:8: the least is .* of a device"):
        search.candidates(config, tiny, shapes, packed)


def test_a_step_takes_what_takes_longest():
    layout = plan(recipe(mesh=MeshConfig())).layout
    usual = roofline(layout, GPUS.chip)
    assert usual.seconds == max(usual.products, usual.memory, usual.links)
    slow = roofline(layout, dataclasses.replace(GPUS.chip, links=1.0), sent_bytes=3.0)
    assert (slow.bound, slow.seconds, slow.links) == ("links", 3.0, 3.0)
    fast, late = slow.expected
    assert fast == 3.0 < late and slow.pairs_per_second[1] == pytest.approx(64 / 3)


def test_shapes_are_those_of_the_folder_without_its_weights(tmp_path):
    folder = write_folder(tmp_path / "model", "roberta")
    (folder / "model.safetensors").unlink()
    config = dataclasses.replace(
        recipe(), model=ModelConfig(pretrained=str(folder)), tokenizer=TokenizerConfig()
    )
    found = abstract_model(config)
    assert (found.encoder.family, found.encoder.hidden_size) == ("roberta", 32)
    leaves = jax.tree.leaves(split(found.model)[1])
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # Without the pooler: transformers' counts less 590,592 and 1,049,600 (and MiniLM's).
        ("google-bert/bert-base-uncased", 108_891_648),
        ("FacebookAI/roberta-large", 354_310_144),
        ("sentence-transformers/all-MiniLM-L6-v2", 22_565_376),
    ],
)
def test_models_that_are_known_have_their_published_sizes(name, parameters):
    config = dataclasses.replace(
        recipe(), model=ModelConfig(pretrained=name), tokenizer=TokenizerConfig()
    )
    assert name in KNOWN
    leaves = jax.tree.leaves(split(abstract_model(config).model)[1])
    assert sum(leaf.size for leaf in leaves) == parameters


def test_a_model_that_nobody_has(monkeypatch):
    config = dataclasses.replace(
        recipe(), model=ModelConfig(pretrained="nobody/none"), tokenizer=TokenizerConfig()
    )
    with pytest.raises(SimjaxError, match=r"nobody/none: its config.json cannot be had; give"):
        abstract_model(config)
