"""Preferences from a model's own verified completions: right against wrong answers to one prompt.

Iterative preference learning (Orca-Math, arXiv 2402.14830, section 3) is a recipe that samples and prefers in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketlm.pipeline.seeds import generator
from pocketlm.posttraining.examples import asked_prompts
from pocketlm.posttraining.preferences.batches import Judged, Response
from pocketlm.posttraining.preferences.rows import Unusable

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer

Completion = Mapping[str, Any]


def sampled_responses(tokenizer: Tokenizer, completions: Sequence[Completion]) -> tuple[list[Response], list[Response]]:
    """Distinct right and wrong completions of one prompt, in order; those whose verifier failed are left out.

    Raises Unusable when tokens and text do not belong together: then the samples are of another tokenizer.
    """
    kinds: tuple[list[Response], list[Response]] = ([], [])
    seen = set()
    for completion in completions:
        tokens = list(completion["tokens"])
        text_tokens = tokens[:-1] if completion["finish"] == "stop" else tokens
        if any(not 0 <= token < tokenizer.vocabulary for token in tokens) or (
            tokenizer.decode(text_tokens) != completion["text"]
        ):
            raise Unusable("the completion's tokens are of another tokenizer than the model's")
        if completion["reward"] is None or not text_tokens or tuple(tokens) in seen:
            continue
        seen.add(tuple(tokens))
        learned = [not forced for forced in completion["forced"]]
        if any(learned):
            liked = bool(completion["correct"])
            kinds[0 if liked else 1].append(Response(tokens, liked, None if all(learned) else learned))
    return kinds


def judged_samples(
    tokenizer: Tokenizer, row: Mapping[str, Any], paired: bool, most: int, longest: int, seed: int
) -> list[Judged]:
    """At most `most` pairs of a prompt; or, single, as many right and as many wrong completions.

    Raises Unusable when there is nothing to compare: all right, or all wrong (single ones need no counterpart).
    """
    right, wrong = sampled_responses(tokenizer, row["completions"])
    name = str(row["row"]["id"])
    random = generator(seed, f"sampled preferences {name}")
    right, wrong = ([kind[place] for place in random.permutation(len(kind))] for kind in (right, wrong))
    [prompt] = asked_prompts(tokenizer, [row["row"]])
    if paired:
        if not right or not wrong:
            raise Unusable("all completions are right" if right else "no completion is right")
        # Each completion once before any comes again.
        places = range(min(most, max(len(right), len(wrong))))
        groups: list[tuple[Response, ...]] = [
            (right[place % len(right)], wrong[place % len(wrong)]) for place in places
        ]
    else:
        groups = [(response,) for response in [*right[:most], *wrong[:most]]]
        if not groups:
            raise Unusable("no completion could be judged")
    items = [Judged(f"{name} #{number}", prompt.tokens, group) for number, group in enumerate(groups)]
    if any(item.longest() > longest for item in items):
        raise Unusable(f"prompt and completion do not fit the model's context of {longest} tokens")
    return items
