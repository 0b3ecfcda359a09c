import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simjax.data.distinct import distinct_batches
from simjax.errors import SimjaxError


def texts_shared(batch, texts):
    """How many examples of a batch have a text that an earlier one has."""
    seen, shared = set(), 0
    for example in batch:
        own = {int(text) for text in texts[example] if text >= 0}
        shared += not seen.isdisjoint(own)
        seen |= own
    return shared


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 6),
    st.integers(1, 4),
    st.floats(0.3, 3),
)
def test_no_two_examples_of_a_batch_share_a_text(seed, batch_size, batches, views, spread):
    rng = np.random.default_rng(seed)
    count = batch_size * batches + int(rng.integers(0, 5))
    texts = rng.integers(-1, max(1, int(count * views * spread)), (count, views))
    texts[:, 0] = np.abs(texts[:, 0])
    order = rng.permutation(count)
    try:
        found = distinct_batches(order, texts, batches, batch_size)
    except SimjaxError:
        # An example of so many texts stands in the way of as many others at most, so that no other
        # choice finds more than so many times the examples that were too few here.
        taken: set[int] = set()
        fitting = 0
        for example in order:
            own = {int(text) for text in texts[example] if text >= 0}
            if taken.isdisjoint(own):
                taken |= own
                fitting += 1
        assert fitting < views * batch_size
        return
    assert found.shape == (batches, batch_size)
    assert set(found.ravel().tolist()) <= set(order.tolist())
    assert [texts_shared(batch, texts) for batch in found] == [0] * batches


def test_without_shared_texts_the_order_stays():
    texts = np.arange(60).reshape(20, 3)
    order = np.random.default_rng(0).permutation(20)
    found = distinct_batches(order, texts, 4, 5)
    assert found.ravel().tolist() == order.tolist()


def test_a_text_may_be_twice_in_one_example_and_absent_in_many():
    texts = np.array([[0, 0, -1], [1, 1, -1], [2, 0, -1], [3, 1, -1]])
    found = distinct_batches(np.arange(4), texts, 2, 2)
    assert found.tolist() == [[0, 1], [2, 3]]


def test_what_does_not_fit_waits_for_the_next_batch():
    anchors = np.array([0, 0, 0, 1, 2, 3, 4, 5, 6])
    found = distinct_batches(np.arange(9), anchors[:, None], 3, 3)
    assert sorted(found.ravel().tolist()) == list(range(9))
    assert [sorted(batch) for batch in found.tolist()] == [[0, 3, 4], [1, 5, 6], [2, 7, 8]]


def test_a_text_that_is_in_too_many_examples_is_left_out_and_others_are_repeated():
    # Twelve examples of one anchor and eight others: two batches of eight need fourteen others.
    anchors = np.array([0] * 12 + list(range(1, 9)))
    order = np.random.default_rng(3).permutation(20)
    found = distinct_batches(order, anchors[:, None], 2, 8)
    assert all(len(set(anchors[batch])) == 8 for batch in found)
    with pytest.raises(
        SimjaxError, match=r"no batch of 10 examples .*the largest has 9: lower data\.batch_size"
    ):
        distinct_batches(order, anchors[:, None], 2, 10)


@pytest.mark.data
@pytest.mark.parametrize("batch_size", [512, 4096])
def test_real_triples(data_root, batch_size):
    from simjax.data.identity import normalised
    from simjax.data.order import BatchOrder
    from simjax.data.sources import Source, read

    ids: dict[str, int] = {}
    texts = np.array(
        [
            [ids.setdefault(normalised(text), len(ids)) for text in own]
            for example in read(Source(path="en/nli/triples_train.csv"), data_root)
            for own in [(example.anchor, *example.positives, *example.negatives)]
        ]
    )
    size = (len(texts),)
    plain = BatchOrder(size, batch_size, 0)
    order = BatchOrder(size, batch_size, 0, texts=texts)
    steps = range(order.steps_per_epoch)
    shared = sum(texts_shared(plain.examples(n), texts) for n in steps)
    used = np.concatenate([order.examples(n) for n in steps])
    print(f"batch {batch_size}: {shared} examples share a text; {len(set(used))} of {len(used)}")
    assert shared > 50
    assert [texts_shared(order.examples(n), texts) for n in steps] == [0] * len(steps)
    assert len(set(used.tolist())) >= 0.98 * len(used)
