"""The behaviour tasks end to end on the tiny model, and their estimates against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pocketlm.data.tokens.chat import encode_chat
from pocketlm.data.tokens.chat_template_process import TemplateRefusal
from pocketlm.errors import InputError
from pocketlm.evaluation.behaviour.figures import by_level, by_step, summarise_behaviour
from pocketlm.evaluation.behaviour.run import differences, judged, rows_of_task, score_behaviour
from pocketlm.evaluation.behaviour.tasks import BULLETS, ENDINGS, EXECUTION, FACTS, JSON, SYSTEM, TASKS
from pocketlm.generation.engine import Engine, Request
from pocketlm.model.transformer import Transformer
from pocketlm.statistics.rates import clustered_rate, wilson
from tests.docs_pages import ROOT
from tests.evaluation_world import trained

LIMIT = 12


@pytest.fixture(scope="module")
def scored() -> dict[str, list[dict[str, Any]]]:
    return score_behaviour(*trained(), names=list(TASKS), limit=LIMIT)


def answered(name: str, outputs: list[str], first: int = 0) -> list[dict[str, Any]]:
    """The first items of a task as if a model had given these answers."""
    rows = rows_of_task(name)[first : first + len(outputs)]
    return [judged(name, row, output, "stop") for row, output in zip(rows, outputs, strict=True)]


def summary(name: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    return summarise_behaviour({name: items})[name]


def test_the_page_states_the_number_of_items_and_tokens() -> None:
    page = (ROOT / "docs" / "behaviour.md").read_text(encoding="utf-8")
    for name, task in TASKS.items():
        assert f"| `{name}` | {len(task.items())} | {task.max_tokens} |" in page


def test_every_task_is_asked_and_recorded(scored: dict[str, list[dict[str, Any]]]) -> None:
    for name, items in scored.items():
        assert [item["id"] for item in items] == [row["id"] for row in TASKS[name].items()[:LIMIT]]
        assert differences(name, items) == []
    scores = summarise_behaviour(scored)
    assert list(scores) == list(TASKS)
    for values in scores.values():
        assert all(one.low <= one.value <= one.high and one.n for one in values.values())


def test_outputs_are_those_of_the_engine_for_the_prompt_alone(scored: dict[str, list[dict[str, Any]]]) -> None:
    model, tokenizer = trained()
    stops = (tokenizer.end_of_text, tokenizer.im_end)
    for row, item in zip(TASKS[FACTS].items(), scored[FACTS], strict=False):
        prompt, _ = encode_chat(tokenizer, row["messages"], add_generation_prompt=True)
        ((alone,),) = Engine(model, slots=1).generate([Request(prompt, TASKS[FACTS].max_tokens, stop_tokens=stops)])
        assert (item["output"], item["finish"]) == (tokenizer.decode(alone.tokens), alone.finish)
    assert {item["finish"] for item in scored[FACTS]} == {"stop", "length"}


def test_chosen_items_are_scored_as_among_the_others(scored: dict[str, list[dict[str, Any]]]) -> None:
    calls: list[float] = []
    chosen = {FACTS: [5, 1], ENDINGS: []}
    again = score_behaviour(*trained(), names=[FACTS, ENDINGS, JSON], chosen=chosen, progress=calls.append)
    assert again == {FACTS: [scored[FACTS][1], scored[FACTS][5]]}
    assert calls == [2]


def test_a_prompt_that_fills_the_context_is_counted_and_wrong(scored: dict[str, list[dict[str, Any]]]) -> None:
    items = scored[EXECUTION]
    assert all(item["measures"]["not_asked"] == 1 and not item["correct"] and not item["output"] for item in items)
    assert summary(EXECUTION, items)["not_asked"] == wilson(LIMIT, LIMIT)
    assert "not_asked" not in summary(FACTS, scored[FACTS])


def test_messages_that_the_template_refuses_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = trained()

    def without_system(*arguments: Any, **options: Any) -> Any:
        if arguments[1][0]["role"] == "system":
            raise TemplateRefusal("no system messages")
        return encode_chat(*arguments, **options)

    monkeypatch.setattr("pocketlm.evaluation.behaviour.run.encode_chat", without_system)
    (item,) = score_behaviour(model, tokenizer, [SYSTEM], limit=1)[SYSTEM]
    assert item["why"] == "it could not be asked"
    assert differences(SYSTEM, [item]) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("correct", True),
        ("output", "x x x x x x x"),
        ("finish", "other"),
        ("hash", "0"),
        ("measures", {}),
        ("id", "facts/x"),
        ("output", None),
    ],
)
def test_an_altered_record_is_found(scored: dict[str, list[dict[str, Any]]], key: str, value: Any) -> None:
    items = [dict(item) for item in scored[FACTS]]
    place = next(place for place, item in enumerate(items) if not item["correct"])
    items[place][key] = value
    (line,) = differences(FACTS, items)
    assert items[place]["id"] in line


def test_what_cannot_be_scored_is_refused() -> None:
    model, tokenizer = trained()
    with pytest.raises(InputError, match=r"no behaviour task 'behaviour_fact'; did you mean behaviour_facts"):
        score_behaviour(model, tokenizer, ["behaviour_fact"])
    damaged = Transformer(model.settings)
    damaged.load_state_dict({name: torch.full_like(weight, torch.nan) for name, weight in model.state_dict().items()})
    with pytest.raises(InputError, match="not numbers"):
        score_behaviour(damaged, tokenizer, [FACTS], limit=2)


def test_the_turns_of_a_session_are_one_draw() -> None:
    rows = rows_of_task(SYSTEM)[:12]
    right = [row["answer"] for row in rows]
    outputs = [*right[:5], "No?", right[6], "No?", right[8], "No?", "No?", "No?"]
    scores = summary(SYSTEM, answered(SYSTEM, outputs))
    sessions_of = [row["session"] for row in rows]
    right_ones = [output != "No?" for output in outputs]
    assert scores["accuracy"] == scores["answered"] == clustered_rate(right_ones, sessions_of)
    assert scores["accuracy"].value == pytest.approx(7 / 12)
    assert scores["accuracy"].low < wilson(7, 12).low
    assert scores["followed"].value >= 7 / 12
    followed = [item["measures"]["followed"] == 1 for item in answered(SYSTEM, outputs)]
    assert scores["followed_turn_1"] == wilson(sum(followed[0::3]), 4)
    assert scores["followed_last_turn"] == wilson(sum(followed[2::3]), 4)
    sessions = [followed[start : start + 3] for start in range(0, 12, 3)]
    assert scores["sessions_followed"] == wilson(sum(map(all, sessions)), 4)
    runs = [3 if all(turns) else turns.index(False) for turns in sessions]
    assert scores["session_stability"].value == pytest.approx(sum(runs) / 12)
    kinds = {row["level"] for row in rows}
    assert {f"followed_{kind}" for kind in kinds} <= set(scores)
    assert "sessions_followed" not in summary(SYSTEM, answered(SYSTEM, right[:2])), "no session is whole"


def test_steps_and_horizon() -> None:
    rows = [row for row in rows_of_task(EXECUTION) if len(row["words"]) in (4, 8)][:8]
    kept = [0, 1, 1, 2, 3, 3, 4, 4]
    items = [
        judged(EXECUTION, row, "\n".join(row["answer"].split("\n")[:count]), "stop")
        for row, count in zip(rows, kept, strict=True)
    ]
    scores = summary(EXECUTION, items)
    assert scores["steps_before_first_error"].value == pytest.approx(sum(kept) / 8)
    assert scores["right_updates"].value == pytest.approx(sum(kept) / sum(len(row["words"]) for row in rows))
    assert scores["right_through_step_2"] == wilson(5, 8)
    assert (scores["horizon"].value, scores["horizon"].n) == (3, 8)
    assert scores["horizon"].low <= 3 <= scores["horizon"].high
    steps = by_step(items)
    assert [step.number for step in steps] == list(range(1, 9))
    assert [round(8 * step.right_so_far.value) for step in steps[:3]] == [7, 5, 4]
    long_ones = sum(len(row["words"]) == 8 for row in rows)
    assert steps[7].right_update.n == long_ones


def test_items_that_are_all_alike_still_have_an_interval() -> None:
    scores = summary(EXECUTION, answered(EXECUTION, ["no"] * 20))
    most = max(len(row["words"]) for row in rows_of_task(EXECUTION)[:20])
    assert scores["steps_before_first_error"].low == 0
    assert scores["steps_before_first_error"].high == pytest.approx(most * wilson(0, 20).high)
    assert scores["horizon"].value == 0


def test_measures_of_form_become_rates() -> None:
    rows = rows_of_task(JSON)[:4]
    fenced = f"```json\n{rows[1]['answer']}\n```"
    scores = summary(JSON, answered(JSON, [rows[0]["answer"], fenced, "{}", "no"]))
    assert scores["accuracy"] == wilson(1, 4)
    assert scores["right_unfenced"] == wilson(2, 4)
    assert scores["valid_json"] == wilson(2, 4)
    assert scores["valid_json_unfenced"] == wilson(3, 4)
    assert scores["right_keys"] == wilson(1, 4)
    counted = summary(BULLETS, answered(BULLETS, ["- a\n" * row["count"] for row in rows_of_task(BULLETS)[:4]]))
    assert counted["right_count"] == wilson(4, 4)
    assert counted["accuracy"].value < 1
    looping = summary(FACTS, answered(FACTS, ["It is. It is. It is. It is.", "Paris"]))
    assert looping["looped"] == wilson(1, 2)
    assert by_level(answered(JSON, ["no"] * 3))


def test_a_bare_answer_of_a_base_model_is_judged_like_any_other() -> None:
    (row,) = rows_of_task(FACTS)[:1]
    item = judged(FACTS, row, f"{row['answer']}\n\nQ: What else", "length")
    assert item["correct"]
    assert item["measures"]["ended"] == 0
