"""Going on where it stopped."""

import json
import os
import re
import signal

import pytest
from rich.console import Console

from simjax.lab.measuring import Session, Stopped, session
from simjax.lab.records import Records
from simjax.train.signals import StopRequest

KEYS = [{"seed": seed} for seed in range(5)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "runs.jsonl"


def twice(made, stop=None, at=None):
    """Measures, and has a signal come in the middle of one."""

    def one(key):
        made.append(key["seed"])
        if stop is not None and len(made) == at:
            stop.name = "SIGTERM"
        return {"twice": 2 * key["seed"]}

    return one


def test_measuring_goes_on_where_it_stopped(path):
    made, lines, after = [], [], []
    stop = StopRequest()
    records = Records(path, "a")
    with pytest.raises(Stopped, match="SIGTERM"):
        Session(stop, lines.append).measure(records, KEYS, twice(made, stop, 2), after=after.append)
    # What the signal fell into was finished.
    assert made == [0, 1] and after == KEYS[:2]
    again = Records(path, "a")
    whole = Session(StopRequest(), lines.append)
    whole.measure(again, KEYS, twice(made))
    assert made == [0, 1, 2, 3, 4]
    assert [json.loads(line)["values"]["twice"] for line in path.read_text().splitlines()] == [
        0, 2, 4, 6, 8,
    ]  # fmt: skip
    assert lines[2] == "2 of 5: seed 2" and re.fullmatch(
        "3 of 5, about 1 min left: seed 3", lines[3]
    )
    whole.measure(again, KEYS, twice(made))
    assert len(made) == 5


def test_a_signal_ends_a_session(path, capfd):
    records, other = Records(path, "a"), Records(path.with_name("other"), "a")
    other.append({"seed": 0}, {})
    console = Console(stderr=True)

    def one(key):
        os.kill(os.getpid(), signal.SIGINT)
        return {}

    with (
        pytest.raises(Stopped, match="SIGINT") as stopped,
        session(console, [records, other]) as begun,
    ):
        begun.measure(records, KEYS, one)
    assert stopped.value.kept == 2
    assert capfd.readouterr().err == "0 of 5: seed 0\n"

    # What ends by itself has no record.
    def ended(key):
        raise Stopped("SIGTERM")

    with (
        pytest.raises(Stopped, match="SIGTERM") as stopped,
        session(console, [records, other], seconds=3600.0) as begun,
    ):
        begun.measure(records, KEYS, ended)
    assert stopped.value.kept == len(records) + 1 == 2
    assert capfd.readouterr().err == ""
