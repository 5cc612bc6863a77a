"""Stage `export`: the final model as a Hugging Face folder that other tools load without our code.

In: a model; the curated documents (licences of the training text) and the evaluation (scores of the card), if given.
Out: config, weights (fp32), tokenizer, chat template, generation settings, model card, licence note.

The folder is loaded in transformers before it is committed: logits within 1e-4, greedy text equal, or the stage fails.
"""

from __future__ import annotations

from pocketlm.pipeline.artifact import Artifact
from pocketlm.pipeline.context import Context
from pocketlm.pipeline.settings import Settings
from pocketlm.pipeline.stage import Inputs, Rederived, optional, stage


class ExportSettings(Settings):
    """What the model card is headed with."""

    title: str = "pocketlm model"


def recheck(settings: ExportSettings, artifact: Artifact, inputs: Inputs, context: Context) -> Rederived:
    """Hold the exported weights against the model's, and load the folder in transformers again."""
    from pocketlm.evaluation.models.export_recheck import recheck_export
    from pocketlm.evaluation.models.model_card import provenance_of

    source = inputs["model"]
    provenance = provenance_of(settings.title, source, inputs.get("documents"), inputs.get("evaluation"))
    return recheck_export(artifact, source, provenance)


@stage(
    version=2,
    inputs={"model": "model", "documents": optional("documents"), "evaluation": optional("evaluation")},
    output="hugging_face",
    recheck=recheck,
)
def export(settings: ExportSettings, inputs: Inputs, context: Context) -> Artifact:
    """Write the Hugging Face folder and check it against transformers."""
    from pocketlm.evaluation.inputs import open_model
    from pocketlm.evaluation.models.hugging_face import check_agreement, folder_blocks, write_folder
    from pocketlm.evaluation.models.model_card import provenance_of
    from pocketlm.training.device import prepare

    prepare(context.runtime)
    artifact = inputs["model"]
    model, tokenizer = open_model(artifact, "cpu")
    draft = context.draft("hugging_face")
    provenance = provenance_of(settings.title, artifact, inputs.get("documents"), inputs.get("evaluation"))
    write_folder(draft.path, model, tokenizer, artifact.path, provenance)
    agreement = check_agreement(draft.path, model, tokenizer)
    files = {path.name: path.stat().st_size for path in draft.path.iterdir()}
    metrics = {
        "parameters": model.settings.parameter_count(),
        "logit_difference": agreement.logit_difference,
        "same_greedy_text": "yes" if agreement.same_text else "no",
    }
    return draft.commit(metrics, folder_blocks(agreement.logit_difference, files))
