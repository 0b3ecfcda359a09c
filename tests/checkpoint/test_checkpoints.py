from __future__ import annotations

import dataclasses
import resource
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import P
from jax.sharding import AxisType, NamedSharding

from simjax.checkpoint import manager, manifest, step_folders
from simjax.checkpoint.manager import CheckpointConfig, Checkpoints
from simjax.errors import SimjaxError, UsageError


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    params: dict
    opt_state: optax.OptState
    step: jax.Array
    key: jax.Array
    empty: jax.Array


def make_state(seed: int = 0) -> State:
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "layers": {"kernel": jax.random.normal(keys[0], (16, 8)), "bias": jnp.zeros(8)},
        "half": {"kernel": jax.random.normal(keys[1], (8, 4), jnp.bfloat16)},
    }
    return State(params, optax.adamw(1e-3).init(params), jnp.int32(seed), keys, jnp.zeros((0, 4)))


def assert_same_bits(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_everything_comes_back(tmp_path):
    state = make_state(3)
    with Checkpoints(tmp_path / "new" / "folder") as checkpoints:
        assert checkpoints.latest() is None and checkpoints.steps() == []
        checkpoints.save(7, state, {"next_index": 5, "seen": [1, 2]}, {"dev/spearman": 0.5})
        checkpoints.wait()
        assert checkpoints.latest() == 7
    with Checkpoints(tmp_path / "new" / "folder") as checkpoints:
        assert checkpoints.steps() == [7]
        assert checkpoints.metrics(7) == {"dev/spearman": 0.5}
        restored, data_state = checkpoints.restore(7, jax.eval_shape(lambda: state))
    assert isinstance(restored, State)
    assert data_state == {"next_index": 5, "seen": [1, 2]}
    assert_same_bits(restored, state)


def test_other_kinds_of_keys_keep_their_kind(tmp_path):
    state = {"key": jax.random.key(0, impl="rbg")}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        restored, _ = checkpoints.restore(1, state)
        assert_same_bits(restored, state)
        with pytest.raises(SimjaxError, match=r"key has dtype key<rbg>, this state wants key<fry>"):
            checkpoints.restore(1, {"key": jax.random.key(0)})


@pytest.mark.parametrize(("data", "fsdp"), [(2, 2), (1, 4), (4, 2), (1, 1)])
def test_any_mesh_restores_exact_values(tmp_path, data, fsdp):
    def place(data, fsdp):
        devices = jax.devices()[: data * fsdp]
        mesh = jax.make_mesh(
            (data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices
        )
        return {
            "kernel": NamedSharding(mesh, P(None, "fsdp")),
            "moment": NamedSharding(mesh, P(("data", "fsdp"))),
            "step": NamedSharding(mesh, P()),
            "key": NamedSharding(mesh, P()),
        }

    values = {
        "kernel": np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32),
        "moment": np.arange(64, dtype=np.float32).reshape(16, 4),
        "step": np.int32(9),
    }
    state = {name: jax.device_put(value, place(2, 4)[name]) for name, value in values.items()}
    state["key"] = jax.device_put(jax.random.key(1), place(2, 4)["key"])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(9, state, {})
        target = {
            name: jax.ShapeDtypeStruct(state[name].shape, state[name].dtype, sharding=sharding)
            for name, sharding in place(data, fsdp).items()
        }
        restored, _ = checkpoints.restore(9, target)
    for name in values:
        assert restored[name].sharding == target[name].sharding
        assert len(restored[name].sharding.device_set) == data * fsdp
        np.testing.assert_array_equal(np.asarray(restored[name]), values[name])
    assert restored["key"].sharding.is_equivalent_to(target["key"].sharding, 0)
    assert jax.random.key_data(restored["key"]).tolist() == [0, 1]


def test_arrays_may_be_donated_at_once(tmp_path):
    step = jax.jit(lambda x: x * 1.5 + 1.0, donate_argnums=0)
    x = jax.random.normal(jax.random.key(0), (1024, 1024))
    saved = np.array(x)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": x}, {})
        for _ in range(20):
            x = step(x)
        x.block_until_ready()
        restored, _ = checkpoints.restore(1, {"x": x})
    np.testing.assert_array_equal(np.asarray(restored["x"]), saved)


def test_scores_may_come_after_the_step_is_saved(tmp_path):
    x = {"x": jnp.ones(3)}
    config = CheckpointConfig(keep=1)
    with Checkpoints(tmp_path, config, best_metric="dev") as checkpoints:
        checkpoints.save(1, x, {}, {"dev": 0.4})
        checkpoints.save(2, x, {}, {"stale": 1.0, "patience": 3.0}, unscored=True)
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.best() == 1
        checkpoints.score(2, {"dev": 0.5, "stale": 0.0})
        assert checkpoints.steps() == [2]  # 1 is neither the newest nor the best any more
        checkpoints.save(3, x, {}, unscored=True)
        checkpoints.score(3, {"dev": float("nan")})
        with pytest.raises(ValueError, match=r"step 4 is not among those that are saved: \[2, 3\]"):
            checkpoints.score(4, {"dev": 1.0})
    with Checkpoints(tmp_path, config, best_metric="dev") as checkpoints:
        checkpoints.check(lambda line: pytest.fail(line))
        assert checkpoints.metrics(2) == {"dev": 0.5, "stale": 0.0, "patience": 3.0}
        assert checkpoints.best() == 2
    with pytest.raises(ValueError, match="opened to read only"):
        Checkpoints(tmp_path, read_only=True).score(2, {"dev": 1.0})


def test_scores_that_were_cut_off_do_not_count(tmp_path):
    x = {"x": jnp.ones(3)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, x, {}, {"stale": 1.0}, unscored=True)
    (tmp_path / "1" / "scores.json").write_text('{"dev": 1.0}')  # and its sum is not there
    (tmp_path / "1" / "scores.json.partial").write_text('{"de')
    with Checkpoints(tmp_path, best_metric="dev") as checkpoints:
        checkpoints.check(lambda line: pytest.fail(line))
        assert not (tmp_path / "1" / "scores.json.partial").exists()
        assert checkpoints.metrics(1) == {"stale": 1.0}
        checkpoints.score(1, {"dev": 0.5})
    (tmp_path / "1" / "scores.json").write_text('{"dev": 0.6}')
    told: list[str] = []
    with pytest.raises(SimjaxError, match="none of its checkpoints is whole"):
        Checkpoints(tmp_path).check(told.append)
    assert "scores.json: damaged, its SHA-256 is not the recorded one" in told[0]


def test_save_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    from simjax.checkpoint import manifest

    release, write = threading.Event(), manifest.write
    monkeypatch.setattr(manifest, "write", lambda path: release.wait(30) and write(path))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)}, {})
        assert not (tmp_path / "1" / manifest.NAME).exists()  # under way: not complete yet
        release.set()
        assert checkpoints.latest() == 1  # which waits for it


