"""Stage `interpolate`: mix the weights before and after fine-tuning and keep the mixture that scores best.

In: the base model, the tuned model, problems (`selection.jsonl`), documents (`heldout_selection.parquet`). Out: the
chosen mixture. The rule: among the candidates whose exact match is within `exact_match_loss` of the best, the one with
the fewest bits per byte of plain text. The report splits are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import figure, line_chart, paragraph, table
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, stage

Share = Annotated[float, Field(ge=0, le=1)]


class InterpolateSettings(Settings):
    """Which mixtures are scored, on how much, and what exact match may be given up for language."""

    weights: tuple[Share, ...] = Field(default=(0.0, 0.5, 0.7, 0.8, 0.9, 1.0), min_length=1)
    """Shares of the tuned model."""
    exact_match_loss: float = Field(default=0.02, ge=0, le=1)
    heldout_bytes: int = Field(default=40_000, gt=0)
    """Bytes of the selection documents to score, whole documents, in order."""
    max_tokens: int = Field(default=6, gt=0)


@stage(
    version=2,
    inputs={"base": "model", "tuned": "model", "problems": "problems", "documents": "documents"},
    output="model",
)
def interpolate(settings: InterpolateSettings, inputs: Inputs, context: Context) -> Artifact:
    """Score (1 - a) * base + a * tuned for every weight a, and keep one."""
    from pocketlm.posttraining.examples import asked_prompts
    from pocketlm.posttraining.folder import open_model, require_same_tokenizer, write_model
    from pocketlm.posttraining.interpolation import Candidate, choose, copy_weights, interpolate_weights, pareto
    from pocketlm.posttraining.scoring import bits_per_byte, exact_match, first_documents
    from pocketlm.problems.verifier import verify
    from pocketlm.training.device import prepare

    require_same_tokenizer(inputs["base"], inputs["tuned"])
    device = prepare(context.runtime)
    base, tokenizer = open_model(inputs["base"], device)
    tuned, _ = open_model(inputs["tuned"], device)
    mixture, _ = open_model(inputs["base"], device)
    prompts = asked_prompts(tokenizer, inputs["problems"].read_jsonl("selection.jsonl"))
    texts = first_documents(inputs["documents"].file("heldout_selection.parquet"), settings.heldout_bytes)

    def reward(row: Mapping[str, Any], text: str) -> bool:
        return verify(row, text).correct

    candidates = []
    for done, share in enumerate(settings.weights):
        context.check_stop()
        copy_weights(mixture, interpolate_weights(base.state_dict(), tuned.state_dict(), share))
        match = exact_match(mixture, tokenizer, prompts, reward, settings.max_tokens)
        candidates.append(Candidate(share, match.macro, bits_per_byte(mixture, tokenizer, texts)))
        context.progress(done + 1, len(settings.weights), unit="mixture", exact_match=match.macro)
    chosen = choose(candidates, settings.exact_match_loss)
    copy_weights(mixture, interpolate_weights(base.state_dict(), tuned.state_dict(), chosen.share))

    draft = context.draft("model")
    write_model(draft, mixture, inputs["tuned"])
    front = pareto(candidates)
    rows = [
        {
            "weight of the tuned model": one.share,
            "exact match": one.exact_match,
            "bits per byte": one.bits_per_byte,
            "not beaten on both": "yes" if one.share in front else "no",
            "chosen": "yes" if one == chosen else "",
        }
        for one in candidates
    ]
    draft.write_jsonl("log.jsonl", rows)
    metrics = {
        "weight": chosen.share,
        "selection.exact_match": figure(chosen.exact_match, n=len(prompts)),
        "selection.bits_per_byte": figure(chosen.bits_per_byte, n=len(texts), unit="bits per byte"),
    }
    note = f"{len(prompts)} selection problems; {len(texts)} documents of {settings.heldout_bytes:,} bytes at most."
    blocks = [
        paragraph(
            f"{_outcome(chosen.share, inputs)} Rule: the fewest bits per byte among the mixtures whose exact match is "
            f"within {100 * settings.exact_match_loss:.1f} points of the best."
        ),
        line_chart("What each mixture keeps and gains", rows, "bits per byte", "exact match", note=note),
        table("Mixtures, scored on the selection split", list(rows[0]), rows, note),
    ]
    return draft.commit(metrics, blocks)


def _outcome(share: float, inputs: Inputs) -> str:
    """The sentence on the chosen weight; at either end the mixture is one of the two models, bit for bit."""
    base, tuned = inputs["base"].stage, inputs["tuned"].stage
    if share in (0.0, 1.0):
        return f"Kept {tuned if share else base} unchanged: the chosen weight of the tuned model is {share:g}."
    return f"Chosen: a mixture with {share:g} of {tuned} and {1 - share:.4g} of {base}."
