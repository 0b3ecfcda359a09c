"""Will a step fit, and with what micro-batch: asked of the compiler before the first step."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil

from simjax import mesh as meshes
from simjax.checkpoint.agreement import of_all_processes
from simjax.data.pipeline import BatchSource
from simjax.errors import UsageError
from simjax.models.config import EncoderConfig
from simjax.models.decoder import HEAD
from simjax.train.state import TrainState
from simjax.types import Batch

# What the formula says is far above what compiled steps take, and is trusted this far.
_SURELY = 0.5
# Where Linux says what a container may take.
_GROUP = Path("/sys/fs/cgroup")
# What the compiler for TPUs says of a program that is too large.
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def room(devices: Sequence[jax.Device]) -> int | None:
    """Bytes that the fullest of ``devices`` has left; None where nothing tells.

    CPU devices of a process share its memory in equal parts. All processes get the same answer.
    """
    mine = [device for device in devices if device.process_index == jax.process_index()]
    if mine[0].platform == "cpu":
        free = _free_memory() // len(mine)
    else:
        counts = [device.memory_stats() or {} for device in mine]
        if not all("bytes_limit" in count for count in counts):
            return None
        free = min(int(c["bytes_limit"]) - int(c["bytes_in_use"]) for c in counts)
    return int(of_all_processes(np.asarray([free])).min())


def _free_memory() -> int:
    """Bytes that this process may still take of the machine, or of its share of it."""
    free = int(psutil.virtual_memory().available)
    try:
        most = (_GROUP / "memory.max").read_text().strip()
        used = int((_GROUP / "memory.current").read_text())
        # Copies of files are let go of when memory is needed.
        counts = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
        used -= int(counts.get("file", 0))
    except (OSError, ValueError):
        return free
    return min(free, int(most) - used) if most.isdigit() else free


def step_bytes(step: Any, state: TrainState, batch: Batch, free: int = 0) -> int:
    """Bytes of a device that a step takes once compiled, its state and its batch included.

    Some compilers give no program that is too large, and say what it would take, or not even that:
    it is then more than ``free``.

    Args:
        step: A jitted function of state and batch.
        state: Shapes and shardings.
        batch: Shapes and shardings.
        free: Bytes that a device has left.

    Raises:
        JaxRuntimeError: The compiler fails, for another reason than that memory is too small.
    """
    lowered = step.lower(state, batch)
    try:
        taken = ProgramBytes.of(lowered.compile()).total
    except jax.errors.JaxRuntimeError as error:
        said = needed_bytes(str(error))
        # Of a kernel's own memory, which on TPUs is `vmem`, smaller batches need no less.
        if said is None and ("RESOURCE_EXHAUSTED" not in str(error) or "vmem" in str(error)):
            raise
        taken = max(said or 0, free + 1)
    return _largest_of_all(taken)


def needed_bytes(message: str) -> int | None:
    """Bytes that the compiler would have liked; None where that is not what its message says."""
    found = _USED.search(message)
    if found is None:
        return None
    number, unit = found.groups()
    return int(float(number) * _UNITS[unit])


@dataclass(frozen=True)
class ProgramBytes:
    """Bytes of a device that a compiled step takes.

    Attributes:
        arguments: Of state and batch, which the new state takes the place of.
        temporary: Of all that comes and goes, and of results that are new.
        code: Of the program.
    """

    arguments: int
    temporary: int
    code: int

    @classmethod
    def of(cls, program: Any) -> ProgramBytes:
        """As the compiler of the program says."""
        found = program.memory_analysis()
        new = found.output_size_in_bytes - found.alias_size_in_bytes
        temporary = found.temp_size_in_bytes + new
        return cls(found.argument_size_in_bytes, temporary, found.generated_code_size_in_bytes)

    @property
    def total(self) -> int:
        """All of them."""
        return self.arguments + self.temporary + self.code


def program_bytes(program: Any) -> int:
    """Bytes of a device that a compiled step takes, its state and its batch included."""
    return _largest_of_all(ProgramBytes.of(program).total)


def _largest_of_all(taken: int) -> int:
    # All processes must choose alike, and may have been given different programs.
    return int(of_all_processes(np.asarray([taken])).max())


def most_bytes(
    shape: EncoderConfig, state: TrainState, batch: Batch, micro_blocks: int, encodings: int = 1
) -> int:
    """More than a step takes, by formula: states of every layer, in float32, kept for all tokens.

    The activations are of as many encodings of a micro-batch as the objective asks for. For each
    token and layer 20 vectors of the hidden size, 6 of the feed-forward part's, and 4
    rows of scores; for the parameters two copies of the state beside it; twice that.
    """
    _, rows, length = batch.block.tokens.shape
    a_token = 20 * shape.hidden_size + 6 * shape.kernels_in + 4 * shape.num_heads * length
    activations = 4 * encodings * micro_blocks * rows * length * (shape.num_layers + 1) * a_token
    # The loss has all keys and their gradients, this device's share of anchors, and what a guide
    # says of all of them.
    embeddings = 64 * encodings * batch.ids.size * shape.hidden_size
    own = sum(_shard_bytes(leaf) for leaf in jax.tree.leaves(state))
    # Parameters that are split are gathered, and have whole gradients before these are scattered.
    whole = sum(4 * leaf.size for leaf in jax.tree.leaves(state.params))
    # A head over the vocabulary makes logits for the tokens of one block at a time.
    logits = 12 * rows * length * shape.vocab_size if HEAD in state.params else 0
    guide = 0 if batch.guide is None else 8 * batch.guide.size
    return 2 * (3 * own + 4 * whole + activations + embeddings + guide + logits)


def _shard_bytes(leaf: Any) -> int:
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return int(np.prod(shape)) * leaf.dtype.itemsize


def abstract_batch(source: BatchSource, mesh: jax.sharding.Mesh) -> Batch:
    """A global batch as large as they usually get, without its content."""
    first = source[0].batch
    # In a long run some batch needs a little more than any of the sample.
    larger = (rows for rows in source.ladder if rows > source.foreseen)
    most = next(larger, source.ladder[-1])
    sharding, processes = meshes.batch_sharding(mesh), jax.process_count()

    def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
        shape = (leaf.shape[0] * processes, *leaf.shape[1:])
        if leaf.ndim == 3 and leaf.shape[1:] == first.block.tokens.shape[1:]:
            shape = (shape[0], most, shape[2])
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(abstract, first)


@dataclass(frozen=True)
class Fit:
    """A micro-batch that fits.

    Attributes:
        micro_blocks: Blocks that a device encodes at a time.
        bytes: Of a device, by the compiler; None where the formula left no doubt.
    """

    micro_blocks: int
    bytes: int | None = None


def choose(
    share: int,
    asked: int | None,
    block_size: int,
    free: int,
    surely: Callable[[int], int],
    measure: Callable[[int], int],
) -> Fit:
    """The largest micro-batch that fits, or the one that was asked for if it does.

    Args:
        share: Blocks of a device's share of the batch.
        asked: Blocks of the micro-batch that the configuration names; None leaves the choice.
        block_size: Examples of a block.
        free: Bytes that a device has left.
        surely: By blocks of a micro-batch, bytes that a step does not exceed.
        measure: By blocks of a micro-batch, bytes that the compiled step takes.

    Raises:
        UsageError: No micro-batch fits, or not the one that was asked for; with the largest that
            does.
    """
    wanted = share if asked is None else asked
    if surely(wanted) < _SURELY * free:
        return Fit(wanted)
    taken = measure(wanted)
    if taken <= free:
        return Fit(wanted, taken)
    smaller = [n for n in range(wanted - 1, 0, -1) if share % n == 0]
    fit = _largest(smaller, wanted, taken, free, measure) if smaller else None
    needs = f"needs {_gigabytes(taken)} of a device that has {_gigabytes(free)} left"
    if fit is None:
        raise UsageError(
            f"a step {needs} with the smallest micro-batch of whole blocks; choose "
            "train.remat layer, a smaller data.block_size or data.batch_size, or more devices "
            "for mesh.fsdp"
        )
    if asked is not None:
        raise UsageError(
            f"train.micro_batch {asked * block_size} {needs}; the largest that fits is "
            f"{fit.micro_blocks * block_size}"
        )
    return fit


def _largest(
    smaller: list[int], wanted: int, taken: int, free: int, measure: Callable[[int], int]
) -> Fit | None:
    least = smaller[-1]
    floor = measure(least)
    if floor > free:
        return None
    # What a step takes grows in proportion, so that few sizes need be compiled.
    slope = (taken - floor) / (wanted - least)
    for blocks in smaller[:-1]:
        if floor + slope * (blocks - least) <= free:
            found = measure(blocks)
            if found <= free:
                return Fit(blocks, found)
    return Fit(least, floor)


def _gigabytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
