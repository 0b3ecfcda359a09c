"""How long a step takes at least, and what keeps it from being faster.

The roofline (Williams et al. 2009): each of products, memory and links has its time at the
published peak, and a step takes at least the longest of them.

Links are charged by who is sent to. What goes round a ring of devices leaves each of them for one
neighbour: of a TPU's torus that is one link of the two on each axis, so 1 / (2 axes) of the chip's
bandwidth, where the ring's neighbours are the torus's; a switch between GPUs takes all of it. Other
collectives are taken to use all links at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simjax.plan.chips import Chip
from simjax.plan.layout import Layout
from simjax.plan.operations import exact_passes, operations
from simjax.plan.transfers import moved, sent, sent_round

BEST, USUAL = 0.8, 0.4
"""Shares of the peak that products reach: the best that is reported of transformers, and with
sizes that suit the chip less."""


@dataclass(frozen=True)
class Roofline:
    """Seconds of a step by what they are spent on, and what that makes.

    Attributes:
        products: Of matrix products at the peak.
        memory: Of transfers to and from HBM.
        links: Of transfers between chips.
        asked: Operations that the mathematics asks for, of all devices.
        peak: Operations per second of all devices.
        batch_size: Examples of a step.
    """

    products: float
    memory: float
    links: float
    asked: float
    peak: float
    batch_size: int

    @property
    def seconds(self) -> float:
        """At least."""
        return max(self.products, self.memory, self.links)

    @property
    def bound(self) -> str:
        """What takes the longest."""
        times = {"products": self.products, "memory": self.memory, "links": self.links}
        return max(times, key=lambda name: times[name])

    @property
    def expected(self) -> tuple[float, float]:
        """Seconds: products at `BEST` with all transfers beside them; at `USUAL` and none."""
        fast = max(self.products / BEST, self.memory, self.links)
        return fast, self.products / USUAL + self.memory + self.links

    @property
    def pairs_per_second(self) -> tuple[float, float]:
        """Of the slower and the faster of `expected`."""
        fast, slow = self.expected
        return self.batch_size / slow, self.batch_size / fast

    @property
    def mfu(self) -> tuple[float, float]:
        """Model FLOP/s utilisation, likewise (see `simjax.train.throughput`)."""
        fast, slow = self.expected
        return self.asked / slow / self.peak, self.asked / fast / self.peak


def roofline(layout: Layout, chip: Chip, sent_bytes: Mapping[str, float] | None = None) -> Roofline:
    """Of a step.

    Args:
        layout: Its sizes.
        chip: Each of its devices.
        sent_bytes: That each of them sends, by kind of collective, where a compiled program says;
            None takes the formula.
    """
    count = operations(layout, chip.platform)
    peak = chip.peak(layout.dtype)
    pairs = count.pairs * exact_passes(chip.platform, layout.dtype) * chip.cores
    if sent_bytes is None:
        total, ring = sum(sent(layout, chip.platform).values()), sent_round(layout, chip.platform)
    else:
        total, ring = sum(sent_bytes.values()), sent_bytes.get("collective-permute", 0.0)
    return Roofline(
        products=(count.encoder + count.head + pairs) / peak,
        memory=moved(layout, chip.platform) / chip.memory_bandwidth,
        links=(total - ring) / chip.links + ring / chip.link,
        asked=count.asked,
        peak=peak * layout.devices,
        batch_size=layout.batch_size,
    )
