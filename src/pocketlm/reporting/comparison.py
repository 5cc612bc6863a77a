"""Several runs side by side: which settings differ, which artifacts are the same bytes, scores, curves and cost.

    render_comparison(compared_runs([Path("runs/a"), Path("runs/b")]), paired) -> str

Scores of two runs stand beside each other with the interval of each alone; that says less than a comparison item by
item, which is made where the items are known to be the same and handed in as blocks. Curves are laid over each other
for stages of one name and charts of one title.

Not covered: which run is better over all tasks (a reader's judgement), and runs whose stages have other names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketlm.errors import InputError
from pocketlm.pipeline import figures
from pocketlm.pipeline.figures import Block, Figure
from pocketlm.pipeline.recipe_yaml import RESERVED
from pocketlm.reporting import formatting
from pocketlm.reporting.cost import SECONDS_PER_HOUR, StageCost, stage_costs, total
from pocketlm.reporting.figures import execution
from pocketlm.reporting.glossary import terms_in
from pocketlm.reporting.headlines import RATES, evaluations, score_text
from pocketlm.reporting.html import page, words
from pocketlm.reporting.reading import RunView, read_run
from pocketlm.reporting.sections import flat, parameters

MOST_LINES = 8
"""Lines of one chart that stay tellable apart."""
DIGITS = 10
RESULTS = "results.json"
SAME, OTHER, UNKNOWN = "yes", "no", ""
ABSENT = object()
ABSENT = object()
SCORE_NOTE = (
    "The final model of each run on its report split, with the 95 % interval of that run alone and the number of "
    "items. Same items: whether all runs that have the task scored the very same items; only then can they be compared "
    "item by item."
)
UNPAIRED = (
    "These scores are not paired: no comparison item by item was made. Two intervals that do not overlap differ; two "
    "that overlap may still differ."
)


@dataclass(frozen=True)
class Compared:
    """A run under the name that the page gives it."""

    name: str
    run: RunView


def render_comparison(runs: Sequence[Compared], paired: Sequence[Block] = ()) -> str:
    """The page of several runs. `paired`: what a comparison item by item found, if one was made."""
    return page(
        "comparison.html.j2",
        runs=runs,
        overview=overview_block(runs),
        settings=settings_block(runs),
        artifacts=artifact_block(runs),
        scores=score_blocks(runs),
        paired=list(paired),
        unpaired=UNPAIRED,
        curves=curve_blocks(runs),
        cost=cost_blocks(runs),
        glossary=terms_in("\n".join(words(one.run) for one in runs)),
    )


def compared_runs(folders: Sequence[Path]) -> list[Compared]:
    """The runs under the names of their folders; where two folders have one name, the one above is put before it.

    Raises:
        InputError: fewer than two folders, one is given twice, or is no run folder.
    """
    if len(folders) < 2:
        raise InputError("a comparison takes two runs or more")
    places = [folder.resolve() for folder in folders]
    for position, place in enumerate(places):
        if place in places[:position]:
            raise InputError(f"{folders[position]} is given twice; name every run once")
    return [Compared(_name(place, places), read_run(folder)) for place, folder in zip(places, folders, strict=True)]


def _name(place: Path, places: Sequence[Path]) -> str:
    """The last parts of a path, as many as set it apart from the others."""
    for length in range(1, len(place.parts)):
        tail = place.parts[-length:]
        if sum(other.parts[-length:] == tail for other in places) == 1:
            return "/".join(tail)
    return str(place)


def overview_block(runs: Sequence[Compared]) -> Block:
    """One column a run: what it is, and what it took in all."""
    facts = {one.name: _facts(one.run) for one in runs}
    names = list(next(iter(facts.values())))
    rows = [{"what": name, **{run: known[name] for run, known in facts.items()}} for name in names]
    return figures.table("The runs", ["what", *facts], rows)


def _facts(run: RunView) -> dict[str, str]:
    cost, done = total(stage_costs(run)), execution(run)
    facts = {
        "recipe": run.recipe.get("name"),
        "seed": run.recipe.get("seed"),
        "final model": run.recipe.get("model"),
        "parameters": parameters(run),
        "stages": len(run.stages),
        "trained tokens": cost.trained_tokens,
        "time": formatting.duration(cost.seconds),
        "peak memory": formatting.data_size(cost.peak_memory_bytes),
        "energy": formatting.energy(cost.energy_joules),
        "processor": done["environment"].get("cpu"),
        "pocketlm": done["versions"].get("pocketlm"),
        "commit": done["commit"] and done["commit"][:DIGITS],
        "sealed": run.seal is not None,
    }
    return {name: formatting.number(value) for name, value in facts.items()}


CLEAN = "clean."
"""Before a metric's name: on the items that no training text held."""


