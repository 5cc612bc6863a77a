"""The model card (README.md) of an exported folder, after Mitchell et al. 2019. Its figures come from artifacts alone.

The metadata block follows the Hugging Face hub: library, pipeline tag, licence, and a `model-index` of the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pocketlm.evaluation.figures import shown, title
from pocketlm.evaluation.statistics import Estimate

if TYPE_CHECKING:
    from pocketlm.model.config import ModelSettings
    from pocketlm.pipeline.artifact import Artifact

USAGE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
messages = [{"role": "user", "content": "12+34="}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=32)[0]))
```"""

LIMITS = """\
A model of this size states falsehoods fluently and knows only its training text. It has had no safety training. It is
for learning and for research into training, not for answering questions that matter. Intervals describe chance among
the test items for this one model; other training seeds were not run."""


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from, as far as its artifacts say.

    Attributes:
        name: title of the card.
        stage: the stage that made the model; empty for a foreign folder.
        digest: of the model's files.
        fingerprint: of settings and inputs; empty for a foreign folder.
        licences: licence -> {"documents", "bytes"} of the training text.
        scores: task -> metric -> estimate on the report split.
    """

    name: str
    digest: str
    stage: str = ""
    fingerprint: str = ""
    licences: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)


def provenance_of(name: str, model: Artifact, documents: Artifact | None, evaluation: Artifact | None) -> Provenance:
    """Provenance from artifacts; scores are taken from the evaluated model with the same digest, if there is one."""
    licences = documents.read_json("licences.json") if documents else {}
    models = evaluation.read_json("results.json")["models"].values() if evaluation else []
    scored: dict[str, Any] = next((item["scores"] for item in models if item["digest"] == model.digest), {})
    scores = {
        task: {metric: Estimate(**estimate) for metric, estimate in values.items()} for task, values in scored.items()
    }
    return Provenance(name, model.digest, model.stage, model.fingerprint, licences, scores)


def model_card(settings: ModelSettings, provenance: Provenance) -> str:
    """Markdown with a metadata block."""
    parameters = settings.parameter_count()
    shape: list[list[Any]] = [
        ["parameters", f"{parameters:,}"],
        ["layout", settings.layout],
        ["layers", settings.layers],
        ["width", settings.width],
        ["feed-forward width", settings.ffn_width],
        ["query / key-value heads", f"{settings.heads} / {settings.kv_heads} of {settings.head_dim}"],
        ["vocabulary", f"{settings.vocabulary:,}"],
        ["context", f"{settings.context:,} tokens"],
    ]
    scores = [
        [title(task), metric.replace("_", " "), shown(metric, estimate), estimate.n]
        for task, values in provenance.scores.items()
        for metric, estimate in values.items()
    ]
    origin = [["stage", provenance.stage], ["digest", provenance.digest], ["fingerprint", provenance.fingerprint]]
    sections = {
        f"# {_inline(provenance.name)}": "A small language model made with pocketlm.",
        "## Use": USAGE,
        "## Shape": _table(["what", "value"], shape),
        "## Scores": "lm-evaluation-harness on the run's report split, greedy answers; 95 % intervals in brackets.\n\n"
        + _table(["task", "metric", "value", "items"], scores)
        if scores
        else "",
        "## Training text": _licence_table(provenance.licences),
        "## Provenance": "A digest is the sha256 over the model's files, a fingerprint over the settings and inputs "
        "that made it.\n\n" + _table(["what", "value"], [row for row in origin if row[1]]),
        "## Limits": LIMITS,
    }
    body = "\n\n".join(f"{heading}\n\n{text}" for heading, text in sections.items() if text)
    return f"{_metadata(provenance)}\n{body}\n"


def data_licences(licences: Mapping[str, Mapping[str, int]]) -> str:
    """The LICENSE file: under which licences the training text was published. It grants nothing itself."""
    head = "The weights were computed from text under these licences (SPDX names; NOASSERTION: none was stated).\n"
    if not licences:
        head = "The licences of the training text are not known to the exporter.\n"
    lines = [
        f"{licence}: {counts['documents']:,} documents, {counts['bytes']:,} bytes\n"
        for licence, counts in _by_size(licences)
    ]
    tail = "Whether they bind the weights is not settled law; whoever passes the weights on has to decide.\n"
    return "\n".join([head, "".join(lines), tail]) if lines else f"{head}\n{tail}"


def _metadata(provenance: Provenance) -> str:
    import yaml

    data: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "other",
        "license_name": "training-data-licences",
        "license_link": "LICENSE",
        "tags": ["pocketlm"],
    }
    if provenance.scores:
        results = [
            {
                "task": {"type": "text-generation"},
                "dataset": {"type": task, "name": title(task), "split": "report"},
                "metrics": [
                    {"type": metric, "name": metric.replace("_", " "), "value": estimate.value}
                    for metric, estimate in values.items()
                ],
            }
            for task, values in provenance.scores.items()
        ]
        data["model-index"] = [{"name": provenance.name, "results": results}]
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---\n"


def _licence_table(licences: Mapping[str, Mapping[str, int]]) -> str:
    rows = [[name, f"{counts['documents']:,}", f"{counts['bytes']:,}"] for name, counts in _by_size(licences)]
    return _table(["licence", "documents", "bytes"], rows) if rows else ""


def _by_size(licences: Mapping[str, Mapping[str, int]]) -> list[tuple[str, Mapping[str, int]]]:
    return sorted(licences.items(), key=lambda item: (-item[1]["bytes"], item[0]))


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_inline(str(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _inline(text: str) -> str:
    """Text that cannot leave its line or cell, or become markup."""
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "'")):
        text = text.replace(sign, safe)
    return " ".join(text.split())
