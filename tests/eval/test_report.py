import io
import json

import numpy as np
import pytest
from rich.console import Console

from simjax.errors import SimjaxError
from simjax.eval.report import plot, table, write_json

BEFORE = {"sts/spearman": 12.345, "beir/ndcg@10": 1.0}
AFTER = {"sts/spearman": 80.0, "beir/ndcg@10": 50.5, "beir/uniformity": -2.5}


def test_table_has_one_column_per_run_and_blanks():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table({"before": BEFORE, "TF-IDF": {"beir/ndcg@10": 33.333}, "after": AFTER}))
    lines = [line.split("│")[1:-1] for line in console.export_text().splitlines() if "│" in line]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells == [
        ["sts", "spearman", "12.35", "", "80.00"],
        ["beir", "ndcg@10", "1.00", "33.33", "50.50"],
        ["", "uniformity", "", "", "-2.50"],
    ]


def test_json_is_valid_and_whole(tmp_path):
    target = tmp_path / "deep" / "scores.json"
    write_json(
        target, {"a": np.float32(0.5), "b": float("nan"), "c": {"d": np.arange(2)}, "e": (1,)}
    )
    assert json.loads(target.read_text()) == {"a": 0.5, "b": None, "c": {"d": [0, 1]}, "e": [1]}
    assert [file.name for file in target.parent.iterdir()] == ["scores.json"]
    with pytest.raises(SimjaxError, match="cannot be written"):
        write_json(target / "below_a_file.json", {})


def test_plot_is_a_png(tmp_path):
    target = tmp_path / "figures" / "scores.png"
    plot(target, {"before": BEFORE, "after": AFTER}, {"sts": np.array([3.0, 1.0, 0.0])})
    assert target.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    plot(tmp_path / "empty.png", {}, {})
    assert (tmp_path / "empty.png").stat().st_size > 1000
