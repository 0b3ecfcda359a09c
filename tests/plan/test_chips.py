"""What accelerators can do, beside what their makers publish."""

from __future__ import annotations

import pytest

from simjax.plan.chips import CHIPS
from simjax.train.throughput import published_peak

KINDS = {
    "v4": "TPU v4",
    "v5e": "TPU v5 lite",
    "v5p": "TPU v5",
    "v6e": "TPU v6 lite",
    "a100": "NVIDIA A100-SXM4-80GB",
    "h100": "NVIDIA H100 80GB HBM3",
    "h200": "NVIDIA H200",
}


@pytest.mark.parametrize("name", CHIPS)
def test_peaks_are_those_that_training_measures_itself_by(name):
    for dtype in ("bfloat16", "float32"):
        assert CHIPS[name].peak(dtype) == published_peak(KINDS[name], dtype)


@pytest.mark.parametrize(
    ("name", "gigabytes", "per_second", "both_ways"),
    [
        # cloud.google.com/tpu/docs/{v5e,v5p,v6e}: HBM capacity and bandwidth per chip, and
        # "bidirectional inter-chip interconnect (ICI) bandwidth (per chip)".
        ("v5e", 16 * 1.073741824, 819, 400),
        ("v5p", 95 * 1.073741824, 2765, 1200),
        ("v6e", 32 * 1.073741824, 1638, 800),
        # NVIDIA's data sheets: memory, its bandwidth, and NVLink.
        ("a100", 80, 2039, 600),
        ("h100", 80, 3350, 900),
        ("h200", 141, 4800, 900),
    ],
)
def test_memory_and_links_are_as_published(name, gigabytes, per_second, both_ways):
    chip = CHIPS[name]
    assert chip.memory == pytest.approx(gigabytes * 1e9)
    assert chip.memory_bandwidth == per_second * 1e9
    assert chip.links == both_ways * 1e9 / 2


@pytest.mark.parametrize(
    ("name", "axes", "gigabytes"),
    [
        # cloud.google.com/tpu/docs: v5e and v6e are 2D tori with 4 ports a chip, v4 and v5p 3D ones
        # with 6; each sends its part of what the chip sends.
        ("v4", 3, 300 / 6),
        ("v5e", 2, 200 / 4),
        ("v5p", 3, 600 / 6),
        ("v6e", 2, 400 / 4),
        # Through NVSwitch one peer gets everything.
        ("a100", 0, 300),
        ("h100", 0, 450),
        ("h200", 0, 450),
    ],
)
def test_one_neighbour_of_a_torus_is_sent_to_over_one_link(name, axes, gigabytes):
    assert CHIPS[name].axes == axes
    assert CHIPS[name].link == gigabytes * 1e9
