"""Kills a run again and again, at random moments, and holds what is left to an undisturbed one.

    python -m tests.torture.torment --kills 24 --processes 1
    python -m tests.torture.torment --kills 24 --processes 2
    python -m tests.torture.torment --kills 24 --processes 1 --mirror

Moments are drawn from starts, steps, saves, evaluations and exports; of several processes one or
all are killed, and those that are left have to end by themselves. After every kill each checkpoint
that is complete has to be whole, and the newest one no older than before. In the end parameters,
optimiser, metrics and export have to be those of the undisturbed run to the bit, and its folder and
its cache have to hold the same files. A kill counts if it found a process alive. With a mirror runs
are killed while they copy as well, and after some kills the run folder is gone.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

DEVICES = 2
"""Of each process."""
COMPILED = "compiled"
"""Folder of compiled programs."""
PHASES = ("start", "step", "save", "evaluation")
COPY, EXPORT = "copy", "export"
WAIT = 300
"""Seconds after which something hangs."""


class Failed(Exception):
    """What must not be."""


@dataclass
class Torment:
    """One run, its processes, and the dice."""

    folder: Path
    processes: int
    dice: random.Random
    epochs: int = 24
    mirrored: bool = False
    struck: Counter[str] = field(default_factory=Counter)
    """Kills so far, by what the run was about to do."""
    lost_whole: bool = False
    """The run folder was lost when the mirror had the last step already."""

    def __post_init__(self) -> None:
        from tests.train.tiny_run import BATCH, EXAMPLES, write_data

        self.total = self.epochs * EXAMPLES // BATCH
        self.data = self.folder / "data"
        self.data.mkdir(parents=True)
        write_data(self.data)
        self.output = self.folder / "tormented"

    def config(self, output: Path):
        from simjax.mesh import MeshConfig
        from simjax.train.config import TrainConfig
        from tests.train.tiny_run import BLOCK, recipe

        plan = TrainConfig(epochs=self.epochs, micro_batch=BLOCK, log_every=1)
        found = recipe(self.data, output, mesh=MeshConfig(self.processes, DEVICES), train=plan)
        mirror = str(self.mirror(output)) if self.mirrored else None
        return replace(
            found,
            data=replace(found.data, cache=str(self.cache(output))),
            checkpoint=replace(found.checkpoint, mirror=mirror),
        )

    def mirror(self, output: Path) -> Path:
        """Each run has its own."""
        return self.folder / f"mirror-{output.name}"

    def cache(self, output: Path) -> Path:
        """Each run makes its own token store, and may be killed while it does."""
        return self.folder / f"cache-{output.name}"

    def start(self, output: Path) -> list[int]:
        """Forks the processes of a run, which have then imported everything already."""
        from simjax.train import config as run_config

        path = self.folder / f"{output.name}.yaml"
        path.write_text(run_config.dump(self.config(output)), encoding="utf-8")
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        found = []
        for index in range(self.processes):
            pid = os.fork()
            if pid == 0:
                self._become(path, port, index)
            found.append(pid)
        return found

    def _become(self, path: Path, port: int, index: int) -> None:
        import jax

        from simjax.cli.main import main

        status = 1
        try:
            printed = os.open(self.printed(path.stem, index), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(printed, 1)
            os.dup2(printed, 2)
            jax.config.update("jax_num_cpu_devices", DEVICES)
            who = [f"--coordinator=localhost:{port}", f"--num_processes={self.processes}"]
            who += [f"--process_id={index}", "--heartbeat_timeout=15"]
            status = main(["train", str(path), *who])
            sys.stderr.flush()
        finally:
            os._exit(status)

    def printed(self, name: str, index: int = 0) -> Path:
        return self.folder / f"{name}.printed-{index}"

    def finish(self, output: Path) -> None:
        """Runs to the end."""
        statuses = [self.ended(pid) for pid in self.start(output)]
        if any(statuses):
            told = self.printed(output.name).read_text(errors="replace")
            raise Failed(f"undisturbed, and yet ended with {statuses}: {told}")

    def ended(self, pid: int) -> int:
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        raise Failed(f"a process hangs: {self.printed(self.output.name).read_text()}")

    def steps(self) -> int:
        from tests.train.tiny_run import lines

        return max((line["step"] for line in lines(self.output)), default=0)

    def complete(self) -> list[int]:
        """Complete checkpoints, all of which are whole."""
        from simjax.checkpoint import manifest

        found = []
        for path in (self.output / "checkpoints").glob("[0-9]*"):
            if path.name.isdecimal() and (path / manifest.NAME).exists():
                try:
                    manifest.verify(path)
                except manifest.Damaged:
                    if (path / manifest.NAME).exists():  # else it is being deleted
                        raise
                    continue
                found.append(int(path.name))
        return sorted(found)

    def copied(self) -> list[int]:
        """Whole checkpoints in the mirror."""
        from simjax.checkpoint.mirror_place import WHOLE

        return sorted(int(path.parent.name) for path in self.mirror(self.output).glob(f"*/{WHOLE}"))

    def moment(self) -> tuple[str, Callable[[], bool], float]:
        """What to wait for, and how many seconds more."""
        from tests.train.tiny_run import EVALUATED

        begun = self.steps()
        if begun >= self.total - 12:
            return EXPORT, self._exports, self.dice.choice((0.0, 0.05, 0.3)) * self.dice.random()
        phases = (*PHASES, COPY) if self.mirrored else PHASES
        fewest = min(self.struck[phase] for phase in phases)
        phase = self.dice.choice([phase for phase in phases if self.struck[phase] == fewest])
        ahead = begun + self.dice.randint(1, 4)
        if phase == "start":
            return phase, lambda: True, 4 * self.dice.random()
        if phase == "step":
            return phase, lambda: self.steps() >= ahead, 0.2 * self.dice.random()
        if phase == "save":
            left = self._unnamed()  # by the kill before
            return phase, lambda: bool(self._unnamed() - left), 0.1 * self.dice.random()
        if phase == COPY:
            left = self._half_copied()
            return phase, lambda: bool(self._half_copied() - left), 0.02 * self.dice.random()
        evaluated = -(-ahead // EVALUATED) * EVALUATED
        return phase, lambda: self.steps() >= evaluated, 0.1 * self.dice.random()

    def _unnamed(self) -> set[str]:
        """Checkpoints that do not have their names yet, or not any more."""
        entries = (self.output / "checkpoints").glob("[0-9]*")
        return {entry.name for entry in entries if not entry.name.isdecimal()}

    def _half_copied(self) -> set[str]:
        """Steps in the mirror that do not count yet, or not any more."""
        there = {path.name for path in self.mirror(self.output).glob("[0-9]*")}
        return there - {str(step) for step in self.copied()}

    def _exports(self) -> bool:
        return any(self.output.glob(".export.partial-*"))

    def strike(self) -> str | None:
        """Starts the run and kills it; returns what happened, or None if it had ended before."""
        before = self.complete() or self.copied()
        phase, come, delay = self.moment()
        pids = self.start(self.output)
        alive = dict(enumerate(pids))
        deadline = time.monotonic() + WAIT
        while not come():
            for index, pid in list(alive.items()):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    del alive[index]
                    if status:
                        told = self.printed(self.output.name, index).read_text(errors="replace")
                        raise Failed(f"process {index} ended before it was killed: {told}")
            if not alive:
                return None
            if time.monotonic() > deadline:
                raise Failed(f"no {phase} came: {self.printed(self.output.name).read_text()}")
            time.sleep(0.001)
        time.sleep(delay)
        doomed = [*alive] if self.dice.random() < 0.3 else [self.dice.choice([*alive])]
        for index in doomed:
            os.kill(alive[index], signal.SIGKILL)
        statuses = {index: self.ended(pid) for index, pid in alive.items()}
        after = self.complete() or self.copied()  # where it was killed before it had fetched any
        if not any(statuses[index] == -signal.SIGKILL for index in doomed):
            return None
        # Those that are left end by themselves; at the very end, they may be done.
        if 0 in statuses.values() and self.total not in after:
            raise Failed(f"a run that was killed ended with {statuses}, complete {after}")
        if before and (not after or after[-1] < before[-1]):
            raise Failed(f"checkpoint {before[-1]} is lost: {after} are left")
        self._resumed_from(before)
        told = ", ".join(f"{index}: {status}" for index, status in statuses.items())
        at = self.steps()
        if self.copied() and self.dice.random() < 0.4:
            shutil.rmtree(self.output)
            self.lost_whole = self.copied()[-1] == self.total
            told += f"; the run folder is gone, copied {self.copied()}"
        return f"{phase} (at step {at}, complete {after}; ended with {told})"

    def _resumed_from(self, before: list[int]) -> None:
        """Holds what the first process has said of its start to the checkpoints that there were."""
        told = self.printed(self.output.name).read_text(errors="replace")
        if not before or before[-1] == self.total:
            return
        expected = f"going on from step {before[-1]} of {self.total}"
        if re.search(r"going on|^step \d+: ", told, re.MULTILINE) and expected not in told:
            raise Failed(f"not {expected!r}: {told}")


def contents(output: Path) -> list[str]:
    """All files of a run; those whose names are drawn at each start, by their kind."""
    found = [path.relative_to(output) for path in output.rglob("*")]
    kept = [p for p in found if p.parts[0] not in ("tensorboard", "checkpoints")]
    kept += [p for p in found if p.parts[0] == "checkpoints" and len(p.parts) < 3]
    events = [p for p in found if p.parts[0] == "tensorboard" and "tfevents" in p.name]
    kept += {path.parent / "tfevents" for path in events}
    return sorted(map(str, kept))


def compare(one: Torment, whole: Path) -> None:
    """Holds the tormented run to the undisturbed one; uses JAX in this process."""
    import jax

    from simjax.checkpoint.mirror_place import MARK
    from tests.train.tiny_run import assert_same_bits, figures, state_at

    jax.config.update("jax_num_cpu_devices", DEVICES * one.processes)
    here, expected = contents(one.output), contents(whole)
    if one.lost_whole:  # the newest checkpoint comes back and the best, and no step follows
        older = {f"checkpoints/{step}" for step in one.copied()[:-1]}
        expected = [name for name in expected if name in here or name not in older]
    assert here == expected, (here, expected)
    # A store that was cut off while it was made goes a day later: another process may be making it.
    stores = [
        {path.name for path in one.cache(output).iterdir() if path.suffix != ".tmp"}
        for output in (one.output, whole)
    ]
    assert stores[0] == stores[1], stores
    there = {one.data, one.output, whole, one.cache(one.output), one.cache(whole)}
    there.add(one.folder / COMPILED)
    if one.mirrored:
        # Which of the older steps are there goes with how fast they were copied.
        copied = one.copied()
        names = {path.name for path in one.mirror(one.output).iterdir()}
        assert names == {MARK, *map(str, copied)} and copied[-1] == one.total, names
        there |= {one.mirror(output) for output in (one.output, whole)}
    strange = [p for p in one.folder.iterdir() if p not in there and p.is_dir()]
    assert not strange, strange
    assert figures(one.output) == figures(whole), "metrics differ"
    for name in ("export/model.safetensors", "config.yaml"):
        left, right = (folder / name for folder in (one.output, whole))
        if name == "config.yaml":
            assert left.read_text().replace(one.output.name, whole.name) == right.read_text()
        else:
            assert left.read_bytes() == right.read_bytes(), f"{name} differs"
    assert_same_bits(*(state_at(one.config(folder)) for folder in (one.output, whole)))


def prepare(compiled: Path) -> None:
    """Imports once, in the parent of all, so that children start at once.

    JAX must not compute here.

    Args:
        compiled: Where programs are kept, so that each is compiled once.
    """
    import jax

    for module in ("simjax.processes.start", "simjax.train.loop"):  # and what they import
        importlib.import_module(module)
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def main() -> int:
    """Returns 0 if the run survives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=24, help="of three steps each")
    parser.add_argument("--mirror", action="store_true", help="copy checkpoints, lose folders")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    prepare(folder / COMPILED)
    one = Torment(folder, args.processes, random.Random(args.seed), args.epochs, args.mirror)
    whole = folder / "undisturbed"
    one.finish(whole)
    struck, wanted = one.struck, {*PHASES, EXPORT, *([COPY] if args.mirror else [])}
    every = args.kills >= 4 * len(wanted)  # else there are too few to come to the export
    while struck.total() < args.kills or (every and not struck[EXPORT]):
        told = one.strike()
        if told is None:
            print("the run came to its end; once more", flush=True)
            continue
        struck[told.split()[0]] += 1
        print(f"kill {struck.total()} of {args.kills}: {told}", flush=True)
    if every and (missing := wanted - {*struck}):
        raise Failed(f"no kill at {', '.join(sorted(missing))}")
    one.finish(one.output)
    compare(one, whole)
    print(f"survived {struck.total()} kills of {args.processes} processes: {dict(struck)}")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
