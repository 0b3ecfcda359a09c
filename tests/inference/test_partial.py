"""Files of embeddings written by and by, stopped, and gone on with."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from simjax.errors import SimjaxError, UsageError
from simjax.inference.formats import EmbeddingFile, head, write_parquet
from simjax.inference.partial import PartialOutput, Texts

IDENTITY = {"model": "m", "dtype": "float32"}
ENDINGS = (".npy", ".safetensors", ".parquet")


def rows_of(count, width=3, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def digest_of(count):
    texts = Texts()
    for number in range(count):
        texts.add(f"text {number}")
    return texts


def load(path):
    """By the format's own library."""
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            assert file.metadata() == IDENTITY
            return file.get_tensor("embeddings")
    table = pq.read_table(path)
    assert table.schema.metadata[b"model"] == b"m"
    return np.asarray(table.column("embedding").to_pylist(), np.float32)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_stopped_file_is_gone_on_with(tmp_path, ending):
    rows, output = rows_of(12), tmp_path / "new" / f"x{ending}"
    first = PartialOutput(output, 3, IDENTITY)
    assert first.rows == 0
    first.append(rows[:4], digest_of(4).hexdigest())
    first.append(rows[4:7], digest_of(7).hexdigest())
    first.close()
    assert not output.exists()
    with first.partial.open("ab") as file:  # a stop in the middle of a row
        file.write(b"torn")
    second = PartialOutput(output, 3, IDENTITY)
    assert second.rows == 7
    second.check_texts(digest_of(7))
    second.append(rows[7:], digest_of(12).hexdigest())
    second.finish()
    np.testing.assert_array_equal(load(output), rows)
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    found = EmbeddingFile(output)
    assert (found.rows, found.width) == (12, 3)
    assert found.metadata.get("model") == (None if ending == ".npy" else "m")
    parts = list(found.parts(5))
    assert [len(part) for part in parts] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate(parts), rows)


def test_rows_that_the_journal_does_not_know_are_made_again(tmp_path):
    output = tmp_path / "x.npy"
    killed = PartialOutput(output, 3, IDENTITY)
    killed.append(rows_of(4), digest_of(4).hexdigest())
    killed.save()
    killed.append(rows_of(4), digest_of(8).hexdigest())
    killed._file.close()  # without the entry that `close` makes
    again = PartialOutput(output, 3, IDENTITY)
    assert again.rows == 4
    again.append(rows_of(2, seed=1), digest_of(6).hexdigest())
    again.finish()
    expected = np.concatenate([rows_of(4), rows_of(2, seed=1)])
    np.testing.assert_array_equal(np.load(output), expected)


def test_a_journal_alone_is_nothing_to_go_on_from(tmp_path):
    out = PartialOutput(tmp_path / "x.npy", 3, IDENTITY)
    out.append(rows_of(4), "a")
    out.close()
    out.partial.replace(out.output)  # stopped just after
    again = PartialOutput(tmp_path / "x.npy", 3, {"model": "other"})
    assert again.rows == 0
    again.append(rows_of(2), "b")
    again.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_the_journal_follows_the_clock(tmp_path, monkeypatch):
    out = PartialOutput(tmp_path / "x.npy", 3, IDENTITY)
    out.append(rows_of(4), "a")
    assert not out.journal.exists()
    monkeypatch.setattr("simjax.inference.partial.SAVE_EVERY", 0.0)
    out.append(rows_of(4), "b")
    entry = json.loads(out.journal.read_text())
    assert (entry["rows"], entry["texts"]) == (8, "b")
    out.close()


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (lambda p, j: p.write_bytes(p.read_bytes()[:-1]), "shorter than its journal"),
        (lambda p, j: j.write_text("{"), "cannot be read"),
        (lambda p, j: j.write_text("[]"), "cannot be read"),
        (lambda p, j: j.write_text(j.read_text().replace('"rows": 4', '"rows": -4')), "version"),
        (lambda p, j: j.write_text(j.read_text().replace('"m"', '"n"')), "another model ('n'"),
    ],
)
def test_what_does_not_belong_is_refused_with_its_place(tmp_path, damage, names):
    output = tmp_path / "x.npy"
    out = PartialOutput(output, 3, IDENTITY)
    out.append(rows_of(4), digest_of(4).hexdigest())
    out.close()
    damage(out.partial, out.journal)
    with pytest.raises(SimjaxError, match=r"x\.npy\.partial.*remove it and") as caught:
        PartialOutput(output, 3, IDENTITY)
    assert names in str(caught.value)


def test_other_texts_and_another_writer_are_refused(tmp_path):
    out = PartialOutput(tmp_path / "x.npy", 3, IDENTITY)
    with pytest.raises(SimjaxError, match="another process is writing this"):
        PartialOutput(tmp_path / "x.npy", 3, IDENTITY)
    out.append(rows_of(4), digest_of(4).hexdigest())
    with pytest.raises(SimjaxError, match="4 rows belong to other texts"):
        out.check_texts(digest_of(3))
    out.close()


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(SimjaxError, match="cannot be written"):
        PartialOutput(tmp_path / "taken" / "x.npy", 3, IDENTITY)
    with pytest.raises(UsageError, match="must end in"):
        PartialOutput(tmp_path / "x.txt", 3, IDENTITY)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_says_from_where_it_can_go_on(tmp_path):
    out = PartialOutput(tmp_path / "x.npy", 3, IDENTITY)
    out.append(rows_of(4), "a")
    out.save()
    whole = out._file
    names = r"No space left.*goes on after row 4 once that is"
    with open("/dev/full", "wb", buffering=0) as out._file, pytest.raises(SimjaxError, match=names):
        out.append(rows_of(4), "b")
    whole.close()
    again = PartialOutput(tmp_path / "x.npy", 3, IDENTITY)
    assert again.rows == 4
    again.close()


def test_heads_are_as_long_for_any_number_of_rows():
    for kind in ("npy", "safetensors"):
        lengths = {len(head(kind, rows, 384, IDENTITY)) for rows in (0, 1, 10**6, 10**12)}
        assert len(lengths) == 1 and lengths.pop() % 64 == 0


def test_files_that_hold_no_embeddings(tmp_path):
    from safetensors.numpy import save_file

    good = rows_of(3)
    cases = {
        "flat.npy": lambda p: np.save(p, good[0]),
        "whole.npy": lambda p: np.save(p, good.astype(int)),
        "objects.npy": lambda p: np.save(p, np.asarray([["a"]], object), allow_pickle=True),
        "none.npy": lambda p: np.save(p, good[:0]),
        "torn.npy": lambda p: p.write_bytes(head("npy", 9, 3, {}) + b"short"),
        "other.safetensors": lambda p: save_file({"x": good}, p),
        "torn.safetensors": lambda p: p.write_bytes(head("safetensors", 9, 3, {})),
        "text.parquet": lambda p: p.write_text("no"),
    }
    for name, write in cases.items():
        write(tmp_path / name)
        with pytest.raises(SimjaxError, match=rf"{name}: holds no embeddings"):
            EmbeddingFile(tmp_path / name)
    with pytest.raises(SimjaxError, match="no such file"):
        EmbeddingFile(tmp_path / "absent.npy")
    good[2, 1] = np.nan
    write_parquet(tmp_path / "nan.parquet", good, {})
    with pytest.raises(SimjaxError, match="row 2 is not finite"):
        list(EmbeddingFile(tmp_path / "nan.parquet").parts(2))
