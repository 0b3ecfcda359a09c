import numpy as np
import pytest
from sentence_transformers.util.quantization import quantize_embeddings

from simjax.index import quantize


@pytest.fixture(scope="module")
def rows():
    x = np.random.default_rng(0).normal(size=(200, 37)).astype(np.float32)
    x[:, 5] = 0.25  # a dimension without a range
    return x


def test_int8_codes_are_sentence_transformers(rows):
    ranges = quantize.calibrate(rows[:150])
    np.testing.assert_array_equal(ranges, [rows[:150].min(0), rows[:150].max(0)])
    expected = quantize_embeddings(rows, "int8", ranges=ranges)
    np.testing.assert_array_equal(quantize.to_int8(rows, ranges), expected)
    assert expected.min() == -128 and expected.max() == 127


def test_bits_are_sentence_transformers(rows):
    bits = quantize.to_bits(rows)
    np.testing.assert_array_equal(bits, quantize_embeddings(rows, "ubinary"))
    words = quantize.to_words(bits)
    assert words.shape == (200, 2)
    np.testing.assert_array_equal(words.view(np.uint8)[:, : bits.shape[1]], bits)
    assert not words.view(np.uint8)[:, bits.shape[1] :].any()
    np.testing.assert_array_equal(quantize.signs(words, 37), np.where(rows > 0, 1, -1))


def test_codes_stand_for_values_within_half_a_step(rows):
    ranges = quantize.calibrate(rows)
    back = quantize.from_int8(quantize.to_int8(rows, ranges), ranges)
    steps = (ranges[1] - ranges[0]) / 255
    varied = steps > 0
    assert (np.abs(back - rows)[:, varied] <= 0.5001 * steps[varied]).all()


def test_queries_of_codes_score_what_the_codes_stand_for(rows):
    ranges = quantize.calibrate(rows)
    codes = quantize.to_int8(rows, ranges)
    weights, constants = quantize.int8_queries(rows[:9], ranges)
    expected = rows[:9].astype(np.float64) @ quantize.from_int8(codes, ranges).astype(float).T
    found = weights.astype(float) @ codes.T.astype(float) + constants[:, None]
    np.testing.assert_allclose(found, expected, atol=1e-4)
