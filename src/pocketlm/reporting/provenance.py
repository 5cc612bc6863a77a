"""The lineage of a run as PROV-JSON (https://www.w3.org/submissions/prov-json/), for tools that read W3C provenance.

Entities are the artifacts, the files that were read from outside and the recipe; activities are the stages with their
times from the ledger; agents are who started the processes, and the software. A file is named by its sha256, or by
git's hash of it, and what a distribution of Python gave by the hash over its texts, so that two runs that read the same
name the same entity; everything else is named by the run's first ledger line.

Not covered: which rows of a file a document came from (`pocketlm audit-sample` shows that), and stages without a line
in the ledger, which have an artifact but no activity.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from pocketlm.pipeline.ledger import GENESIS
from pocketlm.pipeline.recorded_hashes import RecordedHash
from pocketlm.pipeline.storage import sha256_file
from pocketlm.reporting.origins import hashes_of_files, identity_of_content
from pocketlm.reporting.reading import RECIPE, RunView, StageView

PREFIXES = {"prov": "http://www.w3.org/ns/prov#", "xsd": "http://www.w3.org/2001/XMLSchema#", "file": "urn:sha256:"}
NAMED_BY = {"git": "swh:1:cnt:", "texts": "urn:pocketlm:texts:"}
"""Prefixes of what is named by another hash than a file's sha256: git's is the one in identifiers of Software Heritage
(ISO/IEC 18670)."""
READ = {"file": ("file", "sha256"), "git": ("file", "gitHash"), "texts": ("distribution", "sha256OfNamesAndTexts")}
"""Kind of a hash -> our type of what has it, and our attribute that holds it."""
OWN = "https://pocketlm.invalid/provenance#"
"""Namespace of our own attributes; it leads nowhere on purpose."""

Attributes = dict[str, Any]


def prov_json(run: RunView, seal: str | None) -> dict[str, Any]:
    """The PROV-JSON document of a run; a function of the run folder's content and the seal alone."""
    document = Document(run.ledger[0]["hash"] if run.ledger else GENESIS)
    recipe = {"prov:type": _name("prov:Plan"), "prov:label": str(run.recipe.get("name"))}
    document.add("entity", "run:recipe", {**recipe, "pocketlm:sha256": sha256_file(run.folder / RECIPE)})
    document.add("entity", "run:ledger", {"prov:type": _name("pocketlm:ledger"), "pocketlm:seal": seal})
    starts = _starts(run)
    for stage in run.stages:
        _add_stage(document, run, stage, starts)
    return document.content


class Document:
    """PROV-JSON under construction: records by kind and identifier; relations are numbered."""

    def __init__(self, run: str) -> None:
        prefixes = {**PREFIXES, **NAMED_BY, "run": f"urn:pocketlm:run:{run}:", "pocketlm": OWN}
        self.content: dict[str, Any] = {"prefix": prefixes}

    def add(self, kind: str, identifier: str, attributes: Attributes) -> str:
        """An element; of one that is there already, values that differ are kept beside each other."""
        known = self.content.setdefault(kind, {}).setdefault(identifier, {})
        for name, value in attributes.items():
            if value is None or value == "":
                continue
            values = known[name] if isinstance(known.get(name), list) else [known[name]] if name in known else []
            values = values if value in values else [*values, value]
            known[name] = values[0] if len(values) == 1 else values
        return identifier

    def relate(self, kind: str, **ends: str | None) -> None:
        """A relation; `ends` are its PROV attributes without their prefix."""
        relations = self.content.setdefault(kind, {})
        relations[f"_:{kind}{len(relations) + 1}"] = {f"prov:{name}": end for name, end in ends.items() if end}


