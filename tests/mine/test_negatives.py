"""Which candidates become negatives: by hand, and beside sentence-transformers."""

import numpy as np
import pytest

from simjax.data.sources import Example
from simjax.errors import SimjaxError, UsageError
from simjax.mine.data import collect
from simjax.mine.miner import mine, records
from simjax.mine.negatives import MiningConfig, Refused, choose
from simjax.sentence_encoder import SentenceEncoder
from tests.tiny_models import write_folder

SCORES = np.asarray([0.95, 0.9, 0.8, 0.7, 0.6, 0.5, -0.1, -np.inf], np.float32)
TEXTS = np.asarray([4, 8, 1, 6, 0, 3, 2, -1])


def chosen(depth=9, own=(8,), positive=0.75, number=0, **options):
    refused = Refused()
    config = MiningConfig(**options)
    found = choose(SCORES, TEXTS, own, positive, depth, config, refused, number=number)
    return found.tolist(), refused


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [4, 1, 6]),
        ({"own": (4, 1)}, [8, 6, 0]),
        ({"negatives": 99}, [4, 1, 6, 0, 3, 2]),
        ({"depth": 2}, [4, 1]),
        ({"range_min": 1}, [1, 6, 0]),
        ({"max_score": 0.8}, [1, 6, 0]),
        ({"min_score": 0.75}, [4, 1]),
        ({"absolute_margin": 0.0}, [6, 0, 3]),
        ({"absolute_margin": 0.1}, [0, 3, 2]),
        ({"relative_margin": 0.25}, [3, 2]),  # nothing above 0.5625
        # A negative similarity is lowered by 25 % of its magnitude, to -0.1125.
        ({"relative_margin": 0.25, "positive": -0.09}, []),
        ({"range_min": 1, "max_score": 0.8}, [6, 0, 3]),  # what is refused is not passed over
        ({"depth": 2, "max_score": 0.9}, [1]),
    ],
)
def test_rules_by_hand(options, expected):
    assert chosen(**options)[0] == expected


def test_what_was_refused_is_counted_by_reason():
    _, refused = chosen(absolute_margin=0.1, max_score=0.65, min_score=0.0)
    # Each rule sees what the ones before it left.
    assert refused.counts == {"absolute_margin": 3, "max_score": 0, "min_score": 1}
    assert refused.candidates == 6


def test_random_sampling_follows_seed_and_anchor():
    found = {n: chosen(sampling="random", number=n)[0] for n in range(40)}
    assert found[0] == chosen(sampling="random", number=0)[0]
    assert {text for some in found.values() for text in some} == {4, 1, 6, 0, 3, 2}
    order = {text: place for place, text in enumerate(TEXTS.tolist())}
    assert all(some == sorted(some, key=order.get) for some in found.values())
    assert found != {n: chosen(sampling="random", number=n, seed=1)[0] for n in range(40)}
    assert chosen(sampling="random", depth=2)[0] == [4, 1]


def test_depth_by_default():
    assert MiningConfig(negatives=2, range_min=5).depth(3) == 10
    assert MiningConfig(negatives=2, relative_margin=0.05).depth(3) == 23
    assert MiningConfig(range_max=8).depth(3) == 8


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"negatives": 0}, "negatives 0"),
        ({"range_min": -1}, "range_min -1"),
        ({"range_max": 4, "range_min": 2}, "fewer than 3 candidates after the first 2"),
    ],
)
def test_options_out_of_range(options, names):
    with pytest.raises(UsageError, match=names):
        MiningConfig(**options)


ANIMALS = ("cat", "dog", "fish", "bird", "cow", "ant")
VERBS = ("runs", "sits", "eats", "sleeps")
PAIRS = [(f"a {a} in the park", f"the {a} {v}") for a in ANIMALS for v in VERBS[:2]]
CORPUS = [f"one {a} {v} and {v}" for a in ANIMALS for v in VERBS]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from sentence_transformers import SentenceTransformer

    folder = write_folder(tmp_path_factory.mktemp("bert"), "bert", layers=1)
    encoder = SentenceEncoder.from_pretrained(folder)
    saved = encoder.save_pretrained(tmp_path_factory.mktemp("saved") / "model")
    return SentenceEncoder.from_pretrained(saved), SentenceTransformer(str(saved), device="cpu")


def rows_of(models, data, config, layout):
    def encode(texts):
        return models[0].encode(texts, normalize=True)

    mined = mine(data, config, encode, encode)
    return [tuple(row.values()) for row in records(data, mined, config.negatives, layout)], mined


@pytest.mark.parametrize(
    ("options", "layout"),
    [
        ({}, "triplet"),
        ({"negatives": 2, "range_min": 3, "range_max": 9}, "n-tuple"),
        ({"relative_margin": 0.02, "negatives": 4}, "triplet"),
        ({"absolute_margin": 0.01, "negatives": 4, "range_max": 30}, "n-tuple"),
        ({"max_score": 0.9, "min_score": 0.7, "range_min": 1, "range_max": 25}, "triplet"),
    ],
)
@pytest.mark.parametrize("corpus", [(), tuple(CORPUS)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_triples_are_sentence_transformers(models, options, layout, corpus):
    datasets = pytest.importorskip("datasets")
    from sentence_transformers.util import mine_hard_negatives

    pairs = {"anchor": [a for a, _ in PAIRS], "positive": [p for _, p in PAIRS]}
    mapped = {"negatives": "num_negatives"}
    peer = mine_hard_negatives(
        datasets.Dataset.from_dict(pairs),
        models[1],
        # Theirs come first where there is a corpus, which ours are after.
        corpus=[*pairs["positive"], *corpus] if corpus else None,
        output_format=layout,
        verbose=False,
        **{mapped.get(name, name): value for name, value in options.items()},
    )
    data = collect([Example(a, (p,)) for a, p in PAIRS], corpus, "x")
    rows, _ = rows_of(models, data, MiningConfig(**options), layout)
    assert rows == [tuple(row.values()) for row in peer]
    assert rows


def test_no_negative_is_the_anchor_or_a_positive_in_other_clothes(models):
    examples = [
        Example("The Cat", ("a  cat", "Cats")),
        Example("the cat", ("a feline",)),
        Example("A dog", ("the dog",)),
    ]
    data = collect(examples, ["THE CAT", "A Feline", "", " the   DOG", "fish", "a dog"], "x")
    assert data.texts == ["a  cat", "Cats", "a feline", "the dog", "THE CAT", "fish", "a dog"]
    assert [anchor.text for anchor in data.anchors] == ["The Cat", "A dog"]
    rows, mined = rows_of(models, data, MiningConfig(negatives=9), "triplet")
    negatives = {a: {n for x, _, n in rows if x == a} for a in ("The Cat", "the cat", "A dog")}
    assert negatives["The Cat"] == negatives["the cat"] == {"the dog", "fish", "a dog"}
    assert negatives["A dog"] == {"a  cat", "Cats", "a feline", "THE CAT", "fish"}
    # Every pair as it stands in the data.
    assert [(a, p) for a, p, _ in rows[::3]][:3] == [
        ("The Cat", "a  cat"),
        ("The Cat", "Cats"),
        ("the cat", "a feline"),
    ]
    assert mined.positive_score <= 1


def test_data_that_cannot_be_mined():
    with pytest.raises(SimjaxError, match="x: has no positives; name their column"):
        collect([Example("a")], [], "x")
    with pytest.raises(SimjaxError, match="x: holds no examples"):
        collect([], ["a"], "x")
