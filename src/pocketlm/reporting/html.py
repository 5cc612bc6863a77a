"""The report as one self-contained HTML file that opens offline, on any screen, with or without JavaScript.

    render(run_folder, seal) -> str

The page is a function of the run folder's content, the seal and the versions of the rendering libraries (named in its
`generator` element): `pocketlm verify` renders it again and compares bytes. Model output and data are untrusted: every
text is escaped by the template engine, chart data stands in inert JSON elements, and a content security policy allows
the page's own two scripts by their hash and no network at all, so that even a slip in escaping could not run or load
anything.

What it does not do: judge. Sentences about results come from the stages, which derive them by rule from figures.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketlm.pipeline.figures import Block
from pocketlm.reporting import charts, formatting, sections
from pocketlm.reporting.figures import execution, model_stage, report_json
from pocketlm.reporting.glossary import terms_in
from pocketlm.reporting.reading import RunView, read_run

if TYPE_CHECKING:
    import jinja2

__all__ = ["MAX_ROWS", "render", "report_json"]

FOLDED_ROWS = 12
"""A table with more rows stands folded behind its title."""
MAX_ROWS = 60
"""Rows that a table shows; the total is stated, and the rest stands in the artifact's `figures.json`."""
OPEN_SAMPLES, MAX_SAMPLES = 6, 40
"""Sample texts that stand open, and those that stand in the page at all."""
MAX_CHARACTERS = 2000
NO_LICENCE = "NOASSERTION"
TEMPLATES = Path(__file__).with_name("templates")


def render(run_folder: Path, seal: str | None) -> str:
    """The report of a run as HTML text. `seal`: hash of the ledger's seal line, None while the run is not sealed.

    Raises InputError when `run_folder` is no run folder or its ledger was changed.
    """
    run = read_run(run_folder)
    scripts = [charts.javascript(), (TEMPLATES / "charts.js").read_text(encoding="utf-8")]
    page = _environment().get_template("page.html.j2")
    return page.render(
        run=run,
        seal=seal,
        final=model_stage(run),
        cost=execution(run),
        sections=sections,
        anchors=sections.anchors(run),
        glossary=terms_in(_words(run)),
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        scripts=scripts,
        script_hashes=[_policy_hash(script) for script in scripts],
        renderer=charts.renderer(),
    )


def _environment() -> jinja2.Environment:
    """Templates with escaping on for everything and undefined names as errors."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        folded_rows=FOLDED_ROWS,
        max_rows=MAX_ROWS,
        open_samples=OPEN_SAMPLES,
        max_samples=MAX_SAMPLES,
        max_characters=MAX_CHARACTERS,
        next_chart=itertools.count(1).__next__,
    )
    environment.filters.update(
        number=formatting.number,
        unbroken=formatting.unbroken,
        figure_value=formatting.figure_value,
        figure_interval=formatting.figure_interval,
        duration=formatting.duration,
        data_size=formatting.data_size,
        energy=formatting.energy,
        chart_json=lambda block: Markup(_script_json(charts.SPECIFICATIONS[block["kind"]](block))),
        chart_table=_chart_table,
        chart_note=_chart_note,
        table_note=_table_note,
    )
    environment.tests["numeric"] = lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)
    environment.tests["sampled"] = lambda figure: "n" in figure or "low" in figure
    return environment


def _chart_table(block: Block) -> dict[str, Any]:
    """The data of a chart as a table block, in the columns that the chart draws."""
    drawn = [block["series"], block["x"], block["y"], "low", "high"]
    present = {key for row in block["rows"] for key in row}
    return {"rows": block["rows"], "columns": [name for name in drawn if name in present]}


def _chart_note(block: Block) -> str:
    """What is said below a chart: the stage's note, and how to read a curve that was smoothed."""
    return " ".join(filter(None, [block["note"], charts.SMOOTHED_NOTE if charts.is_smoothed(block) else ""]))


def _table_note(block: Block) -> str:
    """What is said below a table: the stage's note, and what NOASSERTION means where it shows unexplained."""
    shows = any(NO_LICENCE in str(value) for row in block["rows"] for value in row.values())
    unexplained = shows and NO_LICENCE not in block["note"]
    return " ".join(filter(None, [block["note"], f"{NO_LICENCE}: no licence is stated." if unexplained else ""]))


def _script_json(value: Any) -> str:
    """JSON that can stand in a script element: no character that ends an element or a line there."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy_hash(script: str) -> str:
    """The hash by which a content security policy allows one inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _words(run: RunView) -> str:
    """All names and texts of the page that a newcomer may want explained."""
    blocks = [json.dumps(block, ensure_ascii=False) for stage in run.stages for block in stage.blocks]
    names = [name for stage in run.stages for name in (stage.name, *stage.metrics)]
    return "\n".join([*names, *blocks, "95 % interval", "digest", "fingerprint"])
