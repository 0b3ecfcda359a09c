"""A progress bar on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(
    total: int | None, *, shown: bool = True, what: str = "encoding", done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Show a bar, or for an unknown total a count, from the first step to the end.

    Args:
        total: What there is to do; None where nobody knows.
        shown: False shows nothing.
        what: What is being done.
        done: What was done before.

    Yields:
        A function to call with every number more that are done.
    """
    if not shown:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = Progress.get_default_columns()
    more = () if total is not None else (MofNCompleteColumn(),)
    bar = Progress(*columns, *more, console=Console(stderr=True))
    task = bar.add_task(what, total=total, completed=done)

    def advance(count: int) -> None:
        # Not before something was done: an error at the start is one line.
        bar.start()
        bar.advance(task, count)

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
