"""What fine-tuning learns from: shares of a batch, samples, replay; and the stage on conversations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketlm.data.tokens.chat import encode_chat
from pocketlm.data.tokens.shards import ShardWriter
from pocketlm.errors import InputError
from pocketlm.model.loss import IGNORE
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.stage import Inputs
from pocketlm.posttraining.examples import asked_prompts, solved_example, solved_examples
from pocketlm.posttraining.folder import open_model
from pocketlm.posttraining.sft.example_store import Account, Replay, conversation_examples, sample_examples
from pocketlm.posttraining.sft.sources import CONVERSATIONS, INSTRUCTIONS, SAMPLES, SOLVED, example_counts
from pocketlm.posttraining.sft.supervised import SupervisedBatches, SupervisedObjective
from pocketlm.posttraining.sft.validation import conversation_loss
from pocketlm.problems.calculator_tool import CalculatorTool
from pocketlm.stages.sft import SftSettings, sft
from tests import posttraining_world as world
from tests.chat_templates import DEFAULT_SYSTEM

SHARES = {INSTRUCTIONS: 0.25, SAMPLES: 0.25, CONVERSATIONS: 0.4}
SETTINGS = SftSettings(steps=4, batch_rows=12, warmup_steps=1, validate_every=2, patience=None, max_tokens=4)


@pytest.fixture(scope="module")
def tokenizer():
    return world.small_tokenizer()


def conversations_artifact(folder: Path, count: int = 30) -> Artifact:
    def row(number: int) -> dict[str, Any]:
        turns = []
        for turn in range(number % 3 + 1):
            turns += [
                {"role": "user", "content": f"count {number}"},
                {"role": "assistant", "content": f"{turn} {number}"},
            ]
        return {"id": f"mine/{number}", "messages": turns}

    rows = [row(number) for number in range(count)]
    return world.artifact(folder, "conversations", {"training.jsonl": rows[4:], "selection.jsonl": rows[:4]})


def tokens_artifact(folder: Path, model: Artifact) -> Artifact:
    own = world.small_tokenizer()

    def write(path: Path) -> None:
        shutil.copyfile(model.file("tokenizer.json"), path / "tokenizer.json")
        documents = [np.array([*own.encode(text), own.end_of_text]) for text in world.TEXTS]
        with ShardWriter(path, "train", own.vocabulary, {}) as writer:
            for ids in documents:
                writer.write(ids, np.array([len(ids)]), np.array([len(ids)]), ["text"])
        summary = {"vocabulary": own.vocabulary, "sources": ["text"], "splits": {"train": writer.counts()}}
        (path / "tokens.json").write_text(json.dumps(summary), encoding="utf-8")

    return world.artifact(folder, "tokens", {"": write})


def run(inputs: dict[str, Artifact], folder: Path, settings: SftSettings = SETTINGS) -> Artifact:
    return sft.function(settings, Inputs(inputs), world.World(folder, "sft").context)


@pytest.mark.parametrize(
    ("rows", "there", "expected"),
    [
        (64, {SOLVED: 9, INSTRUCTIONS: 9}, {SOLVED: 48, INSTRUCTIONS: 16}),
        (64, {SOLVED: 9, INSTRUCTIONS: 0}, {SOLVED: 64}),
        (64, {CONVERSATIONS: 9}, {CONVERSATIONS: 64}),
        (
            64,
            {SOLVED: 9, INSTRUCTIONS: 9, SAMPLES: 9, CONVERSATIONS: 9},
            {SOLVED: 6, INSTRUCTIONS: 16, SAMPLES: 16, CONVERSATIONS: 26},
        ),
        (10, {SAMPLES: 9, CONVERSATIONS: 9}, {SAMPLES: 4, CONVERSATIONS: 6}),
    ],
)
def test_a_batch_is_dealt_out_by_shares(rows: int, there: dict[str, int], expected: dict[str, int]) -> None:
    assert example_counts(rows, SHARES, there) == expected
    assert sum(expected.values()) == rows


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(InputError, match=r"sum to more than one: instructions 0\.7, conversations 0\.6"):
        example_counts(64, {INSTRUCTIONS: 0.7, CONVERSATIONS: 0.6}, {SOLVED: 1, INSTRUCTIONS: 1, CONVERSATIONS: 1})
    with pytest.raises(InputError, match="no examples to learn from"):
        example_counts(64, {CONVERSATIONS: 0.0}, {CONVERSATIONS: 3})
    some = {INSTRUCTIONS: 0.25, CONVERSATIONS: 0.1}
    with pytest.raises(InputError, match=r"of the 4 examples of a step none would be of conversations; raise batch"):
        example_counts(4, some, {SOLVED: 1, INSTRUCTIONS: 1, CONVERSATIONS: 1})
    assert example_counts(4, {**some, CONVERSATIONS: 0.0}, {SOLVED: 1, INSTRUCTIONS: 1, CONVERSATIONS: 1}) == {
        SOLVED: 3,
        INSTRUCTIONS: 1,
    }
    with pytest.raises(InputError, match=r"of the 2 examples of a step none would be of conversations"):
        example_counts(2, SHARES, {INSTRUCTIONS: 1, SAMPLES: 1, CONVERSATIONS: 1})


def test_a_solution_is_taught_instead_of_the_answer(tokenizer) -> None:
    row = {"id": "1", "prompt": "2+3+4=", "answer": "9", "solution": "5 9"}
    assert solved_examples(tokenizer, [row], "rows") == [solved_example(tokenizer, "2+3+4=", "5 9")]
    assert solved_examples(tokenizer, [{**row, "solution": None}], "rows") == [solved_example(tokenizer, "2+3+4=", "9")]


def sample(tokenizer, text: str, forced: int = 0, **facts: Any) -> dict[str, Any]:
    tokens = [*tokenizer.encode(text), tokenizer.im_end]
    marks = [place < forced for place in range(len(tokens))]
    return {"text": text, "tokens": tokens, "forced": marks, "correct": True, "finish": "stop", **facts}


def test_what_the_calculator_writes_is_not_learned() -> None:
    """Encoded apart, as generation puts it in; a value that is the writer's own is learned."""
    tokenizer = world.small_tokenizer()
    solution = "48/2=<<48/2=24>>24, <<24+1=26>>26\n#### 26"
    row = {"id": 1, "prompt": "How many?", "answer": "26", "solution": solution}
    [example] = solved_examples(tokenizer, [row], "rows", calculator=True)
    [plain] = solved_examples(tokenizer, [row], "rows")
    [prompt] = asked_prompts(tokenizer, [row])
    asked = len(prompt.tokens)
    assert example.tokens[:asked] == prompt.tokens == plain.tokens[:asked]
    assert not any(example.trained[:asked])
    assert example.tokens[-1] == tokenizer.turn_end
    assert example.trained[-1]
    assert tokenizer.decode(example.tokens[asked:-1]) == solution
    written = [token for token, mark in zip(example.tokens, example.trained, strict=True) if not mark][asked:]
    assert written == tokenizer.encode("24>>")
    assert CalculatorTool(tokenizer).call(tokenizer.encode("48/2=<<48/2=")) == written
    unannotated = {**row, "solution": "26"}
    with_tool, without = (solved_examples(tokenizer, [unannotated], "rows", calculator=one) for one in (True, False))
    assert with_tool == without


