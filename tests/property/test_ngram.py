"""The n-gram model equals a direct reading of its formula with dictionaries, and its distributions sum to one."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.errors import InputError
from pocketlm.evaluation.held_out.ngram import ByteNgram

SEGMENTS = st.lists(st.text("abc ", min_size=1, max_size=60).map(str.encode), min_size=1, max_size=6)
TEXT = (
    b"the cat sat on the mat and the dog sat on the log while the rat ran to the mat of the cat and the dog ran after "
    b"it until the moon came up over the hill and they all went home to the house by the lake where the frogs sang"
)


class Reference:
    """Interpolated modified Kneser-Ney, Chen & Goodman (1998), word for word, one probability at a time."""

    def __init__(self, segments: list[bytes], order: int) -> None:
        self.order = order
        self.counts: dict[int, Counter[bytes]] = {order: Counter()}
        for segment in segments:
            for start in range(len(segment) - order + 1):
                self.counts[order][segment[start : start + order]] += 1
        for length in range(order - 1, 0, -1):
            before: defaultdict[bytes, set[int]] = defaultdict(set)
            for gram in self.counts[length + 1]:
                before[gram[1:]].add(gram[0])
            self.counts[length] = Counter({gram: len(bytes_before) for gram, bytes_before in before.items()})
        self.discounts = {length: self._discounts(list(table.values())) for length, table in self.counts.items()}

    @staticmethod
    def _discounts(counts: list[int]) -> list[float]:
        n = [counts.count(value) for value in range(5)]
        if 0 in n[1:]:
            return [0.0, 0.5, 1.0, 1.5]
        share = n[1] / (n[1] + 2 * n[2])
        raw = [k - (k + 1) * share * n[k + 1] / n[k] for k in (1, 2, 3)]
        return [0.0, *(min(max(value, 0.05), k - 0.05) for k, value in zip((1, 2, 3), raw, strict=True))]

    def probability(self, history: bytes, byte: int, length: int) -> float:
        if length == 0:
            return 1 / 256
        context = history[len(history) - (length - 1) :]
        lower = self.probability(history, byte, length - 1)
        followers = {gram: count for gram, count in self.counts[length].items() if gram[:-1] == context}
        if not followers:
            return lower
        discount = self.discounts[length]
        total = sum(followers.values())
        own = followers.get(context + bytes([byte]), 0)
        left = sum(discount[min(count, 3)] for count in followers.values())
        return (own - discount[min(own, 3)]) / total + left / total * lower

    def log2_probabilities(self, text: bytes) -> list[float]:
        lengths = [min(self.order, place + 1) for place in range(len(text))]
        return [math.log2(self.probability(text[:n], text[n], length)) for n, length in enumerate(lengths)]


@settings(max_examples=40, deadline=None)
@given(segments=SEGMENTS, order=st.integers(1, 4), text=st.text("abcd ", max_size=25).map(str.encode))
def test_it_equals_the_formula(segments: list[bytes], order: int, text: bytes) -> None:
    if max(map(len, segments)) < order:
        return
    model, reference = ByteNgram.fit(segments, order), Reference(segments, order)
    np.testing.assert_allclose(model.log2_probabilities(text), reference.log2_probabilities(text), rtol=1e-9)


@pytest.mark.parametrize("order", [1, 3, 6])
def test_it_equals_the_formula_on_prose(order: int) -> None:
    model, reference = ByteNgram.fit([TEXT], order), Reference([TEXT], order)
    text = b"the dog sang over the house; zebra"
    np.testing.assert_allclose(model.log2_probabilities(text), reference.log2_probabilities(text), rtol=1e-9)


@pytest.mark.parametrize("history", [b"", b"t", b"the ", b"on the ", b"zzzzzz", b"the c"])
def test_every_distribution_sums_to_one(history: bytes) -> None:
    model = ByteNgram.fit([TEXT[:100], TEXT[100:]], 6)
    last = [model.log2_probabilities(history + bytes([byte]))[-1] for byte in range(256)]
    assert np.exp2(last).sum() == pytest.approx(1)


def test_bits_are_those_of_each_document_alone() -> None:
    model = ByteNgram.fit([TEXT], 4)
    assert model.bits([b"the mat", b"", b"a dog"]) == pytest.approx(
        [-model.log2_probabilities(b"the mat").sum(), 0.0, -model.log2_probabilities(b"a dog").sum()]
    )


def test_longer_contexts_predict_repeated_text_better() -> None:
    bits = [ByteNgram.fit([TEXT * 3], order).bits([TEXT])[0] for order in (1, 2, 3, 6)]
    assert bits == sorted(bits, reverse=True)


@pytest.mark.parametrize(("segments", "order", "message"), [([b""], 3, "no text"), ([b"abc"], 9, "order 9")])
def test_what_cannot_be_fitted_is_refused(segments: list[bytes], order: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ByteNgram.fit(segments, order)


def test_a_byte_that_was_never_read_stays_possible() -> None:
    """Many pairs seen four times and few three times make the discount of frequent pairs negative: were it 0, whatever
    else follows a context of frequent pairs would be impossible."""
    seen = {1: b"ab", 2: b"cd", 3: b"ef"}
    segments = [pair for times, pair in seen.items() for _ in range(times)]
    segments += [bytes([100 + place, 130 + place]) for place in range(20) for _ in range(4)]
    assert np.isfinite(ByteNgram.fit(segments, 2).bits([bytes([100, 255])])).all()
