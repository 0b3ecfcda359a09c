"""The losses as practice writes them, dense and tiled, beside float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.lab.precision import arms
from simjax.lab.precision.arithmetic import compare, draw
from simjax.lab.precision.arms import FLOAT32, dense_loss
from simjax.lab.precision.exact import exact
from simjax.lab.precision.settings import FORMS
from simjax.lab.precision.tiled import tiled_loss

SCALE = 20.0


def hard(batch=12, width=16):
    """Positives so far away that nothing cancels."""
    return draw(batch, 3.0, 0, width)


def truth(form, found):
    return found.flatnce if form in ("dcl", "flatnce") else found.infonce


def value64(x, y, scale):
    """Sum of -log softmax, as a textbook has it."""
    s = scale * np.asarray(x, np.float64) @ np.asarray(y, np.float64).T
    return sum(np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(s))


def test_the_closed_form_is_the_derivative():
    x, y = (part.astype(np.float64) for part in hard(5, 4))
    found, step = exact(x, y, 3.0), 1e-5
    slopes = np.empty_like(x)
    for place in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[place] = step
        slopes[place] = (value64(x + moved, y, 3.0) - value64(x - moved, y, 3.0)) / (2 * step)
    np.testing.assert_allclose(found.infonce, slopes, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(np.logaddexp(0, found.v).sum(), value64(x, y, 3.0), rtol=1e-12)
    np.testing.assert_allclose(found.infonce, found.weights[:, None] * found.flatnce)


def test_anchors_may_be_the_first_of_the_keys():
    x, y = hard()
    whole, some = exact(x, y, SCALE), exact(x[:4], y, SCALE)
    np.testing.assert_allclose(some.infonce, whole.infonce[:4])


@pytest.mark.parametrize(("way", "max_scale"), [("dense", 0), ("tiled", SCALE)])
def test_forms_have_their_gradient_where_nothing_cancels(way, max_scale):
    x, y = hard()
    x, scale = x[:5], jnp.float32(SCALE)
    found = exact(x, y, SCALE)
    for form in FORMS:

        def loss(x, form=form):
            if way == "dense":
                return dense_loss(form, x, y, scale, FLOAT32)
            return tiled_loss(form, x, jnp.asarray(y), scale, jnp.float32, max_scale)

        value, gradient = jax.value_and_grad(loss)(jnp.asarray(x))
        assert compare(np.asarray(gradient, np.float64), truth(form, found))[0] < 1e-5, form
        if form in ("cross_entropy", "lse_minus_positive", "softplus"):
            assert float(value) == pytest.approx(np.logaddexp(0, found.v).sum(), rel=1e-5)
        if form == "dcl":
            assert float(value) == pytest.approx(found.v.sum(), rel=1e-5)


def test_rescaled_is_softplus_over_the_mean_weight():
    x, y = hard()
    scale = jnp.float32(SCALE)
    gradients = [
        jax.grad(lambda x, form=form: dense_loss(form, x, y, scale, FLOAT32))(jnp.asarray(x))
        for form in ("rescaled", "softplus")
    ]
    mean = exact(x, y, SCALE).weights.mean()
    np.testing.assert_allclose(gradients[0] * mean, gradients[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("how", "written", "stable", "flat"),
    [(FLOAT32, (0.05, 0.5), 1e-4, 1e-6), (arms.BFLOAT16, (0.9, 1.1), 0.2, 0.03)],
    ids=["float32", "bfloat16"],
)
def test_easy_positives_cancel(how, written, stable, flat):
    """The table of the design: batch 64, width 384, noise 0.3, temperature 0.05."""
    x, y = (part.astype(how.operands) for part in draw(64, 0.3, 0, 384))
    found = exact(x, y, SCALE)
    errors = {}
    for form in FORMS:
        loss = jax.grad(lambda x, form=form: dense_loss(form, x, y, jnp.float32(SCALE), how))
        gradient = np.asarray(loss(jnp.asarray(x)), np.float64)
        errors[form] = compare(gradient, truth(form, found))[0]
    assert written[0] < errors["cross_entropy"] < written[1]
    assert written[0] < errors["lse_minus_positive"] < written[1]
    assert errors["softplus"] < stable
    assert errors["flatnce"] < flat
    assert errors["dcl"] == errors["flatnce"]


def test_tf32_is_asked_of_a_gpu_by_name():
    """No GPU is needed to see what the compiler would be given."""
    x = jnp.ones((4, 8))
    for how, algorithm in ((arms.TF32, "tf32"), (FLOAT32, "HIGHEST")):
        loss = jax.jit(lambda x, how=how: dense_loss("softplus", x, x, jnp.float32(SCALE), how))
        lowered = jax.export.export(loss, platforms=["cuda"])(x)
        assert algorithm in str(lowered.mlir_module())
