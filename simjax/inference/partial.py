"""A file of embeddings that is written by and by, and gone on with after a stop.

Rows are appended to `OUTPUT.partial`. Beside it `OUTPUT.partial.json`, the journal, says how many
of them are safely on the disk, a digest of the texts that they belong to, and by which model and
options they were made. A run that finds both goes on from there, if all of that is still so. The
output appears under its own name when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from simjax.errors import SimjaxError
from simjax.inference import formats
from simjax.processes import lock

VERSION = 1
SAVE_EVERY = 5.0
"""Seconds between two entries of the journal. A killed run repeats what it did after the last one,
and the windows of texts (`SentenceEncoder.encode_stream`) that it was working on."""


class Texts:
    """A digest of all texts so far."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, text: str) -> None:
        """Take one more."""
        # A text may hold anything but a line feed.
        self._digest.update(text.encode("utf-8", "surrogatepass") + b"\n")

    def hexdigest(self) -> str:
        """The digest."""
        return self._digest.hexdigest()


class PartialOutput:
    """The rows so far.

    Attributes:
        rows: How many there are.
        texts: Digest of their texts as the journal has it; empty at the start.
    """

    def __init__(self, output: Path, width: int, identity: Mapping[str, Any]) -> None:
        """Open what an earlier run left, or begin.

        Args:
            output: What will be written.
            width: Dimensions of a row.
            identity: Model and options, as JSON holds them; `model` is kept in the output.

        Raises:
            SimjaxError: What is there was made otherwise, is damaged, is being written by another
                process, or the folder cannot be written.
        """
        self.output = output
        self.partial = output.with_name(f"{output.name}.partial")
        self.journal = output.with_name(f"{output.name}.partial.json")
        self._format = formats.format_of(output)
        self._width = width
        self._identity: dict[str, Any] = json.loads(json.dumps(dict(identity)))
        self._metadata = {key: str(value) for key, value in self._identity.items()}
        self._start = len(formats.head(self._format, 0, width, self._metadata))
        self.rows, self.texts = 0, ""
        self._saved, self._last = 0, time.monotonic()
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            # Not truncated before it is locked.
            self._file = os.fdopen(os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        except OSError as error:
            raise SimjaxError(f"{self.partial}: cannot be written ({error.strerror})") from error
        try:
            self._lock()
            self._resume()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        if not lock.acquired(self._file.fileno()):
            raise SimjaxError(f"{self.partial}: another process is writing this")
        if not os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.partial)):
            # What was locked has been given another name since it was opened.
            raise SimjaxError(f"{self.partial}: another process has just finished this")

    def _resume(self) -> None:
        if not self.partial.stat().st_size:
            # A journal alone is of a run that was stopped just after it had named its output.
            self.journal.unlink(missing_ok=True)
        if self.journal.exists():
            found = self._read_journal()
            self.rows, self.texts = found["rows"], found["texts"]
            if self.partial.stat().st_size < self._end():
                raise SimjaxError(
                    f"{self.partial}: is shorter than its journal says; {self._anew()}"
                )
        self._saved = self.rows
        self._file.truncate(self._end())
        self._file.seek(self._end())
        if not self.rows:
            self._file.seek(0)
            self._file.write(b"\0" * self._start)

    def _read_journal(self) -> dict[str, Any]:
        try:
            found = json.loads(self.journal.read_text(encoding="utf-8"))
            version, identity = found["version"], found["identity"]
            rows, texts = found["rows"], found["texts"]
            valid = isinstance(rows, int) and rows >= 0 and isinstance(texts, str)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SimjaxError(
                f"{self.journal}: cannot be read ({error}); {self._anew()}"
            ) from error
        if version != VERSION or not valid or not isinstance(identity, dict):
            raise SimjaxError(f"{self.journal}: is not of this version; {self._anew()}")
        mine = self._identity
        keys = [key for key in mine if identity.get(key) != mine[key]]
        if keys:
            told = ", ".join(f"{k} ({identity.get(k)!r} there, {mine[k]!r} here)" for k in keys)
            raise SimjaxError(f"{self.partial}: was begun with another {told}; {self._anew()}")
        return found

    def _anew(self) -> str:
        return f"remove it and {self.journal.name} to begin anew"

    def check_texts(self, texts: Texts) -> None:
        """Hold the texts that the rows belong to against those that were read now.

        Raises:
            SimjaxError: They are others.
        """
        if texts.hexdigest() != self.texts:
            raise SimjaxError(
                f"{self.partial}: its {self.rows:,} rows belong to other texts than the input's "
                f"first ones; {self._anew()}"
            )

    def _end(self) -> int:
        return self._start + 4 * self._width * self.rows

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SimjaxError(
                f"{path}: cannot be written ({error.strerror or error}); the same command goes on "
                f"after row {self._saved:,} once that is mended"
            ) from error

    def append(self, rows: Float32[np.ndarray, "n D"], texts: str) -> None:
        """Add rows; every few seconds they are made safe.

        Args:
            rows: The next ones.
            texts: Digest of all texts up to them.
        """
        with self._writing(self.partial):
            self._file.write(np.ascontiguousarray(rows, "<f4").data)
        self.rows += len(rows)
        self.texts = texts
        if time.monotonic() - self._last >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Put all rows on the disk and say so in the journal."""
        if self.rows == self._saved:
            return
        draft = self.journal.with_name(f"{self.journal.name}.tmp")
        entry = {
            "version": VERSION,
            "rows": self.rows,
            "texts": self.texts,
            "identity": self._identity,
        }
        with self._writing(self.journal):
            self._file.flush()
            os.fsync(self._file.fileno())
            with draft.open("w", encoding="utf-8") as file:
                file.write(json.dumps(entry, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.journal)
        self._saved, self._last = self.rows, time.monotonic()

    def finish(self) -> None:
        """Complete the file and give it its name."""
        self.save()
        whole = self.partial
        with self._writing(self.output):
            if self._format == "parquet":
                whole = self.output.with_name(f"{self.partial.name}.parquet")
                rows = np.memmap(self.partial, "<f4", "r", 0, (self.rows, self._width))
                formats.write_parquet(whole, rows, self._metadata)
                with whole.open("rb") as file:
                    os.fsync(file.fileno())
            else:
                self._file.seek(0)
                self._file.write(formats.head(self._format, self.rows, self._width, self._metadata))
                self._file.flush()
                os.fsync(self._file.fileno())
            whole.replace(self.output)
        self.discard()

    def discard(self) -> None:
        """Remove what is only there to go on from."""
        # Before the lock is let go of, which another process may be waiting for.
        self.journal.unlink(missing_ok=True)
        self.partial.unlink(missing_ok=True)
        self._file.close()

    def close(self) -> None:
        """Make all rows safe, and let go; without any, nothing stays."""
        if self._file.closed:
            return
        if not self.rows:
            self.discard()
            return
        try:
            self.save()
        finally:
            with suppress(OSError):  # said already, when the rows were saved
                self._file.close()
