"""GGUF files that we export, in llama.cpp: same tokens, same text, same likeliest tokens, and what rounding costs.

    python -m bench.llama_cpp_parity MODEL... --llama-python PYTHON [--text FILE] [--tokens 4096] [--dither]

PYTHON is an interpreter that has llama-cpp-python and numpy. Each MODEL is exported by us in every GGUF type. Then

- llama.cpp tokenizes `--texts` texts (`bench/llama_cpp_texts.py`) as they are, and as chats with special tokens read;
- both programs go over the same windows of `--text` (the language reference that comes with Python, unless given):
  likeliest token at each place, log-probability of the next one, logits; llama.cpp computes with the file's own numbers
  (it rounds activations, too), we with the numbers read from the file, in fp32;
- both continue prompts greedily;
- llama.cpp quantises our F32 file by itself: types of the tensors, bytes, errors of the weights beside ours, and where
  bytes differ the loss of its file.

`--dither` spreads the weights of a quantised MODEL evenly over the steps that they were rounded to: weights that lie on
a coarse grid lose little when they are rounded to a similar one.

Models that the result file holds from earlier runs stay in it.

Exit code 1 if tokens differ, or the likeliest tokens of the F16 file agree at fewer than 99.5 % of places, or a greedy
text of the F16 file parts where llama.cpp's two likeliest tokens are more than `NEAR_TIE` apart.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import RESULTS, write_result
from bench.llama_cpp_child import ask, scores
from bench.llama_cpp_texts import texts
from pocketlm.data.tokens.chat import encode_chat
from pocketlm.data.tokens.tokenizer import Tokenizer
from pocketlm.evaluation.models.gguf_export import StoredKind, write_gguf_file
from pocketlm.evaluation.models.loading import load, locate
from pocketlm.evaluation.models.model_card import Provenance
from pocketlm.generation.engine import Engine
from pocketlm.generation.requests import Request
from pocketlm.model.formats.gguf import load_gguf
from pocketlm.model.formats.gguf_file import GGUFFile
from pocketlm.model.formats.gguf_types import FILE_TYPES, UNQUANTISED
from pocketlm.model.transformer import Transformer

WANTED = 0.995
NEAR_TIE = 0.05
NEW_TOKENS = 48
LOGIT_PLACES = 512
PROMPTS = (
    "The capital of France is", "def median(values):\n    ", "In 1869 Mendeleev ordered the elements by",
    "1, 1, 2, 3, 5, 8,", "A function that is called with", "The",
)  # fmt: skip
QUESTIONS = ("What is 17 + 25?", "Name three colours.", "12+34=", "Say it in French: good morning.")


@dataclass(frozen=True)
class Subject:
    """A model under test: its files by type, and what is asked of each."""

    tokenizer: Tokenizer
    files: dict[str, Path]
    windows: list[list[int]]
    text_bytes: int
    prompts: list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--llama-python", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="held-out text, UTF-8")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dither", action="store_true")
    parser.add_argument("--types", default=",".join(FILE_TYPES), help="f32 and others, separated by commas")
    parser.add_argument("--name", default="llama_cpp_parity", help="of the result file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prose = options.text.read_text(encoding="utf-8") if options.text else language_reference()
    failed = []
    before = RESULTS / f"{options.name}.json"
    results = json.loads(before.read_bytes())["models"] if before.exists() else {}
    for path in options.models:
        with tempfile.TemporaryDirectory() as folder:
            result = examine(path, Path(folder), prose, options)
        name = (path.stem if path.is_file() else path.resolve().name) + (", dithered" if options.dither else "")
        results[name] = {"text": options.text.name if options.text else "pydoc_data.topics", **result}
        failed += [f"{name}: {fault}" for fault in faults(result)]
        print(write_result(options.name, {"models": results}, ("gguf",)))
    if failed:
        sys.exit("\n".join(failed))


def language_reference() -> str:
    """Python's language reference, as `help()` shows it."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def examine(path: Path, folder: Path, prose: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one model; prints as it goes."""
    model, tokenizer = load(path)
    if options.dither:
        dither(locate(path).folder, model, tokenizer, folder / "dithered.gguf")
        model = load_gguf(folder / "dithered.gguf").eval()
    files, stored = {}, {}
    for file_type in options.types.split(","):
        files[file_type] = folder / f"{file_type}.gguf"
        stored[file_type] = write_gguf_file(files[file_type], model, tokenizer, file_type, Provenance("parity", "none"))
    length = min(512, model.settings.context)
    windows, text_bytes = windows_of(tokenizer, prose, length, options.tokens)
    prompts = [[tokenizer.text_start, *tokenizer.encode(prompt)] for prompt in PROMPTS]
    prompts += [encode_chat(tokenizer, [{"role": "user", "content": text}], True)[0] for text in QUESTIONS]
    subject = Subject(tokenizer, files, windows, text_bytes, prompts)
    result: dict[str, Any] = {"parameters": model.settings.parameter_count()}
    result |= {"windows": len(windows), "places": sum(len(ids) - 1 for ids in windows), "bytes": text_bytes}
    result["tokenizer"] = tokenizer_parity(subject, prose, options)
    print(f"{path}: {result['tokenizer']}")
    rows: dict[str, Any] = {}
    reference: list[dict[str, list[float]]] = []
    for file_type, file in files.items():
        rows[file_type], own = file_row(file, subject, options, reference, folder)
        reference = reference or own
        rows[file_type] |= size_row(file, stored[file_type])
        print(
            f"  {file_type}: "
            + ", ".join(f"{key} {value}" for key, value in rows[file_type].items() if key != "stored")
        )
    for row in rows.values():
        row["loss"] = round(row["ours_bits_per_byte"] - rows["f32"]["ours_bits_per_byte"], 6)
        row["loss_in_llama_cpp"] = round(row["llama_cpp_bits_per_byte"] - rows["f32"]["llama_cpp_bits_per_byte"], 6)
    result["files"] = rows
    result["quantiser"] = quantisers(subject, folder, options, rows["f32"]["ours_bits_per_byte"])
    return result


