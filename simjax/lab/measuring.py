"""Measuring what is not there yet, one by one, until all is or a signal comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simjax.lab.bench.report import telling
from simjax.lab.records import Records
from simjax.train.signals import StopRequest

if TYPE_CHECKING:
    from rich.console import Console


class Stopped(Exception):
    """A signal has ended a study; its name is the message. The same command goes on from there.

    Attributes:
        kept: Measurements that are there.
    """

    kept = 0


def in_words(key: dict[str, Any]) -> str:
    """A key as people read it."""
    return ", ".join(f"{name} {value}" for name, value in key.items())


@dataclass(frozen=True)
class Session:
    """One go at a study.

    Attributes:
        stop: Whether a signal has come.
        tell: Told how far it is.
    """

    stop: StopRequest
    tell: Callable[[str], None]

    def measure(
        self,
        records: Records,
        keys: Sequence[dict[str, Any]],
        one: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        words: Callable[[dict[str, Any]], str] = in_words,
        after: Callable[[dict[str, Any]], object] = bool,
    ) -> None:
        """Measure what is not in the records yet, one by one, each kept as soon as it is there.

        Args:
            records: Where to.
            keys: What to measure.
            one: Measures one key; may raise `Stopped`.
            words: A key in words.
            after: Called with each key whose record has reached the disk.

        Raises:
            Stopped: A signal has come, and something is missing.
        """
        missing = [key for key in keys if key not in records]
        began = time.monotonic()
        for number, key in enumerate(missing):
            if self.stop.requested:
                raise Stopped(self.stop.name)
            left = (time.monotonic() - began) / number * (len(missing) - number) if number else None
            about = "" if left is None else f", about {max(1, round(left / 60))} min left"
            done = len(keys) - len(missing) + number
            self.tell(f"{done:,} of {len(keys):,}{about}: {words(key)}")
            records.append(key, one(key))
            after(key)


@contextmanager
def session(console: Console, kept: Sequence[Records], seconds: float = 0.0) -> Iterator[Session]:
    """Minds signals until the block ends, and shows how far it is.

    Args:
        console: Where to. On a terminal it is a line that is written over.
        kept: All records of the study.
        seconds: Elsewhere, at least so many between two lines, for files that collect what a long
            study says.
    """
    with StopRequest() as stop, telling() as said:
        try:
            yield Session(stop, said if console.is_terminal else _seldom(console, seconds))
        except Stopped as stopped:
            stopped.kept = sum(map(len, kept))
            raise


def _seldom(console: Console, seconds: float) -> Callable[[str], None]:
    printed = time.monotonic()

    def tell(line: str) -> None:
        nonlocal printed
        if time.monotonic() - printed >= seconds:
            printed = time.monotonic()
            console.print(line, markup=False)

    return tell
