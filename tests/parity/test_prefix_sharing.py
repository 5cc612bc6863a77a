"""Packed rows against one plain row a sequence: the same losses and gradients, in fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.model.config import ModelSettings
from pocketlm.model.loss import IGNORE
from pocketlm.model.transformer import Transformer
from pocketlm.posttraining.packing import Branch, best_fit, example_tree, group_tree, pack

TINY = ModelSettings(vocabulary=32, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn_width=24, context=64)


@pytest.fixture
def model() -> Transformer:
    torch.set_num_threads(1)
    transformer = Transformer(TINY)
    transformer.init_weights(3)
    return transformer.double()


def log_probabilities(model, rows):
    logits = model(rows.tokens_BT, rows.positions_BT, rows.mask_B1TS)
    return logits.log_softmax(-1).gather(-1, rows.targets_BT.clamp(min=0).unsqueeze(-1)).squeeze(-1)


def dense_sum(model, sequences):
    """Sum over sequences of weight * log-probability of the marked tokens, one plain causal row each."""
    total = torch.zeros((), dtype=torch.float64)
    for tokens, marks, weight in sequences:
        row = torch.tensor([tokens])
        log_p = model(row[:, :-1]).log_softmax(-1)[0].gather(-1, row[0, 1:, None])[:, 0]
        total = total + weight * log_p[torch.tensor(marks[1:])].sum()
    return total


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_shared_prompts_equal_separate_rows(data):
    torch.set_num_threads(1)
    model = Transformer(TINY).double()
    model.init_weights(data.draw(st.integers(0, 5)))
    token = st.integers(0, TINY.vocabulary - 1)
    groups = data.draw(
        st.lists(
            st.tuples(
                st.lists(token, min_size=1, max_size=7),
                st.lists(st.lists(token, min_size=1, max_size=4), min_size=1, max_size=5),
            ),
            min_size=1,
            max_size=4,
        )
    )
    weights = [[data.draw(st.floats(-2, 2)) for _ in completions] for _, completions in groups]
    trees, sequences = [], []
    for (prompt, completions), values in zip(groups, weights, strict=True):
        trees.append(
            group_tree(
                prompt,
                [Branch(c, [0.0] * len(c), float(torch.tensor(v))) for c, v in zip(completions, values, strict=True)],
            )
        )
        for completion, value in zip(completions, values, strict=True):
            marks = [False] * len(prompt) + [True] * len(completion)
            sequences.append(([*prompt, *completion], marks, float(torch.tensor(value))))
    rows = pack(trees, capacity=40)
    learned = rows.targets_BT != IGNORE
    packed = (rows.advantages_BT.double() * log_probabilities(model, rows))[learned].sum()
    dense = dense_sum(model, sequences)
    torch.testing.assert_close(packed, dense, rtol=1e-9, atol=1e-9)
    expected = gradients(model, dense)
    for name, gradient in gradients(model, packed).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-9)


def test_packed_examples_equal_separate_rows(model):
    generator = torch.Generator().manual_seed(0)
    examples = []
    for length in (5, 9, 14, 3, 20, 7):
        tokens = torch.randint(0, 32, (length,), generator=generator).tolist()
        examples.append((tokens, [index >= length // 2 for index in range(length)]))
    rows = pack([example_tree(tokens, marks) for tokens, marks in examples], capacity=24)
    assert rows.tokens_BT.shape[0] < len(examples)
    packed = log_probabilities(model, rows)[rows.targets_BT != IGNORE].sum()
    dense = dense_sum(model, [(tokens, marks, 1.0) for tokens, marks in examples])
    torch.testing.assert_close(packed, dense, rtol=1e-10, atol=1e-10)
    expected = gradients(model, dense)
    for name, gradient in gradients(model, packed).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-10)


def test_a_token_sees_nothing_of_its_neighbours(model):
    """Changing one sequence changes no log-probability of any other in the row."""
    prompt = [1, 2, 3]
    first = pack(
        [
            group_tree(prompt, [Branch([4, 5], [0.0, 0.0], 1.0), Branch([6, 7], [0.0, 0.0], 1.0)]),
            example_tree([8, 9, 10], [True] * 3),
        ],
        32,
    )
    second = pack(
        [
            group_tree(prompt, [Branch([4, 5], [0.0, 0.0], 1.0), Branch([30, 31], [0.0, 0.0], 1.0)]),
            example_tree([8, 9, 10], [True] * 3),
        ],
        32,
    )
    before, after = log_probabilities(model, first)[0], log_probabilities(model, second)[0]
    changed = first.targets_BT[0] != second.targets_BT[0]
    untouched = ~changed & (first.targets_BT[0] != IGNORE)
    assert changed.sum() == 2
    assert torch.equal(before[untouched], after[untouched])


def test_padding_stays_finite(model):
    rows = pack([example_tree([1, 2, 3, 4, 5, 6], [True] * 6), example_tree([1, 2], [True] * 2)], capacity=5)
    assert rows.tokens_BT.shape == (2, 5)
    assert torch.isfinite(model(rows.tokens_BT, rows.positions_BT, rows.mask_B1TS)).all()


def test_a_shared_prompt_is_stored_once():
    prompt, completions = list(range(17)), [[1, 2, 3]] * 16
    tree = group_tree(prompt, [Branch(completion, [0.0] * 3, 1.0) for completion in completions])
    assert len(tree) == 16 + 16 * 3
    separate = sum(len(prompt) + len(completion) - 1 for completion in completions)
    assert separate / len(tree) > 4


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(20, 50))
def test_best_fit_places_everything_once_within_capacity(lengths, capacity):
    rows = best_fit(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= capacity for row in rows)
    assert len(rows) <= 2 * sum(lengths) / capacity + 1
    assert best_fit(lengths, capacity) == rows
