"""Merging: ours against mergekit, on the same exported files.

    python -m venv env; env/bin/pip install mergekit==0.1.5
    python -m bench.merge_parity env/bin/mergekit-yaml

Makes a base and three models of its shape (a small Llama of random weights with tied embeddings, and changes to it of
several sizes), exports them, merges them by both and compares the fp32 results tensor by tensor; mergekit too is told
to compute in fp64. The difference of a tensor is the largest of its numbers over the largest number of the tensor; one
of more than 1e-6 is a failure.

Two things differ and are set apart. mergekit's TIES compares sizes in fp32, so that of two changes that are equal in
fp32 at the border of the trim it may keep the other: such numbers are counted and left out. mergekit's DARE makes what
it keeps as large in sum as it was, where the paper and we divide by the density, and its masks are not ours: it is
compared at density 1, where neither shows. SLERP of tensors that are zero is not compared.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bench.common import write_result
from pocketlm.model.config import ModelSettings
from pocketlm.model.formats.hugging_face import export_weights
from pocketlm.model.transformer import Transformer
from pocketlm.posttraining.merging.interpolation import StateDict, interpolate_weights, linear, slerp
from pocketlm.posttraining.merging.methods import dare, task_arithmetic, ties, trimmed

SETTINGS = ModelSettings(
    vocabulary=512, width=96, layers=3, heads=4, kv_heads=2, head_dim=24, ffn_width=256, context=128
)
CHANGES = {"a": 0.01, "b": 0.05, "c": 0.4}
"""Size of what a model has learned, as a share of the base's weights; the last is not nearly parallel to the base."""
WEIGHTS = {"a": 1.0, "b": 0.5, "c": 2.0}
SCALE, DENSITY, SHARE = 0.6, 0.3, 0.35
LARGEST = 1e-6

