"""Micro-batches that fit: the choice, what the compiler says, and what a user sees of both."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest

from simjax.data import corpus
from simjax.data.pipeline import BatchSource
from simjax.data.sources import Source
from simjax.errors import UsageError
from simjax.mesh import make_mesh
from simjax.train import memory
from simjax.train.setup import make_tokenizer, set_up
from simjax.train.state import abstract_state
from tests.train.tiny_run import BATCH, BLOCK, WORDS, config_for, write_data


class Compiler:
    """Steps of 100 bytes, and 10 or so for each block of the micro-batch."""

    def __init__(self, wobble=0):
        self.asked = []
        self.wobble = wobble

    def __call__(self, blocks):
        self.asked.append(blocks)
        return 100 + 10 * blocks + (self.wobble if blocks not in (1, 24) else 0)


def choose(free, asked=None, share=24, surely=10**9, compiler=None):
    compiler = compiler or Compiler()
    fit = memory.choose(share, asked, 8, free, lambda blocks: surely, compiler)
    return fit, compiler.asked


@pytest.mark.parametrize(
    ("free", "blocks", "compiled"),
    [
        (340, 24, [24]),
        (339, 12, [24, 1, 12]),
        (180, 8, [24, 1, 8]),
        (119, 1, [24, 1]),
        (110, 1, [24, 1]),
    ],
)
def test_the_largest_that_divides_the_share(free, blocks, compiled):
    fit, asked = choose(free)
    assert (fit.micro_blocks, fit.bytes) == (blocks, 100 + 10 * blocks)
    assert asked == compiled


def test_the_new_state_takes_the_place_of_the_old_and_other_results_do_not():
    analysis = SimpleNamespace(
        argument_size_in_bytes=1000,
        output_size_in_bytes=930,
        alias_size_in_bytes=900,
        temp_size_in_bytes=200,
        generated_code_size_in_bytes=5,
    )
    program = SimpleNamespace(memory_analysis=lambda: analysis)
    assert memory.ProgramBytes.of(program) == memory.ProgramBytes(1000, 230, 5)
    assert memory.program_bytes(program) == 1235


class TooLarge:
    """A step that the compiler gives up on, with this message."""

    def __init__(self, message):
        self.message = message

    def lower(self, state, batch):
        return self

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


TPU = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "


@pytest.mark.parametrize(
    ("message", "free", "taken"),
    [
        (f"{TPU}hbm. Used 22.03G of 15.75G hbm.", 0, int(22.03 * 2**30)),
        # The compiler may have less than the device says that it has.
        (f"{TPU}hbm. Used 15.80G of 15.75G hbm.", 16 * 2**30, 16 * 2**30 + 1),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 800 bytes.", 900, 901),
    ],
)
def test_a_step_that_is_not_compiled_for_want_of_memory_does_not_fit(message, free, taken):
    assert memory.step_bytes(TooLarge(message), None, None, free) == taken


@pytest.mark.parametrize("message", ["INTERNAL: Mosaic failed", f"{TPU}vmem. Used 20M of 16M vmem"])
def test_a_compiler_that_fails_for_another_reason_is_heard(message):
    with pytest.raises(jax.errors.JaxRuntimeError):
        memory.step_bytes(TooLarge(message), None, None, 900)


def test_a_size_that_takes_more_than_its_part_is_passed_over():
    fit, asked = choose(185, compiler=Compiler(wobble=10))
    assert (fit.micro_blocks, fit.bytes) == (6, 170) and asked == [24, 1, 8, 6]


def test_nothing_is_compiled_where_there_is_no_doubt():
    assert choose(1000, surely=499) == (memory.Fit(24), [])
    assert choose(1000, surely=500)[1] == [24]
    assert choose(1000, asked=3, surely=499)[0] == memory.Fit(3)


def test_what_was_asked_for_is_kept_or_refused():
    assert choose(160, asked=6)[0].micro_blocks == 6
    with pytest.raises(UsageError, match=r"train.micro_batch 64 needs .* largest that fits is 32"):
        choose(140, asked=8)
    with pytest.raises(UsageError, match=r"a step needs .* with the smallest micro-batch"):
        choose(109)
    with pytest.raises(UsageError, match=r"a step needs .* with the smallest micro-batch"):
        choose(109, asked=1)


def test_a_batch_is_as_large_as_those_of_the_source_with_the_longest_texts(tmp_path):
    (tmp_path / "short.csv").write_text("anchor,positive\n" + "ba,ce\n" * 64)
    words = " ".join(WORDS[:14])
    (tmp_path / "long.csv").write_text("anchor,positive\n" + f"{words},{words}\n" * 64)
    config = config_for(write_data(tmp_path), tmp_path / "run")
    sources = tuple(Source(path=f"{name}.csv") for name in ("long", "short"))
    data = dataclasses.replace(config.data, source=Source(), sources=sources)
    config = dataclasses.replace(config, data=data)
    source = BatchSource(corpus.prepare(data, make_tokenizer(config)), data)
    rows = [source[n].batch.block.tokens.shape[1] for n in range(8)]
    most = memory.abstract_batch(source, make_mesh(config.mesh)).block.tokens.shape[1]
    assert rows[0] < max(rows) <= most


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def test_the_time_that_the_compiler_takes_is_told(data, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "most_bytes", lambda *_: 1000)
    monkeypatch.setattr(memory, "room", lambda devices: 1000)
    monkeypatch.setattr(memory, "step_bytes", lambda *_: 1000)
    assert set_up(config_for(data, tmp_path / "run")).compile_seconds > 0


@pytest.mark.slow
def test_a_run_chooses_for_itself(data, tmp_path, monkeypatch):
    config = config_for(data, tmp_path / "run")
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, micro_batch=None),
        mesh=dataclasses.replace(config.mesh, data=1, fsdp=1),
    )
    run = set_up(config)
    assert run.chosen_micro_batch is None and "micro" not in run.summary()
    assert run.compile_seconds == 0

    state = abstract_state(run.params, run.tx, run.mesh)
    batch = memory.abstract_batch(run.source, run.mesh)
    assert batch.place.shape == (BATCH // BLOCK,)
    whole = memory.step_bytes(run.step, state, batch)
    shape, blocks = run.model.config, BATCH // BLOCK
    # What the formula says is what the choice rests on where nothing is compiled.
    assert memory.most_bytes(shape, state, batch, blocks) > whole

    monkeypatch.setattr(memory, "room", lambda devices: whole - 1)
    smaller = set_up(config)
    micro = smaller.chosen_micro_batch
    assert micro is not None and micro < BATCH and BATCH % micro == 0
    taken = memory.step_bytes(smaller.step, state, batch)
    assert taken < whole
    assert memory.most_bytes(shape, state, batch, micro // BLOCK) > taken
    assert f"micro-batches of {micro}" in smaller.summary()

    monkeypatch.setattr(memory, "room", lambda devices: 1000)
    with pytest.raises(UsageError, match="with the smallest micro-batch of whole blocks"):
        set_up(config)


def test_memory_of_this_machine():
    every = memory.room(jax.devices())
    one = memory.room(jax.devices()[:1])
    assert every is not None and one is not None and 0 < every < one
