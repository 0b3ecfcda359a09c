"""Which code measured: records of a study that other code made are not added to."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
MEASURE = (
    *("data", "eval", "inference", "models", "objectives", "ops", "postprocess", "train"),
    *("mesh.py", "sentence_encoder.py", "types.py"),
)
"""Parts of simjax that decide what a run of any study gives."""


def sources(own: Path, told_by: Collection[str]) -> str:
    """A digest of the code that measures.

    Args:
        own: The folder of the study's own modules.
        told_by: Those that tell what was measured, and measure nothing themselves.
    """
    files = [path for path in own.glob("*.py") if path.stem not in told_by]
    for part in MEASURE:
        path = PACKAGE / part
        files += [path] if path.is_file() else path.rglob("*.py")
    digest = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(PACKAGE)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]
