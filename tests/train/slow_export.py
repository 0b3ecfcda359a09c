"""`simjax train`, whose export takes so long that a signal can come in the midst of it.

python -m tests.train.slow_export train RECIPE ...
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from simjax.cli.main import main
from simjax.train import finish

EXPORTING = "exporting"
"""A file beside the export, which is there once it has begun."""
SECONDS = 8.0
_export = finish.export_model


def export_slowly(config: Any, encoder: Any, folder: Path, **options: Any) -> None:
    (folder.parent / EXPORTING).touch()
    time.sleep(SECONDS)
    _export(config, encoder, folder, **options)


if __name__ == "__main__":
    finish.export_model = export_slowly
    sys.exit(main(sys.argv[1:]))
