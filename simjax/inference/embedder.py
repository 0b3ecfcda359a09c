"""A model on one or several devices: windows of texts in, vectors out as they are ready."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import jax
import numpy as np
from jax import P
from jax.sharding import NamedSharding
from jaxtyping import Float32, Int

from simjax.inference.calls import Call, calls
from simjax.inference.cutter import Cutter
from simjax.inference.request import Distinct, Request
from simjax.mesh import MeshConfig, batch_spec, make_mesh
from simjax.models.decoder import LATENTS
from simjax.models.latents import embed
from simjax.models.sentence_model import GraphDef, merge
from simjax.postprocess.flow import Flow
from simjax.types import Block, Params

WINDOW = 4096
"""Texts that are tokenised and packed together, while the devices compute those before them."""
CHARACTERS = 1024
"""For each text of a full window: where texts are longer, a window has fewer of them. A tokenizer
takes a long text whole before it cuts it."""


@dataclass(frozen=True)
class Part:
    """Vectors of some texts of a window.

    Attributes:
        window: Number of the window.
        texts: Which of its texts.
        values: Their vectors.
    """

    window: int
    texts: Int[np.ndarray, "n"]
    values: Float32[np.ndarray, "n D"]


class Weights(NamedTuple):
    """A model's parameters, and its flow's, on one device and, the same for several, on all."""

    single: tuple[Params, Flow | None]
    everywhere: tuple[Params, Flow | None]


class Embedder:
    """The compiled forward pass of a model's structure, for any parameters."""

    def __init__(
        self,
        graphdef: GraphDef,
        width: int,
        *,
        training_head: bool,
        latents: GraphDef | None = None,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Prepare; nothing is compiled before it is used.

        Args:
            graphdef: Structure of the model.
            width: Its hidden size.
            training_head: False leaves out a head that is only there for training.
            latents: Structure of latents that are the embedding, in place of what the model pools.
                Parameters are then of both, `model` and `latents`.
            devices: Devices that share the work; None takes the one that the parameters are on.
        """
        self.width = width
        self.blocks = len(devices or (None,))

        def forward(
            params: Params, block: Block, flow: Flow | None = None
        ) -> Float32[jax.Array, "*K T D"]:
            if latents is None:
                vectors = merge(graphdef, params)(block, training_head=training_head)
            else:
                encoder = merge(graphdef, params["model"]).encoder
                vectors = embed(encoder, merge(latents, params[LATENTS]), block)
            return vectors if flow is None else flow.forward(vectors)[0]

        self.forward = jax.jit(forward)
        if self.blocks > 1:
            mesh = make_mesh(MeshConfig(), list(devices or ()))
            self._everywhere = NamedSharding(mesh, P())
            self._shared = jax.jit(
                jax.shard_map(
                    forward,
                    mesh=mesh,
                    in_specs=(P(), batch_spec(), P()),
                    out_specs=batch_spec(),
                )
            )

    def place(self, params: Params, flow: Flow | None = None) -> Weights:
        """Put parameters where they are needed."""
        single = (params, flow)
        if self.blocks == 1:
            return Weights(single, single)
        return Weights(single, jax.device_put(single, self._everywhere))

    def window(self, source: Iterator[str], most_tokens: int) -> Iterator[str]:
        """The texts of the next window: enough for ten calls or so of short ones.

        It ends with the text that fills it, by its number or by the characters of all.

        Args:
            source: Texts; read as far as the window goes.
            most_tokens: Most places that a device computes at a time.
        """
        most = max(WINDOW, self.blocks * most_tokens // 2)
        room = most * CHARACTERS
        for text in islice(source, most):
            yield text
            room -= len(text)
            if room <= 0:
                return

    def _start(self, weights: Weights, block: Block) -> jax.Array:
        if block.tokens.ndim == 2:
            params, flow = weights.single
            return self.forward(params, block, flow)
        params, flow = weights.everywhere
        values = self._shared(params, block, flow)
        return values.reshape(-1, values.shape[-1])

    def stream(
        self, weights: Weights, cutter: Cutter, source: Iterator[str], request: Request
    ) -> Iterator[Float32[np.ndarray, "n D"]]:
        """The embeddings of a window of texts after the other, in the order of the texts.

        Args:
            weights: From `place`.
            cutter: Texts to tokens.
            source: Texts; read two windows ahead of what is given out.
            request: What is done to every text. Equal ones of a window are computed once.
        """
        read: deque[Distinct] = deque()

        def windows() -> Iterator[list[str]]:
            number = 0
            while True:
                window = self.window(source, request.most_tokens)
                distinct = Distinct(window, request.before, number)
                if not distinct.count:
                    return
                number += distinct.count
                read.append(distinct)
                yield distinct.texts

        filled = 0
        for part in self.run(weights, cutter, windows(), request):
            if filled == 0:
                result = np.empty((len(read[0].texts), request.width), np.float32)
            result[part.texts] = part.values
            filled += len(part.texts)
            if filled == len(result):
                yield read.popleft().rows(result)
                filled = 0

    def run(
        self,
        weights: Weights,
        cutter: Cutter,
        windows: Iterable[Sequence[str]],
        request: Request,
    ) -> Iterator[Part]:
        """Embed the texts of each window, one call behind the devices.

        A thread tokenises and packs the next window meanwhile.

        Args:
            weights: From `place`.
            cutter: Texts to tokens.
            windows: Texts behind their prompt.
            request: What is done to every text.

        Yields:
            The texts of a window in some order, the windows in theirs.
        """

        def prepare(texts: Sequence[str]) -> Iterator[Call]:
            return calls(
                *cutter(texts),
                width=self.width,
                most_tokens=request.most_tokens,
                blocks=self.blocks,
            )

        def finished(window: int, call: Call, values: jax.Array) -> Part:
            kept = np.asarray(values)[call.places]
            return Part(window, call.texts, request.finish(kept))

        waiting: tuple[int, Call, jax.Array] | None = None
        for number, ready in enumerate(_ahead(prepare, windows)):
            for call in ready:
                started = self._start(weights, call.block)
                if waiting is not None:
                    yield finished(*waiting)
                waiting = (number, call, started)
        if waiting is not None:
            yield finished(*waiting)


def _ahead(
    prepare: Callable[[Sequence[str]], Iterator[Call]], windows: Iterable[Sequence[str]]
) -> Iterator[Iterable[Call]]:
    """The calls of each window: the first ones as they are packed, later ones made beforehand.

    Windows are read here and not by the thread, so that a read can be interrupted.
    """
    source = iter(windows)
    present = next(source, None)
    if present is None:
        return
    ready: Iterable[Call] = prepare(present)
    with ThreadPoolExecutor(1, "tokenise") as pool:
        for following in source:
            pending = pool.submit(lambda texts: list(prepare(texts)), following)
            yield ready
            ready = pending.result()
        yield ready