def windows_of(tokenizer: Tokenizer, prose: str, length: int, tokens: int) -> tuple[list[list[int]], int]:
    """Windows of at most `length` ids that each begin as a document, and the bytes of text that they hold."""
    ids = tokenizer.encode(prose)[:tokens]
    windows = [[tokenizer.text_start, *ids[at : at + length - 1]] for at in range(0, len(ids), length - 1)]
    return windows, sum(len(tokenizer.decode(window[1:]).encode()) for window in windows)


def tokenizer_parity(subject: Subject, prose: str, options: argparse.Namespace) -> dict[str, Any]:
    """Ids of plain texts, and of conversations with their special tokens."""
    plain = texts(prose, options.texts)
    chats = [[{"role": "user", "content": text.strip()}] for text in plain if "<|" not in text and text.strip()]
    wanted = [subject.tokenizer.encode(text) for text in plain]
    wanted += [encode_chat(subject.tokenizer, chat, True)[0] for chat in chats]
    rendered = [rendered_chat(subject.tokenizer, chat) for chat in chats]
    request = {"model": str(subject.files["f16"]), "context": 64, "threads": 1, "score": [], "greedy": []}
    request["tokenize"] = [[text, False] for text in plain] + [[text, True] for text in rendered]
    found = ask(options.llama_python, request)
    asked = [*plain, *rendered]
    differing = [asked[at] for at, ids in enumerate(found["tokens"]) if ids != wanted[at]]
    known = {"texts": len(plain), "conversations": len(chats), "tokens": sum(map(len, wanted))}
    return {"version": found["version"], **known, "differing": len(differing), "examples": differing[:10]}


def rendered_chat(tokenizer: Tokenizer, chat: Sequence[dict[str, str]]) -> str:
    from pocketlm.data.tokens.chat import render

    return render(chat, True) if tokenizer.chat_template is None else tokenizer.chat_template.render(chat, True)


