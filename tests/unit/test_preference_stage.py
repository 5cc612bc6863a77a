"""The stage `preference` on a tiny world: what it reads, learns, states and refuses."""

import json

import pytest

from pocketlm.errors import InputError, Interrupted
from pocketlm.model.storage import load_model
from pocketlm.pipeline.stage import Inputs
from pocketlm.posttraining.preferences.batches import PreferenceBatches, references
from pocketlm.posttraining.preferences.own_samples import judged_samples
from pocketlm.posttraining.preferences.rows import Unusable, comparison_of, encoded, read_comparisons
from pocketlm.posttraining.settings import PreferenceLossSettings
from pocketlm.stages.preference import PreferenceSettings, identity, preference
from tests import posttraining_world as world


def settings(**options):
    return PreferenceSettings(
        **{"steps": 12, "batch_rows": 6, "warmup_steps": 1, "validate_every": 6, "learning_rate": 2e-3, **options}
    )


def run(chosen, inputs, folder):
    surroundings = world.World(folder, "preference")
    return preference.function(chosen, Inputs(inputs), surroundings.context), surroundings


def model_of(folder):
    return world.model_artifact(folder / "taught", world.taught_model())


def completion(tokenizer, text, correct, finish="stop", reward=1.0):
    tokens = [*tokenizer.encode(text), *([tokenizer.turn_end] if finish == "stop" else [])]
    return {
        "text": text,
        "tokens": tokens,
        "log_probabilities": [-0.5] * len(tokens),
        "forced": [False] * len(tokens),
        "correct": correct,
        "reward": reward if correct else (None if reward is None else 0.0),
        "finish": finish,
    }


def samples_of(folder, tokenizer):
    """Two right and two wrong answers to every problem but three: all right, all wrong, one of another tokenizer."""
    rows = []
    for number, row in enumerate(world.rows(range(0, 10), range(3, 6), answers=False)):
        total = sum(row["operands"])
        answers = [(str(total), True), (f"0{total}", True), (str(total + 1), False), (str(total + 2), False)]
        chosen = {0: answers[:2], 1: answers[2:]}.get(number, answers)
        made = [completion(tokenizer, text, correct) for text, correct in chosen]
        if number == 2:
            made[0]["text"] = "another"
        rows.append({"row": row, "completions": made})
    return world.artifact(folder / "samples", "samples", {"samples.jsonl": rows})


@pytest.mark.parametrize("form", ["dpo", "orpo", "kto"])
def test_a_model_learns_from_its_own_right_and_wrong_answers(tmp_path, form):
    """On prompts that were held out the right answers win in the end, and the start's ranking is stated."""
    inputs = {"model": model_of(tmp_path), "samples": samples_of(tmp_path, world.small_tokenizer())}
    loss = PreferenceLossSettings(form=form, beta=0.5 if form == "kto" else 0.1)
    made, _ = run(settings(loss=loss, steps=24, held_out_share=0.2, batch_rows=12), inputs, tmp_path)
    assert made.metrics["rejected"] == (1 if form == "kto" else 3)
    reasons = {row["reason"] for row in made.read_jsonl("rejected.jsonl")}
    assert reasons == {
        "all completions are right",
        "no completion is right",
        "the completion's tokens are of another tokenizer than the model's",
    } - ({"all completions are right", "no completion is right"} if form == "kto" else set())
    curve = made.read_jsonl("validation.jsonl")
    assert [row["step"] for row in curve] == [0, 6, 12, 18, 24]
    assert made.metrics["held_out.loss"] == min(row["held_out.loss"] for row in curve[1:])
    assert made.metrics["held_out.loss"] < made.metrics["held_out.loss.before"]
    assert made.metrics["held_out.accuracy"]["value"] >= 0.6
    if form == "dpo":
        assert curve[0]["held_out.margin"] == pytest.approx(0, abs=1e-5)
        assert curve[0]["held_out.loss"] == pytest.approx(0.6931, abs=1e-3)
    log = made.read_jsonl("log.jsonl")
    assert made.metrics["optimized_tokens"] == log[-1]["tokens"] > 0
    assert {"accuracy", "margin"} <= log[0].keys()
    load_model(made.path)


def test_problems_choose_the_weights_when_they_are_given(tmp_path):
    inputs = {
        "model": model_of(tmp_path),
        "samples": samples_of(tmp_path, world.small_tokenizer()),
        "problems": world.problems_artifact(tmp_path / "problems"),
    }
    made, _ = run(settings(max_tokens=4), inputs, tmp_path)
    curve = made.read_jsonl("validation.jsonl")
    assert made.metrics["selection.exact_match"]["value"] == max(row["exact_match"] for row in curve[1:])
    assert made.metrics["selection.exact_match.before"]["n"] == 10


