"""Part two: short runs that differ in the loss alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from simjax import mesh as meshes
from simjax.data.tokenizer import train_wordpiece
from simjax.errors import SimjaxError
from simjax.inference import Cutter
from simjax.lab.precision import arms, batches
from simjax.lab.precision.batches import PairTokens
from simjax.lab.precision.scoring import Scorer
from simjax.lab.precision.settings import (
    LOGGED,
    Block,
    Dtype,
    Form,
    Optimizer,
    RunKey,
    TrainingSettings,
)
from simjax.lab.precision.system import ArmSystem, make_optimizer, set_rate
from simjax.lab.precision.texts import Corpus, easy
from simjax.models.encoder import EncoderConfig
from simjax.models.sentence_model import SentenceModel, split
from simjax.train.state import TrainState, shardings, state_specs
from simjax.train.step import Metrics, Step, StepOptions, make_step
from simjax.types import Batch, Params

POINTS = 10
"""Windows of a run whose means are kept of what was logged at each step."""


Logged: TypeAlias = dict[str, np.ndarray]


def check_batches(corpus: Corpus, settings: TrainingSettings) -> None:
    """Whether every batch can be filled.

    Raises:
        SimjaxError: There are fewer pairs than a batch.
    """
    largest = max(*settings.batches, *settings.easy_batches, settings.warm_up_batch)
    for count in (len(corpus.pairs), len(easy(corpus.pairs))):
        if count < largest:
            raise SimjaxError(f"--batches {largest}: the corpus has {count} pairs to train on")


class Trainer:
    """All that the runs of a study share: texts as tokens, starting points, compiled steps."""

    def __init__(self, corpus: Corpus, settings: TrainingSettings) -> None:
        """Train a tokenizer and tokenise.

        Raises:
            SimjaxError: There are fewer pairs than a batch.
        """
        self.settings = settings
        check_batches(corpus, settings)
        texts = [text for pair in corpus.pairs for text in pair]
        tokenizer = train_wordpiece(texts, settings.vocabulary)
        cutter = Cutter(tokenizer, settings.max_length)
        self.pairs: dict[Block, PairTokens] = {
            "corpus": PairTokens.of(corpus.pairs, cutter),
            "easy": PairTokens.of(easy(corpus.pairs), cutter),
        }
        self._shape = EncoderConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.width,
            num_layers=settings.layers,
            num_heads=settings.heads,
            intermediate_size=settings.intermediate,
            max_positions=settings.max_length,
            hidden_dropout=0.0,
            attention_dropout=0.0,
        )
        self._mesh = meshes.make_mesh(meshes.MeshConfig(data=1), jax.devices()[:1])
        self.score = Scorer(corpus, cutter, self._model("float32", 0)[0], settings.width)
        # What runs share, kept as long as runs that use it follow each other.
        self._compiled = lru_cache(maxsize=1)(self._compile)
        self._batches = lru_cache(maxsize=1)(self._make_batches)
        self.start = cache(self._warm_up)
        self._warm = cache(
            lambda steps: self._compile(
                "corpus", "softplus", "adamw", settings.warm_up_batch, "float32", steps
            )
        )

    def run(self, key: RunKey) -> dict[str, Any]:
        """Train once and score.

        Returns:
            `scores`, None where the run `diverged`; `history`: for each of `LOGGED`, means over
            `POINTS` windows of the run; `dropped`: updates left out because their gradient was not
            finite.
        """
        params, logged = self.train(key)
        scores = self.score(params)
        return {
            "scores": dict.fromkeys(self.score.names) if scores is None else scores,
            "diverged": scores is None,
            "history": {name: windows(values) for name, values in logged.items()},
            "dropped": int(np.count_nonzero(~np.isfinite(logged["grad_norm"]))),
        }

    def train(self, key: RunKey) -> tuple[Params, Logged]:
        """The parameters that `run` scores, and what was logged at each step."""
        steps = self.settings.steps(key.batch)
        compiled = self._compiled(key.block, key.arm, key.optimizer, key.batch, key.dtype, steps)
        made = self._batches(key.block, key.batch, steps)[key.seed]
        return compiled.train(self.start(key.seed), made, key.rate)

    def dcl_difference(self, batch: int, rate: float) -> dict[str, Any]:
        """How far DCL and FlatNCE come apart: the largest difference of any parameter.

        Returns:
            `parameters`, after `steps` updates with AdamW in float32; and `moved`, the largest
            change that FlatNCE made to any parameter. None where they are not finite.
        """
        key = RunKey("corpus", "flatnce", "adamw", rate, batch, "float32", 0)
        steps = self.settings.steps(batch)
        dcl = self._compile("corpus", "dcl", "adamw", batch, "float32", steps)
        made = self._batches("corpus", batch, steps)[0]
        ends = (self.train(key)[0], dcl.train(self.start(0), made, rate)[0])

        def largest(a: Params, b: Params) -> float:
            leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
            return float(np.max([np.abs(np.asarray(x) - np.asarray(y)).max() for x, y in leaves]))

        figures = {"parameters": largest(*ends), "moved": largest(ends[0], self.start(0))}
        finite = {name: x if math.isfinite(x) else None for name, x in figures.items()}
        return {**finite, "steps": steps}

    def _warm_up(self, seed: int) -> Params:
        """Where all arms of a seed start: host arrays, so that no step can take them away."""
        settings = self.settings
        _, params = self._model("float32", seed)
        if settings.warm_up_steps:
            steps, batch = settings.warm_up_steps, settings.warm_up_batch
            order = batches.order(1000 + seed, len(self.pairs["corpus"].lengths), batch, steps)
            (made,) = batches.make(self.pairs["corpus"], [order], settings.row_length)
            params, _ = self._warm(steps).train(params, made, settings.warm_up_rate)
        return jax.device_get(params)

    def _model(self, dtype: Dtype, seed: int) -> tuple[Any, Params]:
        rngs = nnx.Rngs(params=seed)
        return split(SentenceModel(self._shape, "mean", dtype=np.dtype(dtype), rngs=rngs))

    def _make_batches(self, block: Block, batch: int, steps: int) -> list[list[Batch]]:
        settings, pairs = self.settings, self.pairs[block]
        count = len(pairs.lengths)
        orders = [batches.order(seed, count, batch, steps) for seed in range(settings.seeds)]
        return batches.make(pairs, orders, settings.row_length)

    def _compile(
        self, block: Block, arm: Form, optimizer: Optimizer, batch: int, dtype: Dtype, steps: int
    ) -> _Compiled:
        settings = self.settings
        temperature = settings.temperature if block == "corpus" else settings.easy_temperature
        graphdef, params = self._model(dtype, 0)
        how = arms.FLOAT32 if dtype == "float32" else arms.BFLOAT16
        system = ArmSystem(graphdef, arm, how, temperature)
        tx = make_optimizer(optimizer, steps, settings.weight_decay, params)
        options = StepOptions(micro_blocks=None, gather="step", clip_norm=None, seed=0)
        specs = state_specs(params, tx, self._mesh)

        def start(params: Params, rate: jax.Array) -> TrainState:
            opt_state = set_rate(tx.init(params), rate)
            return TrainState(params, opt_state, jnp.zeros((), jnp.int32))

        return _Compiled(
            jax.jit(start, out_shardings=shardings(specs, self._mesh)),
            make_step(system, tx, _no_schedule, specs, self._mesh, options),
        )


@dataclass(frozen=True)
class _Compiled:
    """What runs of one kind share, whatever their seed and learning rate.

    Attributes:
        start: The state before the first step, from parameters and the peak learning rate.
        step: The update.
    """

    start: Callable[[Params, Any], TrainState]
    step: Step

    def train(self, params: Params, made: list[Batch], rate: float) -> tuple[Params, Logged]:
        """The parameters after all batches, and what was logged at each."""
        state = self.start(params, np.float32(rate))
        logged: list[Metrics] = []
        for batch in made:
            state, metrics = self.step(state, batch)
            logged.append({name: metrics[name] for name in LOGGED})
        values = jax.device_get(logged)
        return state.params, {name: np.asarray([one[name] for one in values]) for name in LOGGED}


def _no_schedule(count: Any) -> jax.Array:
    """The rate stands in the optimiser's state; the step asks for one to log."""
    return jnp.float32(math.nan)


def windows(values: np.ndarray) -> list[float | None]:
    """Means of the finite values of equal parts of a run, None where there are none."""
    parts = np.array_split(np.asarray(values, np.float64), min(POINTS, len(values)))
    finite = [part[np.isfinite(part)] for part in parts]
    return [float(part.mean()) if len(part) else None for part in finite]