def test_verified_samples_are_taught_without_what_a_tool_put_in(tokenizer) -> None:
    [row] = world.rows(range(3, 4), range(4, 5))
    completions = [
        sample(tokenizer, "12 7", forced=3),
        sample(tokenizer, "12 7"),
        sample(tokenizer, "8", correct=False),
        sample(tokenizer, "7", finish="length"),
        sample(tokenizer, "7 " * 60),
        sample(tokenizer, "7"),
    ]
    account = Account()
    store = sample_examples(tokenizer, [{"row": row, "completions": completions}], 96, account)
    [prompt] = asked_prompts(tokenizer, [row])
    assert [example.tokens for example in store] == [
        [*prompt.tokens, *completions[0]["tokens"]],
        [*prompt.tokens, *completions[5]["tokens"]],
    ]
    learned = sum(store[0].trained)
    assert store[0].trained == [False] * (len(prompt.tokens) + 3) + [True] * learned
    assert learned == len(completions[0]["tokens"]) - 3
    assert account == Account(too_long=1)
    with pytest.raises(InputError, match="of another tokenizer"):
        sample_examples(
            tokenizer, [{"row": row, "completions": [{**sample(tokenizer, "7"), "text": "8"}]}], 96, Account()
        )


def test_replay_is_a_share_of_every_batch_and_a_function_of_the_step(tokenizer) -> None:
    stream = np.arange(5000) % 256
    examples = solved_examples(tokenizer, world.rows(range(9), range(3)), "rows")

    def batches(share: float) -> SupervisedBatches:
        return SupervisedBatches([(examples, 12)], 96, seed=3, replay=Replay(stream, share, 96, seed=5))

    one = batches(0.6)
    for step in (5, 1, 5):
        chosen, plain = one.examples(step), SupervisedBatches([(examples, 12)], 96, seed=3).examples(step)
        replayed = chosen[12:]
        assert chosen[:12] == plain
        assert batches(0.6).examples(step) == chosen
        tokens = sum(len(window.tokens) for window in replayed)
        assert tokens / one.tokens(step) == pytest.approx(0.6, abs=0.02)
        for window in replayed:
            assert len(window.tokens) <= 97
            assert np.array_equal(np.diff(window.tokens) % 256, np.ones(len(window.tokens) - 1))
    assert one.examples(1)[12:] != one.examples(2)[12:]
    with pytest.raises(InputError, match="fewer than one context"):
        Replay(stream[:90], 0.5, 96, seed=5)