@pytest.mark.parametrize("form", ["dpo", "kto"])
def test_stopping_while_the_start_scores_and_while_it_trains_changes_no_bit(tmp_path, form):
    inputs = {"model": model_of(tmp_path), "samples": samples_of(tmp_path, world.small_tokenizer())}
    chosen = settings(loss=PreferenceLossSettings(form=form, beta=0.5), steps=8, validate_every=3)
    whole, _ = run(chosen, inputs, tmp_path / "whole")
    for reports in (1, 7):
        surroundings = world.World(tmp_path / "parts", "preference")
        left = iter(range(reports - 1, -1, -1))

        def progress(*_, left=left, stop=surroundings.stop, **__):
            if next(left, 1) == 0:
                stop.request()

        surroundings.context.progress = progress
        with pytest.raises(Interrupted):
            preference.function(chosen, Inputs(inputs), surroundings.context)
    assert list((tmp_path / "parts" / "work" / "preference" / "checkpoints").iterdir())
    parts, _ = run(chosen, inputs, tmp_path / "parts")
    assert parts.digest == whole.digest
    assert parts.metrics == whole.metrics


def test_parts_of_a_step_give_the_weights_of_the_whole(tmp_path):
    """The reference point of kto is that of the step; pairs and responses are not torn."""
    inputs = {"model": model_of(tmp_path), "samples": samples_of(tmp_path, world.small_tokenizer())}
    chosen = settings(loss=PreferenceLossSettings(form="kto", beta=0.5), steps=4, batch_rows=24)
    ends = []
    for rows in (None, 1):
        surroundings = world.World(tmp_path / f"rows {rows}", "preference")
        surroundings.context.runtime = surroundings.context.runtime.model_copy(update={"micro_batch": rows})
        made = preference.function(chosen, Inputs(inputs), surroundings.context)
        ends.append([row["loss"] for row in made.read_jsonl("log.jsonl")])
        assert all(row["kl"] >= 0 for row in made.read_jsonl("log.jsonl"))
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


ROWS = [
    {"prompt": "number 1", "chosen": "and 3", "rejected": "and 1"},
    {"instruction": "number 2", "input": "", "chosen": "and 6", "rejected": "and 2", "output": "and 6"},
    {"conversations": [{"from": "human", "value": "number 3"}], "chosen": {"from": "gpt", "value": "and 9"},
     "rejected": {"from": "gpt", "value": "and 3"}},
    {"chosen": [{"role": "user", "content": "number 4"}, {"role": "assistant", "content": "and 12"}],
     "rejected": [{"role": "user", "content": "number 4"}, {"role": "assistant", "content": "and 4"}]},
    {"prompt": [{"role": "user", "content": "number 5"}], "chosen": [{"role": "assistant", "content": "and 15"}],
     "rejected": "and 5"},
]  # fmt: skip
BAD = {
    "chosen and rejected are the same": {"prompt": "number", "chosen": "and", "rejected": " and "},
    "rejected is empty": {"prompt": "number", "chosen": "and", "rejected": "\n"},
    "there is no rejected": {"prompt": "number", "chosen": "and"},
    "there is no prompt": {"chosen": "and", "rejected": "number"},
    "the row is no JSON object": ["number"],
    "the prompt does not end with a user's message": {"prompt": " ", "chosen": "and", "rejected": "number"},
    "a single judged answer, which only kto learns from": {"prompt": "number", "completion": "and", "label": True},
    "label is neither true nor false": {"prompt": "number", "completion": "and", "label": 1},
    "chosen does not end with the assistant's message": {
        "prompt": "number", "chosen": [{"role": "user", "content": "and"}], "rejected": "number"
    },
    "prompt and answer do not fit the model's context of 96 tokens": {
        "prompt": "number " * 60, "chosen": "and " * 60, "rejected": "number"
    },
}  # fmt: skip


def file_of(folder, rows):
    path = folder / "preferences.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def test_every_form_of_row_gives_its_pair(tmp_path):
    tokenizer = world.small_tokenizer()
    for number, (_, comparison) in enumerate(read_comparisons(file_of(tmp_path, ROWS)), start=1):
        judged = encoded(tokenizer, comparison, 96)
        assert tokenizer.decode(judged.prompt).count(f"number {number}") == 1
        answers = [tokenizer.decode(response.tokens[:-1]) for response in judged.responses]
        assert answers == [f"and {number * 3}", f"and {number}"]
        assert [response.liked for response in judged.responses] == [True, False]
        assert all(response.tokens[-1] == tokenizer.turn_end for response in judged.responses)


def test_turns_before_the_last_belong_to_the_prompt():
    turns = [
        {"role": "user", "content": "number 1"},
        {"role": "assistant", "content": "and 3"},
        {"role": "user", "content": "number 2"},
    ]
    chosen, rejected = ({"role": "assistant", "content": text} for text in ("and 6", "and 2"))
    for prompt in ({}, {"prompt": "number 1"}, {"prompt": turns[:1]}, {"prompt": turns}):
        row = {**prompt, "chosen": [*turns, chosen], "rejected": [*turns, rejected]}
        assert comparison_of(row, "row").messages == turns
    beside = {"prompt": turns[:1], "chosen": [*turns[1:], chosen], "rejected": [*turns[1:], rejected]}
    assert comparison_of(beside, "row").messages == turns
    with pytest.raises(Unusable, match="differ in more than their last message"):
        comparison_of({"chosen": [*turns, chosen], "rejected": [*turns[:1], rejected]}, "row")


