import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from simjax.data.shuffle import permute


@given(st.integers(1, 5000), st.integers(0, 2**63), st.integers(0, 100))
def test_it_is_a_permutation_that_can_be_read_in_pieces(size, seed, epoch):
    whole = permute(np.arange(size), size, (seed, epoch))
    assert sorted(whole) == list(range(size))
    middle = slice(size // 3, size // 2)
    assert (permute(np.arange(size)[middle], size, (seed, epoch)) == whole[middle]).all()


def test_seeds_and_epochs_give_other_orders():
    orders = [tuple(permute(np.arange(50), 50, key)) for key in ((0, 0), (0, 1), (1, 0))]
    assert len(set(orders)) == 3


def test_the_order_stays_the_same_from_version_to_version():
    # A checkpoint says which batch is next, so its order must never change.
    assert permute(np.arange(10), 10, (0, 0)).tolist() == [4, 6, 8, 9, 0, 2, 5, 7, 3, 1]
    assert permute(np.array([0, 999_999]), 1_000_000, (7, 3)).tolist() == [158132, 189616]


def test_places_are_uniform():
    size, draws = 40, 4000
    counts = np.zeros((size, size))
    for seed in range(draws):
        counts[np.arange(size), permute(np.arange(size), size, (seed, 0))] += 1
    expected = draws / size
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < chi2.ppf(1 - 1e-6, (size - 1) ** 2)


def test_an_index_out_of_range_is_refused():
    with pytest.raises(ValueError, match="index 5 of a permutation of 5"):
        permute(np.array([5]), 5, (0,))
