"""What tells the runs of a sweep apart."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol


class Key(Protocol):
    """A run: a dataclass of plain values, its seed among them, which `str` puts in words."""

    @property
    def seed(self) -> int:
        """Of what differs between runs of a setting."""
        ...

    @property
    def setting(self) -> Hashable:
        """The run without its seed, which `str` puts in words too."""
        ...

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        ...