def save_all(checkpoints, scores):
    for step, score in scores.items():
        metrics = None if score is None else {"dev": score}
        checkpoints.save(step, {"x": jnp.full(2, step)}, {"next_index": step}, metrics)
    checkpoints.wait()


SCORES = {1: 0.2, 2: 0.9, 3: None, 4: 0.9, 5: float("nan"), 6: 0.1, 7: 0.3}


@pytest.mark.parametrize(
    ("keep", "options", "kept", "best"),
    [
        (2, {}, [6, 7], None),
        (1, {}, [7], None),
        (2, {"best_metric": "dev"}, [2, 6, 7], 2),
        (1, {"best_metric": "dev", "best_mode": "min"}, [6, 7], 6),
        (1, {"best_metric": "unknown"}, [7], None),
        (9, {"best_metric": "dev"}, [1, 2, 3, 4, 5, 6, 7], 2),
    ],
)
def test_the_newest_and_the_best_stay(tmp_path, keep, options, kept, best):
    config = CheckpointConfig(keep=keep)
    with Checkpoints(tmp_path, config, **options) as checkpoints:
        save_all(checkpoints, SCORES)
        assert checkpoints.steps() == kept
        assert checkpoints.best() == best
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == kept
    again = Checkpoints(tmp_path, config, **options)
    assert (again.steps(), again.best()) == (kept, best)
    for step in kept:
        restored, data_state = again.restore(step, {"x": jnp.zeros(2, jnp.int32)})
        assert restored["x"].tolist() == [step, step] and data_state == {"next_index": step}


