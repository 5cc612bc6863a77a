"""The model card (README.md) of an exported folder, after Mitchell et al. 2019. Its figures come from artifacts alone.

The metadata block follows the Hugging Face hub: library, pipeline tag, licence, and a `model-index` of the scores
(https://github.com/huggingface/hub-docs/blob/main/modelcard.md). Time, energy, environment and seal are the ledger's:
the card inside a run is under a digest and cannot hold them; the one that `pocketlm export` writes of a run does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pocketlm.evaluation.benchmarks.files import HUB
from pocketlm.evaluation.benchmarks.tasks import BENCHMARKS, BLIMP, BLIMP_PREFIX, benchmark_of
from pocketlm.evaluation.figures import decimals, shown, title
from pocketlm.evaluation.models.model_lineage import Corpus, Training, corpora, corpus, lineage_of, trainings
from pocketlm.evaluation.models.stated_licence import StatedLicence
from pocketlm.statistics.rates import Estimate

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

FOREIGN = "Converted by pocketlm from a model made elsewhere; what it was trained on is not recorded there."
FOREIGN_LIMITS = """\
What the model can do, and what it was tuned and tested for, only those who made it can say. Models of this size state
falsehoods fluently."""

LIMITS = """\
A model of this size states falsehoods fluently and knows only its training text. It has had no safety training. It is
for learning and for research into training, not for answering questions that matter. Intervals describe chance among
the test items for this one model, not what other training seeds would give."""

CONFIGURATIONS = ("ARC-Challenge", "ARC-Easy", "winogrande_xl", "default", "main")
"""Folders of the benchmarks' data sets that are named as their configurations are."""


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from, as far as its artifacts say.

    Attributes:
        name: title of the card.
        stage: the stage that made the model; empty for a foreign folder.
        digest: of the model's files.
        fingerprint: of settings and inputs; empty for a foreign folder.
        corpora: the documents that it was trained on. trainings: the stages that trained it, in order.
        scores: task -> metric -> estimate on the report split.
        harness: version of lm-evaluation-harness that scored it.
        part: which items of the benchmarks were scored: all, or the half of one split.
        execution: what the ledger says of the run: time, energy, machine, seal; empty under a digest.
        stated: the licence that a foreign folder or file states for itself.
    """

    name: str
    digest: str
    stage: str = ""
    fingerprint: str = ""
    corpora: Sequence[Corpus] = ()
    trainings: Sequence[Training] = ()
    scores: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    harness: str = ""
    part: str = "all"
    execution: Mapping[str, str] = field(default_factory=dict)
    stated: StatedLicence = field(default_factory=StatedLicence)

    @property
    def licence(self) -> tuple[str, str]:
        """Licence and name as the hub's metadata have them: what is stated, else `other` and the text's licences."""
        if self.stated.name:
            return self.stated.name, self.stated.title
        return "other", "training-data-licences"

    @property
    def licences(self) -> dict[str, dict[str, int]]:
        """Licence -> {"documents", "bytes"} over all corpora."""
        found: dict[str, dict[str, int]] = {}
        for one in self.corpora:
            for licence, counts in one.licences.items():
                known = found.setdefault(licence, {"documents": 0, "bytes": 0})
                for what in known:
                    known[what] += counts[what]
        return found


def provenance_of(
    name: str,
    model: Artifact,
    documents: Artifact | None,
    evaluation: Artifact | None,
    execution: Mapping[str, str] | None = None,
) -> Provenance:
    """Provenance from artifacts; scores are taken from the evaluated model with the same digest, if there is one.

    `documents` stand for the training text where the artifacts beside the model do not say what it was.
    """
    lineage = lineage_of(model)
    texts = corpora(lineage) or ([corpus(documents)] if documents else [])
    results = evaluation.read_json("results.json") if evaluation else {"models": {}}
    models = results["models"].values()
    scored: dict[str, Any] = next((item["scores"] for item in models if item["digest"] == model.digest), {})
    scores = {
        task: {metric: Estimate(**estimate) for metric, estimate in values.items()} for task, values in scored.items()
    }
    part = evaluation.manifest["settings"].get("split", "all") if evaluation else "all"
    return Provenance(
        name,
        model.digest,
        model.stage,
        model.fingerprint,
        texts,
        trainings(lineage),
        scores,
        str(results.get("lm_eval", "")),
        part,
        execution or {},
    )


def model_card(settings: ModelSettings, provenance: Provenance, number_type: str = "float32") -> str:
    """Markdown with a metadata block; `number_type` is that of the weights."""
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
        *([["numbers", number_type]] if number_type != "float32" else []),
    ]
    scores = [
        [title(task), metric.replace("_", " "), shown(metric, estimate), estimate.n]
        for task, values in provenance.scores.items()
        for metric, estimate in values.items()
    ]
    origin = [["stage", provenance.stage], ["digest", provenance.digest], ["fingerprint", provenance.fingerprint]]
    sections = {
        f"# {_inline(provenance.name)}": "A small language model made with pocketlm." if provenance.stage else FOREIGN,
        "## Use": USAGE,
        "## Shape": _table(["what", "value"], shape),
        "## Scores": f"{_scored_with(provenance)}\n\n" + _table(["task", "metric", "value", "items"], scores)
        if scores
        else "",
        "## Training": _training_table(provenance.trainings),
        "## Training text": _corpus_tables(provenance),
        "## Provenance": "A digest is the sha256 over the model's files, a fingerprint over the settings and inputs "
        "that made it.\n\n" + _table(["what", "value"], [row for row in origin if row[1]]),
        "## Time, energy, machine": _execution_table(provenance),
        "## Limits": LIMITS if provenance.stage else FOREIGN_LIMITS,
    }
    body = "\n\n".join(f"{heading}\n\n{text}" for heading, text in sections.items() if text)
    return f"{_metadata(provenance)}\n{body}\n"


def licence_text(provenance: Provenance) -> str:
    """The LICENSE file: what a foreign model states for itself, else the licences of the training text."""
    stated = provenance.stated
    if stated.text:
        return stated.text
    if stated.name:
        named = f"{stated.name} ({stated.title})" if stated.title else stated.name
        return f"The model that this was converted from states the licence {named}. Its text was not beside it.\n"
    return data_licences(provenance.licences)


def data_licences(licences: Mapping[str, Mapping[str, int]]) -> str:
    """The LICENSE file: under which licences the training text was published. It grants nothing itself."""
    head = (
        "The weights were computed from text of documents under these licences (SPDX names; NOASSERTION: none was "
        "stated). Training may have read a part of it only; the model card says how many tokens.\n"
    )
    if not licences:
        head = "The licences of the training text are not known to the exporter.\n"
    lines = [
        f"{' '.join(licence.split())}: {counts['documents']:,} documents, {counts['bytes']:,} bytes\n"
        for licence, counts in _by_size(licences)
    ]
    tail = "Whether they bind the weights is not settled law; whoever passes the weights on has to decide.\n"
    return "\n".join([head, "".join(lines), tail]) if lines else f"{head}\n{tail}"


def _metadata(provenance: Provenance) -> str:
    import yaml

    licence, title = provenance.licence
    data: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": licence,
        **({"license_name": title} if title else {}),
        "license_link": "LICENSE",
        "tags": ["pocketlm"],
    }
    if provenance.scores:
        results = [
            {
                "task": {"type": "text-generation"},
                "dataset": dataset_of(task, provenance.part),
                "metrics": [
                    {"type": metric, "name": _metric_name(metric, estimate), "value": estimate.value}
                    for metric, estimate in values.items()
                ],
            }
            for task, values in provenance.scores.items()
        ]
        data["model-index"] = [{"name": provenance.name, "results": results}]
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---\n"


def dataset_of(task: str, part: str) -> dict[str, Any]:
    """The `dataset` entry of a result: a benchmark under its name on the hub, a task of the run under its own."""
    name = benchmark_of(task)
    if name is None:
        return {"type": task, "name": title(task), "split": "report"}
    owner, repository, folder, *_ = HUB[name].removeprefix("hf://datasets/").split("/")
    configuration = task.removeprefix(BLIMP_PREFIX) if name == BLIMP else folder
    known = {"config": configuration} if name == BLIMP or folder in CONFIGURATIONS else {}
    half = {"args": {"part": f"{part} half by item hash"}} if part != "all" else {}
    place = {"type": f"{owner}/{repository}", "name": title(task), **known}
    return {**place, "split": BENCHMARKS[name].split, **half}


def _metric_name(metric: str, estimate: Estimate) -> str:
    """A metric with what its value alone does not say: interval and number of items."""
    bounds = shown(metric, estimate).partition("[")[2].rstrip("]").replace(", ", " to ")
    unit = " %" if decimals(metric) is None else ""
    return f"{metric.replace('_', ' ')} (95 % interval {bounds}{unit}, n = {estimate.n})"


def _scored_with(provenance: Provenance) -> str:
    version = f" {provenance.harness}" if provenance.harness else ""
    part = "" if provenance.part == "all" else f" Of benchmarks the {provenance.part} half of the items, by hash."
    return (
        f"lm-evaluation-harness{version}: own tasks on the run's report split, benchmarks on their published items; "
        f"greedy answers; 95 % intervals in brackets.{part}"
    )


def _training_table(trainings: Sequence[Training]) -> str:
    if not trainings:
        return ""
    rows = [[one.stage, f"{one.tokens:,}", one.digest] for one in trainings]
    whole = sum(one.tokens for one in trainings)
    text = f"{whole:,} tokens in all, counted each time that weights were updated on them."
    return f"{text}\n\n" + _table(["stage", "tokens", "digest"], rows)


def _corpus_tables(provenance: Provenance) -> str:
    """Which documents, and under which licences. Problems and conversations made or read by other stages add to it."""
    if not provenance.corpora:
        return ""
    documents = [
        [one.stage, f"{one.total('documents'):,}", f"{one.total('bytes'):,}", one.digest] for one in provenance.corpora
    ]
    licences = [[name, f"{row['documents']:,}", f"{row['bytes']:,}"] for name, row in _by_size(provenance.licences)]
    cards = [f"artifacts/{one.stage}/README.md" for one in provenance.corpora if one.card]
    beside = f"\n\nData cards in the run folder: {', '.join(map(_inline, cards))}." if cards else ""
    first = _table(["documents of stage", "documents", "bytes of text", "digest"], documents)
    note = "Conversations and problems that other stages trained on are not among them."
    return f"{first}\n\n{_table(['licence', 'documents', 'bytes'], licences)}\n\n{note}{beside}"


def _execution_table(provenance: Provenance) -> str:
    if not provenance.stage:
        return ""
    if not provenance.execution:
        return "They stand in the run's ledger, outside of every digest; `pocketlm export` writes them into a card."
    return _table(["what", "value"], [[name, value] for name, value in provenance.execution.items()])


def _by_size(licences: Mapping[str, Mapping[str, int]]) -> list[tuple[str, Mapping[str, int]]]:
    return sorted(licences.items(), key=lambda item: (-item[1]["bytes"], item[0]))


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_inline(str(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _inline(text: str) -> str:
    """Text that cannot leave its line or cell, or become markup."""
    signs = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "'"), ("[", "&#91;"), ("]", "&#93;"))
    for sign, safe in signs:
        text = text.replace(sign, safe)
    return " ".join(text.split())
