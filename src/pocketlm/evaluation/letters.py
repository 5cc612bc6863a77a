"""Tasks `NAME_letters`: a benchmark's questions with lettered options, in all cyclic orders (`option_order`).

An item is right when the letter of the right option is the likeliest in the order of the file. `debiased` says whether
the right option has the largest mean over the orders, which no liking for a letter moves.

In the chat form the question is the user's turn, and the letter alone is how the answer begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketlm.data.contamination.benchmarks import LetteredQuestion, lettered_questions
from pocketlm.evaluation.benchmarks.tasks import GIVEN, lettered
from pocketlm.evaluation.option_order import AskedInAllOrders, ask_in_all_orders, option_order
from pocketlm.statistics.bootstrap import RESAMPLES
from pocketlm.statistics.rates import Estimate, wilson

if TYPE_CHECKING:
    from pocketlm.evaluation.adapter import PocketLM
    from pocketlm.evaluation.harness import Suite
    from pocketlm.evaluation.items import Item

BY_ORDER = "log_likelihoods_by_order"
"""Of an item: [orders][options], option by option as the file has them; in order s, option c stood at place (c + s)
modulo the number of options."""
PLACES_P = "places_p_of_"
"""Before a number of options: p of the test that no place is liked. n and interval are those of the draw of turns."""


@dataclass(frozen=True)
class LetteredTask:
    """A task, its questions in the order of the file, and the harness's hash of each."""

    name: str
    questions: Sequence[LetteredQuestion]
    hashes: Sequence[str]

    def prompts(self, places: Iterable[int]) -> int:
        """How many prompts ask the questions at these places: each in as many orders as it has options."""
        return sum(len(self.questions[at].choices) for at in places)

    def ask(self, model: PocketLM, places: Sequence[int], chat: bool) -> list[Item]:
        """Items of the questions at these places; `chat` asks them in the model's chat form."""
        asked = ask_in_all_orders(
            [self.questions[at] for at in places], lambda pairs: _scores(model, self.name, pairs, chat)
        )
        return [
            {
                "id": self.questions[at].name,
                "hash": self.hashes[at],
                BY_ORDER: one.by_order.tolist(),
                "gold": one.gold,
                **_verdict(one),
            }
            for at, one in zip(places, asked, strict=True)
        ]


def lettered_tasks(rows: Mapping[str, Sequence[Mapping[str, Any]]], suite: Suite) -> dict[str, LetteredTask]:
    """The lettered tasks among those that are asked; `rows`: task -> rows in upstream's columns.

    Raises:
        InputError: a row with fewer than two options.
    """
    return {
        task: LetteredTask(task, lettered_questions(source, own), suite.hashes(source))
        for task, own in rows.items()
        if (source := lettered(task)) is not None
    }


def differences(task: str, items: Sequence[Item]) -> list[str]:
    """Items whose verdict does not follow from their log-likelihoods: one line each."""
    return [
        f"{task}, item {item.get('id')}: its verdict does not follow from its log-likelihoods"
        for item in items
        if {key: item.get(key) for key in ("metrics", "correct")} != _verdict(_asked(item))
    ]


def letter_scores(items: Sequence[Item], generator: np.random.Generator) -> dict[str, Estimate]:
    """Accuracy in the given order first, without the liking for places, and how much the order matters.

    `chosen_B_of_4`: the share of the answers that went to the second of four places, where the right option stands as
    often as at the others.
    """
    found = option_order([_asked(item) for item in items], generator)
    scores = {
        GIVEN: found.given,
        "debiased": found.debiased,
        "gain": found.gain,
        "any_order": found.any_order,
        "flips": found.flips,
    }
    for liked in found.places:
        for letter, share in zip(ascii_uppercase, liked.shares, strict=False):
            scores[f"chosen_{letter}_of_{liked.options}"] = share
        draws = 1 + RESAMPLES
        scores[f"{PLACES_P}{liked.options}"] = wilson(round(liked.p * draws), draws)
    return scores


def _asked(item: Item) -> AskedInAllOrders:
    return AskedInAllOrders(np.asarray(item[BY_ORDER], np.float64), item["gold"])


def _verdict(asked: AskedInAllOrders) -> dict[str, Any]:
    given = bool(asked.chosen[0] == asked.gold)
    return {"metrics": {GIVEN: given, "debiased": asked.debiased == asked.gold}, "correct": given}


def _scores(model: PocketLM, task: str, pairs: Sequence[tuple[str, str]], chat: bool) -> list[float]:
    """Log-likelihoods of the letters; those of one prompt are one document of the adapter and share what they can."""
    from lm_eval.api.instance import Instance

    requests = []
    for number, (context, letters) in enumerate(groupby(pairs, key=lambda pair: pair[0])):
        prompt = model.apply_chat_template([{"role": "user", "content": context}]) if chat else context
        for place, (_, letter) in enumerate(letters):
            target = letter.strip() if chat else letter
            requests.append(Instance("loglikelihood", {}, (prompt, target), place, (task, number, 1)))
    return [log_likelihood for log_likelihood, _ in model.loglikelihood(requests)]
