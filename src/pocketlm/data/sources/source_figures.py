"""What the report shows of the sources: counts of documents, rejected rows and licences, files that were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pocketlm.data.sources.licences import NOASSERTION, STANDARD_LIBRARY
from pocketlm.data.sources.python_documentation import installed_packages, python_version
from pocketlm.data.sources.row_forms import Fault
from pocketlm.data.sources.source_settings import DOCUMENTATION
from pocketlm.data.sources.sources import Account, Entry
from pocketlm.pipeline.figures import Block, table

MOST_FILES = 1000
"""Files of a source that are listed one by one; the stage's identity covers all of them."""
FILES_NOTE = (
    "What a file held when it was read: sha256, of a distribution over the names and texts of its documents; git: the "
    "hash of git, where the hub states no other. The stage's identity covers the names and hashes of all."
)


@dataclass
class SourceCounts:
    """Running counts, by source."""

    documents: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    licences: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_file: Counter[tuple[str, str]] = field(default_factory=Counter)
    bytes_by_file: Counter[tuple[str, str]] = field(default_factory=Counter)
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)
    accounts: dict[str, Account] = field(default_factory=dict)

    def account(self, name: str) -> Account:
        """A new account for a source, to be filled in while it is read."""
        self.accounts[name] = Account()
        return self.accounts[name]

    def add(self, entry: Entry) -> None:
        """Count one row."""
        if isinstance(entry.content, Fault):
            self.rejects[entry.source, entry.content.gate] += 1
        else:
            self.documents[entry.source] += 1
            self.bytes[entry.source] += len(entry.content)
            self.licences[entry.source, entry.licence] += 1
            file = entry.source.partition("/")[0], entry.origin
            self.by_file[file] += 1
            self.bytes_by_file[file] += len(entry.content)

    def documents_of(self, name: str) -> int:
        """Documents of a source and of its parts (`name/...`)."""
        return sum(count for source, count in self.documents.items() if source.partition("/")[0] == name)

    def rejects_of(self, name: str) -> str:
        """Rejected rows of a source by rule, in words."""
        counts = [
            f"{rule} {count}"
            for (source, rule), count in sorted(self.rejects.items())
            if source.partition("/")[0] == name
        ]
        return ", ".join(counts) or "none"

    def metrics(self) -> dict[str, int]:
        """Totals."""
        return {
            "documents": self.documents.total(),
            "bytes": self.bytes.total(),
            "rejected": self.rejects.total(),
            "not_sampled": sum(account.not_sampled for account in self.accounts.values()),
            "stopped_early": sum(bool(account.stopped) for account in self.accounts.values()),
            "without_licence": sum(count for (_, licence), count in self.licences.items() if licence == NOASSERTION),
        }

    def blocks(self) -> list[Block]:
        """Tables by source, by licence and by rule."""
        by_source = [
            {"source": name, "documents": count, "MB": round(self.bytes[name] / 1e6, 3)}
            for name, count in self.documents.items()
        ]
        by_licence = [
            {"source": source, "licence": licence, "documents": count}
            for (source, licence), count in sorted(self.licences.items())
        ]
        by_rule = [
            {"source": source, "rule": rule, "rows": count} for (source, rule), count in sorted(self.rejects.items())
        ]
        blocks = [
            table("Sources, in order of priority", ["source", "documents", "MB"], by_source),
            table("Licences", ["source", "licence", "documents"], by_licence, "NOASSERTION: no licence is stated."),
        ]
        selected = [
            {
                "source": name,
                "commit": account.revision,
                "not sampled": account.not_sampled,
                "stopped at": f"{name}.{account.stopped}" if account.stopped else "",
            }
            for name, account in self.accounts.items()
            if account.revision or account.not_sampled or account.stopped
        ]
        if selected:
            note = "Not sampled: documents that sample_share left out. Stopped at: the limit before the last document."
            columns = ["source", "commit", "not sampled", "stopped at"]
            blocks.append(table("Revisions, samples and limits", columns, selected, note))
        blocks.append(self._files())
        if by_rule:
            blocks.append(
                table("Rows that are no documents", ["source", "rule", "rows"], by_rule, "In rejects.parquet.")
            )
        return blocks

    def _files(self) -> Block:
        """Every file with its hash and what it gave."""
        rows = [
            {
                "source": name,
                "file": file,
                "sha256": known,
                "documents": self.by_file[name, file],
                "bytes": self.bytes_by_file[name, file],
            }
            for name, account in self.accounts.items()
            for file, known in list(account.files.items())[:MOST_FILES]
        ]
        note = FILES_NOTE.format(
            most=MOST_FILES, left=sum(len(one.files) for one in self.accounts.values()) - len(rows)
        )
        return table("Files that were read", ["source", "file", "sha256", "documents", "bytes"], rows, note)


def version_blocks(paths: Iterable[str]) -> list[Block]:
    """The distributions whose documentation was read, if any was."""
    if DOCUMENTATION not in paths:
        return []
    packages, missing = installed_packages()
    rows = [{"distribution": "python", "version": python_version(), "licence": STANDARD_LIBRARY}]
    rows += [{"distribution": item.name, "version": item.version, "licence": item.licence} for item in packages]
    note = f"Not installed, so not read: {', '.join(missing)}." if missing else "The whole list is installed."
    return [table("Distributions that were read", ["distribution", "version", "licence"], rows, note)]
