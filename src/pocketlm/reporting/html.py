"""The report as one self-contained HTML file that opens offline, on any screen, with or without JavaScript.

    render(read_run(run_folder), seal) -> str

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
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketlm.pipeline.figures import Block
from pocketlm.reporting import charts, formatting, headlines, sections
from pocketlm.reporting.cost import cost_blocks, price_sentence, stage_costs, total
from pocketlm.reporting.figures import execution, model_stage
from pocketlm.reporting.glossary import terms_in
from pocketlm.reporting.origins import identity_of_content, origin_blocks
from pocketlm.reporting.reading import RunView

if TYPE_CHECKING:
    import jinja2

FOLDED_ROWS = 12
"""A table with more rows stands folded behind its title."""
MAX_ROWS = 60
"""Rows that a table shows; the total is stated, and the rest stands in the artifact's `figures.json`."""
OPEN_SAMPLES, MAX_SAMPLES = 6, 40
"""Sample texts that stand open, and those that stand in the page at all."""
MAX_CHARACTERS = 2000
NO_LICENCE = "NOASSERTION"
_LONG = re.compile(r".{31}")
"""A word (a hash, a path) that a table may break anywhere."""
TEMPLATES = Path(__file__).with_name("templates")


def render(run: RunView, seal: str | None, place: str = "") -> str:
    """The report of a run (`reading.read_run`) as HTML text.

    Args:
        seal: hash of the ledger's seal line, None while the run is not sealed.
        place: what leads from the page to the run folder, such as `../runs/mine/`; nothing where it lies in it.
    """
    return page(
        "page.html.j2",
        run=run,
        seal=seal,
        place=place,
        final=model_stage(run),
        cost=execution(run),
        price=price_sentence(total(stage_costs(run))),
        sections=sections,
        headlines=headlines.headlines(run),
        cost_blocks=cost_blocks,
        origin_blocks=origin_blocks,
        identity_of_content=identity_of_content,
        anchors=sections.anchors(run),
        glossary=terms_in(words(run)),
    )


def page(template: str, **content: Any) -> str:
    """A template with the style, the two scripts and the policy that every page of ours has."""
    scripts = [charts.javascript(), (TEMPLATES / "charts.js").read_text(encoding="utf-8")]
    return (
        _environment()
        .get_template(template)
        .render(
            **content,
            style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
            scripts=scripts,
            script_hashes=[_policy_hash(script) for script in scripts],
            renderer=charts.renderer(),
        )
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
        drawing=charts.draw,
        script_json=lambda value: Markup(_script_json(value)),
        chart_table=_chart_table,
        numeric_columns=lambda rows: {name for row in rows for name, value in row.items() if _is_number(value)},
        table_note=_table_note,
    )
    environment.tests["numeric"] = _is_number
    environment.tests["long_word"] = lambda value: isinstance(value, str) and any(map(_LONG.match, value.split()))
    environment.tests["sampled"] = lambda figure: "n" in figure or "low" in figure
    return environment


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _chart_table(block: Block) -> dict[str, Any]:
    """The data of a chart as a table block, in the columns that the chart draws."""
    drawn = [block["series"], block["x"], block["y"], "low", "high"]
    present = {key for row in block["rows"][:MAX_ROWS] for key in row}
    return {"rows": block["rows"], "columns": [name for name in drawn if name in present]}


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


def words(run: RunView) -> str:
    """All names and texts of the page that a newcomer may want explained."""
    names = [name for stage in run.stages for name in (stage.name, *stage.metrics)]
    texts = [text for stage in run.stages for block in stage.blocks for text in _texts(block)]
    return "\n".join([*names, *texts, "95 % interval", "digest", "fingerprint", "ledger", "seal"])


def _texts(block: Block) -> Iterator[str]:
    """The texts that the page shows of a block; numbers and rows that it leaves out are not among them."""
    yield from (str(block[key]) for key in ("title", "note", "text", "x_title", "y_title") if key in block)
    yield from map(str, block.get("columns", ()))
    for row in block.get("rows", [])[:MAX_ROWS]:
        yield from (value for value in row.values() if isinstance(value, str))
    for item in block.get("items", [])[:MAX_SAMPLES]:
        yield from (str(item.get("label")), str(item.get("text"))[:MAX_CHARACTERS])
