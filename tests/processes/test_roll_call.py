"""Processes that differ, told by their numbers."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from simjax.errors import SimjaxError, UsageError
from simjax.processes import board, roll_call
from simjax.processes.roll_call import Disagreement, differences
from tests.processes.store import of_each


def test_the_odd_one_out_is_named_with_what_it_has():
    same = {"simjax": "1", "train.steps": 5}
    said = [same, same, same | {"train.steps": 6, "extra": None}, same]
    assert differences(said, {2: "host7, pid 9"}) == (
        "process 2 (host7, pid 9) has extra null (others: nothing), train.steps 6 (others: 5)"
    )


def test_process_0_can_be_the_odd_one():
    said = [{"jax": "0.9"}, {"jax": "0.10"}, {"jax": "0.10"}]
    assert differences(said, {}) == 'process 0 has jax "0.9" (others: "0.10")'


def test_no_password_is_told():
    said = [{"mirror": f"ftp://me:{word}@host/{word[0]}"} for word in ("secret", "hidden")]
    told = 'process 1 has mirror "ftp://host/h" (others: "ftp://host/s")'
    assert differences(said, {}) == told


def test_of_two_the_second_is_told_and_of_many_differences_the_first():
    one = {f"key{i}": 0 for i in range(9)}
    told = differences([one, {key: 1 for key in one}], {})
    assert told.startswith("process 1 has key0 1 (others: 0), ") and told.endswith("4 more")


def test_a_missing_key_is_told():
    assert differences([{"a": 1}, {}, {"a": 1}], {}) == "process 1 has a nothing (others: 1)"


def test_all_processes_raise_alike(monkeypatch):
    def call(index: int) -> None:
        roll_call.agree("recipe", {"train": {"steps": 5, "shape": (1, 2)}})
        roll_call.agree("data", {"train": {"steps": 5 + (index == 1)}})

    raised = of_each(3, call, monkeypatch)
    assert all(isinstance(error, Disagreement) for error in raised)
    assert {str(error) for error in raised} == {
        "the processes of this run differ: process 1 has train.steps 6 (others: 5); start all of "
        "them with the same code, recipe, data and devices"
    }


def test_a_machine_with_other_accelerators_is_named(monkeypatch):
    """As many as the others have, and of one platform: each step would wait for the slowest."""
    kinds = [["NVIDIA H100"] * 2, ["NVIDIA H100", "NVIDIA A100"], ["NVIDIA H100"] * 2]
    mine = threading.local()
    found = SimpleNamespace(
        local_devices=lambda: [SimpleNamespace(device_kind=kind) for kind in kinds[mine.index]],
        process_count=lambda: 3,
    )
    monkeypatch.setattr(roll_call, "jax", found)

    def call(index: int) -> None:
        mine.index = index
        roll_call.agree("devices", roll_call.devices())

    raised = of_each(3, call, monkeypatch)
    assert {str(error) for error in raised} == {
        "the processes of this run differ: process 1 has local devices "
        '"1 NVIDIA A100, 1 NVIDIA H100" (others: "2 NVIDIA H100"); start all of them with the same '
        "code, recipe, data and devices"
    }


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (AssertionError(), "it finds none"),
        (RuntimeError("Unable to initialize backend 'cuda'"), "Unable to initialize backend"),
    ],
)
def test_devices_that_are_asked_for_and_cannot_be_used(monkeypatch, error, told):
    """An assertion is what JAX raises for a machine without a GPU that is to use CUDA."""

    def none() -> None:
        raise error

    monkeypatch.setattr(roll_call, "jax", SimpleNamespace(local_devices=none, process_count=none))
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    for ask in (roll_call.devices, lambda: roll_call.agree("recipe", {"a": 1})):
        with pytest.raises(SimjaxError, match=rf"{told}.*JAX_PLATFORMS is cuda: "):
            ask()


def test_alone_there_is_nobody_to_differ_from():
    assert board.of_this_run() is None
    roll_call.agree("recipe", {"a": 1})


def test_devices_of_processes_that_were_not_joined_are_refused(monkeypatch):
    """Without a board nothing would be agreed upon, and nobody watched over."""
    monkeypatch.setattr(roll_call, "jax", SimpleNamespace(process_count=lambda: 4))
    for ask in (lambda: roll_call.agree("recipe", {"a": 1}), lambda: roll_call.answers("q", "a")):
        with pytest.raises(UsageError, match=r"belong to 4 processes, .* give --distributed yes"):
            ask()


def test_what_all_answer_is_known_to_all_in_their_order(monkeypatch):
    heard: list[list[tuple[str, str]]] = []
    raised = of_each(
        3, lambda index: heard.append(roll_call.answers("where", f"at {index}")), monkeypatch
    )
    assert raised == [None] * 3
    assert heard == [[(f"process {index}", f"at {index}") for index in range(3)]] * 3


def test_the_version_follows_the_sources(monkeypatch, tmp_path):
    before = roll_call.versions()["simjax"]
    assert "sources " in before
    (tmp_path / "processes").mkdir()
    for text in ("x = 1\n", "x = 2\n"):
        (tmp_path / "mesh.py").write_text(text)
        monkeypatch.setattr(roll_call, "__file__", str(tmp_path / "processes" / "roll_call.py"))
        roll_call._sources.cache_clear()
        assert roll_call.versions()["simjax"] != before
        before = roll_call.versions()["simjax"]
    roll_call._sources.cache_clear()