def test_scores_are_read_before_process_0_can_delete_them(tmp_path, monkeypatch):
    config, options = CheckpointConfig(keep=2), {"best_metric": "dev"}
    with Checkpoints(tmp_path, config, **options) as checkpoints:
        save_all(checkpoints, {1: 0.9, 2: 0.1, 3: 0.2})

    def completed_at_once(path, *args, **kwargs):
        shutil.rmtree(tmp_path / "2")
        return save(path, *args, **kwargs)

    save = manager.v1.save_checkpointables_async
    with Checkpoints(tmp_path, config, **options) as follower:
        follower._leads = False
        monkeypatch.setattr(manager.v1, "save_checkpointables_async", completed_at_once)
        save_all(follower, {4: 0.3})
        assert follower.steps() == [1, 3, 4]


def test_a_step_is_saved_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)}, {}, {"dev": 1.0})
        checkpoints.save(1, {"x": jnp.zeros(2)}, {})
        restored, _ = checkpoints.restore(1, {"x": jnp.zeros(2)})
        assert restored["x"].tolist() == [1.0, 1.0]
        for other in ({"dev": 2.0}, {}):
            with pytest.raises(ValueError, match="step 1 was saved before, with other metrics"):
                checkpoints.save(1, {"x": jnp.ones(2)}, {}, other)


def test_a_step_that_cannot_be_deleted_is_tried_again(tmp_path, monkeypatch):
    discard, refused = step_folders.discard, []

    def busy(path):
        if not refused:
            refused.append(path.name)
            raise OSError("Directory not empty")
        discard(path)

    monkeypatch.setattr(step_folders, "discard", busy)
    with Checkpoints(tmp_path, CheckpointConfig(keep=1)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"x": jnp.ones(2)}, {})
        assert checkpoints.steps() == [2] and refused == ["1"] and (tmp_path / "1").exists()
        checkpoints.save(3, {"x": jnp.ones(2)}, {})
        assert checkpoints.steps() == [3]
    assert not (tmp_path / "1").exists() and not (tmp_path / "2").exists()


def test_behind_a_save_that_failed_the_next_one_is_made(tmp_path, monkeypatch):
    write = manifest.write

    def failing(path):
        if path.name == "2":
            raise OSError("the disk is gone")
        write(path)

    monkeypatch.setattr(manifest, "write", failing)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"x": jnp.ones(2)}, {})
        with pytest.raises(SimjaxError, match="2: the checkpoint could not be saved") as caught:
            checkpoints.save(3, {"x": jnp.ones(2)}, {})
    assert "last complete checkpoint: step 1; step 3 has been saved since" in str(caught.value)
    assert Checkpoints(tmp_path).steps() == [1, 3]


