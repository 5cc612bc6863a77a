"""SFT: what is trained on, the loss against a plain per-example computation, batches as pure functions."""

import pytest
import torch

from pocketlm.errors import InputError
from pocketlm.model.loss import IGNORE
from pocketlm.posttraining.examples import asked_prompts, solved_example, solved_examples
from pocketlm.posttraining.sft.supervised import SupervisedBatches, SupervisedObjective
from tests import posttraining_world as world


@pytest.fixture(scope="module")
def tokenizer():
    return world.small_tokenizer()


def test_only_the_answer_and_its_end_are_trained_on(tokenizer):
    example = solved_example(tokenizer, "3+4=", "7")
    learned = [token for token, mark in zip(example.tokens, example.trained, strict=True) if mark]
    assert learned == [*tokenizer.encode("7"), tokenizer.im_end]
    assert example.tokens[-1] == tokenizer.im_end
    [prompt] = asked_prompts(tokenizer, [{"prompt": "3+4=", "level": 1}])
    assert example.tokens[: len(prompt.tokens)] == prompt.tokens, "training and asking cut the prompt at one place"


def test_loss_and_gradients_equal_plain_rows(tokenizer):
    """Mean over all trained tokens of the batch, from one unpacked causal row an example, in fp64."""
    examples = solved_examples(tokenizer, world.rows(range(0, 9), range(0, 3)), "rows")
    model = world.small_model().double()
    batch = SupervisedBatches([(examples, 12)], capacity=60, seed=1).batch(0)
    chosen = SupervisedBatches([(examples, 12)], capacity=60, seed=1).examples(0)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for example in chosen:
        log_p = model(torch.tensor([example.tokens]))[0].log_softmax(-1)
        for place, mark in enumerate(example.trained):
            if mark:
                total, count = total - log_p[place - 1, example.tokens[place]], count + 1
    expected = torch.autograd.grad(total / count, list(model.parameters()))
    assert batch.tokens_BT.shape[0] < 12
    assert int((batch.targets_BT != IGNORE).sum()) == count
    loss, _ = SupervisedObjective().loss(model, batch)
    torch.testing.assert_close(loss, total / count, rtol=1e-10, atol=1e-12)
    for actual, wanted in zip(torch.autograd.grad(loss, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-8, atol=1e-10)


def test_parts_of_a_step_add_up_to_its_loss(tokenizer):
    examples = solved_examples(tokenizer, world.rows(range(0, 9), range(0, 3)), "rows")
    model, objective = world.small_model().double(), SupervisedObjective()
    batch = SupervisedBatches([(examples, 12)], capacity=60, seed=1).batch(0)
    whole = objective.loss(model, batch)[0]
    parts = sum(objective.loss(model, part)[0] for part in batch.split(1))
    torch.testing.assert_close(parts, whole)


def test_batches_are_pure_and_every_epoch_holds_every_example(tokenizer):
    examples = solved_examples(tokenizer, world.rows(range(0, 10), range(0, 3)), "rows")
    others = [solved_example(tokenizer, "Say and.", "and")]
    one = SupervisedBatches([(examples, 6), (others, 1)], capacity=96, seed=3)
    for step in (7, 2, 7, 90):
        fresh = SupervisedBatches([(examples, 6), (others, 1)], capacity=96, seed=3).batch(step)
        assert torch.equal(one.batch(step).tokens_BT, fresh.tokens_BT)
    epoch = [tuple(example.tokens) for step in range(5, 10) for example in one.examples(step)[:6]]
    assert sorted(epoch) == sorted(tuple(example.tokens) for example in examples)
    assert not torch.equal(one.batch(0).tokens_BT, SupervisedBatches([(examples, 6)], 96, seed=4).batch(0).tokens_BT)
    assert one.batch(0).consumed == one.tokens(0) == sum(len(example.tokens) for example in one.examples(0))


def test_a_token_budget_is_spent_and_not_much_more(tokenizer):
    batches = SupervisedBatches([(solved_examples(tokenizer, world.rows(range(9), range(3)), "rows"), 6)], 96, seed=3)
    steps = batches.steps_for(1000)
    spent = sum(batches.tokens(step) for step in range(steps))
    assert 1000 <= spent < 1000 + batches.tokens(steps - 1)
    assert batches.steps_for(0) == 1


def test_rows_without_an_answer_and_empty_sources_are_refused(tokenizer):
    with pytest.raises(InputError, match=r"prompts.jsonl: row 'addition/1/1\+2'"):
        solved_examples(tokenizer, world.rows(range(1, 2), range(2, 3), answers=False), "prompts.jsonl")
    with pytest.raises(InputError, match="no examples"):
        SupervisedBatches([([], 4)], 96, seed=0)
    with pytest.raises(InputError, match="does not fit a row of 5"):
        SupervisedBatches([([solved_example(tokenizer, "1+1=", "2")], 1)], 5, seed=0).batch(0)