def file_row(
    file: Path,
    subject: Subject,
    options: argparse.Namespace,
    reference: Sequence[dict[str, list[float]]],
    folder: Path,
) -> tuple[dict[str, Any], list[dict[str, list[float]]]]:
    """One file in both programs: agreement, bits per byte, logits, greedy texts. Also our scores."""
    model = load_gguf(file).eval()
    ours, ours_logits = our_scores(model, subject.windows)
    request = {
        "model": str(file), "context": max(map(len, subject.windows)), "threads": options.threads, "tokenize": [],
        "greedy": [[ids, NEW_TOKENS] for ids in subject.prompts], "cache": "f16",
    }  # fmt: skip
    request |= {"score": subject.windows, "logits": str(folder / "logits.npy")}
    theirs = ask(options.llama_python, request)
    theirs_logits = np.load(folder / "logits.npy")[:LOGIT_PLACES]
    difference = np.abs(theirs_logits - ours_logits)
    row = {
        "ours_bits_per_byte": bits_per_byte(ours, subject.text_bytes),
        "llama_cpp_bits_per_byte": bits_per_byte(theirs["scores"], subject.text_bytes),
        "agreement": agreement(ours, theirs["scores"]),
        "agreement_with_our_f32": agreement(reference or ours, ours),
        "llama_cpp_agreement_with_our_f32": agreement(reference or ours, theirs["scores"]),
        "largest_logit_difference": round(float(difference.max()), 5),
        "logit_difference": round(float(np.sqrt(np.square(difference).mean())), 6),
        "logit_deviation": round(float(ours_logits.std()), 4),
        **greedy_row(model, subject.prompts, theirs["greedy"]),
    }
    return row, ours


@torch.inference_mode()
def our_scores(model: Transformer, windows: Sequence[list[int]]) -> tuple[list[dict[str, list[float]]], np.ndarray]:
    """As the child's, and the logits of the first places."""
    found = []
    kept = np.zeros(0)
    for ids in windows:
        logits = model(torch.tensor([ids]))[0].numpy()
        kept = kept if len(kept) else logits[:LOGIT_PLACES].copy()
        found.append(scores(logits, ids))
    return found, kept


def bits_per_byte(found: Sequence[dict[str, list[float]]], text_bytes: int) -> float:
    nats = -sum(sum(window["log_probabilities"]) for window in found)
    return round(nats / math.log(2) / text_bytes, 6)


def agreement(one: Sequence[dict[str, list[float]]], other: Sequence[dict[str, list[float]]]) -> float:
    """Share of places with the same likeliest token."""
    pairs = [(a["likeliest"], b["likeliest"]) for a, b in zip(one, other, strict=True)]
    same = sum(x == y for a, b in pairs for x, y in zip(a, b, strict=True))
    return round(same / sum(len(a) for a, _ in pairs), 6)


@torch.inference_mode()
def greedy_row(model: Transformer, prompts: Sequence[list[int]], theirs: Sequence[list[int]]) -> dict[str, Any]:
    """How many greedy texts are equal; of the others the lead of our choice where they part."""
    completions = Engine(model).generate([Request(ids, NEW_TOKENS) for ids in prompts])
    leads = []
    for ids, [ours], other in zip(prompts, completions, theirs, strict=True):
        place = next((at for at, pair in enumerate(zip(ours.tokens, other, strict=True)) if pair[0] != pair[1]), None)
        if place is not None:
            logits = model(torch.tensor([[*ids, *other[:place]]]))[0, -1]
            leads.append(round(float(logits[ours.tokens[place]] - logits[other[place]]), 5))
    return {"greedy_texts": len(prompts), "greedy_equal": len(prompts) - len(leads), "leads_where_they_part": leads}


def size_row(file: Path, stored: Sequence[StoredKind]) -> dict[str, Any]:
    whole = sum(kind.bytes for kind in stored)
    weights = sum(kind.weights for kind in stored)
    return {
        "file_bytes": file.stat().st_size,
        "bits_a_weight": round(8 * whole / weights, 4),
        "stored": [{**asdict(kind), "error": float(f"{kind.error:.4g}")} for kind in stored],
    }


