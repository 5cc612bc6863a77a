"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeArgument = Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.", metavar="RECIPE")]
ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A run folder (its final model), an artifact folder, or a Hugging Face folder.", metavar="MODEL"
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override one setting, e.g. pretrain.steps=200.", metavar="PATH=VALUE")
]
TopOption = Annotated[
    float, typer.Option("--top-p", help="Draw among the likeliest tokens that hold this probability together.")
]
RouterMeasure = Annotated[
    str, typer.Option(help="Confidence: mean, or window (the least sure 8 tokens in a row).", metavar="MEASURE")
]
ScaleOption = Annotated[str | None, typer.Option(help="A scale of the recipe, e.g. rehearsal (everything, tiny).")]
