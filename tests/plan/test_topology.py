"""Names of accelerators, and what is said of wrong ones."""

from __future__ import annotations

import pytest

from simjax.errors import SimjaxError, UsageError
from simjax.plan import topology


@pytest.mark.parametrize(
    ("name", "devices", "compiles"),
    [
        ("v5e:16x16", 256, True),
        ("v5p:4x4x8", 128, True),
        ("v6e:1x1", 1, True),
        ("h100:8", 8, False),
    ],
)
def test_a_name_says_how_many_there_are(name, devices, compiles):
    found = topology.parse(name)
    assert (found.devices, found.compiles) == (devices, compiles)


@pytest.mark.parametrize("name", ["", "v5e", "v5e:", "v5e:16", "v5e:4x4x4", "v5e:0x4", "h100:2x4"])
def test_a_shape_that_no_slice_has(name):
    with pytest.raises(UsageError, match=r"--topology .* such as"):
        topology.parse(name)


def test_an_unknown_accelerator_is_answered_with_those_that_are_known():
    with pytest.raises(UsageError, match=r"'v9:8': no such accelerator; .*v5e.*h100"):
        topology.parse("v9:8")


@pytest.mark.parametrize("name", ["v5e:1x1", "v6e:1x1", "v5e:2x2"])
def test_slices_of_one_chip_and_of_one_host_are_known_to_the_compiler(name):
    pytest.importorskip("libtpu")
    found = topology.tpu_devices(name)
    assert len(found) == topology.parse(name).devices
    assert {device.process_index for device in found} == {0}


def test_without_the_compiler_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(topology, "find_spec", lambda name: None)
    topology.tpu_devices.cache_clear()
    with pytest.raises(SimjaxError, match=r"pip install --target DIR libtpu.*--no_compile"):
        topology.tpu_devices("v5e:2x4")
