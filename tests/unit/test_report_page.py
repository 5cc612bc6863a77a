"""The page is one inert, self-contained, deterministic file whatever stands in the run."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import synthetic_run
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.errors import CorruptionError, InputError
from pocketlm.pipeline import figures
from pocketlm.pipeline.ledger import read_ledger
from pocketlm.reporting import charts, formatting
from pocketlm.reporting.figures import report_json
from pocketlm.reporting.glossary import TERMS
from pocketlm.reporting.html import FOLDED_ROWS, MAX_ROWS, _environment, _script_json, render
from pocketlm.reporting.reading import read_run

HOSTILE = "</script></pre><img src=x onerror=alert(1)><script>alert(2)</script>{{ 7*7 }}&lt;<!--"


class Page(HTMLParser):
    """All tags with their attributes, and the text of every element kind."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._open = tag
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open][-1] += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs") / "quickstart"
    seal = synthetic_run.build(folder)
    assert seal is not None
    return folder, seal


@pytest.fixture(scope="module")
def html(run: tuple[Path, str]) -> str:
    folder, seal = run
    return render(read_run(folder), seal)


def test_nothing_is_loaded_from_anywhere(html: str) -> None:
    page = Page(html)
    for tag, attributes in page.tags:
        assert "src" not in attributes, tag
        assert "srcset" not in attributes
        if "href" in attributes:
            assert attributes["href"].startswith(("#", "artifacts/curate/")) or attributes["href"] == "data:,"
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import", page.texts["style"][0].replace("url(#tip)", ""))
    assert not {"iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}


def test_the_policy_allows_exactly_the_two_scripts_of_the_page(html: str) -> None:
    page = Page(html)
    attributes = [attributes for tag, attributes in page.tags if tag == "script"]
    scripts = [text for text, kind in zip(page.texts["script"], attributes, strict=True) if not kind]
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(scripts) == 2
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes
    assert "default-src 'none'" in policy
    assert "script-src 'unsafe" not in policy


def test_equal_folders_give_equal_bytes_in_other_processes_and_places(
    run: tuple[Path, str], html: str, tmp_path: Path
) -> None:
    folder, seal = run
    assert render(read_run(folder), seal) == html
    moved = tmp_path / "elsewhere ü"
    shutil.copytree(folder, moved)
    program = (
        "import sys; from pathlib import Path; from pocketlm.reporting.html import render; "
        "from pocketlm.reporting.reading import read_run; "
        "sys.stdout.buffer.write(render(read_run(Path(sys.argv[1])), sys.argv[2]).encode()); "
        "assert not {'torch', 'transformers', 'lm_eval'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    command = [sys.executable, "-c", program, str(moved), seal]
    assert subprocess.run(command, capture_output=True, check=True, env=environment).stdout.decode() == html


def test_the_page_names_seal_figures_intervals_and_terms(run: tuple[Path, str], html: str) -> None:
    folder, seal = run
    text = " ".join(item for texts in Page(html).texts.values() for item in texts)
    assert f"pocketlm verify . --seal {seal}" in text
    assert str(folder) not in html
    for expected in ("0.62", "0.58 to 0.66", "1,204", "983,424", "9 of 100 steps had no live group"):
        assert expected in text
    assert "energy: not measurable here" in text
    assert "times its price per hour. No price is assumed here." in text
    cards = html.partition('class="cards"')[2].partition('id="pipeline"')[0]
    assert cards.count('class="card"') == 3
    assert "91.0" not in cards
    assert "62.0\u00a0%" in cards
    assert "58.0 to 66.0\u00a0%" in cards
    assert "began as: pretrain, 1.3\u00a0%" in cards
    assert "best control: rejection_sampling, 44.0\u00a0%" in cards  # neither the one it came from nor a weaker one
    assert "beats continued SFT on the same problems by 29\u00a0points" in cards
    assert html.count("beats continued SFT on the same problems by") == 1
    for name in synthetic_run.INPUTS:
        assert f"<h2>{name}</h2>" in html
    for term in ("bits per byte", "pass@k", "n-gram", "update-to-weight ratio"):
        assert TERMS[term][:40] in text


def test_stages_can_be_linked_by_their_names_unless_the_name_is_taken_or_unsafe(tmp_path: Path) -> None:
    seal = synthetic_run.build(tmp_path, {"<b>probe": [], "glossary": []})
    html = render(read_run(tmp_path), seal)
    ids = [attributes["id"] for _, attributes in Page(html).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(synthetic_run.INPUTS) <= set(ids)
    places = [place for place in ids if place.startswith("stage-")]
    assert places == [f"stage-{len(synthetic_run.INPUTS) + number}" for number in (1, 2)]
    links = {attributes["href"] for tag, attributes in Page(html).tags if tag == "a"}
    assert {f"#{name}" for name in [*synthetic_run.INPUTS, *places]} <= links


def test_what_a_stage_reads_is_listed_in_the_order_of_the_recipe(html: str) -> None:
    reads = "problems, curate, pretrain, sft, interpolate, continued_sft, rejection_sampling, rlvr"
    assert f"<span>from {reads}</span>" in html


def test_an_unstated_licence_is_explained_where_it_shows(tmp_path: Path) -> None:
    rows = [{"licence": "MIT OR NOASSERTION"}]
    blocks = [
        figures.table("Unexplained", ["licence"], rows),
        figures.table("Explained", ["licence"], rows, "NOASSERTION: see above."),
    ]
    seal = synthetic_run.build(tmp_path, {"probe": blocks})
    html = render(read_run(tmp_path), seal)
    assert html.count('<p class="note">NOASSERTION: no licence is stated.</p>') == 1
    assert "<dt>NOASSERTION</dt>" in html


def test_a_long_table_stands_folded_behind_its_title(tmp_path: Path) -> None:
    rows = [{"row": number} for number in range(FOLDED_ROWS + 1)]
    blocks = [figures.table("Long", ["row"], rows), figures.table("Short", ["row"], rows[1:])]
    seal = synthetic_run.build(tmp_path, {"probe": blocks})
    html = render(read_run(tmp_path), seal)
    assert f"<summary>Long ({FOLDED_ROWS + 1} rows)</summary>" in html
    assert "<h4>Short</h4>" in html
    assert "<h4>Long</h4>" not in html


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.5152, 0.69, "0.5152 to 0.6900"),
        (0.58, 0.66, "0.58 to 0.66"),
        (0.0, 0.01922, "0.00000 to 0.01922"),
        (-0.25, 3.0, "-0.25 to 3.00"),
        (2.0, 3.0, "2 to 3"),
        (0.0, 0.0, "0 to 0"),
        (455_795.3, 3_340_720.2, "455,795 to 3,340,720"),
    ],
)
def test_both_ends_of_an_interval_have_the_same_decimals(low: float, high: float, shown: str) -> None:
    assert formatting.figure_interval(figures.figure(1.0, low=low, high=high)) == shown


def test_no_line_breaks_inside_a_figure() -> None:
    text = "+5.0 points [-1.2, +3.4], p < 0.001, 59.8 % of [1, 2, 3] points"
    together = "+5.0_points [-1.2,_+3.4], p_<_0.001, 59.8_% of [1, 2,_3] points"
    assert formatting.unbroken(text) == together.replace("_", "\u00a0")


def test_an_unsealed_run_says_so(tmp_path: Path) -> None:
    synthetic_run.build(tmp_path / "run", sealed=False)
    assert "Not sealed." in render(read_run(tmp_path / "run"), None)


def test_hostile_text_stays_text_wherever_it_stands(tmp_path: Path) -> None:
    rows = [{HOSTILE: HOSTILE, "y.z[0]": 1.0, "s": HOSTILE, "low": 0.5, "high": 1.5}]
    blocks = [
        figures.paragraph(HOSTILE),
        figures.table(HOSTILE, [HOSTILE], [{HOSTILE: HOSTILE}], HOSTILE),
        figures.line_chart(HOSTILE, rows, HOSTILE, "y.z[0]", "s", HOSTILE, HOSTILE, HOSTILE),
        figures.bar_chart(HOSTILE, rows, HOSTILE, "y.z[0]", "s", HOSTILE, HOSTILE, HOSTILE),
        figures.samples(HOSTILE, [{"label": HOSTILE, "text": HOSTILE}], HOSTILE),
        {"kind": HOSTILE},
    ]
    seal = synthetic_run.build(tmp_path / "plain", {"probe": []})
    plain = Page(render(read_run(tmp_path / "plain"), seal))
    seal = synthetic_run.build(tmp_path / "hostile", {"<b>probe": blocks})
    page = Page(render(read_run(tmp_path / "hostile"), seal))
    dangerous = ("img", "iframe", "object", "b")
    for tag in dangerous:
        assert [t for t, _ in page.tags].count(tag) == [t for t, _ in plain.tags].count(tag), tag
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    scripts = [(tag, attributes) for tag, attributes in page.tags if tag == "script"]
    assert len([kind for _, kind in scripts if not kind]) == 2
    assert HOSTILE in page.texts["pre"]
    assert HOSTILE in page.texts["h4"]
    assert HOSTILE in page.texts["td"]
    assert "<b>probe" in page.texts["h2"]
    specs = [json.loads(text) for text, (_, kind) in zip(page.texts["script"], scripts, strict=True) if kind]
    assert HOSTILE in [spec["data"]["values"][0].get("series") for spec in specs]


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists))
def test_json_in_a_script_element_survives_and_cannot_end_it(value: Any) -> None:
    text = _script_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_a_long_table_shows_its_first_rows_and_its_total(tmp_path: Path) -> None:
    rows = [{"row": f"row-{number}-"} for number in range(12_345)]
    seal = synthetic_run.build(tmp_path, {"long": [figures.table("Long", ["row"], rows)]})
    html = render(read_run(tmp_path), seal)
    assert f"row-{MAX_ROWS - 1}-" in html
    assert f"row-{MAX_ROWS}-" not in html
    assert f"The first {MAX_ROWS} of 12,345 rows." in html


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run folder"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("file", "error"), [("ledger.jsonl", InputError), ("artifacts/evaluate/figures.json", CorruptionError)]
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, error: type[Exception]) -> None:
    synthetic_run.build(tmp_path)
    path = tmp_path / file
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.raises(error, match=re.escape(str(path))):
        read_run(tmp_path)