Weights = dict[str, StateDict]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("program", type=Path, help="mergekit-yaml of an environment with mergekit 0.1.5")
    program: Path = parser.parse_args().program
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        weights = made_models(Path(folder))
        for name, (recipe, ours) in methods(Path(folder)).items():
            theirs = merged_by_mergekit(program, recipe, Path(folder) / "merged" / name)
            border = trim_border(weights) if name == "ties" else {}
            rows.append({"method": name, **compared(ours(weights), theirs, border)})
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
    version = subprocess.run(
        [program.parent / "python", "-c", "from importlib.metadata import version; print(version('mergekit'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    worst = max(row["largest_relative_difference"] for row in rows)
    payload: dict[str, Any] = {
        "mergekit": version,
        "models": {"settings": SETTINGS.model_dump(mode="json", exclude_none=True), "changes": CHANGES},
        "weights": WEIGHTS,
        "scale": SCALE,
        "density": DENSITY,
        "share": SHARE,
        "methods": rows,
        "largest_relative_difference": worst,
    }
    print(write_result("merge_parity", payload, ("safetensors",)))
    if worst > LARGEST:
        sys.exit("the two programs do not agree")


def made_models(folder: Path) -> Weights:
    """Export the base and the models made from it; their weights as the files hold them."""
    made: Weights = {}
    for number, (name, change) in enumerate({"base": 0.0, **CHANGES}.items()):
        model = Transformer(SETTINGS)
        model.init_weights(0)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                size = change * parameter.square().mean().sqrt()
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
        path = folder / name
        path.mkdir()
        export_weights(model, path, end_of_text=0, end_of_turn=1)
        made[name] = load_file(path / "model.safetensors")
    return made


def methods(folder: Path) -> dict[str, tuple[dict[str, Any], Callable[[Weights], Mapping[str, torch.Tensor]]]]:
    """Name -> mergekit's recipe, and what we make of the same weights."""
    factors = list(WEIGHTS.values())
    shares = [factor / sum(factors) for factor in factors]

    def tuned(weights: Weights) -> list[StateDict]:
        return [weights[name] for name in CHANGES]

    def recipe(method: str, parameters: Mapping[str, Any], density: float | None = None) -> dict[str, Any]:
        models = []
        for name, weight in WEIGHTS.items():
            own = {"weight": weight} if density is None else {"weight": weight, "density": density}
            models.append({"model": str(folder / name), "parameters": own})
        base = {} if method == "linear" else {"base_model": str(folder / "base")}
        return {"merge_method": method, "models": models, "parameters": dict(parameters), "dtype": "float64", **base}

    def pair(method: str, other: str) -> dict[str, Any]:
        models = [{"model": str(folder / name)} for name in ("base", other)]
        if method == "linear":
            for model, share in zip(models, (1 - SHARE, SHARE), strict=True):
                model["parameters"] = {"weight": share}  # type: ignore[assignment]
            return {"merge_method": method, "models": models, "dtype": "float64"}
        base = {"base_model": str(folder / "base"), "parameters": {"t": SHARE}}
        return {"merge_method": method, "models": models, "dtype": "float64", **base}

    plain, voted = {"lambda": SCALE, "normalize": False}, {"lambda": SCALE, "normalize": True}
    unscaled = {**plain, "rescale": False}
    return {
        "interpolation": (pair("linear", "c"), lambda w: interpolate_weights(w["base"], w["c"], SHARE)),
        "linear of three": (recipe("linear", {}), lambda w: linear(tuned(w), shares)),
        "slerp": (pair("slerp", "c"), lambda w: slerp(w["base"], w["c"], SHARE)),
        "slerp, nearly parallel": (pair("slerp", "a"), lambda w: slerp(w["base"], w["a"], SHARE)),
        "task arithmetic": (
            recipe("task_arithmetic", plain),
            lambda w: task_arithmetic(w["base"], tuned(w), SCALE, factors),
        ),
        "ties": (recipe("ties", voted, DENSITY), lambda w: ties(w["base"], tuned(w), SCALE, DENSITY, factors)),
        "ties, untrimmed": (recipe("ties", voted, 1.0), lambda w: ties(w["base"], tuned(w), SCALE, 1.0, factors)),
        "dare linear, density 1": (
            recipe("dare_linear", unscaled, 1.0),
            lambda w: dare(w["base"], tuned(w), SCALE, 1.0, 0, False, factors),
        ),
        "dare ties, density 1": (
            recipe("dare_ties", unscaled, 1.0),
            lambda w: dare(w["base"], tuned(w), SCALE, 1.0, 0, True, factors),
        ),
    }


def merged_by_mergekit(program: Path, recipe: Mapping[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    """The tensors that mergekit writes for a recipe."""
    import yaml

    folder.mkdir(parents=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, "out_dtype": "float32"}))
    done = subprocess.run([program, path, folder / "out"], check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{program} failed on {recipe['merge_method']}:\n{done.stderr[-3000:]}")
    merged: dict[str, torch.Tensor] = {}
    for file in sorted((folder / "out").glob("*.safetensors")):
        merged |= load_file(file)
    return merged


def trim_border(weights: Weights) -> StateDict:
    """Where the change of a model is, rounded to fp32, as large as the smallest that TIES keeps of its tensor."""
    border = {}
    for name, base in weights["base"].items():
        border[name] = torch.zeros(base.shape, dtype=torch.bool)
        for model in CHANGES:
            change = weights[model][name].double() - base.double()
            kept = trimmed(change, DENSITY)
            border[name] |= change.abs().float() == kept[kept != 0].abs().min().float()
    return border


def compared(ours: StateDict, theirs: StateDict, border: StateDict) -> dict[str, Any]:
    """How far two models are apart; tensors must be the same and fp32. Numbers that differ at a border are counted."""
    if ours.keys() != theirs.keys():
        sys.exit(f"the two programs write other tensors: {sorted(ours.keys() ^ theirs.keys())}")
    largest, equal, left_out = 0.0, 0, 0
    for name, tensor in theirs.items():
        if not tensor.dtype == ours[name].dtype == torch.float32:
            sys.exit(f"tensor {name} is {ours[name].dtype} of ours and {tensor.dtype} of mergekit")
        difference = (ours[name].double() - tensor.double()).abs()
        equal += int((difference == 0).sum())
        if name in border:
            left_out += int((border[name] & (difference != 0)).sum())
            difference = difference.masked_fill(border[name], 0.0)
        largest = max(largest, float(difference.max() / tensor.double().abs().max()))
    return {
        "tensors": len(ours),
        "numbers": sum(tensor.numel() for tensor in ours.values()),
        "equal_numbers": equal,
        "left_out_at_the_border": left_out,
        "largest_relative_difference": largest,
    }


if __name__ == "__main__":
    main()
