"""Measurements as lines of a file: whole or not there, each made once.

A line is a JSON object with `settings` (a fingerprint of all that decides a measurement beside its
key), `key` (what was measured) and `values`. A study that was stopped, however hard, goes on after
its last whole line.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from simjax.errors import SimjaxError

Key: TypeAlias = Mapping[str, Any]
FIELDS = frozenset({"settings", "key", "values"})
BEGINNING = b'{"settings": "'
"""What `Records.append` begins a line with."""


@dataclass(frozen=True)
class Record:
    """One measurement.

    Attributes:
        key: What was measured: plain values by name.
        values: What came out.
    """

    key: dict[str, Any]
    values: dict[str, Any]


Check: TypeAlias = Callable[[Record], object]


def identity(key: Key) -> str:
    """A key as a text; equal keys have equal texts, in whatever order their names come."""
    return json.dumps(dict(key), sort_keys=True, allow_nan=False)


def fingerprint(*parts: Any) -> str:
    """Twelve hexadecimal digits that differ where dataclasses or plain values differ."""
    plain = [
        dataclasses.asdict(x) if dataclasses.is_dataclass(x) and not isinstance(x, type) else x
        for x in parts
    ]
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Records:
    """The records of one file, read once and appended to. Reading changes nothing.

    Attributes:
        path: The file, which need not exist yet.
        found: The records in order of time, by the identity of their keys.
    """

    def __init__(self, path: Path, settings: str, check: Check = bool) -> None:
        """Read what is there. A last line that was not finished is no record.

        Args:
            path: The file.
            settings: Fingerprint of the settings that new records are made with.
            check: Given each record; raises `KeyError`, `TypeError` or `ValueError` where
                something is missing in it.

        Raises:
            SimjaxError: A line is no record, or was made with other settings.
        """
        self.path = path
        self.settings = settings
        self.found: dict[str, Record] = {}
        self._check = check
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise SimjaxError(f"{path}: cannot be read ({error.strerror})") from error
        self._whole = data.rfind(b"\n") + 1
        self._tail = data[self._whole :]
        for number, line in enumerate(data[: self._whole].split(b"\n")[:-1], start=1):
            record = self._parse(line, number)
            self.found[identity(record.key)] = record
        if not (self._tail.startswith(BEGINNING) or BEGINNING.startswith(self._tail)):
            number = len(data[: self._whole].splitlines()) + 1
            raise SimjaxError(f"{path}:{number}: no record: delete the line and run again")

    def _parse(self, line: bytes, number: int) -> Record:
        where = f"{self.path}:{number}"
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise SimjaxError(f"{where}: no JSON: delete the line and run again") from error
        if not isinstance(fields, dict) or set(fields) != FIELDS:
            raise SimjaxError(
                f"{where}: not a record with {', '.join(sorted(FIELDS))}: delete the line and run "
                "again"
            )
        if not all(isinstance(fields[name], dict) for name in ("key", "values")):
            raise SimjaxError(f"{where}: key and values must be objects: delete the line")
        if fields["settings"] != self.settings:
            raise SimjaxError(
                f"{where}: measured with other settings, data, device or versions "
                f"({fields['settings']}, now {self.settings}); choose another --output"
            )
        record = Record(fields["key"], fields["values"])
        try:
            self._check(record)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise SimjaxError(
                f"{where}: incomplete ({type(error).__name__}: {error}): delete the line and run "
                "again"
            ) from error
        return record

    def __contains__(self, key: object) -> bool:
        return isinstance(key, Mapping) and identity(key) in self.found

    def __iter__(self) -> Any:
        return iter(self.found.values())

    def __len__(self) -> int:
        return len(self.found)

    def cut_tail(self) -> None:
        """Remove a last line that was not finished: its process died before it told of it.

        Only for who holds the folder's lock: another process may be writing that line.

        Raises:
            SimjaxError: The file cannot be written.
        """
        if not self._tail:
            return
        try:
            os.truncate(self.path, self._whole)
        except OSError as error:
            raise SimjaxError(f"{self.path}: cannot be written ({error.strerror})") from error
        self._tail = b""

    def append(self, key: Key, values: Mapping[str, Any]) -> None:
        """Add a record, which has reached the disk when this returns.

        Raises:
            ValueError: A value is NaN or infinite, which JSON does not have.
            SimjaxError: The file cannot be written; it is then as it was.
        """
        record = Record(dict(key), dict(values))
        fields = {"settings": self.settings, "key": record.key, "values": record.values}
        line = (json.dumps(fields, allow_nan=False) + "\n").encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                before = os.fstat(file).st_size
                try:
                    written = os.write(file, line)
                    if written != len(line):
                        raise OSError(errno.ENOSPC, f"{written} of {len(line)} bytes written")
                    os.fsync(file)
                except OSError:
                    os.ftruncate(file, before)
                    raise
            finally:
                os.close(file)
        except OSError as error:
            raise SimjaxError(f"{self.path}: cannot be written ({error.strerror})") from error
        self.found[identity(key)] = record
