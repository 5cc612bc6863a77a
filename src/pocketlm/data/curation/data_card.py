"""The data card (README.md) of curated documents, and the Croissant description beside it.

The metadata block follows the Hugging Face hub's for data sets; the sections follow Data Cards (Pushkarna et al. 2022).
Every figure is handed in from the run: nothing is typed by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pocketlm.data.croissant import croissant, table_records
from pocketlm.data.sources.licences import NOASSERTION
from pocketlm.pipeline.storage import describe_files, json_bytes

CARD = "README.md"
DESCRIPTION = "croissant.json"

HUB_LICENCES = """\
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl gpl-2.0 gpl-3.0 isc lgpl-2.1 lgpl-3.0
lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 osl-3.0 pddl postgresql unlicense wtfpl zlib"""
"""Names of licences that the hub knows (https://huggingface.co/docs/hub/repositories-licenses) and SPDX knows too."""

HUB_NAMES = {"odc-by-1.0": "odc-by", "odbl-1.0": "odbl", "pddl-1.0": "pddl", "gfdl-1.3": "gfdl", "gfdl-1.2": "gfdl"}

LIMITS = """\
Rules judged the form of these texts, not whether they are true. Near-duplicates were looked for word by word and
evaluation items in their own words: paraphrases and translations of either are not found, and of the rest only the
share that the planted cases show. Licences are those that the sources state; nobody has checked them text by text."""

COLLECTION = "Texts of the sources named in isBasedOn, read as they are; nobody was asked to write or to annotate."
PERSONAL = "Not looked for: texts may name people and hold addresses."
MASKED = "Masked by pattern: {masked}."


ADDS_UP = (
    "At every step input = rejected + held out + to the next step. Held-out documents are kept, but leave the training "
    "text."
)
BYTES_CUT = (
    "At every step input = rejected + cut + held out + to the next step. Cut is what documents that stay lost of their "
    "text: by cleaning, or as repeated segments and spans or contaminated places before the gates saw them again. "
    "Cleaning and masking may add instead."
)


@dataclass(frozen=True)
class CardFigures:
    """What a run knows of its curated documents.

    Attributes:
        title: heading of the card and name of the data set.
        splits: split -> {documents, bytes}; the file of a split is SPLIT.parquet.
        funnel: rows {step, input, kept, rejected, held_out, input_bytes, rejected_bytes, cut_bytes, held_out_bytes,
            next_bytes}.
        licences: SPDX expression -> {documents, bytes} of the training text.
        sources: rows {name, documents, bytes, licence, revision, origin}; the last two may be empty.
        planted: heading -> rows; what was planted and what was found, with whatever columns.
        languages: ISO 639 codes, if they are known.
        masked: what was replaced by pattern, such as "e-mail addresses".
    """

    title: str
    splits: Mapping[str, Mapping[str, int]]
    funnel: Sequence[Mapping[str, Any]]
    licences: Mapping[str, Mapping[str, int]]
    sources: Sequence[Mapping[str, Any]]
    planted: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    languages: Sequence[str] = ()
    masked: Sequence[str] = ()


def write_data_card(folder: Path, figures: CardFigures) -> None:
    """Write croissant.json and README.md beside the files that they describe.

    Call it when all other files of the draft are written: their sizes and hashes stand in the description.
    """
    for name, content in card_files(folder, figures, describe_files(folder)).items():
        (folder / name).write_bytes(content)


def card_files(folder: Path, figures: CardFigures, files: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """The two files; `files` are the others, {relative name: {bytes, sha256}}."""
    import pyarrow.parquet as pq

    records = [
        table_records(f"{split}.parquet", pq.read_schema(folder / f"{split}.parquet")) for split in figures.splits
    ]
    described = croissant(
        figures.title, summary(figures), files, records, figures.licences, figures.sources, responsible(figures)
    )
    return {DESCRIPTION: json_bytes(described), CARD: data_card(figures, files).encode()}


def data_card(figures: CardFigures, files: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown with a metadata block; `files` are {relative name: {bytes, sha256}}."""
    documents, sizes = funnel_rows(figures.funnel)
    splits = [[name, f"{row['documents']:,}", f"{row['bytes']:,}"] for name, row in figures.splits.items()]
    sources = [
        [row["name"], f"{row['documents']:,}", f"{row['bytes']:,}", *(row.get(key) or "" for key in SOURCE_FACTS)]
        for row in figures.sources
    ]
    licences = [[name, f"{row['documents']:,}", f"{row['bytes']:,}"] for name, row in _by_size(figures.licences)]
    listed = [[name, f"{facts['bytes']:,}", facts["sha256"]] for name, facts in files.items()]
    planted = [f"### {_inline(heading)}\n\n{_rows(rows)}" for heading, rows in figures.planted.items() if rows]
    sections = {
        f"# {_inline(figures.title)}": summary(figures),
        "## Splits": _table(["split", "documents", "bytes of text"], splits),
        "## Sources": _table(["source", "documents", "bytes of text", *SOURCE_FACTS], sources),
        "## Licences": "SPDX names, of the training text; NOASSERTION: the source states none.\n\n"
        + _table(["licence", "documents", "bytes of text"], licences),
        "## From the sources to the splits": f"Documents. {ADDS_UP} Rejected ones stand in rejects.parquet with the "
        f"reason.\n\n{_rows(documents)}\n\nBytes of text. {BYTES_CUT}\n\n{_rows(sizes)}",
        "## What the rules find": "Cases with a known answer were planted into a copy of a sample of these texts.\n\n"
        + "\n\n".join(planted)
        if planted
        else "",
        "## Limits": LIMITS,
        "## Files": _table(["file", "bytes", "sha256"], listed),
    }
    body = "\n\n".join(f"{heading}\n\n{text}" for heading, text in sections.items() if text)
    return f"{_metadata(figures)}\n{body}\n"


SOURCE_FACTS = ("licence", "revision", "origin")


def funnel_rows(steps: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Documents, and bytes, in and out of every step, as rows to show."""
    on = "to the next step"
    documents = [
        {"step": step["step"], "input": step["input"], "rejected": step["rejected"], "held out": step["held_out"],
         on: step["kept"] - step["held_out"]}
        for step in steps
    ]  # fmt: skip
    sizes = [
        {"step": step["step"], "input": step["input_bytes"], "rejected": step["rejected_bytes"],
         "cut": step["cut_bytes"], "held out": step["held_out_bytes"], on: step["next_bytes"]}
        for step in steps
    ]  # fmt: skip
    return documents, sizes


def summary(figures: CardFigures) -> str:
    """One sentence of counts."""
    training = figures.splits["train"]
    held_out = sum(row["documents"] for name, row in figures.splits.items() if name != "train")
    sources = f"{len(figures.sources)} {'source' if len(figures.sources) == 1 else 'sources'}"
    return (
        f"Text for training language models, curated with pocketlm from {sources}: {training['documents']:,} training "
        f"documents with {training['bytes']:,} bytes; {held_out:,} documents are held out."
    )


def responsible(figures: CardFigures) -> dict[str, str | list[str]]:
    """Properties of Croissant's vocabulary for responsible AI, as far as the run knows them."""
    steps = [f"{row['step']}: {row['kept']} of {row['input']} documents kept" for row in figures.funnel]
    masked = MASKED.format(masked=", ".join(figures.masked)) if figures.masked else ""
    return {
        "dataCollection": COLLECTION,
        "dataPreprocessingProtocol": steps,
        "dataLimitations": " ".join(LIMITS.split()),
        "personalSensitiveInformation": f"{PERSONAL} {masked}".strip(),
        "dataUseCases": "Training and evaluating language models.",
    }


def size_category(documents: int) -> str:
    """The hub's name for a number of documents, such as 10K<n<100K."""
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    place = next((at for at in range(len(names)) if documents < 10 ** (at + 3)), None)
    if place is None:
        return f"n>{names[-1]}"
    return f"{names[place - 1]}<n<{names[place]}" if place else f"n<{names[0]}"


def hub_licence(licences: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The hub's licence fields: its names for the licences, or `other` with a pointer to the section of the card."""
    names = [_hub_name(name) for name, _ in _by_size(licences)]
    if names and all(names):
        return {"license": names[0] if len(names) == 1 else names}
    if not licences or list(licences) == [NOASSERTION]:
        return {"license": "unknown"}
    return {"license": "other", "license_name": "licences-of-the-sources", "license_link": f"{CARD}#licences"}


def _hub_name(expression: str) -> str:
    name = re.sub(r"-(only|or-later)$", "", expression.lower())
    name = HUB_NAMES.get(name, name)
    return name if name in HUB_LICENCES.split() else ""


def _metadata(figures: CardFigures) -> str:
    import yaml

    data: dict[str, Any] = {"pretty_name": figures.title, **hub_licence(figures.licences)}
    if figures.languages:
        data["language"] = list(figures.languages)
    data |= {
        "task_categories": ["text-generation"],
        "size_categories": [size_category(sum(row["documents"] for row in figures.splits.values()))],
        "tags": ["pocketlm"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"{name}.parquet"} for name in figures.splits],
            }
        ],
    }
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---\n"


def _by_size(licences: Mapping[str, Mapping[str, int]]) -> list[tuple[str, Mapping[str, int]]]:
    return sorted(licences.items(), key=lambda item: (-item[1]["bytes"], item[0]))


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return _table(columns, [[_cell(row.get(column)) for column in columns] for row in rows])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [[_inline(name) for name in columns], ["---"] * len(columns)]
    lines += [[_inline(str(cell)) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _inline(text: str) -> str:
    """Text that cannot leave its line or cell, or become markup."""
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "'")):
        text = text.replace(sign, safe)
    return " ".join(text.split())
