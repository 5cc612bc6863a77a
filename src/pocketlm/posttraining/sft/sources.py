"""What supervised fine-tuning learns from: its inputs as lists of examples, and how many of each a step takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pocketlm.errors import InputError
from pocketlm.pipeline.storage import sha256_text
from pocketlm.posttraining.examples import Example, Row, solved_examples
from pocketlm.posttraining.folder import require_same_tokenizer
from pocketlm.posttraining.sft.example_store import Account, Replay, conversation_examples, sample_examples

if TYPE_CHECKING:
    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.pipeline.artifact import Artifact
    from pocketlm.pipeline.stage import Inputs

SOLVED, INSTRUCTIONS, SAMPLES, CONVERSATIONS = "solved problems", "instructions", "samples", "conversations"
SOURCES = (SOLVED, INSTRUCTIONS, SAMPLES, CONVERSATIONS)


@dataclass(frozen=True)
class SftSources:
    """Training examples by source, the two selection splits, and what was cut or left out on the way."""

    examples: dict[str, Sequence[Example]]
    selection_problems: Sequence[Row] = ()
    selection_conversations: Sequence[Example] = ()
    account: Account = field(default_factory=Account)

    def counted(self, rows: int, shares: Mapping[str, float]) -> list[tuple[Sequence[Example], int]]:
        """The sources with the number of examples that a step takes of each (`example_counts`)."""
        there = {name: len(examples) for name, examples in self.examples.items()}
        counts = example_counts(rows, shares, there)
        return [(self.examples[name], counts[name]) for name in SOURCES if name in counts]


def read_sources(inputs: Inputs, tokenizer: Tokenizer, context: int, calculator: bool = False) -> SftSources:
    """Read the inputs `problems`, `samples` and `conversations`, as far as they are there.

    With `calculator`, what that tool writes into the solutions of problems is not learned.

    Raises:
        InputError: a row cannot be learned from.
    """
    problems, conversations, samples = (inputs.get(name) for name in ("problems", "conversations", "samples"))
    account = Account()
    examples: dict[str, Sequence[Example]] = {}
    selection_problems: list[Row] = []
    selection_conversations: Sequence[Example] = ()
    if problems is not None:
        for name, file in ((SOLVED, "solved.jsonl"), (INSTRUCTIONS, "instructions.jsonl")):
            learned = solved_examples(tokenizer, rows_of(problems, file), file, calculator)
            examples[name] = fitting(learned, context, account)
        selection_problems = rows_of(problems, "selection.jsonl")
    if samples is not None:
        examples[SAMPLES] = sample_examples(tokenizer, samples.read_jsonl("samples.jsonl"), context, account)
    if conversations is not None:
        rows = conversations.read_jsonl("training.jsonl")
        examples[CONVERSATIONS] = conversation_examples(tokenizer, rows, context, account)
        rows = conversations.read_jsonl("selection.jsonl")
        selection_conversations = conversation_examples(tokenizer, rows, context, Account())
        if not selection_conversations:
            raise InputError("the conversations hold no selection split that fits the model; raise its selection_share")
    return SftSources(examples, selection_problems, selection_conversations, account)


def read_replay(inputs: Inputs, share: float, context: int, seed: int) -> Replay | None:
    """The training stream of the input `tokens` as replay; InputError when its tokenizer is not that of `model`."""
    tokens = inputs.get("tokens")
    if tokens is None or not share:
        return None
    from pocketlm.data.tokens.shards import TokenShard

    require_same_tokenizer(inputs["model"], tokens)
    return Replay(TokenShard.open(tokens.path).tokens, share, context, seed)


def data_digest(inputs: Inputs) -> str:
    """Identity of everything that is learned from; that of problems alone is their own digest."""
    names = ("problems", "conversations", "samples", "tokens")
    digests = [artifact.digest for name in names if (artifact := inputs.get(name)) is not None]
    return digests[0] if len(digests) == 1 else sha256_text(" ".join(digests))


def rows_of(artifact: Artifact, name: str) -> list[Row]:
    """Rows of a file that an artifact may lack."""
    return artifact.read_jsonl(name) if name in artifact.manifest["files"] else []


def fitting(examples: Sequence[Example], context: int, account: Account) -> list[Example]:
    """The examples that a row of the context can hold; the others are counted."""
    kept = [example for example in examples if len(example.tokens) <= context + 1]
    account.too_long += len(examples) - len(kept)
    return kept


def batch_shares(instructions: float, samples: float, conversations: float) -> dict[str, float]:
    """Shares of a batch by source, as settings name them; solved problems take what they leave (`example_counts`)."""
    return {INSTRUCTIONS: instructions, SAMPLES: samples, CONVERSATIONS: conversations}


def example_counts(rows: int, shares: Mapping[str, float], there: Mapping[str, int]) -> dict[str, int]:
    """How many of a step's `rows` examples come from each source that holds some.

    Solved problems take what the shares of the others leave. Without solved problems the shares are scaled to sum to
    one, and the last source takes what rounding leaves.

    Raises:
        InputError: no source holds an example, the shares sum to more than one, or a step is too small for one.
    """
    asked = {name: shares[name] for name in SOURCES if there.get(name) and shares.get(name)}
    if there.get(SOLVED):
        counts = {name: round(rows * share) for name, share in asked.items()}
        left = rows - sum(counts.values())
        if left < 0:
            listed = ", ".join(f"{name} {share:g}" for name, share in asked.items())
            raise InputError(f"sft: the shares of a batch sum to more than one: {listed}; lower some")
        _require_each(counts, rows)
        return {SOLVED: left, **counts}
    total = sum(asked.values())
    if not total:
        raise InputError(
            "sft: there are no examples to learn from; give problems with solved rows, or conversations that fit the "
            "model's context, and a share to each"
        )
    counts = {name: round(rows * share / total) for name, share in asked.items()}
    last = list(counts)[-1]
    counts[last] += rows - sum(counts.values())
    _require_each(counts, rows)
    return counts


def _require_each(counts: Mapping[str, int], rows: int) -> None:
    """A share that rounds to nothing would leave out a whole source without a word."""
    if absent := [name for name, count in counts.items() if count < 1]:
        raise InputError(
            f"sft: of the {rows} examples of a step none would be of {', '.join(absent)}; raise batch_rows, or set the "
            "share to 0 to leave that out"
        )
