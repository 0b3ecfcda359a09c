"""Kills a run of every system once, for real, and holds what it ends with to an undisturbed one.

python -m tests.torture.systems
python -m tests.torture.systems tension paraphrases
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.torture.torment import COMPILED, Failed, Torment, compare, prepare

SAVED = 2
"""Steps between checkpoints."""


@dataclass
class System(Torment):
    """A run of a system, and where it is killed: behind its first checkpoint, before the end.

    Attributes:
        name: One of `tests.train.systems.SYSTEMS`.
        teacher: An exported model.
    """

    name: str = ""
    teacher: str = ""

    def __post_init__(self) -> None:
        from tests.train.systems import STEPS, write_scored

        super().__post_init__()
        write_scored(self.data)
        self.total = STEPS

    def config(self, output: Path):
        from simjax.checkpoint.config import CheckpointConfig
        from tests.train.systems import config_of

        kept = CheckpointConfig(every=SAVED, keep=SAVED)
        found = config_of(self.name, self.data, output, self.teacher, checkpoint=kept)
        return replace(found, data=replace(found.data, cache=str(self.cache(output))))

    def moment(self) -> tuple[str, Callable[[], bool], float]:
        """In a step, so that there is something to go on with and something to do."""
        last = self.dice.randint(SAVED + 1, self.total - 1)
        return "step", lambda: self.steps() >= last and bool(self.complete()), 0.0


def compare_apart(one: System, whole: Path) -> None:
    """`compare` in a process of its own: this one forks the next runs, and must not compute."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            compare(one, whole)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if one.ended(pid):
        raise Failed(f"{one.name}: does not end as the undisturbed run")


def main() -> int:
    """Returns 0 if every run survives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="SYSTEM", help="by default all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="systems-"))
    prepare(folder / COMPILED)
    from tests.train.systems import SYSTEMS, TEACHER

    dice = random.Random(args.seed)
    teacher = System(folder / TEACHER, 1, dice, name="flatnce")
    # `compare` puts one run's name for the other's in recipes, which hold this folder too.
    taught = folder / TEACHER / "trained"
    teacher.finish(taught)
    for name in args.names or SYSTEMS:
        one = System(folder / name, 1, dice, name=name, teacher=str(taught / "export"))
        whole = one.folder / "undisturbed"
        one.finish(whole)
        for _ in range(9):
            if told := one.strike():
                break
        else:
            raise Failed(f"{name}: a run of {one.total} steps is over before it can be killed")
        one.finish(one.output)
        compare_apart(one, whole)
        print(f"{name} survived: {told}", flush=True)
        shutil.rmtree(one.folder)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
