"""Packed documents do not see each other: the mask equals a loop, the logits those of each document alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.model.document_mask import document_mask
from tests.small_training import SHAPE, make_model


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=3))
def test_positions_and_mask_equal_a_loop(rows: list[list[int]]) -> None:
    positions_BT, mask_B1TT = document_mask(torch.tensor(rows), border=0)
    assert mask_B1TT.shape == (len(rows), 1, 7, 7)
    for row, tokens in enumerate(rows):
        for place in range(len(tokens)):
            first = max((i for i in range(place + 1) if tokens[i] == 0), default=0)
            assert positions_BT[row, place] == place - first
            assert mask_B1TT[row, 0, place].tolist() == [first <= other <= place for other in range(len(tokens))]


@torch.no_grad()
@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6).filter(lambda lengths: sum(lengths) <= SHAPE.context),
    opened=st.booleans(),
    seed=st.integers(0, 100),
)
def test_packed_documents_have_the_logits_of_each_alone(lengths: list[int], opened: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    documents = [torch.randint(1, SHAPE.vocabulary, (length,), generator=generator) for length in lengths]
    for document in documents[0 if opened else 1 :]:  # a row may begin in the middle of a document
        document[0] = 0
    model = make_model(seed=seed)
    row_1T = torch.cat(documents)[None]
    packed_TV = model(row_1T, *document_mask(row_1T, border=0))[0]
    alone_TV = torch.cat([model(document[None])[0] for document in documents])
    assert (packed_TV - alone_TV).abs().max() <= 1e-5