def settings_block(runs: Sequence[Compared]) -> Block:
    """The settings of the resolved recipes that are not the same in all runs."""
    recipes = [dict(flat(_named_stages(one.run.recipe))) for one in runs]
    names = dict.fromkeys(name for recipe in recipes for name in recipe)
    rows = [
        {"setting": name, **{one.name: recipe.get(name) for one, recipe in zip(runs, recipes, strict=True)}}
        for name in names
        if any(recipe.get(name, ABSENT) != recipes[0].get(name, ABSENT) for recipe in recipes)
    ]
    equal = len(names) - len(rows)
    note = f"{equal:,} settings are the same in all runs. A dash: the run has no such setting, or has it by default."
    return figures.table("Settings that differ", ["setting", *(one.name for one in runs)], rows, note)


def _named_stages(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without its description, and with every stage under its kind, so that one without settings shows too."""
    return {
        name: value if name in RESERVED else {"stage": name, **(value or {})}
        for name, value in recipe.items()
        if name != "description"
    }


def artifact_block(runs: Sequence[Compared]) -> Block:
    """Stage by stage the first digits of the digests: equal digests mean equal bytes."""
    digests = [{stage.name: stage.artifact.digest for stage in one.run.stages} for one in runs]
    rows = []
    for name in dict.fromkeys(name for found in digests for name in found):
        held = [found.get(name) for found in digests]
        same = UNKNOWN if None in held else SAME if len(set(held)) == 1 else OTHER
        shown = {one.name: digest and digest[:DIGITS] for one, digest in zip(runs, held, strict=True)}
        rows.append({"stage": name, **shown, "same bytes": same})
    columns = ["stage", *(one.name for one in runs), "same bytes"]
    return figures.table("Artifacts by digest", columns, rows, "A dash: the run has no such stage.")


def score_blocks(runs: Sequence[Compared]) -> list[Block]:
    """Scores of the final models with their intervals, as a table and as charts of one unit each."""
    found = {one.name: final_scores(one.run) for one in runs}
    names = list(dict.fromkeys(name for scores in found.values() for name in scores))
    items = {one.name: item_digests(one.run) for one in runs}
    rows: list[figures.Row] = []
    rates: list[figures.Row] = []
    others: list[figures.Row] = []
    for name in names:
        task, _, metric = name.partition(".")
        held = {run: scores[name] for run, scores in found.items() if name in scores}
        clean = metric.startswith(CLEAN)
        metric = metric.removeprefix(CLEAN)
        # Of a subset the digest is not recorded, but other numbers of items are other items.
        known = [None if clean else items[run].get(task) for run in held]
        if clean and len({figure.get("n") for figure in held.values()}) > 1:
            known = list(held)
        same = UNKNOWN if None in known or len(known) < 2 else SAME if len(set(known)) == 1 else OTHER
        title = name.replace("_", " ").replace(".", " · ")
        shown = {run: _shown(metric, figure) for run, figure in held.items()}
        rows.append({"score": title, **shown, "same items": same})
        for run, figure in held.items():
            bar = {"score": title, "value": figure["value"], "run": run}
            bar |= {end: figure[end] for end in ("low", "high") if end in figure}
            (rates if metric in RATES else others).append(bar)
    if not rows:
        return []
    columns = ["score", *(one.name for one in runs), "same items"]
    blocks = [figures.table("Scores of the final models", columns, rows, SCORE_NOTE)]
    blocks += [figures.bar_chart("Shares of right answers", rates, "score", "value", "run")] if rates else []
    for name in dict.fromkeys(bar["score"] for bar in others):
        bars = [bar for bar in others if bar["score"] == name]
        blocks.append(figures.bar_chart(name, bars, "run", "value"))
    return blocks


def final_scores(run: RunView) -> dict[str, Figure]:
    """TASK.METRIC -> figure of the run's final model, from all of its evaluations."""
    final = f"{run.recipe.get('model')}."
    return {
        name.removeprefix(final): figure
        for stage in evaluations(run)
        for name, figure in stage.metrics.items()
        if name.startswith(final)
    }


def item_digests(run: RunView) -> dict[str, str]:
    """Task -> sha256 of the items that it was scored on; tasks without items of their own (means) are not in it."""
    artifacts = [stage.artifact for stage in evaluations(run) if RESULTS in stage.artifact.manifest["files"]]
    tasks = [artifact.read_json(RESULTS)["tasks"] for artifact in artifacts]
    return {task: facts["sha256"] for found in tasks for task, facts in found.items() if "sha256" in facts}


def _shown(metric: str, figure: Figure) -> str:
    """A value with its interval and its number of items."""
    text = score_text(metric, figure["value"])
    if figure.get("low") is not None and figure.get("high") is not None:
        ends = (score_text(metric, figure[end]).removesuffix(" %") for end in ("low", "high"))
        text += f" [{', '.join(ends)}]"
    return text + (f" n = {figure['n']:,}" if "n" in figure else "")


def curve_blocks(runs: Sequence[Compared]) -> list[Block]:
    """Line charts of model stages that two runs or more have, one line a run."""
    found: dict[tuple[str, str], list[tuple[str, Block]]] = {}
    for one in runs:
        for stage in one.run.stages:
            for block in stage.blocks if stage.artifact.kind == "model" else ():
                if block["kind"] == "line_chart" and block["rows"]:
                    found.setdefault((stage.name, block["title"]), []).append((one.name, block))
    return [block for (stage, _), drawn in found.items() if len(drawn) > 1 for block in _overlaid(stage, drawn)]


def _overlaid(stage: str, drawn: Sequence[tuple[str, Block]]) -> Iterator[Block]:
    """One chart of all lines, or one for every series where that would be too many lines for one."""
    first = drawn[0][1]
    rows = [
        {"x": row.get(block["x"]), "y": row.get(block["y"]), "of": str(row.get(block["series"], "")), "run": run}
        for run, block in drawn
        for row in block["rows"]
    ]
    series = list(dict.fromkeys(row["of"] for row in rows))
    titles = {"x_title": first["x_title"], "y_title": first["y_title"]}
    title = f"{stage}: {first['title']}"
    if len({(row["run"], row["of"]) for row in rows}) <= MOST_LINES:
        lines = [{**row, "line": f"{row['run']} · {row['of']}" if row["of"] else row["run"]} for row in rows]
        yield figures.line_chart(title, lines, "x", "y", "line", **titles)
        return
    for name in series:
        lines = [{**row, "line": row["run"]} for row in rows if row["of"] == name]
        yield figures.line_chart(f"{title} · {name}", lines, "x", "y", "line", **titles)


def cost_blocks(runs: Sequence[Compared]) -> list[Block]:
    """Seconds and tokens of every stage, run beside run."""
    costs = {one.name: {cost.stage: cost for cost in stage_costs(one.run)} for one in runs}
    stages = list(dict.fromkeys(stage for found in costs.values() for stage in found))
    rows = [{"stage": stage, **{run: _cost_text(found.get(stage)) for run, found in costs.items()}} for stage in stages]
    bars = [{"run": one.name, "hours": total(stage_costs(one.run)).seconds / SECONDS_PER_HOUR} for one in runs]
    table = figures.table(
        "Time and trained tokens of every stage",
        ["stage", *costs],
        rows,
        "Times hold for the machine of each run; compare them only where that is the same.",
    )
    return [figures.bar_chart("Hours in all", bars, "run", "hours"), table]


def _cost_text(cost: StageCost | None) -> str | None:
    if cost is None:
        return None
    tokens = f", {cost.trained_tokens:,} tokens" if cost.trained_tokens else ""
    energy = f", {formatting.energy(cost.energy_joules)}" if cost.energy_joules is not None else ""
    return formatting.duration(cost.seconds) + tokens + energy
