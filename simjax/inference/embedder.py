"""A model on one or several devices: windows of texts in, vectors out as they are ready."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax
import numpy as np
from jax import P
from jax.sharding import NamedSharding
from jaxtyping import Float32, Int

from simjax.inference.calls import Call, calls
from simjax.inference.cutter import Cutter
from simjax.mesh import MeshConfig, batch_spec, make_mesh
from simjax.models.sentence_model import GraphDef, merge
from simjax.types import Block, Params

WINDOW = 4096
"""Texts that are tokenised and packed together, while the devices compute those before them."""


@dataclass(frozen=True)
class Part:
    """Vectors of some texts of a window.

    Attributes:
        window: Number of the window.
        texts: Which of its texts.
        values: Their vectors, as the model gives them.
    """

    window: int
    texts: Int[np.ndarray, "n"]
    values: Float32[np.ndarray, "n D"]


class Embedder:
    """The compiled forward pass of a model's structure, for any parameters."""

    def __init__(
        self,
        graphdef: GraphDef,
        width: int,
        *,
        training_head: bool,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Prepare; nothing is compiled before it is used.

        Args:
            graphdef: Structure of the model.
            width: Its hidden size.
            training_head: False leaves out a head that is only there for training.
            devices: Devices that share the work; None takes the one that the parameters are on.
        """
        self.width = width
        self.blocks = len(devices or (None,))

        def forward(params: Params, block: Block) -> Float32[jax.Array, "*K T D"]:
            return merge(graphdef, params)(block, training_head=training_head)

        self.forward = jax.jit(forward)
        if self.blocks > 1:
            mesh = make_mesh(MeshConfig(), list(devices or ()))
            self._everywhere = NamedSharding(mesh, P())
            self._shared = jax.jit(
                jax.shard_map(
                    forward,
                    mesh=mesh,
                    in_specs=(P(), batch_spec()),
                    out_specs=batch_spec(),
                )
            )

    def spread(self, params: Params) -> Params:
        """Parameters on every device; with one device, those that were given."""
        return params if self.blocks == 1 else jax.device_put(params, self._everywhere)

    def window(self, most_tokens: int) -> int:
        """Texts of a window: enough for ten calls or so of short ones."""
        return max(WINDOW, self.blocks * most_tokens // 2)

    def _start(self, params: Params, spread: Params, block: Block) -> jax.Array:
        if block.tokens.ndim == 2:
            return self.forward(params, block)
        values = self._shared(spread, block)
        return values.reshape(-1, values.shape[-1])

    def run(
        self,
        params: Params,
        spread: Params,
        cutter: Cutter,
        windows: Iterable[Sequence[str]],
        most_tokens: int,
    ) -> Iterator[Part]:
        """Embed the texts of each window, one call behind the devices.

        A thread tokenises and packs the next window meanwhile.

        Args:
            params: Parameters on one device.
            spread: What `spread` makes of them.
            cutter: Texts to tokens.
            windows: Texts.
            most_tokens: Most places in a block.

        Yields:
            The texts of a window in some order, the windows in theirs.
        """

        def prepare(texts: Sequence[str]) -> Iterator[Call]:
            return calls(
                *cutter(texts), width=self.width, most_tokens=most_tokens, blocks=self.blocks
            )

        waiting: tuple[int, Call, jax.Array] | None = None
        for number, ready in enumerate(_ahead(prepare, windows)):
            for call in ready:
                started = self._start(params, spread, call.block)
                if waiting is not None:
                    yield _part(*waiting)
                waiting = (number, call, started)
        if waiting is not None:
            yield _part(*waiting)


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


def _part(window: int, call: Call, values: jax.Array) -> Part:
    return Part(window, call.texts, np.asarray(values)[call.places])