def test_mutable_arguments_are_taken_as_they_are(tmp_path):
    data_state, metrics = {"next_index": 1}, {"dev": 0.5}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)}, data_state, metrics)
        data_state["next_index"] = 99
        metrics["dev"] = 99.0
    saved = Checkpoints(tmp_path)
    assert saved.restore(1, {"x": jnp.zeros(2)})[1] == {"next_index": 1}
    assert saved.metrics(1) == {"dev": 0.5}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"a": {"kernel": (3, 2)}, "b": (2,)}, r"a\.kernel has shape \[2, 3\], .* wants \[3, 2\]"),
        ({"a": {"kernel": (2, 3)}, "b": (2,), "c": (1,)}, r"has no c, which"),
        ({"a": {"kernel": (2, 3)}}, r"holds b, which this state does not have"),
    ],
)
def test_a_state_of_another_shape_is_refused(tmp_path, target, message):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": {"kernel": jnp.ones((2, 3))}, "b": jnp.ones(2)}, {})
        target = jax.tree.map(jnp.zeros, target, is_leaf=lambda x: isinstance(x, tuple))
        with pytest.raises(SimjaxError, match=message):
            checkpoints.restore(1, target)


def test_a_state_of_another_type_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)}, {})
        with pytest.raises(SimjaxError, match="x has dtype float32, this state wants bfloat16"):
            checkpoints.restore(1, {"x": jnp.ones(2, jnp.bfloat16)})


def test_part_of_a_state_can_be_read(tmp_path):
    state = make_state(1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        restored, _ = checkpoints.restore(1, {"params": state.params}, partial=True)
        assert_same_bits(restored, {"params": state.params})
        with pytest.raises(SimjaxError, match=r"has no params\.missing"):
            checkpoints.restore(1, {"params": {"missing": jnp.ones(1)}}, partial=True)


def test_a_step_that_is_not_there(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, {"x": jnp.ones(2)}, {})
        with pytest.raises(SimjaxError, match="has no checkpoint of step 5; it has: 4"):
            checkpoints.restore(5, {"x": jnp.ones(2)})


def test_a_save_that_fails_is_told_at_the_next_call(tmp_path):
    """The disk is full for real: no file of this process may grow beyond 256 KiB."""
    small, large = {"x": jnp.ones(2)}, {"x": jax.random.normal(jax.random.key(0), (1024, 512))}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small, {})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, limits[1]))
        try:
            checkpoints.save(2, large, {})
            message = r"2: the checkpoint could not be saved \(.*\); last complete .*: step 1"
            with pytest.raises(SimjaxError, match=message):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert checkpoints.steps() == [1]  # told once
        checkpoints.save(2, large, {})  # what the failure left is not in the way
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2]
    assert Checkpoints(tmp_path).steps() == [1, 2]


def test_what_ended_the_run_is_not_hidden_by_a_failed_save(tmp_path, monkeypatch):
    from simjax.checkpoint import manifest

    def fail(path):
        raise OSError("no space left")

    monkeypatch.setattr(manifest, "write", fail)
    with pytest.raises(KeyError) as caught, Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)}, {})
        raise KeyError("the cause")
    assert "no space left" in caught.value.__notes__[0]
    with pytest.raises(SimjaxError, match="no space left"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, {"x": jnp.ones(2)}, {})


def test_only_arrays_are_saved(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError, match=r"opt\.lr is float"):
            checkpoints.save(1, {"opt": {"lr": 0.1}}, {})
        with pytest.raises(ValueError, match=r"two leaves of the state are called a\.b"):
            checkpoints.save(1, {"a": {"b": jnp.ones(1)}, "a.b": jnp.ones(1)}, {})


def test_read_only_touches_nothing(tmp_path):
    assert Checkpoints(tmp_path / "missing", read_only=True).steps() == []
    assert not (tmp_path / "missing").exists()
    with pytest.raises(ValueError, match="read only"):
        Checkpoints(tmp_path, read_only=True).save(1, {"x": jnp.ones(2)}, {})


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SimjaxError, match="file: cannot be made a folder"):
        Checkpoints(tmp_path / "file")


@pytest.mark.parametrize("wrong", [{"every": -1}, {"keep": 0}])
def test_values_out_of_range(wrong):
    with pytest.raises(UsageError, match=f"checkpoint.{next(iter(wrong))}"):
        CheckpointConfig(**wrong)
