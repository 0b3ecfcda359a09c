"""The page and the picture that a run leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import image

from simjax.errors import SimjaxError
from simjax.train import summary

LINES = [
    {"step": 0, "eval/dev/spearman": 40.0, "eval/dev/alignment": 0.3},
    *(
        {
            "step": step,
            "loss": 8.0 / step,
            "alignment": 1 / step,
            "uniformity_cross": -step / 10,
            "pairs_per_second": 1000.0 * step,
            "compile_seconds": 2.5 if step in (1, 3) else 0.0,
            "memory_peak": 3e9 + step,
            "fill": 0.9,
        }
        for step in range(1, 6)
    ),
    {"step": 5, "eval/dev/spearman": 61.5, "eval/dev/alignment": 0.2},
    # As JSON has what was not finite: no figure.
    {
        "step": 5,
        "loss": None,
        "alignment": None,
        "uniformity_cross": None,
        "eval/dev/spearman": None,
    },
]
SCORES = {"before": {"dev/spearman": 40.0}, "step 4": {"dev/spearman": 62.0, "dev/rank": 5.0}}


def test_the_page(tmp_path):
    folder = tmp_path / "first"
    folder.mkdir()
    summary.write(folder, LINES, scores=SCORES, exported=4, total_steps=20)
    page = (folder / "summary.md").read_text()
    rows = [
        "# first",
        "| steps | 5 of 20 |",
        "| exported | step 4 |",
        "| examples a second, median | 3,000 |",
        "| compilation of the step, s | 5.0 |",
        "| peak memory, GB | 3.00 |",
        "| in training | first | last | lowest | highest |",
        "| loss | 8 | 1.6 | 1.6 | 8 |",
        "| uniformity across views | -0.1 | -0.5 | -0.5 | -0.1 |",
        "| score | before | step 4 |",
        "| dev/spearman | 40.00 | 62.00 |",
        "| dev/rank |  | 5.00 |",
        "(summary.png)",
    ]
    for row in rows:
        assert row in page
    pixels = image.imread(folder / "summary.png")
    assert pixels.shape == (360, 1260, 4)


def test_the_picture_shows_what_the_lines_say():
    left, middle, right, _ = summary.draw(LINES, exported=4).axes
    raw, smooth = left.lines
    np.testing.assert_allclose(raw.get_xydata(), [(n, 8 / n) for n in range(1, 6)])
    np.testing.assert_allclose(smooth.get_ydata(), raw.get_ydata())  # too few to be smoothed
    (points,) = middle.collections
    np.testing.assert_allclose(points.get_offsets(), [(-n / 10, 1 / n) for n in range(1, 6)])
    np.testing.assert_allclose(points.get_array(), range(1, 6))
    assert middle.get_xlabel() == "uniformity across views"
    scores, mark = right.lines
    np.testing.assert_allclose(scores.get_xydata(), [(0, 40.0), (5, 61.5)])
    assert list(mark.get_xdata()) == [4, 4]


def test_the_smooth_line_is_a_mean_of_the_last_twentieth():
    rng = np.random.default_rng(0)
    losses = rng.normal(size=100)
    lines = [{"step": n, "loss": loss} for n, loss in enumerate(losses)]
    smooth = summary.draw(lines, 0).axes[0].lines[1].get_ydata()
    wanted = [losses[max(0, n - 4) : n + 1].mean() for n in range(100)]
    np.testing.assert_allclose(smooth, wanted, rtol=1e-9)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"step": 1, "loss": None, "alignment": None, "uniformity": 1.0}],
        [{"step": 1, "loss": 0.0}],
    ],
)
def test_a_run_with_nothing_to_show(tmp_path, lines):
    summary.write(tmp_path, lines, scores={}, exported=1, total_steps=1)
    texts = [text.get_text() for axis in summary.draw(lines, 1).axes for text in axis.texts]
    assert "no figures" in texts
    assert "score |" not in (tmp_path / "summary.md").read_text()


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(SimjaxError, match=r"summary\.md: cannot be written"):
        summary.write(tmp_path / "absent", LINES, scores={}, exported=1, total_steps=1)
