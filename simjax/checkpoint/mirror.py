"""Copies of a run's checkpoints elsewhere, for machines whose disks go when they are taken away.

A copy that was cut off makes way for the next one. Steps stay as they do in the run folder: the
newest ones, and the best.
"""

from __future__ import annotations

import json
import secrets
import shutil
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax

from simjax import remote
from simjax.checkpoint import identity as run_identity
from simjax.checkpoint import manifest
from simjax.checkpoint.mirror_place import MARK, STEPS, Place, Whole, is_step
from simjax.checkpoint.step_folders import discard, discarded
from simjax.errors import SimjaxError
from simjax.processes import roll_call, shared_folder

_STAGED = "fetched.partial"
_PATIENCE = 10.0
"""Seconds after which it is told what is waited for."""


class Mirror:
    """Where the checkpoints of a run are copied to, and fetched from when they are gone here.

    All processes of the run make the same calls; process 0 alone reads and writes there. Without a
    URL nothing is done. On leaving its block what was to be copied is there, or could not be.
    """

    def __init__(
        self,
        url: str | None,
        folder: Path,
        *,
        keep: int,
        beside: Callable[[int], Mapping[str, bytes]],
        taken: Collection[str],
        say: Callable[[str], object],
    ) -> None:
        """Takes note of what to do.

        Args:
            url: The mirror, or None.
            folder: The run folder.
            keep: How many of the newest copies stay; the best one stays as well.
            beside: What going on from a step needs beside its checkpoint: contents, by their
                names in the run folder.
            taken: The first parts of those names. Nothing else is put into the run folder.
            say: Shows a line.
        """
        self.folder = folder
        self._url = "" if url is None else remote.as_url(url)
        self._name = remote.without_secrets(self._url)
        self._keep = keep
        self._beside = beside
        self._taken = frozenset(taken)
        self._say = say
        self._leads = bool(self._url) and jax.process_index() == 0
        self._nonce = secrets.token_hex(8).encode()
        self._identity: dict[str, Any] = {}
        self._recorded: dict[str, Any] | None = None
        self._owns = False
        self._there: set[int] = set()
        """Steps that are whole in the mirror, and"""
        self._damaged: set[int] = set()
        """those that were, and have to be copied again."""
        self._changed: set[int] = set()
        """Steps of which something has come since they were copied."""
        self._fetched: list[Path] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._work: Future[None] | None = None
        self._lock = threading.Lock()
        self._busy = False
        self._offered: tuple[int, int | None] | None = None
        self._waiting: tuple[int, int | None] | None = None
        self._reading: set[int | None] = set()
        self._doomed: list[int] = []
        self._fault = ""
        """Why the last copy is not there."""

    def fetch(self) -> None:
        """Brings the newest whole checkpoint here, unless there is one here that is as new.

        All processes call this together, before any of them looks for checkpoints. The best one
        comes as well, so that the run ends as it would have.

        Raises:
            SimjaxError: The mirror cannot be reached, read or written, it holds something else, or
                none of its checkpoints is whole and there are none here.
            UsageError: It lies in the run folder, or that in it.
        """
        if not self._url:
            return
        step = self._fetch() if self._leads else None
        (_, told), *_ = roll_call.answers("mirror", "" if step is None else str(step))
        if told and not shared_folder.seen(lambda: self._is_here(int(told))):
            raise SimjaxError(
                f"{self._path(int(told))}: fetched by process 0, and not seen by this one; "
                "`output` has to lie where all processes see it"
            )

    def identify(self, identity: Mapping[str, Any], changed: Mapping[str, str]) -> None:
        """Holds the run to the one whose checkpoints are there.

        Args:
            identity: What may not change from one start of the run to the next.
            changed: Keys outside of it that have changed, and how, for the message.

        Raises:
            SimjaxError: The checkpoints there belong to another run.
        """
        if not self._leads:
            return
        self._identity = dict(identity)
        try:
            if self._recorded is not None:
                run_identity.hold(
                    self._recorded, identity, changed, self._name, "checkpoint.mirror"
                )
        except SimjaxError:
            for path in self._fetched:  # which is not this run's
                discard(path)
            raise

    def offer(
        self, step: int, best: int | None, drop: Sequence[int] = (), *, changed: bool = False
    ) -> list[int]:
        """Copies a checkpoint, complete here, in the background; it replaces one that waits.

        From the first copy on no other start of the run writes there.

        Args:
            step: The checkpoint.
            best: The best one, which is copied before it if it is not there.
            drop: Checkpoints that are about to be deleted here.
            changed: Something has come since it was saved. If it is there and the best one, it is
                copied again, once a newer one is there: it must not go while it is the newest.

        Returns:
            Those of them that may be deleted now. The others are being read, and go afterwards.
        """
        if not self._leads:
            return list(drop)
        with self._lock:
            self._offered = self._waiting = (step, best)
            if changed:
                self._changed.add(step)
            read = [old for old in drop if old in self._reading]
            self._doomed += read
            if not self._busy:
                self._busy = True
                self._work = self._pool.submit(self._copy_all)
        return [old for old in drop if old not in read]

    def finish(self) -> None:
        """Waits for the last copy, and tries it once more if it failed.

        Raises:
            SimjaxError: It failed again.
        """
        if self._work is not None:
            if not wait([self._work], _PATIENCE).done:
                self._say(f"waiting for the last copy to {self._name}")
            self._work.result()
        if self._offered is None or not self._fault:
            return
        self._fault = self._tried(*self._offered)
        if self._fault:
            step = self._offered[0]
            raise SimjaxError(
                f"checkpoint.mirror: the checkpoint of step {step} could not be copied to "
                f"{self._name} ({self._fault}); it is whole in {self._path(step)}, and the same "
                "command tries again"
            )

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def _path(self, step: int) -> Path:
        return self.folder / STEPS / str(step)

    def _is_here(self, step: int) -> bool:
        return (self._path(step) / manifest.NAME).exists()

    def _is_whole(self, step: int) -> bool:
        try:
            manifest.verify(self._path(step))
        except manifest.Damaged:
            return False
        return True

    def _fetch(self) -> int | None:
        place = Place(self._url)
        place.check_apart(self.folder)
        # Of a start that was cut off, perhaps behind what it had fetched.
        shutil.rmtree(self.folder / _STAGED, ignore_errors=True)
        with remote.complaints(self._url, "be read"):
            names = place.names()
            if names and MARK not in names:
                raise SimjaxError(
                    f"{self._name}: holds files that are of no mirror; choose another folder for "
                    "checkpoint.mirror"
                )
            # Another start goes on writing there until it is known that this one may.
            steps = place.steps()
            found: dict[int, Whole] = {}
            for step in steps:
                try:
                    found[step] = place.whole(step)
                except FileNotFoundError:
                    continue  # a copy that was cut off
                except manifest.Damaged as error:
                    self._leave_out(step, error)
        with remote.complaints(self._url, "be written"):
            if names:  # another start may still write there
                place.probe()
            else:
                place.sign(self._nonce)
        self._there = set(found)
        self._recorded = found[max(found)].identity if found else None
        steps_here = (p.name for p in self.folder.glob(f"{STEPS}/*") if is_step(p.name))
        mine = sorted(filter(self._is_here, map(int, steps_here)), reverse=True)
        here = next(filter(self._is_whole, mine), 0)
        for step in sorted(found, reverse=True):
            if step <= here:
                return None
            if mine:
                self._check_same(found[step])
            if self._brought(place, step, found, anew=not mine):
                newer = f", newer than step {here} here" if here else ""
                self._say(f"checkpoint of step {step} fetched from {self._name}{newer}")
                return step
        if not here and (self._damaged or len(steps) > 1):
            raise SimjaxError(
                f"{self._name}: none of its checkpoints is whole; put them back, or delete what is "
                "there to start over"
            )
        return None

    def _check_same(self, whole: Whole) -> None:
        """Raises `SimjaxError` unless the checkpoints here are known to be of that run."""
        path = self.folder / STEPS / run_identity.NAME
        try:
            mine = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise SimjaxError(
                f"{path}: cannot be read ({error}), so that nothing tells whether the checkpoints "
                f"beside it are of the run in {self._name}; put it back, or choose another output"
            ) from error
        run_identity.hold(whole.identity, mine, {}, self._name, "checkpoint.mirror")

    def _brought(self, place: Place, step: int, found: Mapping[int, Whole], *, anew: bool) -> bool:
        """Puts a step and the best one into the run folder; False if it is damaged, which is told.

        A start that is cut off begins anew: the step itself comes last, and at one stroke.
        """
        staged, best = self.folder / _STAGED, found[step].best
        if not self._got(place, step, found[step].sums):
            return False
        (self.folder / STEPS).mkdir(exist_ok=True)
        run_identity.record(self.folder / STEPS, found[step].identity)
        if best is not None and best != step and not self._is_here(best):
            own = f"{STEPS}/{best}/"
            sums = found[best].sums if best in found else {f"{own}{manifest.NAME}": ""}
            if self._got(place, best, {n: sum_ for n, sum_ in sums.items() if n.startswith(own)}):
                self._move(best)
        for path in (staged / str(step)).iterdir():
            if path.name in self._taken:
                target = self.folder / path.name
                if target.is_dir():
                    shutil.rmtree(target)
                path.replace(target)
                self._fetched += [target] if anew else []
        self._move(step)
        shutil.rmtree(staged)
        return True

    def _got(self, place: Place, step: int, sums: Mapping[str, str]) -> bool:
        try:
            place.get(step, sums, self.folder / _STAGED / str(step))
        except manifest.Damaged as error:
            self._leave_out(step, error)
            return False
        return True

    def _move(self, step: int) -> None:
        target = self._path(step)
        if target.exists():  # never complete
            discard(target)
        (self.folder / _STAGED / str(step) / STEPS / str(step)).replace(target)
        self._fetched.append(target)

    def _leave_out(self, step: int, error: manifest.Damaged) -> None:
        self._there.discard(step)
        self._damaged.add(step)
        self._say(f"checkpoint of step {step} left out: {error}")

    def _copy_all(self) -> None:
        """What the thread does: copies until nothing waits."""
        while (offered := self._next()) is not None:
            self._fault = self._tried(*offered)
            if self._fault:
                self._say(
                    f"checkpoint of step {offered[0]} not copied to {self._name} ({self._fault}); "
                    "the next one tries again"
                )

    def _next(self) -> tuple[int, int | None] | None:
        with self._lock:
            doomed, self._doomed = self._doomed, []
            offered, self._waiting = self._waiting, None
            self._reading = set(offered or ())
            self._busy = offered is not None
        for step in doomed:
            discarded(self._path(step))  # what is left goes at the next start
        return offered

    def _tried(self, step: int, best: int | None) -> str:
        """Copies a step and the best one, where they are not there; returns why it could not."""
        try:
            place = Place(self._url)
            if self._owns:
                self._check_mine(place)
            else:
                place.sign(self._nonce)
                self._owns = True
            for old in set(place.steps()) - self._there - self._damaged:
                if place.is_marked(old):  # by the start before, after this one had looked
                    self._there.add(old)
                else:
                    place.remove(old)  # a copy that was cut off
            for one in (best, step):
                if one is not None and one not in self._there:
                    self._copy(place, one, best)
            if best is not None and best in self._changed and best < max(self._there):
                self._there.discard(best)
                self._damaged.add(best)
                self._copy(place, best, best)
            self._check_mine(place)
            kept = {*sorted(self._there)[-self._keep :], best}
            for old in (self._there - kept) | {old for old in self._damaged if old < step}:
                self._there.discard(old)
                place.remove(old)
                self._damaged.discard(old)
        except Exception as error:  # file systems have none in common
            return remote.reason(error, self._url)
        return ""

    def _check_mine(self, place: Place) -> None:
        if place.owner() != self._nonce:
            raise SimjaxError("another start writes its checkpoints there")

    def _copy(self, place: Place, step: int, best: int | None) -> None:
        self._changed.discard(step)  # what comes from here on may not be in the copy
        folder, own = self._path(step), f"{STEPS}/{step}/"
        with TemporaryDirectory() as draft:
            files = {}
            for name, content in self._beside(step).items():
                files[name] = Path(draft, name)
                files[name].parent.mkdir(parents=True, exist_ok=True)
                files[name].write_bytes(content)
            sums = manifest.sums(Path(draft), list(files))
            recorded = manifest.read(folder) | manifest.sums(folder, [manifest.NAME])
            sums |= {own + name: sum_ for name, sum_ in recorded.items()}
            files |= {own + name: folder / name for name in recorded}
            if step in self._damaged:
                place.remove(step)
            place.put(step, files)
        self._check_mine(place)
        place.mark(step, Whole(self._identity, best, sums))
        self._damaged.discard(step)
        self._there.add(step)
