"""The model card (`README.md` of an exported model): what it is, how it was made, how well it does, what it is not for.

After Mitchell et al. 2019, "Model Cards for Model Reporting". Written from figures alone; it claims nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pocketlm.pipeline.figures import Figure
from pocketlm.reporting import formatting

FRONT_MATTER = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- pocketlm\n---\n"
USES = """\
## Uses

For learning and for research into training: every step from raw text to this model can be traced and repeated. It is
not for answering questions that matter. A model of this size states falsehoods fluently, knows only its training text
and has had no safety training.
"""


def model_card(
    figures: Mapping[str, Mapping[str, Figure]], recipe: Mapping[str, Any], lineage: Sequence[Mapping[str, Any]]
) -> str:
    """Markdown of the card.

    figures: stage -> metric -> {value, n?, low?, high?, unit?}; recipe: the mapping of `recipe.yaml` (name,
    description, seed, model); lineage: one {stage, kind, fingerprint, digest, inputs} per stage, in pipeline order.
    """
    name = _inline(recipe.get("name") or "model")
    measured = _measured(figures)
    parts = [
        FRONT_MATTER,
        f"# {name}\n",
        f"{_inline(recipe.get('description') or '')}\n" if recipe.get("description") else "",
        f"Made by [pocketlm](https://pypi.org/project/pocketlm/) with the recipe `{name}`, seed {recipe.get('seed', 0)}"
        + (f"; the model of stage `{_inline(recipe['model'])}`.\n" if recipe.get("model") else ".\n"),
        USES,
        "## Figures\n\n" + (measured or "This run measured nothing with an interval.\n"),
        "## Lineage\n\nA digest is the SHA-256 over what a stage produced; equal digests mean equal bytes.\n\n"
        + _table(["stage", "makes", "digest"], [[row["stage"], row["kind"], row["digest"]] for row in lineage]),
        "## Limits\n\nIntervals (95 %) describe chance among the test items for this one model; other seeds were not "
        "run. The licences of the training documents stand in the run's report.\n",
    ]
    return "\n".join(part for part in parts if part)


def _measured(figures: Mapping[str, Mapping[str, Figure]]) -> str:
    """A table of all figures that have an interval."""
    show = (formatting.figure_value, formatting.figure_interval, lambda figure: formatting.number(figure.get("n")))
    rows = [
        [stage, name, *(text(figure) for text in show)]
        for stage, metrics in figures.items()
        for name, figure in metrics.items()
        if formatting.figure_interval(figure)
    ]
    return _table(["stage", "figure", "value", "95 % interval", "n"], rows) if rows else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_inline(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _inline(value: Any) -> str:
    """Text that cannot leave its line or cell, or become markup."""
    text = " ".join(str(value).split())
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "'")):
        text = text.replace(sign, safe)
    return text
