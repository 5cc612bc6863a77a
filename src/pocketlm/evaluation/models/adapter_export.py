"""The adapter that a model was trained by, as a folder of its own in peft's format."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pocketlm.errors import InputError
from pocketlm.evaluation.models.hugging_face import require_new_folder
from pocketlm.evaluation.models.loading import ModelLocation
from pocketlm.model.formats.peft import ADAPTER, CONFIG, adapter_files
from pocketlm.pipeline.storage import temporary_beside

USE = """# Adapter

A LoRA adapter in peft's format, trained by the stage `{stage}` on the model of the stage `{base}` (digest {digest}).
It means nothing beside other weights. Write that model as a Hugging Face folder first:

    pocketlm export RUN/artifacts/{base} --to hf BASE

and load both:

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("BASE", dtype="float32")
    model = PeftModel.from_pretrained(base, "ADAPTER")

`base_model_name_or_path` in adapter_config.json is empty: tools that look it up need the place of BASE there.
"""


def export_adapter(model: ModelLocation, folder: Path) -> list[str]:
    """Behind `pocketlm export MODEL --to peft DIR`: write DIR whole or not at all; returns what to print.

    Raises:
        InputError: the model was not trained by an adapter, or `folder` exists and is not empty.
    """
    require_new_folder(folder)
    artifact = model.artifact
    if artifact is None or f"{ADAPTER}/{CONFIG}" not in artifact.manifest["files"]:
        raise InputError(
            f"{model.folder} has no adapter: it is not the model of a stage that trained one (setting `lora`). "
            "Export the whole model, or name the artifact of that stage"
        )
    base = artifact.manifest["inputs"]["model"]
    temporary = temporary_beside(folder.resolve())
    temporary.mkdir(parents=True)
    try:
        for name, path in adapter_files(artifact.path / ADAPTER).items():
            shutil.copyfile(path, temporary / name)
        text = USE.format(stage=artifact.stage, base=base["stage"], digest=base["digest"])
        (temporary / "README.md").write_text(text, encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [f"its base is the model of the stage {base['stage']}, to be exported with --to hf"]
