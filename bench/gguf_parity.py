"""Our reader of GGUF beside transformers' on one real file: weights bit for bit, logits and greedy text in fp32.

    python -m bench.gguf_parity MODEL.gguf

Prints a table and writes bench/results/gguf_parity.json. Beside the largest difference of a logit stand the same in
fp64, and how far each program is from itself in fp64: the noise of fp32 at the size of this model's activations. It
fails when a weight or a text differs, or when the difference in fp32 is more than the noise of both.

Needs accelerate. Does not cover: our tokenizer (the tokens are those that transformers reads from the file).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from bench.common import write_result
from pocketlm.generation.engine import Engine, Request
from pocketlm.model.formats.gguf import gguf_number_types, load_gguf
from pocketlm.model.formats.hugging_face import to_hugging_face
from pocketlm.pipeline.storage import sha256_file

NEW_TOKENS = 48
TEXTS = (
    "The capital of France is",
    "def median(values):\n    values = sorted(values)\n    middle = len(values) // 2\n",
    "Water boils at a lower temperature in the mountains than at the sea, because the pressure of the air is lower "
    "there. A cook who follows a recipe from the coast therefore has to",
    "<|im_start|>user\nWhat is 17 + 25?<|im_end|>\n<|im_start|>assistant\n",
    "1, 1, 2, 3, 5, 8, 13, 21, 34,",
    "In 1869 Mendeleev ordered the elements by their weight and left gaps. Gallium, scandium and germanium were found "
    "later, with the properties that he had predicted. The lesson that historians draw from this is",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("file", type=Path, help="a GGUF file of the architecture llama or qwen3")
    path: Path = parser.parse_args().file
    import transformers

    transformers.utils.logging.disable_progress_bar()
    began = perf_counter()
    ours = load_gguf(path).eval()
    seconds = {"ours": round(perf_counter() - began, 2)}
    began = perf_counter()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    seconds["transformers"] = round(perf_counter() - began, 2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    weights = theirs.state_dict()
    differing = [name for name, weight in to_hugging_face(ours).items() if not torch.equal(weight, weights[name])]

    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    texts = [compare(prompt, ours, theirs) for prompt in prompts]
    ours, theirs = ours.double(), theirs.double()
    texts = [row | noise(row, ours, theirs) for row in texts]
    rows = [{key: value for key, value in row.items() if key not in ("tokens", "logits")} for row in texts]
    for row in rows:
        print("  ".join(f"{key} {value:.3g}" for key, value in row.items()))
    payload: dict[str, Any] = {
        "file": {"name": path.name, "sha256": sha256_file(path), "tensors": gguf_number_types(path)},
        "differing_weights": len(differing),
        "largest_logit_difference": max(row["difference"] for row in rows),
        "largest_logit_difference_fp64": max(row["difference_fp64"] for row in rows),
        "largest_logit": max(row["largest_logit"] for row in rows),
        "fp32_noise": {name: max(row[f"{name}_noise"] for row in rows) for name in ("ours", "transformers")},
        "greedy_equal": all(row["same_text"] for row in rows),
        "seconds_to_load": seconds,
        "texts": rows,
    }
    print(f"differing weights {len(differing)}, largest logit difference {payload['largest_logit_difference']:.2g}")
    print(write_result("gguf_parity", payload, ("gguf", "transformers", "accelerate")))
    allowed = sum(payload["fp32_noise"].values())
    if differing or not payload["greedy_equal"] or payload["largest_logit_difference"] > allowed:
        sys.exit("the two programs do not agree")


@torch.inference_mode()
def compare(prompt: list[int], ours: Any, theirs: Any) -> dict[str, Any]:
    """Greedy text of both from a prompt, and their logits on prompt and text."""
    ((completion,),) = Engine(ours).generate([Request(prompt, NEW_TOKENS)])
    prompt_BT = torch.tensor([prompt])
    generated_BT = theirs.generate(
        prompt_BT, attention_mask=torch.ones_like(prompt_BT), max_new_tokens=NEW_TOKENS, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    tokens_BT = torch.tensor([prompt + completion.tokens])
    logits = {"ours": ours(tokens_BT), "transformers": theirs(tokens_BT).logits}
    return {
        "positions": tokens_BT.shape[1],
        "difference": float((logits["ours"] - logits["transformers"]).abs().max()),
        "largest_logit": float(logits["ours"].abs().max()),
        "same_text": int(generated_BT[0].tolist() == tokens_BT[0].tolist()),
        "tokens": tokens_BT,
        "logits": logits,
    }


@torch.inference_mode()
def noise(row: dict[str, Any], ours: Any, theirs: Any) -> dict[str, float]:
    """How far the fp32 logits of a row are from those of the same program with weights and activations in fp64.

    transformers keeps its norms in fp32 all the same, so that the two programs do not meet exactly.
    """
    exact = {"ours": ours(row["tokens"]), "transformers": theirs(row["tokens"]).logits}
    noises = {f"{name}_noise": float((exact[name] - row["logits"][name]).abs().max()) for name in exact}
    return {"difference_fp64": float((exact["ours"] - exact["transformers"]).abs().max()), **noises}


if __name__ == "__main__":
    main()