def test_every_trained_token_weighs_the_same_in_parts_of_a_step(tokenizer) -> None:
    """Replay and answers of any length: the loss of a step does not depend on how it is accumulated."""
    model = world.small_model().double()
    examples = solved_examples(tokenizer, world.rows(range(9), range(3)), "rows")
    replay = Replay(np.arange(5000) % 256, 0.5, 96, seed=5)
    batch = SupervisedBatches([(examples, 12)], 96, seed=3, replay=replay).batch(0)
    objective = SupervisedObjective()
    whole = objective.loss(model, batch)[0]
    for rows in (1, 2, 3):
        torch.testing.assert_close(sum(objective.loss(model, part)[0] for part in batch.split(rows)), whole)
    losses = -model(batch.tokens_BT, batch.positions_BT, batch.mask_B1TS).log_softmax(-1)
    learned = batch.targets_BT != IGNORE
    picked = losses.gather(-1, batch.targets_BT.clamp(min=0).unsqueeze(-1)).squeeze(-1)[learned]
    torch.testing.assert_close(whole, picked.mean())


def test_the_loss_on_conversations_is_the_mean_over_their_tokens(tokenizer, tmp_path: Path) -> None:
    rows = conversations_artifact(tmp_path / "conversations", 40).read_jsonl("training.jsonl")
    examples = conversation_examples(tokenizer, rows, 96, Account())
    model = world.small_model()
    total, count = 0.0, 0
    for row in rows:
        tokens, trained = encode_chat(tokenizer, row["messages"])
        with torch.no_grad():
            log_p = model(torch.tensor([tokens]))[0].log_softmax(-1)
        for place, mark in enumerate(trained):
            if mark:
                total, count = total - float(log_p[place - 1, tokens[place]]), count + 1
    assert conversation_loss(model, examples) == pytest.approx(total / count, rel=1e-5)


