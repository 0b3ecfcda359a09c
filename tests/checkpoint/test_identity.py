import jax.numpy as jnp
import pytest

from simjax.checkpoint.identity import changed_keys
from simjax.checkpoint.manager import Checkpoints
from simjax.errors import SimjaxError

IDENTITY = {"seed": 0, "data": {"batch_size": 512, "block_size": 64}, "views": (1, 2)}


def test_changed_keys_are_dotted():
    new = {"seed": 1, "data": {"batch_size": 512, "block_size": 32}, "views": [1, 2], "extra": 0}
    assert changed_keys(IDENTITY, new) == ["data.block_size", "extra", "seed"]


def test_keys_of_a_newer_version_that_are_null_change_nothing():
    newer = IDENTITY | {"guide": None}
    assert changed_keys(IDENTITY, newer) == []
    assert changed_keys(IDENTITY, IDENTITY | {"guide": {"margin": 0}}) == ["guide.margin"]
    assert changed_keys(newer, IDENTITY | {"guide": {"margin": 0}}) == ["guide.margin"]
    assert changed_keys(IDENTITY, IDENTITY) == []
    assert changed_keys({"a": {}}, {"a": {"b": 1}}) == ["a", "a.b"]


def test_another_run_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.identify({"seed": 5})
        checkpoints.identify(IDENTITY)  # there are no checkpoints yet: the run may still change
        checkpoints.save(1, {"x": jnp.ones(1)}, {})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.identify(IDENTITY)
        with pytest.raises(SimjaxError, match=r"refused: seed \(0 there, 1 here\); ") as caught:
            checkpoints.identify(IDENTITY | {"seed": 1})
        assert "block_size" not in str(caught.value)
        with pytest.raises(SimjaxError, match=r"views \(\[1, 2\] there, absent here\)"):
            checkpoints.identify({k: v for k, v in IDENTITY.items() if k != "views"})
        checkpoints.identify(IDENTITY)  # a refused one is not recorded


def test_the_number_of_steps_is_told_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.identify({"steps": 6})
        checkpoints.save(1, {"x": jnp.ones(1)}, {})
        checkpoints.wait()
        with pytest.raises(SimjaxError, match=r"steps \(6 there, 8 here\)") as caught:
            checkpoints.identify({"steps": 8}, {"train.steps": "train.steps (6 there, 8 here)"})
        assert "changed as well" not in str(caught.value)


def test_what_has_changed_beside_is_told_apart(tmp_path):
    beside = {"train.log_every": "train.log_every (1 there, 2 here)", "seed": "seed (0 there, ...)"}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.identify(IDENTITY)
        checkpoints.save(1, {"x": jnp.ones(1)}, {})
        checkpoints.wait()
        checkpoints.identify(IDENTITY, beside)  # by itself it is allowed
        with pytest.raises(SimjaxError) as caught:
            checkpoints.identify(IDENTITY | {"seed": 1}, beside)
    told = "refused: seed (0 there, 1 here); changed as well: train.log_every (1 there, 2 here); "
    assert told in str(caught.value) and str(caught.value).count("seed") == 1


def test_a_lost_identity_is_told(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.identify(IDENTITY)
        checkpoints.save(1, {"x": jnp.ones(1)}, {})
        checkpoints.wait()
        (tmp_path / "run.json").unlink()
        with pytest.raises(SimjaxError, match=r"run\.json: is missing, so that nothing tells"):
            checkpoints.identify(IDENTITY)


@pytest.mark.parametrize("content", ["{", "[1]", "5", '"run"', "[" * 9999], ids=lambda c: c[:5])
def test_an_unreadable_identity_is_told(tmp_path, content):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(1)}, {})
        checkpoints.wait()
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(SimjaxError, match=r"run\.json: cannot be read"):
            checkpoints.identify(IDENTITY)
