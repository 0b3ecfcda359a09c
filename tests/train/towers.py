"""A tiny tower with its batch, and its gradient compiled for any layout of devices."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from simjax import mesh as meshes
from simjax.data.packing import best_fit_blocks, pack
from simjax.mesh import MeshConfig
from simjax.models.cutoff import Cutoff
from simjax.models.encoder import EncoderConfig
from simjax.models.families import Family
from simjax.models.lm_head import LanguageModelHead
from simjax.models.sentence_model import SentenceModel, merge, split
from simjax.objectives.config import ContrastiveConfig
from simjax.objectives.contrastive import Contrastive
from simjax.objectives.masked_lm import Vocabulary
from simjax.objectives.system import EmbeddingSystem
from simjax.objectives.uniformity import Views
from simjax.train import optimizer
from simjax.train.optimizer_config import AdamW
from simjax.train.state import shardings, state_specs
from simjax.train.step import StepOptions, value_and_grad
from simjax.train.system import masked_lm
from simjax.types import NO_TEXT, Batch, Params

EXAMPLES, VIEWS, ROW = 2, 3, 16
VOCABULARY, WIDTH = 96, 32
# XLA's own passes, whose work the tests read, are all run; LLVM's, which take longest, are not.
FAST_COMPILE = {"xla_backend_optimization_level": 0}


def batch_of(blocks: int, seed: int = 0) -> Batch:
    """Blocks of triples; texts repeat here and there, and some hard negatives are absent."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, blocks * EXAMPLES * 2, (blocks, EXAMPLES, VIEWS)).astype(np.int32)
    ids[random.random(ids.shape) < [0, 0, 0.2]] = NO_TEXT
    lengths = np.where(ids == NO_TEXT, 0, random.integers(2, 7, ids.shape))
    lengths = lengths.reshape(blocks, -1)
    tokens = random.integers(1, VOCABULARY, lengths.sum()).astype(np.int32)
    starts = (np.cumsum(lengths) - lengths.reshape(-1)).reshape(lengths.shape)
    placed = best_fit_blocks(lengths, ROW)
    where = (starts, lengths, placed.row, placed.column)
    block = pack(tokens, *where, rows=4, row_length=ROW)
    labels = np.full((blocks, EXAMPLES), -1, np.int32)
    return Batch(block, ids, labels, np.arange(blocks, dtype=np.int32))


@dataclass(frozen=True)
class Layout:
    """Devices, and how each goes through its share of the batch."""

    data: int = 1
    fsdp: int = 1
    micro_blocks: int | None = None
    gather: str = "step"
    keys: str = "all_gather"
    tensor: int = 1
    noise: bool = False

    def __str__(self) -> str:
        micro = f"-micro{self.micro_blocks}" if self.micro_blocks else ""
        layer = "-layer" if self.gather == "layer" else ""
        tensor = f"x{self.tensor}" if self.tensor > 1 else ""
        return (
            f"{self.data}x{self.fsdp}{tensor}{micro}{layer}{'-ring' if self.keys == 'ring' else ''}"
        )


