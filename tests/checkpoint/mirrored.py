"""Starts of a run of hardly any size, whose checkpoints have a mirror."""

from __future__ import annotations

from contextlib import contextmanager

import fsspec
import jax
import jax.numpy as jnp
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from simjax.checkpoint.manager import CheckpointConfig, Checkpoints
from simjax.checkpoint.mirror import Mirror
from simjax.checkpoint.mirror_place import WHOLE
from simjax.errors import SimjaxError

in_memory = pytest.mark.parametrize("url", ["memory"], indirect=True)
IDENTITY = {"seed": 0, "views": (1, 2)}
TARGET = {"x": jnp.zeros(8)}


def forget_memory():
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def state(step):
    return {"x": jax.random.normal(jax.random.key(step), (8,))}


def beside(step):
    return {
        "config.yaml": b"seed: 0\n",
        "tokenizer/vocab.txt": b"a\n",
        "metrics.jsonl": b"%d" % step,
    }


@contextmanager
def run(folder, url, said=None, *, keep=2, identity=IDENTITY):
    """The mirror and the checkpoints of a start of a run."""
    say = [].append if said is None else said.append
    folder.mkdir(exist_ok=True)
    taken = ("config.yaml", "tokenizer", "metrics.jsonl")
    with Mirror(url, folder, keep=keep, beside=beside, taken=taken, say=say) as mirror:
        mirror.fetch()
        mirror.identify(identity, {})
        with Checkpoints(
            folder / "checkpoints", CheckpointConfig(keep=keep), best_metric="dev", mirror=mirror
        ) as checkpoints:
            checkpoints.identify(identity)
            checkpoints.check(say)
            yield mirror, checkpoints


def save(mirror, checkpoints, step, score=None, *, wait=True):
    metrics = {} if score is None else {"dev": score}
    checkpoints.save(step, state(step), {"next_index": step}, metrics)
    if wait:
        checkpoints.wait()
        mirror.finish()


def saved(folder, url, scores, **options):
    with run(folder, url, **options) as (mirror, checkpoints):
        for step, score in scores.items():
            save(mirror, checkpoints, step, score)


def files(url):
    """Contents by name in the mirror."""
    filesystem, place = fsspec.core.url_to_fs(url)
    return {
        path.removeprefix(f"{place}/"): filesystem.cat_file(path) for path in filesystem.find(place)
    }


def whole_steps(url):
    return sorted(int(name.split("/")[0]) for name in files(url) if name.endswith(f"/{WHOLE}"))


def steps(url):
    return sorted({int(name.split("/")[0]) for name in files(url) if "/" in name})


def assert_is_state(checkpoints, step):
    restored, data = checkpoints.restore(step, TARGET)
    assert data == {"next_index": step}
    assert jax.device_get(restored["x"]).tobytes() == jax.device_get(state(step)["x"]).tobytes()


def refused(folder, url, match, **options):
    """A start that ends with one line; returns it."""
    with pytest.raises(SimjaxError, match=match) as caught, run(folder, url, **options):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)