def quantisers(subject: Subject, folder: Path, options: argparse.Namespace, whole: float) -> dict[str, Any]:
    """llama.cpp's quantiser beside ours, from the same F32 file: types, equal bytes, errors, loss of bits per byte."""
    original = GGUFFile(subject.files["f32"])
    rows = {}
    for file_type in subject.files:
        kind = FILE_TYPES[file_type]
        if kind.kind in UNQUANTISED:
            continue
        target = folder / f"theirs-{file_type}.gguf"
        ask(options.llama_python, {"quantise": str(subject.files["f32"]), "to": str(target), "type": kind.number})
        pair = {"ours": GGUFFile(subject.files[file_type]), "llama_cpp": GGUFFile(target)}
        kinds = [{name: place.kind for name, place in file.tensors.items()} for file in pair.values()]
        rows[file_type] = {"same_types": kinds[0] == kinds[1], "by_type": by_type(original, pair)}
        if any(row["equal_bytes"] < 1 for row in rows[file_type]["by_type"].values()):
            found, _ = our_scores(load_gguf(target).eval(), subject.windows)
            rows[file_type]["loss_of_theirs"] = round(bits_per_byte(found, subject.text_bytes) - whole, 6)
        print(f"  quantised by llama.cpp, {file_type}: {rows[file_type]}")
        target.unlink()
    return rows


def by_type(original: GGUFFile, pair: dict[str, GGUFFile]) -> dict[str, dict[str, float]]:
    """Tensor type -> share of equal bytes and relative errors, over the tensors that both store in it."""
    sums: dict[str, np.ndarray] = {}
    for name, place in pair["ours"].tensors.items():
        if place.kind in UNQUANTISED or pair["llama_cpp"].tensors[name].kind != place.kind:
            continue
        exact = original.tensor(name).astype(np.float64)
        raw = [stored_bytes(file, name) for file in pair.values()]
        errors = [np.square(file.tensor(name) - exact).sum() for file in pair.values()]
        row = np.array([(raw[0] == raw[1]).sum(), len(raw[0]), *errors, np.square(exact).sum()])
        sums[place.kind] = sums.get(place.kind, np.zeros(5)) + row
    return {
        kind: {
            "equal_bytes": round(float(row[0] / row[1]), 6),
            "our_error": float(f"{math.sqrt(row[2] / row[4]):.6g}"),
            "their_error": float(f"{math.sqrt(row[3] / row[4]):.6g}"),
        }
        for kind, row in sums.items()
    }


def stored_bytes(file: GGUFFile, name: str) -> np.ndarray:
    place = file.tensors[name]
    return np.fromfile(file.path, np.uint8, place.size, offset=place.offset)


def dither(source: Path, model: Transformer, tokenizer: Tokenizer, target: Path) -> None:
    """Write `model`, read from `source`, as F32 with each rounded weight moved by up to half a step of its block."""
    from gguf import GGMLQuantizationType, GGUFReader

    write_gguf_file(target, model, tokenizer, "f32", Provenance("dithered", "none"))
    kinds = {GGMLQuantizationType.Q4_1: (32, 20), GGMLQuantizationType.Q8_0: (32, 34)}
    generator = np.random.default_rng(0)
    steps = {}
    for tensor in GGUFReader(source).tensors:
        if tensor.tensor_type in kinds:
            weights, size = kinds[tensor.tensor_type]
            blocks = np.array(tensor.data).reshape(-1, size)
            step = np.abs(blocks[:, :2].copy().view(np.float16).astype(np.float32))
            steps[tensor.name] = np.repeat(step.ravel(), weights)
    for tensor in GGUFReader(target, "r+").tensors:
        if tensor.name in steps:
            noise = generator.uniform(-0.5, 0.5, len(steps[tensor.name])).astype(np.float32)
            tensor.data[:] += (noise * steps[tensor.name]).reshape(tensor.data.shape)


def faults(result: dict[str, Any]) -> list[str]:
    """What the exit code reports."""
    found = []
    if result["tokenizer"]["differing"]:
        found.append(f"{result['tokenizer']['differing']} texts have other tokens")
    half = result["files"]["f16"]
    if half["agreement"] < WANTED:
        found.append(f"the likeliest tokens of the F16 file agree at {half['agreement']:.2%} of places")
    if any(lead > NEAR_TIE for lead in half["leads_where_they_part"]):
        found.append(f"greedy texts of the F16 file part by {max(half['leads_where_they_part'])}")
    return found


if __name__ == "__main__":
    main()