@dataclass
class Tower:
    """A random tower and its objective."""

    objective: ContrastiveConfig = field(
        default_factory=lambda: ContrastiveConfig(directions="symmetric")
    )
    dtype: Any = jnp.float32
    dropout: float = 0.1
    family: Family = "bert"
    cutoffs: tuple[Cutoff, ...] = ()
    mask_groups: int = 1

    @cached_property
    def _parts(self) -> tuple[EmbeddingSystem, Params]:
        shape = EncoderConfig(
            family=self.family,
            **({"window": 4, "global_every": 2} if self.family == "modernbert" else {}),
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_layers=2,
            num_heads=2,
            intermediate_size=64,
            max_positions=16,
            hidden_dropout=self.dropout,
            attention_dropout=self.dropout,
            initializer_range=0.1,
        )
        graphdef, params = split(SentenceModel(shape, "mean", dtype=self.dtype, rngs=nnx.Rngs(0)))

        def encode(params: Params, batch: Batch, key: Any, gather_layer: Any) -> jax.Array:
            model = merge(graphdef, params)
            return model(
                batch.block,
                dropout_key=key,
                place=batch.place,
                gather_layer=gather_layer,
                mask_groups=self.mask_groups,
                cutoffs=self.cutoffs,
                cutoff_key=key,
            )

        views = Views(positives=1, one_distribution=False, group=EXAMPLES)
        dropout, separable, heads = self.dropout > 0, None, {}
        if self.objective.mlm is not None:
            head = LanguageModelHead(shape, rngs=nnx.Rngs(1))
            vocabulary = Vocabulary(VOCABULARY, mask=3, special=(0, 1, 2, 3))
            separable = masked_lm(
                self.objective.mlm, partial(merge, graphdef), head, vocabulary, dropout=dropout
            )
            heads["lm_head"] = split(head)[1]
        objective = Contrastive(self.objective, views, self.dtype)
        system = EmbeddingSystem(encode, objective, dropout, separable)
        return system, system.init(params, WIDTH, 0, **heads)

    @property
    def system(self) -> EmbeddingSystem:
        return self._parts[0]

    @property
    def params(self) -> Params:
        return self._parts[1]

    def gradient(self, layout: Layout) -> tuple[Any, Any, Any]:
        """The function, the mesh that it runs on, and how the state lies there."""
        mesh = meshes.make_mesh(
            MeshConfig(layout.data, layout.fsdp, layout.tensor),
            jax.devices()[: layout.data * layout.fsdp * layout.tensor],
        )
        tx, _ = optimizer.make(AdamW(), 10, 32)
        specs = state_specs(self.params, tx, mesh)
        options = StepOptions(layout.micro_blocks, layout.gather, 1.0, 0, noise=layout.noise)
        objective = replace(self.system.objective, exchange=layout.keys)
        system = replace(self.system, objective=objective)
        return jax.jit(value_and_grad(system, specs.params, mesh, options)), mesh, specs

    def compiled(self, layout: Layout, blocks: int) -> Compiled:
        """The gradient's program for a batch of so many blocks."""
        function, mesh, specs = self.gradient(layout)
        params = jax.device_put(self.params, shardings(specs, mesh).params)
        batch = jax.device_put(batch_of(blocks), meshes.batch_sharding(mesh))
        key = jax.random.key(1)
        lowered = function.lower(params, batch, key)
        program = lowered.compile(compiler_options=FAST_COMPILE)
        return Compiled(lowered, program, (params, batch, key))


@dataclass
class Compiled:
    """A compiled gradient and what it is called with."""

    lowered: Any
    program: Any
    arguments: tuple[Any, ...]

    @cached_property
    def result(self) -> tuple[dict[str, float], Params]:
        """Metrics and gradients."""
        metrics, grads = self.program(*self.arguments)
        return {name: float(x) for name, x in metrics.items()}, jax.tree.map(np.asarray, grads)

    @cached_property
    def text(self) -> str:
        """What the compiler made of it."""
        return re.sub(r"/\*.*?\*/", "", self.program.as_text())

    @property
    def reduced_types(self) -> set[str]:
        """Element types of all reductions over devices, as the compiler was asked for them.

        Its result does not tell: on CPUs it does bfloat16 reductions in float32.
        """
        text = self.lowered.as_text()
        names = r"stablehlo\.(?:all_reduce|reduce_scatter)"
        asked = re.findall(names + r".*?\^bb0\(%\w+: tensor<(\w+)>", text, re.DOTALL)
        assert len(asked) == len(re.findall(names, text)) > 0
        return set(asked)

    @property
    def temporary_bytes(self) -> int:
        """Memory besides arguments and results, on one device."""
        return self.program.memory_analysis().temp_size_in_bytes


_COLLECTIVE = re.compile(
    r"= (?P<shape>[^=]*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute|collective-broadcast)(-start)?\("
)
_CALL = re.compile(r"(?:\w+=)(%[\w.-]+|\{%[^}]*\})")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


def computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation of a compiled program."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        head = re.match(r"(?:ENTRY )?(%[\w.-]+) \(.*\{$", line)
        if head:
            lines = found[head[1]] = []
        elif line.startswith("  "):
            lines.append(line)
    return found


def in_loops(text: str) -> list[str]:
    """The lines of all computations that a while loop runs again and again."""
    found = computations(text)
    todo = [
        name
        for lines in found.values()
        for line in lines
        if " while(" in line
        for name in re.findall(r"(?:body|condition)=(%[\w.-]+)", line)
    ]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in found[name]:
            called = [
                part for group in _CALL.findall(line) for part in re.findall(r"%[\w.-]+", group)
            ]
            todo += [part for part in called if part in found]
    return [line for name in seen for line in found[name]]


def collectives(lines: list[str]) -> list[tuple[str, list[tuple[str, tuple[int, ...]]]]]:
    """Kind of each collective, and type and shape of each of its results."""
    found = []
    for line in lines:
        match = _COLLECTIVE.search(line)
        if match:
            arrays = [
                (dtype, tuple(int(n) for n in sizes.split(",") if n))
                for dtype, sizes in _ARRAY.findall(match["shape"])
            ]
            found.append((match["kind"], arrays))
    return found
