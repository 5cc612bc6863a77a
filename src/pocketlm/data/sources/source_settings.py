"""Settings of one source of text. No heavy import: stages name this class at module level."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pocketlm.data.sources.licences import is_expression
from pocketlm.pipeline.settings import EXECUTION, Settings

DOCUMENTATION = "python://documentation"
HUB_SCHEME = "hf://"
S3_SCHEME = "s3://"
Form = Literal["text", "messages", "prompt_response", "instruction"]
Share = Annotated[float, Field(gt=0, le=1)]


class SourceSettings(Settings):
    """One source of text. Its place in the recipe is its priority: of duplicates, the earlier source keeps its copy.

    Names of columns may be nested: `meta.license` is the field `license` of the column `meta`, unless a column has
    that very name.
    """

    path: Annotated[str, EXECUTION]
    """A folder, file, glob or archive (.txt .md .jsonl .jsonl.gz .jsonl.zst .parquet, .zip .tar .tar.gz .tgz),
    `hf://datasets/OWNER/NAME[@revision][/glob]`, `s3://bucket/glob`, or `python://documentation`. The content is the
    identity, not the place, so this stays out of the fingerprint."""
    revision: Annotated[str | None, EXECUTION] = None
    """hf: the commit, tag or branch to read; unset takes the present commit. The commit that was read is recorded and
    part of the identity."""
    download_folder: Annotated[str | None, EXECUTION] = None
    """Where remote files are kept; unset takes `pocketlm/downloads` in the user's cache folder."""
    form: Form = "text"
    """How a row becomes text: a text column; chat messages; a prompt and its response; Alpaca's instruction, input and
    output. The last three join the turns by blank lines and keep the row itself as JSON."""
    text_column: str | None = None
    """JSONL key or Parquet column of the text (unset: `text`) or of the list of messages (unset: `messages`)."""
    prompt_column: str = "prompt"
    """Column of the prompt, for the form prompt_response."""
    response_column: str = "response"
    """Column of the response, for the form prompt_response."""
    id_column: str | None = None
    """Column that identifies a row. Of rows with the same value the first is kept; unset names rows by their place."""
    score_column: str | None = None
    """Column of a quality score (a number, more is better); kept with the document for the score gate."""
    licence: str | None = None
    """SPDX expression of every document of this source; unset takes what the source knows, else NOASSERTION."""
    licence_column: str | None = None
    """Column of each row's licence; where it is empty, `licence` holds."""
    sample_share: Share = 1.0
    """Share of the documents to take, chosen by the hash of their text: the same text is always in or always out."""
    maximum_documents: int | None = Field(default=None, gt=0)
    """Stop after so many documents."""
    maximum_bytes: int | None = Field(default=None, gt=0)
    """Stop after so many bytes of text (`python://documentation`: of source code, 40 MB if unset)."""
    maximum_document_bytes: int = Field(default=16_000_000, gt=0)
    """A longer document (or line of JSONL) is rejected: a data dump, not a text."""

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        """A written recipe must run again from another folder."""
        if "://" not in path:
            return str(Path(path).expanduser().absolute())
        if path != DOCUMENTATION and not path.startswith((HUB_SCHEME, S3_SCHEME)):
            known = f"{DOCUMENTATION}, {HUB_SCHEME}, {S3_SCHEME}"
            raise ValueError(f"'{path}': known are paths, {known}; download other places by hand")
        return path

    @field_validator("licence")
    @classmethod
    def _spdx(cls, licence: str | None) -> str | None:
        if licence is not None and not is_expression(licence):
            raise ValueError(
                f"'{licence}' is no SPDX expression, such as CC-BY-4.0, MIT OR Apache-2.0, LicenseRef-public-domain"
            )
        return licence

    @model_validator(mode="after")
    def _columns_have_rows(self) -> SourceSettings:
        if self.revision is not None and not self.path.startswith(HUB_SCHEME):
            raise ValueError("revision is for hf:// paths alone; other places have no revisions")
        columns = ("text_column", "id_column", "score_column", "licence_column")
        mapped = [name for name in columns if getattr(self, name)]
        if self.path == DOCUMENTATION and (mapped or self.form != "text"):
            raise ValueError(f"{self.path} has no rows, so it takes neither {', '.join(mapped) or 'form'}")
        return self

    @property
    def text_name(self) -> str:
        """The column of the text or of the messages."""
        return self.text_column or ("messages" if self.form == "messages" else "text")
