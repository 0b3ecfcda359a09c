import numpy as np
import pytest
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from simjax.errors import SimjaxError
from simjax.eval.moments import Moments
from simjax.eval.probe import LinearDiscriminant, logistic_predictions


@pytest.fixture
def classes():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    rows = rng.normal(size=(90, 5)) @ rng.normal(size=(5, 5)) + 2 * rng.normal(size=(3, 5))[labels]
    return rows, labels


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1.0])
def test_the_solution_is_that_of_scikit_learn(classes, shrinkage):
    rows, labels = classes
    # One pass, in two unequal parts.
    moments = Moments.of(rows[:70], labels[:70], 3).merge(Moments.of(rows[70:], labels[70:], 3))
    probe = LinearDiscriminant.fit(moments, shrinkage)
    peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(rows, labels)
    np.testing.assert_allclose(probe.weights, peer.coef_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(probe.bias, peer.intercept_, rtol=1e-8)
    posterior = softmax(probe.logits(rows), axis=1)
    np.testing.assert_allclose(posterior, peer.predict_proba(rows), rtol=1e-7, atol=1e-12)
    assert probe.predict(rows).tolist() == peer.predict(rows).tolist()


def test_fewer_rows_than_dimensions(classes):
    rows, labels = classes
    frame = np.linalg.qr(np.random.default_rng(1).normal(size=(9, 9)))[0][:, :5]
    probes = [LinearDiscriminant.fit(Moments.of(x, labels, 3), 0.0) for x in (rows, rows @ frame.T)]
    np.testing.assert_allclose(probes[1].logits(rows @ frame.T), probes[0].logits(rows), rtol=1e-6)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1])
@pytest.mark.parametrize(
    "means", [np.eye(3, 4), np.random.default_rng(3).normal(size=(3, 4))], ids=["exact", "rounded"]
)
def test_rows_that_are_their_class_s_mean_go_to_the_nearest(means, shrinkage):
    labels = np.repeat([0, 1, 2], [5, 3, 2])
    probe = LinearDiscriminant.fit(Moments.of(means[labels], labels, 3), shrinkage)
    assert probe.predict(means).tolist() == [0, 1, 2]


def test_a_class_without_rows_is_never_predicted(classes):
    rows, labels = classes
    probe = LinearDiscriminant.fit(Moments.of(rows, labels, 4), 0.1)
    assert probe.bias[3] == -np.inf
    three = LinearDiscriminant.fit(Moments.of(rows, labels, 3), 0.1)
    assert probe.predict(rows).tolist() == three.predict(rows).tolist()
    with pytest.raises(SimjaxError, match="from 0 to 1"):
        LinearDiscriminant.path(Moments.of(rows, labels, 3), [0.1, 2.0])


def test_gaussian_classes_have_the_same_solution_by_logistic_regression():
    """In the limit of many rows of such classes, the closed form is where iterations end."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 20_000)
    rows = rng.normal(size=(20_000, 2)) + np.array([[0.0, 0.0], [1.0, -0.5]])[labels]
    probe = LinearDiscriminant.fit(Moments.of(rows, labels, 2))
    peer = LogisticRegression(C=1e6).fit(rows, labels)
    np.testing.assert_allclose(probe.weights[1] - probe.weights[0], peer.coef_[0], atol=0.05)
    np.testing.assert_allclose(probe.bias[1] - probe.bias[0], peer.intercept_[0], atol=0.05)


def test_logistic_regression_sees_features_of_one_size(classes):
    rows, labels = classes
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    peer = LogisticRegression(C=0.1, max_iter=2000).fit(rows * 5**0.5, labels)
    found = logistic_predictions(rows, labels, rows[:20].astype(np.float32), 0.1)
    assert found.tolist() == peer.predict(rows[:20] * 5**0.5).tolist()