def _add_stage(document: Document, run: RunView, stage: StageView, starts: Mapping[int, Mapping[str, Any]]) -> None:
    artifact = stage.artifact
    entity = document.add(
        "entity",
        _artifact(stage.name),
        {
            "prov:type": _name(f"pocketlm:{artifact.kind}"),
            "prov:label": stage.name,
            "pocketlm:digest": artifact.digest,
            "pocketlm:fingerprint": artifact.fingerprint,
            "pocketlm:content": identity_of_content(stage),
        },
    )
    activity = _add_activity(document, stage, starts) if stage.committed else None
    if activity and stage.committed:
        document.relate("wasGeneratedBy", entity=entity, activity=activity, time=_time(stage.committed))
    sources = [_artifact(name) for name in stage.input_stages]
    sources += [_add_file(document, name, recorded) for name, recorded in hashes_of_files(run, stage)]
    for source in dict.fromkeys(sources):
        if activity:
            document.relate("used", activity=activity, entity=source)
        document.relate("wasDerivedFrom", generatedEntity=entity, usedEntity=source, activity=activity)


def _add_activity(document: Document, stage: StageView, starts: Mapping[int, Mapping[str, Any]]) -> str:
    line = stage.committed or {}
    start = starts.get(line["sequence"], {})
    began, opened = start.get("stage"), start.get("process")
    activity = document.add(
        "activity",
        f"run:stage/{quote(stage.name)}",
        {
            "prov:startTime": _time(began) if began else None,
            "prov:endTime": _time(line),
            "prov:label": stage.name,
            "pocketlm:ledger": line["sequence"],
            "pocketlm:hash": line["hash"],
        },
    )
    document.relate("used", activity=activity, entity="run:recipe")
    if opened:
        for agent in _add_agents(document, opened["body"]):
            document.relate("wasAssociatedWith", activity=activity, agent=agent, plan="run:recipe")
    return activity


def _add_agents(document: Document, opening: Mapping[str, Any]) -> list[str]:
    """Who started the process, and the software that it ran."""
    agents = []
    if opening.get("user"):
        person = {"prov:type": _name("prov:Person"), "prov:label": opening["user"]}
        agents.append(document.add("agent", f"run:person/{quote(opening['user'])}", person))
    version = ((opening.get("environment") or {}).get("versions") or {}).get("pocketlm", "unknown")
    software = {
        "prov:type": _name("prov:SoftwareAgent"),
        "prov:label": f"pocketlm {version}",
        "pocketlm:commit": opening.get("commit"),
    }
    return [*agents, document.add("agent", f"run:software/pocketlm-{quote(version)}", software)]


def _add_file(document: Document, name: str, recorded: RecordedHash) -> str:
    """A file that was read from outside, or the documents of an installed distribution."""
    kind, attribute = READ[recorded.kind]
    attributes = {
        "prov:type": _name(f"pocketlm:{kind}"),
        "prov:label": name,
        f"pocketlm:{attribute}": recorded.digits,
    }
    return document.add("entity", f"{recorded.kind}:{quote(recorded.digits)}", attributes)


def _starts(run: RunView) -> dict[int, dict[str, Mapping[str, Any]]]:
    """Sequence of a commit -> the lines that started its stage and its process, as far as there are such."""
    found: dict[int, dict[str, Mapping[str, Any]]] = {}
    process: dict[str, Mapping[str, Any]] = {}
    stages: dict[str, Mapping[str, Any]] = {}
    for line in run.ledger:
        if line["event"] == "run_started":
            process = {"process": line}
        elif line["event"] == "stage_started":
            stages[line["body"]["stage"]] = line
        elif line["event"] == "stage_committed":
            began = stages.pop(line["body"]["stage"], None)
            found[line["sequence"]] = {**process, **({"stage": began} if began else {})}
    return found


def _artifact(stage: str) -> str:
    return f"run:artifact/{quote(stage)}"


def _time(line: Mapping[str, Any]) -> str:
    """The time of a ledger line as xsd:dateTime."""
    return datetime.fromtimestamp(line["time"], UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _name(qualified: str) -> dict[str, str]:
    """A value that is a qualified name, as PROV-JSON writes it."""
    return {"$": qualified, "type": "xsd:QName"}
