"""What the operator refuses, and how it says so."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from simjax.ops import AnchorIds, Guide, KeyIds, Reduction, reduce_pairs, row_loss

ROW = np.arange(4)
NONE = np.full(4, -1)
X = jnp.eye(4)
ANCHORS = AnchorIds(ROW, 2 * ROW, 2 * ROW[:, None] + 1, NONE)
KEYS = KeyIds(ROW, 2 * ROW + 1, 2 * ROW[:, None], NONE)
PLAIN = [Reduction(scale=20.0)]


def called(**changes):
    given = {
        "anchors": X,
        "keys": X,
        "anchor_ids": ANCHORS,
        "key_ids": KEYS,
        "reductions": PLAIN,
    } | changes
    return reduce_pairs(**given)


def anchor_ids(**changes):
    return {"anchor_ids": dataclasses.replace(ANCHORS, **changes)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": X[:, :3]}, "anchors have width 4 and keys 3"),
        ({"anchors": X[0]}, r"anchors: an array \[rows, width\] of floats .* float32\[4\]"),
        ({"anchors": X.astype(jnp.int32)}, r"anchors: an array .* int32\[4, 4\]"),
        ({"anchors": [[1.0]]}, "anchors: an array .* not list"),
        ({"keys": X[:0]}, "keys: there are none"),
        ({"keys": X[:3]}, r"key_ids.example: whole numbers \[3\] are needed, not int64\[4\]"),
        ({"anchor_ids": KEYS}, "anchor_ids: AnchorIds are needed, not KeyIds"),
        ({"anchor_ids": None}, "anchor_ids: AnchorIds are needed, not NoneType"),
        (anchor_ids(label=None), "anchor_ids.label: whole numbers .* not NoneType"),
        (anchor_ids(text=X[0]), "anchor_ids.text: whole numbers .* float32"),
        (anchor_ids(positives=ROW), r"anchor_ids.positives: whole numbers \[4, any number\]"),
        (anchor_ids(text=ROW * 2**40), "anchor_ids.text: ids reach beyond 32 bits"),
        ({"reductions": PLAIN[0]}, "reductions: a list of them is needed, not Reduction"),
        ({"reductions": [Reduction(scale=jnp.ones(4))]}, r"reductions\[0\].scale: one number"),
        ({"reductions": [Reduction(1.0, bias=jnp.ones(5))]}, r"reductions\[0\].bias: .* 4 keys"),
        ({"tile": 16}, "tile 16: give rows and columns"),
        ({"tile": (-7, 5)}, r"tile \(-7, 5\): give rows and columns"),
        ({"guide": Guide(X, X, 0.5, 0.5)}, "guide.anchors: 4 vectors and as many limits"),
        ({"guide": Guide(X[:2], X, X[0], X[0])}, "guide.anchors: 4 vectors .* not float32.2, 4."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arguments_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        called(**changes)
    assert "\n" not in str(caught.value)


def test_a_loss_of_rows_refuses_the_same():
    with pytest.raises(ValueError, match="anchors have width 4 and keys 3"):
        row_loss(lambda rows, _: rows[0], (), X, X[:, :3], ANCHORS, KEYS, PLAIN)


def test_64_bit_ids_that_fit_are_taken():
    assert np.isfinite(called().rows[0]).all()