def test_bad_rows_are_counted_by_reason_and_kept(tmp_path):
    path = file_of(tmp_path, [*ROWS, *BAD.values()])
    with path.open("ab") as file:
        file.write(b'{"prompt": "\xff"}\n{"prompt": \n\n{"prompt": ' + b"1" * 5000 + b"}\n")
        file.write(b'{"prompt": "number", "chosen": "and \\ud800", "rejected": "number"}\n')
    made, surroundings = run(settings(path=str(path)), {"model": model_of(tmp_path)}, tmp_path)
    rejected = made.read_jsonl("rejected.jsonl")
    surrogate = "chat message 2 (assistant): its character 5 is U+D800, half of a surrogate pair, which is no text; "
    expected = [*BAD, *["the line is no JSON in UTF-8"] * 3, f"{surrogate}mend it or leave the message out."]
    assert [row["reason"] for row in rejected] == expected
    assert rejected[0]["id"] == "line 6"
    assert made.metrics["rejected"] == 14
    assert made.metrics["preferences"] + made.metrics["preferences.held_out"] == 5
    assert sum(body["rows"] for kind, body in surroundings.events if kind == "preferences_rejected") == 14


def test_what_cannot_work_is_refused_by_name(tmp_path):
    inputs = {"model": model_of(tmp_path)}
    with pytest.raises(InputError, match="either as the input `samples` or as a file"):
        run(settings(), inputs, tmp_path / "none")
    path = file_of(tmp_path, [BAD["rejected is empty"]])
    with pytest.raises(InputError, match=r"no usable preference \(1 x rejected is empty\)"):
        run(settings(path=str(path)), inputs, tmp_path / "empty")
    with pytest.raises(InputError, match="about 3 prompts; it takes 4"):
        run(settings(path=str(file_of(tmp_path, ROWS[:3]))), inputs, tmp_path / "few")
    with pytest.raises(InputError, match="there is no file"):
        identity(settings(path=str(tmp_path / "missing.jsonl")))
    with pytest.raises(ValueError, match=r"give a file that ends with \.jsonl"):
        settings(path="preferences.csv")
    with pytest.raises(ValueError, match="liked_weight belongs to kto"):
        PreferenceLossSettings(form="dpo", liked_weight=2)


def test_the_identity_is_that_of_the_content(tmp_path):
    one = file_of(tmp_path, ROWS)
    (tmp_path / "other").mkdir()
    other = file_of(tmp_path / "other", ROWS)
    assert identity(settings(path=str(one))) == identity(settings(path=str(other)))
    assert settings(path=str(one)).identity() == settings(path=str(other)).identity()
    file_of(tmp_path, ROWS[:4])
    assert identity(settings(path=str(one))) != identity(settings(path=str(other)))


def test_samples_give_as_many_different_pairs_as_there_are():
    tokenizer = world.small_tokenizer()
    [row] = world.rows(range(1), range(1), answers=False)
    texts = [("0", True), ("0", True), ("00", True), ("1", False), ("2", False), ("3", False), ("4", False)]
    completions = [completion(tokenizer, text, correct) for text, correct in texts]
    completions.append(completion(tokenizer, "5", False, reward=None))
    made = judged_samples(tokenizer, {"row": row, "completions": completions}, True, 4, 96, seed=0)
    chosen, rejected = ([tuple(item.responses[place].tokens) for item in made] for place in (0, 1))
    assert len(set(rejected)) == 4
    assert sorted(chosen.count(one) for one in set(chosen)) == [2, 2]
    single = judged_samples(tokenizer, {"row": row, "completions": completions}, False, 3, 96, seed=0)
    assert [item.responses[0].liked for item in single] == [True, True, False, False, False]
    completions[0]["forced"][0] = True
    [first] = judged_samples(
        tokenizer, {"row": row, "completions": [completions[0], completions[3]]}, True, 4, 96, seed=0
    )
    assert first.responses[0].learned == [False, True]
    with pytest.raises(Unusable, match="no completion is right"):
        judged_samples(tokenizer, {"row": row, "completions": completions[3:]}, True, 4, 96, seed=0)


def test_batches_are_functions_of_the_step_and_see_every_item_each_epoch():
    tokenizer, model = world.small_tokenizer(), world.small_model()
    items = [encoded(tokenizer, comparison_of(row, str(number)), 96) for number, row in enumerate(ROWS)]
    known = references(model, items, 96, lambda done: None)
    batches = PreferenceBatches(items, known, 2, 96, seed=1)
    other = PreferenceBatches(items, known, 2, 96, seed=1)
    assert batches.indices(3) == other.indices(3)
    seen = [index for step in range(5) for index in batches.indices(step)]
    assert sorted(seen[:5]) == sorted(seen[5:]) == list(range(5))
    assert (other.batch(3).extra["behaviour_BT"] == batches.batch(3).extra["behaviour_BT"]).all()
