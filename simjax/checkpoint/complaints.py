"""What is said of a checkpoint that cannot be written or read, and what to do then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simjax.errors import SimjaxError


def unsaved(path: Path, steps: Sequence[int], error: BaseException) -> SimjaxError:
    """Of a step that could not be saved.

    Args:
        path: The step's folder.
        steps: Those that are complete, ascending.
        error: Why.
    """
    last = f"step {steps[-1]}" if steps else "none"
    return SimjaxError(
        f"{path}: the checkpoint could not be saved ({_one_line(error)}); "
        f"last complete checkpoint: {last}"
    )


def unreadable(path: Path, steps: Sequence[int], error: BaseException) -> SimjaxError:
    """Of a step that cannot be read; see `unsaved`."""
    return SimjaxError(f"{path}: cannot be read ({_one_line(error)}); {way_out(path, steps)}")


def way_out(path: Path, steps: Sequence[int]) -> str:
    """What to do about a step that is damaged."""
    older = [other for other in steps if other < int(path.name)]
    if older:
        return f"delete {path} to go back to step {older[-1]}"
    return f"no older checkpoint is left: delete {path} to start over"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
