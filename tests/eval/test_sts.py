import gzip

import numpy as np
import pytest
from scipy import stats

from simjax.errors import SimjaxError
from simjax.eval.geometry import unit_rows
from simjax.eval.sts import correlate, read_sts, score

HEADER = "sentence1\tsentence2\tscore\n"
ROWS_A = 'a "b\tc\t1.0\nd\te\t5\nc\td\t2.5\n'
ROWS_B = "b\tc\t0\nx\ty\t4\nx\tc\t3\n"


def test_quotation_marks_and_separators_of_unicode_are_text(tmp_path):
    file = tmp_path / "one.tsv"
    file.write_text(HEADER + 'he said "no\tnext\u2028line\x0bhere\t3\n"x\ty"\t4\n', "utf-8")
    data = read_sts(file)
    assert data.subsets[0].first == ['he said "no', '"x']
    assert data.subsets[0].second == ["next\u2028line\x0bhere", 'y"']
    assert data.gold.tolist() == [3.0, 4.0]


def test_columns_are_found_by_name_and_line_ends_may_be_crlf(tmp_path):
    file = tmp_path / "one.tsv"
    file.write_bytes(
        b"\xef\xbb\xbfscore\textra\tsentence2\tsentence1\r\n1\t-\tb\ta\r\n2\t-\td\tc\r\n"
    )
    data = read_sts(file)
    assert data.subsets[0].first == ["a", "c"]
    assert data.subsets[0].second == ["b", "d"]


def test_labelled_pairs(tmp_path):
    (tmp_path / "one.tsv").write_text("text_a\ttext_b\tlabel\na\tb\t0\nc\td\t1\n")
    (tmp_path / "two.tsv").write_text(
        "sentence1\tsentence2\tlabel\tscore\na\tb\t0\t3\nc\td\t1\t4\n"
    )
    data = read_sts(tmp_path)
    assert data.texts == ["a", "b", "c", "d"]
    assert data.gold.tolist() == [0, 1, 3, 4]


def test_folder_is_subsets_in_name_order_with_texts_counted_once(tmp_path):
    with gzip.open(tmp_path / "b.tsv.gz", "wt") as file:
        file.write(HEADER + ROWS_B)
    (tmp_path / "a.tsv").write_text(HEADER + ROWS_A)
    (tmp_path / "README").write_text("not a subset")
    data = read_sts(tmp_path)
    assert [subset.name for subset in data.subsets] == ["a", "b"]
    assert data.texts == ['a "b', "c", "d", "e", "b", "x", "y"]
    assert data.pairs.tolist() == [[0, 1], [2, 3], [1, 2], [4, 1], [5, 6], [5, 1]]


def test_all_setting_and_mean_match_scipy_and_differ(tmp_path):
    rng = np.random.default_rng(0)
    for name, shift in (("a", 0.0), ("b", 3.0)):
        rows = [f"{name}{i}\t{name}{i + 40}\t{rng.normal() + shift:.4f}\n" for i in range(40)]
        (tmp_path / f"{name}.tsv").write_text(HEADER + "".join(rows))
    data = read_sts(tmp_path)
    embeddings = rng.normal(size=(len(data.texts), 8)) * rng.uniform(0.1, 9, (len(data.texts), 1))
    result = score(data, unit_rows(embeddings))

    where = {text: embeddings[i] for i, text in enumerate(data.texts)}

    def cosines(subset):
        pairs = zip(subset.first, subset.second, strict=True)
        return [
            where[a] @ where[b] / (np.linalg.norm(where[a]) * np.linalg.norm(where[b]))
            for a, b in pairs
        ]

    each = [cosines(subset) for subset in data.subsets]
    gold = [subset.gold for subset in data.subsets]
    everything = np.concatenate(each), np.concatenate(gold)
    assert result.overall.spearman == pytest.approx(100 * stats.spearmanr(*everything)[0], abs=1e-6)
    assert result.overall.pearson == pytest.approx(100 * stats.pearsonr(*everything)[0], abs=1e-4)
    means = [100 * stats.spearmanr(c, g)[0] for c, g in zip(each, gold, strict=True)]
    assert result.mean.spearman == pytest.approx(np.mean(means), abs=1e-6)
    assert [c.spearman for c in result.subsets.values()] == pytest.approx(means, abs=1e-6)
    assert abs(result.overall.spearman - result.mean.spearman) > 1


def test_constant_prediction_correlates_with_nothing():
    result = correlate(np.ones(4), np.arange(4.0))
    assert (result.spearman, result.pearson) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"sentence1\tsentence2\n", r"one\.tsv:1: no column 'score' or 'label'; the first"),
        (b"", r"one\.tsv: 0 sentence pairs"),
        (HEADER.encode() + b"a\tb\t1\n", r"one\.tsv: 1 sentence pairs"),
        (HEADER.encode() + b"a\tb\t1\na\tb\n", r"one\.tsv:3: 2 tab-separated fields"),
        (HEADER.encode() + b"a\tb\t1\n \tb\t2\n", r"one\.tsv:3: a text is empty"),
        (HEADER.encode() + b"a\tb\thigh\n", r"one\.tsv:2: score 'high'"),
        (HEADER.encode() + b"a\tb\tnan\n", r"one\.tsv:2: score 'nan'"),
        (HEADER.encode() + b"a\tb\t1\nc\xff\td\t2\n", r"one\.tsv:3: not valid UTF-8"),
        (HEADER.encode() + b"a\tb\t1\nc\td\t1\n", r"one\.tsv: every score is 1"),
    ],
)
def test_malformed_files_name_the_line(tmp_path, content, complaint):
    (tmp_path / "one.tsv").write_bytes(content)
    with pytest.raises(SimjaxError, match=complaint):
        read_sts(tmp_path / "one.tsv")


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(SimjaxError, match="no such file"):
        read_sts(tmp_path / "absent.tsv")
    with pytest.raises(SimjaxError, match=r"no \.tsv file"):
        read_sts(tmp_path)
    (tmp_path / "a.tsv.gz").write_bytes(b"plain text")
    with pytest.raises(SimjaxError, match=r"a\.tsv\.gz:1: damaged gzip"):
        read_sts(tmp_path / "a.tsv.gz")
    whole = gzip.compress((HEADER + ROWS_A * 999).encode())
    (tmp_path / "a.tsv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SimjaxError, match="damaged gzip"):
        read_sts(tmp_path / "a.tsv.gz")
