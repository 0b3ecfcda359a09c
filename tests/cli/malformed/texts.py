"""Texts of every kind: those that `simjax encode` refuses, and those that it must not mind."""

from __future__ import annotations

import gzip
from pathlib import Path

from tests.cli.malformed.rows import Row, write

MEGABYTE = "word " * 200_000


def texts(name: str, content: str | bytes, *says: str, status: int = 1, file: str = "x.txt") -> Row:
    """A file of texts, one a line."""

    def make(folder: Path) -> list[str]:
        path = write(folder / file, content)
        return ["encode", str(folder / "model"), str(path), str(folder / "out.npy")]

    return Row(f"texts: {name}", make, says, status)


def fine(name: str, content: str, lines: int) -> Row:
    """Texts that each get an embedding; the table's test sees that it is finite."""
    return texts(name, content, "{}/out.npy: ", f" {lines} embeddings of width 16", status=0)


ROWS = [
    texts("empty file", "", "{}/x.txt: holds no text"),
    texts("white space alone", " \n\t\n\n", "{}/x.txt: holds no text"),
    texts("not UTF-8", b"a\nb\n\xff\n", "{}/x.txt:3: not valid UTF-8"),
    texts("a surrogate in UTF-8", b"a\n\xed\xa0\x80\n", "{}/x.txt:2: not valid UTF-8"),
    texts("cut in a character", b"a\nb\xc3", "{}/x.txt:2: not valid UTF-8"),
    texts("cut gzip", gzip.compress(b"word\n" * 999)[:-9], "damaged gzip file", file="x.txt.gz"),
    texts("no gzip", b"word\n", "{}/x.txt.gz:1: damaged gzip file", file="x.txt.gz"),
    texts(
        "damaged gzip",
        gzip.compress(b"a\n")[:10] + b"\xff" * 30,
        "{}/x.txt.gz:1: damaged gzip",
        file="x.txt.gz",
    ),
    fine("a megabyte in a line", f"a dog\n{MEGABYTE}\na cat\n", 3),
    fine("a megabyte without a space", f"{'w' * (1 << 20)}\n", 1),
    fine("control characters", "a\0b\n\x01\x02\x1b[31m\x7f\x85\n", 2),
    fine("right to left", "שלום עולם\n\u0645\u0631\u062d\u0628\u0627 \u202e(abc)\u202c\n", 2),
    fine("combining marks", f"e\u0301\nz{chr(0x300) * 5000}a\n", 2),
    fine("joined emoji and the private use area", "👩‍👩‍👧‍👦 🏳️‍🌈\n\ue000\U0010ffff\ufffe\n", 2),
    fine("invisible characters", "\u200b\u200d\ufeff\n\u3000\u2028\n", 2),
    fine("empty lines between texts", "a dog\n\n \na cat\n", 4),
    fine("special tokens as text", "[CLS] [SEP] [PAD] [MASK]\n[PAD]\n", 2),
    fine("equal lines", "a dog\n" * 50, 50),
    fine("line ends of Windows", "a dog\r\na cat\r\n", 2),
]