def test_report_json_holds_every_figure_and_the_cost(run: tuple[Path, str]) -> None:
    folder, seal = run
    content = report_json(read_run(folder), seal)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert list(content["stages"]) == list(synthetic_run.INPUTS)
    committed = {
        line["body"]["stage"]: {"sequence": line["sequence"], "hash": line["hash"]}
        for line in read_ledger(folder / "ledger.jsonl")
        if line["event"] == "stage_committed"
    }
    assert content["stages"]["evaluate"]["rlvr.arithmetic.exact_match"] == {
        "value": 0.62, "n": 600, "low": 0.58, "high": 0.66, "ledger": committed["evaluate"],
    }  # fmt: skip
    figures_of = {name: list(stage.values()) for name, stage in content["stages"].items()}
    assert all(figure["ledger"] == committed[name] for name, stage in figures_of.items() for figure in stage)
    for name, stage in content["stages"].items():
        manifest = json.loads((folder / "artifacts" / name / "manifest.json").read_text())
        assert set(stage) == set(manifest["metrics"])
    assert content["execution"]["seconds"] == sum(item["seconds"] for item in content["execution"]["stages"].values())
    assert content["execution"]["energy_joules"] is None
    assert content["execution"]["versions"] == {"torch": "2.13.0", "numpy": "2.4.6"}
    assert content["seal"] == seal
    assert content["lineage"][2]["inputs"]["documents"][0]["stage"] == "sources"


@settings(deadline=None)
@given(text=st.text(st.characters(blacklist_categories=("Cs", "Cc"))))
def test_any_text_of_a_sample_is_shown_as_it_is(text: str) -> None:
    block_html = _environment().get_template("blocks.html.j2").module.block_html  # type: ignore[attr-defined]
    page = Page(block_html(figures.samples(text, [{"label": text, "text": f"|{text}|"}], text)))
    assert page.texts["pre"] == [f"|{text}|"]
    assert {tag for tag, _ in page.tags} <= {"h4", "p", "div", "figure", "figcaption", "pre"}


def test_the_drawing_library_can_stand_in_a_script_element() -> None:
    assert "</script" not in charts.javascript().lower()
    assert "vegaEmbed" in charts.javascript()
