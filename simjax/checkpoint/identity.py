"""What makes a run the same run: a checkpoint of one may not be continued as another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simjax.checkpoint.manifest import write_json
from simjax.dotted import flatten
from simjax.errors import SimjaxError
from simjax.remote import without_secrets

NAME = "run.json"


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted keys whose values differ or that only one side has, sorted.

    Values are compared as JSON holds them: a tuple equals the list of its items. What is absent is
    null, so that runs go on under a version that knows more keys.
    """
    before, after = flatten(_as_json(old)), flatten(_as_json(new))
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def tell(keys: list[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The dotted keys with their values before and now, for messages."""
    before, after = flatten(_as_json(old)), flatten(_as_json(new))
    return ", ".join(f"{key} ({_say(before, key)} there, {_say(after, key)} here)" for key in keys)


def record(folder: Path, identity: Mapping[str, Any]) -> None:
    """Writes the identity of the run that owns ``folder``."""
    write_json(folder / NAME, _as_json(identity))


def compare(folder: Path, identity: Mapping[str, Any], others: Mapping[str, str]) -> None:
    """Holds ``identity`` to the recorded one.

    Args:
        folder: that of the checkpoints.
        identity: what may not change.
        others: keys that have changed as well, which by itself is allowed, and how.

    Raises:
        SimjaxError: nothing is recorded, or with the keys that differ, their recorded and their
            present values.
    """
    path = folder / NAME
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(recorded, dict):
            raise ValueError(f"it holds {type(recorded).__name__}, not a JSON object")
    except FileNotFoundError as error:
        raise SimjaxError(
            f"{path}: is missing, so that nothing tells which run the checkpoints beside it belong "
            "to; put it back, or choose another output"
        ) from error
    except (ValueError, RecursionError, OSError) as error:
        raise SimjaxError(f"{path}: cannot be read ({error}); choose another output") from error
    hold(recorded, identity, others, str(path))


def hold(
    recorded: Mapping[str, Any],
    identity: Mapping[str, Any],
    others: Mapping[str, str],
    where: str,
    way_out: str = "output folder",
) -> None:
    """Holds ``identity`` to one that is recorded.

    Args:
        recorded: that of the checkpoints.
        identity: what may not change.
        others: keys that have changed as well, which by itself is allowed, and how.
        where: where the checkpoints are, for the message.
        way_out: what else the user may choose.

    Raises:
        SimjaxError: with the keys that differ, their recorded and their present values.
    """
    if keys := changed_keys(recorded, identity):
        refused = {*keys, *(f"train.{key}" for key in keys)}
        allowed = ", ".join(told for key, told in others.items() if key not in refused)
        beside = f"changed as well: {allowed}; " if allowed else ""
        raise SimjaxError(
            f"{where}: these checkpoints belong to another run; refused: "
            f"{tell(keys, recorded, identity)}; {beside}"
            "restore what was there (a token_store follows the texts, the columns and the "
            f"tokenizer), or choose another {way_out}"
        )


def _as_json(identity: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(identity)))


def _say(flat: Mapping[str, Any], key: str) -> str:
    return without_secrets(json.dumps(flat[key])) if key in flat else "absent"
