"""What the order of options does to a multiple-choice score, and the score without it.

    questions = lettered_questions("arc_easy", rows)          # in data.contamination.benchmarks
    report = option_order(ask_in_all_orders(questions, score), generator)

Asked with lettered options ("A. ... B. ... Answer:"), a model may like a letter or a place more than what stands there.
Every question is therefore asked in all cyclic orders of its options, in which each option stands once at every place.
An option's debiased score is the mean over the orders of the log-likelihood of its letter: whatever a place adds to
what stands there is then the same for every option. Source: Zheng et al. 2023, "cyclic permutation", arXiv 2309.03882.

What is not covered: orders that are not cyclic, and a liking for what stands beside a certain other option.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pocketlm.data.contamination.benchmarks import LetteredQuestion
from pocketlm.statistics.bootstrap import RESAMPLES, paired_difference
from pocketlm.statistics.rates import Estimate, mean_of_shares, wilson

Score = Callable[[Sequence[tuple[str, str]]], Sequence[float]]
"""(context, continuation) pairs -> log-likelihood of each continuation, in nats."""


@dataclass(frozen=True)
class AskedInAllOrders:
    """Log-likelihoods of the options of one question.

    Attributes:
        by_order: float64 [orders, options], option by option as the item has them, whatever place they stood at. In
            order s, option c stood at place (c + s) modulo the number of options.
        gold: the right option.
    """

    by_order: np.ndarray
    gold: int

    @property
    def chosen(self) -> np.ndarray:
        """The option with the largest log-likelihood in each order, [orders]."""
        return np.asarray(self.by_order.argmax(axis=1))

    @property
    def debiased(self) -> int:
        """The option with the largest mean log-likelihood over the orders."""
        return int(self.by_order.mean(axis=0).argmax())

    @property
    def places(self) -> np.ndarray:
        """How often the option at each place was chosen, over the orders; [options], sums to their number."""
        options = len(self.by_order)
        return np.bincount((self.chosen + np.arange(options)) % options, minlength=options)


@dataclass(frozen=True)
class PlaceBias:
    """Which places are chosen, over questions with equally many options.

    Attributes:
        shares: share of the answers that went to each place, over all orders; 1 / options if place does not matter.
        p: chance of shares as uneven as these, or more, if place did not matter.
    """

    options: int
    shares: tuple[Estimate, ...]
    p: float


@dataclass(frozen=True)
class OptionOrder:
    """Accuracy with and without the order of options, and how much the order matters.

    Attributes:
        given: accuracy in the order of the file.
        debiased: accuracy of the option with the largest mean log-likelihood over the orders.
        gain: debiased less given, paired by question.
        any_order: accuracy in an order drawn at random, the mean over all orders.
        flips: share of the questions whose answer is not the same in all orders.
        places: one entry for each number of options.
    """

    given: Estimate
    debiased: Estimate
    gain: Estimate
    any_order: Estimate
    flips: Estimate
    places: tuple[PlaceBias, ...]


def in_order(question: LetteredQuestion, order: int) -> list[tuple[str, str]]:
    """The (context, continuation) pairs that ask a question in one order: one pair an option, option by option.

    The form is that of MMLU: the question, one line an option, "Answer:", and the letter after a blank.
    """
    count = len(question.choices)
    letters = string.ascii_uppercase[:count]
    at_place = [question.choices[(place - order) % count] for place in range(count)]
    lines = [f"{letter}. {choice}" for letter, choice in zip(letters, at_place, strict=True)]
    context = "\n".join([question.question, *lines, "Answer:"])
    return [(context, f" {letters[(option + order) % count]}") for option in range(count)]


def ask_in_all_orders(questions: Sequence[LetteredQuestion], score: Score) -> list[AskedInAllOrders]:
    """Score the letters of every question in all its cyclic orders, all in one call of `score`.

    Raises ValueError when a log-likelihood is missing or not finite.
    """
    pairs = [pair for one in questions for order in range(len(one.choices)) for pair in in_order(one, order)]
    found = np.asarray(score(pairs), np.float64)
    if found.shape != (len(pairs),) or not np.isfinite(found).all():
        raise ValueError(f"{len(pairs)} letters were asked for; a finite log-likelihood of each was expected")
    asked, start = [], 0
    for one in questions:
        count = len(one.choices)
        asked.append(AskedInAllOrders(found[start : start + count * count].reshape(count, count), one.gold))
        start += count * count
    return asked


def option_order(asked: Sequence[AskedInAllOrders], generator: np.random.Generator) -> OptionOrder:
    """Accuracies, flips and place bias of questions that were asked in all orders."""
    given = [bool(one.chosen[0] == one.gold) for one in asked]
    debiased = [one.debiased == one.gold for one in asked]
    any_order = [float((one.chosen == one.gold).mean()) for one in asked]
    flips = sum(bool((one.chosen != one.chosen[0]).any()) for one in asked)
    counts: dict[int, list[np.ndarray]] = {}
    for one in asked:
        counts.setdefault(len(one.by_order), []).append(one.places)
    return OptionOrder(
        given=wilson(sum(given), len(given)),
        debiased=wilson(sum(debiased), len(debiased)),
        gain=paired_difference(debiased, given, generator),
        any_order=mean_of_shares(any_order, sum(len(one.by_order) for one in asked)),
        flips=wilson(flips, len(asked)),
        places=tuple(place_bias(np.stack(counts[options]), generator) for options in sorted(counts)),
    )


def place_bias(counts_IP: np.ndarray, generator: np.random.Generator, resamples: int = RESAMPLES) -> PlaceBias:
    """How uneven the places are that are chosen.

    If place does not matter, renaming the places of a question by a turn changes nothing that can be foreseen. Every
    question's places are turned at random and the sum of squared deviations from even shares is compared with the
    observed one, as a chi-squared test of dependent counts. p counts the observation itself.

    Args:
        counts_IP: how often each place was chosen, int [items, places]; rows sum to the number of places.
    """
    items, places = counts_IP.shape
    shares = counts_IP / places
    estimates = tuple(mean_of_shares(shares[:, place].tolist(), items * places) for place in range(places))
    kinds, times = np.unique(counts_IP, axis=0, return_counts=True)
    totals = np.zeros((resamples, places), np.int64)
    for kind, count in zip(kinds, times.tolist(), strict=True):
        turned = np.stack([np.roll(kind, turn) for turn in range(places)])
        totals += generator.multinomial(count, np.full(places, 1 / places), resamples) @ turned
    observed = ((counts_IP.sum(axis=0) - items) ** 2).sum()
    extreme = int((((totals - items) ** 2).sum(axis=1) >= observed).sum())
    return PlaceBias(places, estimates, (1 + extreme) / (1 + resamples))
