"""Random numbers of the texts of a batch, each text having streams of its own.

They are those of SplitMix64 (Steele, Lea & Flood 2014), computed for all texts at a time and the
same with every version of NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt64

from simjax.data.shuffle import mix

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Keeps these numbers apart from those of other parts that start from the same seed.
_VIEWS = 0x5649455753


@dataclass(frozen=True)
class Draws:
    """Random numbers of some texts, each text having a stream of its own."""

    keys: UInt64[np.ndarray, "T"]

    @classmethod
    def of(cls, seed: tuple[int, int], examples: Int[np.ndarray, "B"], num_views: int) -> Draws:
        """Of each view of some examples, those of an example side by side."""
        (base,) = np.random.SeedSequence((*seed, _VIEWS)).generate_state(1, np.uint64)
        own = _step(np.full(len(examples), base), examples)
        views = np.tile(np.arange(num_views), len(examples))
        return cls(_step(np.repeat(own, num_views), views))

    def at(self, site: int) -> Draws:
        """Streams that have nothing to do with those of other sites."""
        return Draws(_step(self.keys, np.asarray(site)))

    def bits(
        self, text: Int[np.ndarray, "P"], number: Int[np.ndarray, "P"]
    ) -> UInt64[np.ndarray, "P"]:
        """Draw `number` of a text."""
        return _step(self.keys[text], number)

    def uniform(
        self, text: Int[np.ndarray, "P"], number: Int[np.ndarray, "P"]
    ) -> Float[np.ndarray, "P"]:
        """From 0 to below 1."""
        return _unit(self.bits(text, number))

    def of_texts(self) -> Float[np.ndarray, "T"]:
        """One for each text, from 0 to below 1."""
        return _unit(_step(self.keys, np.asarray(0)))


def _step(keys: np.ndarray, number: np.ndarray) -> np.ndarray:
    # Of arrays: NumPy warns where a single number overflows, as it shall here.
    return mix(keys + (np.atleast_1d(number).astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def _unit(bits: np.ndarray) -> np.ndarray:
    return (bits >> np.uint64(11)) * 2.0**-53
