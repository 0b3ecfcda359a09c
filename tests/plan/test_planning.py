"""What fits, what is best, and where a model's shape is from."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from simjax.errors import SimjaxError, UsageError
from simjax.models import hf
from simjax.models.sentence_model import split
from simjax.objectives.config import GuideConfig
from simjax.ops.sharded import GATHERED_BYTES
from simjax.plan import planning, rows, search, topology
from simjax.plan.operations import operations
from simjax.plan.parts import memory
from simjax.plan.roofline import Roofline, roofline
from simjax.plan.shapes import KNOWN, abstract_model
from simjax.plan.transfers import sent
from simjax.train.config import MeshConfig, ModelConfig, TokenizerConfig, validate
from tests.plan.small import TOKENS, recipe, with_adapters
from tests.tiny_models import bert_tokenizer, write_folder

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


def test_the_largest_batch_is_not_where_gathered_keys_stop_fitting():
    config = recipe(batch_size=512, micro_batch=8, mesh=MeshConfig())
    found = plan(config)
    assert found.layout.exchange == "all_gather"
    layout = found.layout.with_blocks(GATHERED_BYTES // (8 * 8 * 32 * 8), 1)
    assert layout.exchange == "all_gather"
    # Room for that much beside what is always there, and not for all gathered keys.
    little = dataclasses.replace(GPUS.chip, memory=0.9 * memory(layout, "gpu").total)
    found = plan(config, dataclasses.replace(GPUS, chip=little))
    most = found.layout.with_blocks(found.largest_batch // 64, 1)
    assert most.exchange == "ring"
    assert memory(most, "gpu").total <= found.room
    # A recipe that names the exchange keeps it.
    named = plan(
        recipe(batch_size=512, micro_batch=8, mesh=MeshConfig(keys="all_gather")),
        dataclasses.replace(GPUS, chip=little),
    )
    assert 0 < named.largest_batch < layout.batch_size


def test_where_nothing_fits_the_largest_batch_is_none():
    tiny = dataclasses.replace(GPUS.chip, memory=1e5)
    found = plan(recipe(mesh=MeshConfig()), dataclasses.replace(GPUS, chip=tiny))
    assert not found.fits and found.largest_batch == 0
    assert found.room == 95_000  # a twentieth is the runtime's


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
    nothing = recipe(batch_size=16, mesh=MeshConfig(tensor=0))
    assert planning.with_batch_for(nothing, 8) is nothing
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


@pytest.mark.parametrize(
    "config",
    [
        with_adapters(recipe(batch_size=512, mesh=MeshConfig()), rank=2),
        recipe(batch_size=512, mesh=MeshConfig(), train={"noise_scale": True}),
    ],
    ids=["adapters", "the noise of the gradient"],
)
def test_a_search_finds_nothing_that_training_refuses(config):
    packed, shapes = rows.stated(config.data, TOKENS), abstract_model(config)
    found = search.candidates(config, GPUS, shapes, packed)
    assert len(found) > 8
    for candidate in found:
        validate(candidate.config)
    one = search.candidates(config, topology.parse("a100:1"), shapes, packed)
    parts = [c.layout.micro_batches for c in one]
    assert (1 in parts) is not config.train.noise_scale and max(parts) == 64


def test_a_search_says_what_training_would():
    config = recipe(batch_size=512, mesh=MeshConfig())
    packed, shapes = rows.stated(config.data, TOKENS), abstract_model(config)
    with pytest.raises(UsageError, match=r"512 is 64 blocks of 8 .*do not divide by 3 devices"):
        search.candidates(config, topology.parse("a100:3"), shapes, packed)
    grouped = recipe(batch_size=512, mesh=MeshConfig(), objective={"negative_group": 8})
    with pytest.raises(UsageError, match=r"objective.negative_group is for studies"):
        search.candidates(grouped, GPUS, shapes, packed)


class Compiled:
    """A plan of a candidate whose compiler asks for so much more than the formula."""

    def __init__(self, candidate, more):
        self.candidate, self.more = candidate, more
        self.room, self.total = 1000, candidate.bytes + more
        self.memory = SimpleNamespace(total=candidate.bytes)
        self.fits = self.total <= self.room


@pytest.mark.parametrize(
    ("more", "compiled"),
    [
        (lambda candidate: 0, [0, 1, 2]),
        # The first three do not fit; of the others those that should, until one does.
        (lambda candidate: 150, [0, 1, 2, 4]),
        # None does, and three more are enough.
        (lambda candidate: max(150, 1001 - candidate.bytes), [0, 1, 2, 4, 5, 7]),
    ],
    ids=["they fit", "others do", "none does"],
)
def test_where_the_best_three_do_not_fit_smaller_ones_are_compiled(more, compiled):
    sizes = [950, 900, 940, 930, 300, 200, 860, 100, 90, 80]
    ranked = [SimpleNamespace(number=n, bytes=size) for n, size in enumerate(sizes)]

    plans = search.compile_best(ranked, lambda one: Compiled(one, more(one)))
    assert [plan.candidate.number for plan in plans] == compiled
    assert any(plan.fits for plan in plans) is (len(compiled) < 6)


def test_a_step_takes_what_takes_longest():
    layout = plan(recipe(mesh=MeshConfig())).layout
    usual = roofline(layout, GPUS.chip)
    assert usual.seconds == max(usual.products, usual.memory, usual.links)
    slow = roofline(
        layout, dataclasses.replace(GPUS.chip, links=1.0), sent_bytes={"all-gather": 3.0}
    )
    assert (slow.bound, slow.seconds, slow.links) == ("links", 3.0, 3.0)
    fast, late = slow.expected
    assert fast == 3.0 < late and slow.pairs_per_second[1] == pytest.approx(64 / 3)


@pytest.mark.parametrize(
    ("name", "sent_bytes", "seconds"),
    [
        # Two ways on two axes: a quarter of 200 GB/s goes to one neighbour.
        ("v5e:2x4", {"all-gather": 150e9, "all-reduce": 50e9, "collective-permute": 50e9}, 2.0),
        ("v5e:2x4", {"all-gather": 50e9}, 0.25),
        ("v5p:2x2x2", {"collective-permute": 150e9}, 1.5),
        ("h100:8", {"all-gather": 450e9, "collective-permute": 450e9}, 2.0),
    ],
)
def test_a_ring_has_one_link_of_a_torus(name, sent_bytes, seconds):
    layout = plan(recipe(mesh=MeshConfig())).layout
    found = roofline(layout, topology.parse(name).chip, sent_bytes)
    assert found.links == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("keys", "name", "all_links", "one_link"),
    [
        # 64 keys of 32 floats on 8 devices. On the ring keys go forward and backward, gradients
        # once, and an eighth of them home.
        ("ring", "v5e:2x4", 0, 64 * 32 * (4 + 4 + 4) + 64 * 32 // 8 * 4),
        # Gathered: seven eighths of the keys, and as much of their gradients, which go round.
        ("all_gather", "v5e:2x4", 7 * 64 * 32 // 8 * 4, 7 * 64 * 32 // 8 * 4),
        ("ring", "h100:8", 64 * 32 * 12 + 64 * 32 // 8 * 4, 0),
    ],
)
def test_a_ring_has_one_link_by_formula_too(keys, name, all_links, one_link):
    wanted = topology.parse(name)
    found = plan(recipe(mesh=MeshConfig(keys=keys)), wanted)
    by_name = sent(found.layout, wanted.chip.platform)
    assert by_name.pop("keys") == all_links + one_link
    links, link = {"v5e:2x4": (200e9, 50e9), "h100:8": (450e9, 450e9)}[name]
    others = sum(by_name.values())
    assert others > 0
    assert found.roofline.links == pytest.approx((others + all_links) / links + one_link / link)


def test_the_range_of_speeds_is_from_nothing_overlapped_to_everything():
    found = Roofline(4.0, 1.0, 2.0, asked=24.0, peak=10.0, batch_size=100)
    assert (found.seconds, found.bound) == (4.0, "products")
    assert found.expected == (4.0 / 0.8, 4.0 / 0.4 + 1.0 + 2.0)
    assert found.pairs_per_second == (100 / 13, 100 / 5)
    assert found.mfu == (pytest.approx(24 / 13 / 10), pytest.approx(24 / 5 / 10))


def test_the_pair_kernels_use_one_of_the_cores_of_a_chip():
    layout = plan(recipe(batch_size=4096, mesh=MeshConfig())).layout
    chip = topology.parse("v5p:2x2x2").chip
    pairs = operations(layout, "tpu").pairs * 6  # exact, in float32
    one = dataclasses.replace(chip, cores=1)
    more = roofline(layout, chip).products - roofline(layout, one).products
    assert chip.cores == 2 and more == pytest.approx(pairs / chip.float32)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"data": {"max_length": 1024, "row_length": 1024}}, "has 512 positions"),
        ({"model": {"dropout": None}}, "dropout of .*model is 0"),
        ({"train": {"noise_scale": True}}, "train.noise_scale compares the parts"),
    ],
)
def test_what_training_refuses_is_refused(changes, wanted, tmp_path):
    folder = write_folder(tmp_path / "model", "bert")
    told = json.loads((folder / "config.json").read_text())
    told |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    told["max_position_embeddings"] = 512
    (folder / "config.json").write_text(json.dumps(told))
    config = dataclasses.replace(
        recipe(mesh=MeshConfig()),
        model=ModelConfig(pretrained=str(folder), dropout=0.1),
        tokenizer=TokenizerConfig(),
    )
    for part, values in changes.items():
        config = dataclasses.replace(
            config, **{part: dataclasses.replace(getattr(config, part), **values)}
        )
    with pytest.raises(UsageError, match=wanted):
        plan(config, topology.parse("a100:1"))


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


@pytest.mark.parametrize("key", ["model.pretrained", "objective.guide.model"])
def test_a_model_that_nobody_has(key, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = recipe(objective={"guide": GuideConfig("nobody/none", margin=0.1)})
    if key == "model.pretrained":
        config = dataclasses.replace(
            recipe(), model=ModelConfig(pretrained="nobody/none"), tokenizer=TokenizerConfig()
        )
    with pytest.raises(SimjaxError, match=rf"{key} nobody/none: its config.json cannot be had;"):
        abstract_model(config)


@pytest.mark.parametrize("pooling", [None, "cls", "cls_mlp", "mean"])
def test_dense_modules_are_those_that_are_loaded(pooling, tmp_path):
    """A folder of sentence-transformers: the first token, then dense layers of 32 and of 16."""
    folder = write_folder(tmp_path / "model", "bert")
    random = np.random.default_rng(0)
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    modules.append({"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"})
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    for number, out in ((2, 32), (3, 16)):
        place = folder / f"{number}_Dense"
        place.mkdir()
        modules.append({"type": "sentence_transformers.models.Dense", "path": place.name})
        (place / "config.json").write_text(json.dumps({"in_features": 32, "out_features": out}))
        tensors = {"linear.weight": random.normal(size=(out, 32)).astype(np.float32)}
        tensors["linear.bias"] = np.zeros(out, np.float32)
        save_file(tensors, place / "model.safetensors")
    (folder / "modules.json").write_text(json.dumps(modules))
    config = dataclasses.replace(
        recipe(objective={"guide": GuideConfig(str(folder), margin=0.1)}),
        model=ModelConfig(pretrained=str(folder), pooling=pooling),
        tokenizer=TokenizerConfig(),
    )
    found, loaded = abstract_model(config), hf.load(folder, pooling=pooling).model

    def told(model):
        return jax.tree.map(lambda x: (x.shape, x.dtype), split(model)[1])

    assert told(found.model) == told(loaded)
    assert found.model.embedding_size == loaded.embedding_size
    assert found.guide_width == 16


def test_a_random_encoder_has_the_table_of_its_tokenizer(tmp_path):
    folder = write_folder(tmp_path / "model", "bert")
    (folder / "model.safetensors").unlink()
    here = dataclasses.replace(recipe(), tokenizer=TokenizerConfig(source=str(folder)))
    assert abstract_model(here).encoder.vocab_size == len(bert_tokenizer()) < 100
    away = dataclasses.replace(recipe(), tokenizer=TokenizerConfig(source="nobody/none"))
    found = abstract_model(away)
    assert found.encoder.vocab_size == 30522
    assert "30,522 tokens (the tokenizer is not here)" in found.source
