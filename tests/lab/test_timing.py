import numpy as np
import pytest

from simjax.lab.bench import timing
from simjax.lab.bench.timing import Spread


def test_spread_is_numpys_quartiles() -> None:
    values = [3.0, 1.0, 10.0, 4.0, 2.5, 7.0]
    low, median, high = np.percentile(values, [25, 50, 75])
    found = timing.spread(values)
    assert (found.low, found.median, found.high) == pytest.approx((low, median, high))


def test_spread_of_one_value_and_of_none() -> None:
    assert timing.spread([2.0]) == Spread(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="no values"):
        timing.spread([])


def test_paired_ratio_pairs_rounds() -> None:
    # The machine was three times slower in the second round: the medians alone would say 6 / 2.
    peer, ours = [2.0, 6.0, 2.0, 6.0, 6.0], [1.0, 3.0, 1.0, 2.0, 2.0]
    assert timing.paired_ratio(peer, ours) == Spread(2.0, 2.0, 3.0)
    assert timing.spread(peer).median / timing.spread(ours).median == 3.0


def test_total_ratio_weighs_rounds_by_their_length() -> None:
    found = timing.total_ratio([1.0, 30.0], [1.0, 10.0])
    assert found.median == pytest.approx(31 / 11)
    assert (found.low, found.high) == (1.5, 2.5)


@pytest.mark.parametrize("ratio", [timing.paired_ratio, timing.total_ratio])
def test_rounds_must_pair(ratio) -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0, 2.0], [1.0])


def test_contenders_take_turns_in_alternating_order() -> None:
    calls: list[str] = []
    said: list[str] = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = timing.interleave(contenders, 3, said=said.append)
    assert "".join(calls) == "abccbaabc"
    assert said[3] == "round 2 of 3: c"
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_each_contender_gets_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def takes(seconds: float):
        def run() -> None:
            now[0] += seconds

        return run

    times = timing.interleave({"slow": takes(4.0), "fast": takes(0.5)}, 2)
    assert times == {"slow": [4.0, 4.0], "fast": [0.5, 0.5]}