def test_the_stage_learns_from_conversations_alone(tmp_path: Path) -> None:
    model = world.model_artifact(tmp_path / "model", world.small_model())
    inputs = {"model": model, "conversations": conversations_artifact(tmp_path / "conversations")}
    made = run(inputs, tmp_path)
    curve = made.read_jsonl("validation.jsonl")
    assert [row["step"] for row in curve] == [0, 2, 4]
    assert (
        made.metrics["selection.conversation_loss"]["value"] == min(row["loss"] for row in curve[1:]) < curve[0]["loss"]
    )
    assert made.metrics["conversations"] == 26
    assert "selection.exact_match" not in made.metrics
    assert run(inputs, tmp_path / "again").digest == made.digest
    with pytest.raises(InputError, match="problems or conversations"):
        run({"model": model}, tmp_path / "nothing")


def test_the_stage_learns_from_everything_together(tmp_path: Path, tokenizer) -> None:
    model = world.model_artifact(tmp_path / "model", world.small_model())
    row = world.rows(range(3, 4), range(4, 5))[0]
    inputs = {
        "model": model,
        "problems": world.problems_artifact(tmp_path / "problems"),
        "conversations": conversations_artifact(tmp_path / "conversations"),
        "samples": world.artifact(
            tmp_path / "samples", "samples", {"samples.jsonl": [{"row": row, "completions": [sample(tokenizer, "7")]}]}
        ),
        "tokens": tokens_artifact(tmp_path / "tokens", model),
    }
    made = run(inputs, tmp_path, SETTINGS.model_copy(update={"choose_by": "conversation_loss"}))
    curve = made.read_jsonl("validation.jsonl")
    best = min(curve[1:], key=lambda row: row["conversation_loss"])
    assert made.metrics["chosen_step"] == best["step"]
    assert {"exact_match", "loss", "conversation_loss"} <= curve[0].keys()
    assert (made.metrics["samples"], made.metrics["replay_share"]) == (1, 0.1)
    plain = run(
        {**inputs, "tokens": inputs["tokens"]}, tmp_path / "none", SETTINGS.model_copy(update={"replay_share": 0.0})
    )
    assert plain.metrics["optimized_tokens"] == pytest.approx(0.9 * made.metrics["optimized_tokens"], rel=0.02)
    other = json.loads(model.file("tokenizer.json").read_text())
    other["added_tokens"][0]["lstrip"] = True
    draft = Draft(tmp_path / "other", {"kind": "tokens", "stage": "other", "version": 1, "fingerprint": "other"})
    (draft.path / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match="different tokenizers"):
        run({**inputs, "tokens": draft.commit({})}, tmp_path / "refused")


def test_a_model_is_taught_and_asked_in_its_own_chat_form(tmp_path: Path) -> None:
    source = world.model_artifact(tmp_path / "source", world.small_model())
    draft = Draft(tmp_path / "own", {"kind": "model", "stage": "own", "version": 1, "fingerprint": "own"})
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source.file(name), draft.path / name)
    (draft.path / "chat_template.jinja").write_text(DEFAULT_SYSTEM, encoding="utf-8")
    own = draft.commit({})
    made = run({"model": own, "problems": world.problems_artifact(tmp_path / "problems")}, tmp_path)
    assert made.file("chat_template.jinja").read_text(encoding="utf-8") == DEFAULT_SYSTEM
    _, tokenizer = open_model(made, torch.device("cpu"))
    [prompt] = asked_prompts(tokenizer, [{"prompt": "3+4=", "level": 1}])
    text = "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n3+4=<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.chat_template is not None
    assert tokenizer.chat_template.render([{"role": "user", "content": "3+4="}], True) == text
    example = solved_example(tokenizer, "3+4=", "7")
    assert example.tokens[: len(prompt.tokens)] == prompt.tokens
    assert example.trained == [False] * len(prompt.tokens) + [True] * (len(example.tokens) - len(prompt.tokens))
