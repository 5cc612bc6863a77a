"""Croissant metadata: a data set described so that other tools can find, check and load it.

Croissant 1.0 of MLCommons (https://docs.mlcommons.org/croissant/docs/croissant-spec.html) with its vocabulary for
responsible AI (https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html), as JSON-LD. File names are relative
to the folder of the description. No date and no citation is stated: nothing here may depend on the clock, and nobody
has published these data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketlm.data.sources.licences import NOASSERTION
from pocketlm.pipeline.storage import describe_files

if TYPE_CHECKING:
    import pyarrow

Json = dict[str, Any]

CONFORMS_TO = ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"]

CONTEXT: Json = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context of the specification's appendix; readers compare it word by word."""

FORMATS = {
    ".parquet": "application/x-parquet",
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".md": "text/markdown",
    ".npy": "application/octet-stream",
    ".jinja": "text/plain",
}

DATA_TYPES = {
    "int": "sc:Integer",
    "uint": "sc:Integer",
    "double": "sc:Float",
    "float": "sc:Float",
    "bool": "sc:Boolean",
}
"""By the beginning of an Arrow type's name; everything else is text."""

RESPONSIBLE = (
    "dataCollection",
    "dataPreprocessingProtocol",
    "dataLimitations",
    "personalSensitiveInformation",
    "dataUseCases",
)
"""Properties of the vocabulary for responsible AI that we can fill."""

_OPERATORS = {"AND", "OR", "WITH"}


def croissant(
    name: str,
    description: str,
    files: Mapping[str, Mapping[str, Any]],
    record_sets: Sequence[Json],
    licences: Mapping[str, Mapping[str, int]],
    sources: Sequence[Mapping[str, Any]],
    responsible: Mapping[str, str | Sequence[str]],
) -> Json:
    """The JSON-LD of a data set.

    Args:
        files: {relative name: {bytes, sha256}}, as `pipeline.storage.describe_files` gives them.
        record_sets: from `table_records` and `inline_records`.
        licences: {SPDX expression or NOASSERTION: {documents, bytes}}.
        sources: rows {name, documents, bytes, licence, revision, origin}; the last two may be empty.
        responsible: by the names in `RESPONSIBLE`.

    Raises:
        ValueError: a name that the vocabulary for responsible AI does not have.
    """
    if unknown := sorted({*responsible} - {*RESPONSIBLE}):
        raise ValueError(f"the vocabulary for responsible AI has no {', '.join(unknown)}")
    body: Json = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": name,
        "description": description,
        "license": licence_links(licences),
        "isBasedOn": [_based_on(source) for source in sources],
        "distribution": [_file(file, facts) for file, facts in files.items()],
        "recordSet": list(record_sets),
        **{f"rai:{key}": value if isinstance(value, str) else list(value) for key, value in responsible.items()},
    }
    return {key: value for key, value in body.items() if value not in ("", [])}


def licence_links(licences: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The SPDX page of every licence that is named in the expressions, those of most bytes first.

    A name without a page (LicenseRef-...) stands as it is; documents without a stated licence give NOASSERTION.
    """
    links: list[str] = []
    for expression, _ in sorted(licences.items(), key=lambda item: (-item[1]["bytes"], item[0])):
        for word in re.findall(r"[\w.+-]+", expression):
            if word not in _OPERATORS:
                links.append(word if _has_no_page(word) else f"https://spdx.org/licenses/{word.rstrip('+')}.html")
    return list(dict.fromkeys(links))


def table_records(file: str, schema: pyarrow.Schema) -> Json:
    """A record set of one Parquet file: every column is a field that loads from it."""
    name = Path(file).stem
    fields = [
        _field(name, column.name, str(column.type))
        | {"source": {"fileObject": {"@id": file}, "extract": {"column": column.name}}}
        for column in schema
    ]
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}


def inline_records(name: str, rows: Sequence[Mapping[str, Any]], description: str) -> Json:
    """A record set whose rows stand in the description itself; all rows have the keys of the first."""
    kinds = {key: type(value).__name__ for key, value in rows[0].items()}
    fields = [_field(name, key, kind) for key, kind in kinds.items()]
    data = [{f"{name}/{key}": value for key, value in row.items()} for row in rows]
    described = {"@type": "cr:RecordSet", "@id": name, "name": name, "description": description}
    return {**described, "field": fields, "data": data}


def token_records(summary: Mapping[str, Any]) -> list[Json]:
    """Record sets of a `tokens` artifact, from its tokens.json: counts by split and source.

    The arrays themselves are files without fields: Croissant 1.0 has no way to read `.npy`.
    """
    rows = [
        {"split": split, "source": source, **{key: row[key] for key in ("documents", "tokens", "bytes")}}
        for split, counts in summary["splits"].items()
        for source, row in counts["by_source"].items()
    ]
    text = (
        "Documents, tokens and UTF-8 bytes by split and source. SPLIT.npy holds the token ids of a split in one "
        "dimension, SPLIT_offsets.npy the first token of every document, SPLIT_sources.npy the place of its source in "
        "tokens.json."
    )
    return [inline_records("counts", rows, text)]


def token_croissant(folder: Path, name: str, protocol: Sequence[str]) -> Json:
    """The description of a `tokens` artifact whose other files are all written.

    Args:
        protocol: how the tokens were made, a line a step.
    """
    summary = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    totals = summary["splits"]["train"]
    text = (
        f"Token ids for training language models: {totals['tokens']:,} training tokens in {totals['documents']:,} "
        f"documents, {summary['vocabulary']:,} different ids. Licences stand with the documents that were tokenized."
    )
    sources = [{"name": source, **totals["by_source"][source]} for source in summary["sources"]]
    responsible = {"dataPreprocessingProtocol": protocol, "dataUseCases": "Training and evaluating language models."}
    return croissant(name, text, describe_files(folder), token_records(summary), {}, sources, responsible)


def _field(record_set: str, name: str, kind: str) -> Json:
    data_type = next((value for start, value in DATA_TYPES.items() if kind.startswith(start)), "sc:Text")
    return {"@type": "cr:Field", "@id": f"{record_set}/{name}", "name": name, "dataType": data_type}


def _file(name: str, facts: Mapping[str, Any]) -> Json:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{facts['bytes']} B",
        "encodingFormat": FORMATS.get(Path(name).suffix, "application/octet-stream"),
        "sha256": facts["sha256"],
    }


def _based_on(source: Mapping[str, Any]) -> Json:
    work = {
        "@type": "sc:CreativeWork",
        "name": source["name"],
        "license": licence_links({source["licence"]: {"bytes": 0}}) if source.get("licence") else [],
        "version": source.get("revision") or "",
        "identifier": source.get("origin") or "",
        "size": f"{source['documents']} documents, {source['bytes']} bytes",
    }
    return {key: value for key, value in work.items() if value not in ("", [])}


def _has_no_page(word: str) -> bool:
    return word == NOASSERTION or word.startswith(("LicenseRef-", "DocumentRef-"))
