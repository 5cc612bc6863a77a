"""report: every figure of the run, its lineage and its licences under one digest.

In: all artifacts. Out: `figures.json`, whose metrics are those of every stage under `STAGE.METRIC`, with sample size
and interval where they have one, and whose blocks hold the lineage and the licences of the training documents.

Not here: the HTML page and `report.json`, which are derived from the sealed run folder, and whatever depends on clock
or machine (times, memory, energy, versions), which stands in the ledger.
"""

from __future__ import annotations

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.figures import Block, Figure
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, Rederived, many, stage


class ReportSettings(Settings):
    """The report has nothing to choose: it shows everything."""


def recheck(settings: ReportSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Collect them again."""
    from pocketlm.pipeline.rederivation import compared

    return compared(artifact, *collected(inputs))


@stage(version=1, inputs={"stages": many("*")}, output="report", recheck=recheck)
def report(settings: ReportSettings, inputs: Inputs, context: Context) -> Artifact:
    """Collect the figures, lineage and licences of all stages."""
    return context.draft("report").commit(*collected(inputs))


def collected(inputs: Inputs) -> tuple[dict[str, Figure], list[Block]]:
    """The figures of every stage by their full names; lineage and licences as blocks."""
    from pocketlm.pipeline.figures import table
    from pocketlm.reporting.reading import lineage, stage_view
    from pocketlm.reporting.sections import licence_blocks

    stages = [stage_view(name, artifact) for name, artifact in inputs.many("stages").items()]
    metrics = {f"{view.name}.{name}": figure for view in stages for name, figure in view.metrics.items()}
    columns = ["stage", "kind", "inputs", "fingerprint", "digest"]
    blocks = [table("Lineage", columns, lineage(stages)), *licence_blocks(stages)]
    return metrics, blocks
