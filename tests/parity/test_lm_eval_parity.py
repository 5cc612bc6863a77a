"""Our adapter against lm-evaluation-harness's own Hugging Face model on the exported folder, item by item.

What must be equal is equal: hashes, answers, verdicts, greedy flags. Log-likelihoods are sums of float32 numbers that
two programs add in other orders: they agree to 1e-5 of their size.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pocketlm.data.tokens.chat import render
from pocketlm.errors import InputError
from pocketlm.evaluation import scoring
from pocketlm.evaluation.adapter import PocketLM
from pocketlm.evaluation.benchmarks.tasks import SIX, find_benchmarks
from pocketlm.evaluation.harness import Evaluation, Suite, open_suite
from pocketlm.evaluation.models.exports import export_hugging_face
from pocketlm.evaluation.models.loading import locate
from pocketlm.evaluation.scores import summarise
from pocketlm.evaluation.task_data import TaskData, find_files, read_benchmarks, read_task_data
from pocketlm.model.joined_rows import joined_hidden
from tests.benchmark_files import write_benchmarks
from tests.evaluation_world import run_folder, texts, trained, write_data

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parity")
    export_hugging_face(locate(run_folder(root)), root / "hf")
    return root / "hf"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    folder = write_data(tmp_path_factory.mktemp("data") / "tasks")
    with open_suite(read_task_data(find_files(folder))) as opened:
        yield opened


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    files = find_benchmarks(write_benchmarks(tmp_path_factory.mktemp("benchmarks"), SIX))
    with open_suite(read_benchmarks(TaskData({}), files)) as opened:
        yield opened


@pytest.fixture(scope="module")
def ours(suite: Suite) -> Evaluation:
    return suite.evaluate(PocketLM(*trained()))


class Recorder(PocketLM):
    """Notes the requests that the harness hands over."""

    asked: list[Any]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        self.asked = list(requests)
        return super().loglikelihood(requests)


@pytest.fixture(scope="module")
def choices(benchmarks: Suite) -> list[list[Any]]:
    """The harness's requests of all six tasks, item by item."""
    recorder = Recorder(*trained())
    benchmarks.evaluate(recorder)
    items: dict[tuple[str, int], list[Any]] = {}
    for request in recorder.asked:
        items.setdefault((request.task_name, request.doc_id), []).append(request)
    return list(items.values())


@pytest.fixture(scope="module")
def stock(exported: Path) -> Any:
    """The harness's Hugging Face model on the exported folder, as `lm_eval --model hf` makes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=str(exported), device="cpu", dtype="float32", batch_size=8)


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type=kind, doc={}, arguments=args, idx=0, metadata=("test", n, 1))  # type: ignore[arg-type]
        for n, args in enumerate(arguments)
    ]


def test_the_stock_harness_gives_the_same_scores_item_by_item(suite: Suite, ours: Evaluation, stock: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = suite.evaluate(stock)
    assert list(ours.items) == list(theirs.items)
    for task, rows in ours.items.items():
        for mine, other in zip(rows, theirs.items[task], strict=True):
            assert mine.pop("log_likelihood", 0.0) == pytest.approx(other.pop("log_likelihood", 0.0), rel=1e-5)
            assert mine == other
    for task, metrics in ours.aggregates.items():
        assert metrics == pytest.approx(theirs.aggregates[task], rel=1e-5)


def test_our_scores_are_the_aggregates_of_the_harness(suite: Suite) -> None:
    import numpy as np

    found = suite.evaluate(PocketLM(*trained()))
    scores = summarise(found.items, np.random.default_rng(0))
    names = {"acc": "accuracy"}
    for task, metrics in found.aggregates.items():
        for metric, value in metrics.items():
            assert scores[task][names.get(metric, metric)].value == pytest.approx(value, rel=1e-12), (task, metric)


def test_the_stock_harness_gives_the_same_choices_item_by_item(benchmarks: Suite, stock: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = benchmarks.evaluate(stock)
    mine = benchmarks.evaluate(PocketLM(*trained()))
    assert list(mine.items) == list(theirs.items) == sorted(SIX, key=list(mine.items).index)
    for task, rows in mine.items.items():
        for one, other in zip(rows, theirs.items[task], strict=True):
            for name in {"log_likelihood", "log_likelihoods"} & one.keys():
                assert one.pop(name) == pytest.approx(other.pop(name), rel=1e-5)
            assert one == other


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_scores_do_not_depend_on_the_batch_size(choices: list[list[Any]], batch: int) -> None:
    assert {len(item) for item in choices} == {1, 2, 4}
    adapter = PocketLM(*trained())
    reference = adapter.loglikelihood([request for item in choices for request in item])
    found: list[tuple[float, bool]] = []
    for start in range(0, len(choices), batch):
        found += adapter.loglikelihood([request for item in choices[start : start + batch] for request in item])
    assert found == reference


def test_the_requests_of_an_item_share_a_row_wherever_they_stand(
    choices: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = PocketLM(*trained())
    in_order = [request for item in choices for request in item]
    scattered = sorted(in_order, key=lambda request: request.idx)
    passes: list[list[int]] = []

    def joined(model: Any, tokens: Any, positions: Any, lengths: list[int], masks: Any) -> torch.Tensor:
        passes.append(lengths)
        return joined_hidden(model, tokens, positions, lengths, masks)

    monkeypatch.setattr(scoring, "joined_hidden", joined)
    found = dict(zip(map(id, scattered), adapter.loglikelihood(scattered), strict=True))
    assert sum(map(len, passes)) == len(choices)
    alone = sum(len(adapter.tok_encode("".join(request.args))) - 1 for request in in_order)
    assert sum(map(sum, passes)) < 0.6 * alone
    assert [found[id(request)] for request in in_order] == adapter.loglikelihood(in_order)


def test_an_item_scored_in_parts_differs_in_rounding_only(choices: list[list[Any]]) -> None:
    adapter = PocketLM(*trained())
    for item in choices:
        apart = [adapter.loglikelihood([request])[0] for request in item]
        for (alone, alone_greedy), (score, greedy) in zip(apart, adapter.loglikelihood(item), strict=True):
            assert alone == pytest.approx(score, rel=1e-5)
            assert alone_greedy == greedy


def test_contexts_that_were_cut_are_counted_for_each_task() -> None:
    adapter = PocketLM(*trained())
    room = adapter.max_length + 1 - len(adapter.tok_encode(" the"))
    fits = next(text for text in _falling_texts() if len(adapter.tok_encode(text)) == room)
    adapter.loglikelihood(requests("loglikelihood", [(fits, " the")]))
    assert adapter.truncated == {}
    adapter.loglikelihood(requests("loglikelihood", [("The cat", " saw"), (f"{fits} the", " the")]))
    assert adapter.truncated == {"test": 1}
    options = {"until": ["."], "max_gen_toks": adapter.max_length - 8}
    adapter.generate_until(requests("generate_until", [("The cat", options), (fits, options)]))
    adapter.loglikelihood_rolling(requests("loglikelihood_rolling", [(f"{fits} {fits}",)]))
    assert adapter.truncated == {"test": 2}


def _falling_texts() -> Iterator[str]:
    words = " ".join(texts()).split(" ")[:200]
    return (" ".join(words[:count]) for count in range(len(words), 0, -1))


def test_a_choice_without_text_is_refused() -> None:
    with pytest.raises(InputError, match="task test, document 1: a choice has no text to score"):
        PocketLM(*trained()).loglikelihood(requests("loglikelihood", [("The", " cat"), ("The", "")]))


def test_scores_do_not_depend_on_what_else_is_scored(suite: Suite) -> None:
    everything = suite.evaluate(PocketLM(*trained()))
    chosen = {"heldout_bits_per_byte": [3, 17], "last_word_cloze": [19], "arithmetic_level_2": [5]}
    some = suite.evaluate(PocketLM(*trained()), chosen=chosen)
    assert some.items == {task: [everything.items[task][n] for n in places] for task, places in chosen.items()}


@pytest.mark.parametrize(
    ("context", "continuation"),
    [
        ("The cat went to the", " river"),
        ("The cat went to the ", "river"),
        ("The cat went to the  \n", "river"),
        ("", "The cat"),
        ("", "<|endoftext|>The cat"),
        ("<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n", "4<|im_end|>"),
        (" ".join(texts())[:4000], " the river and the kitchen"),
        ("12", "34"),
        ("ca", "t"),
    ],
)
def test_context_and_continuation_split_as_in_the_stock_model(stock: Any, context: str, continuation: str) -> None:
    """Trailing spaces, empty contexts, special tokens in text, tokens that straddle the border, left truncation."""
    (mine,) = PocketLM(*trained()).loglikelihood(requests("loglikelihood", [(context, continuation)]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (other,) = stock.loglikelihood(requests("loglikelihood", [(context, continuation)]), disable_tqdm=True)
    assert mine[0] == pytest.approx(other[0], rel=1e-5, abs=1e-5)
    assert mine[1] == other[1]


def test_rolling_windows_as_in_the_stock_model(stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The stock cache of shared contexts (lm-eval 0.4.13) sums the wrong positions when two windows read the same tokens
    # but score another number of them, as in the periodic text below.
    monkeypatch.setattr(stock, "logits_cache", False)
    long = " ".join(texts())
    strings = [long[:300], long[:3000], long, "x", "<|endoftext|> and on", "é日本🙂" * 50]
    mine = PocketLM(*trained()).loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in strings]))
    other = stock.loglikelihood_rolling(requests("loglikelihood_rolling", [(t,) for t in strings]), disable_tqdm=True)
    assert mine == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"until": ["."], "max_gen_toks": 24},
        {"until": [" the", "\n\n"], "max_gen_toks": 24, "do_sample": False},
        {"until": "saw", "max_new_tokens": 16, "temperature": 0.0},
        {"until": [], "max_gen_toks": 5},
    ],
)
def test_generation_as_in_the_stock_model(stock: Any, options: dict[str, Any]) -> None:
    prompts = [text[:40] for text in texts()[:6]] + [" ".join(texts())[:3000]]
    prompts.append(render([{"role": "user", "content": "2+3="}], add_generation_prompt=True))
    asked = [(prompt, dict(options)) for prompt in prompts]
    mine = PocketLM(*trained()).generate_until(requests("generate_until", asked))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = stock.generate_until(requests("generate_until", asked), disable_tqdm=True)
    assert mine == other


def test_the_chat_template_as_in_the_stock_model(stock: Any) -> None:
    ours = PocketLM(*trained())
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " 2+3= "},
        {"role": "assistant", "content": "5"},
    ]
    assert ours.apply_chat_template(history[:2]) == stock.apply_chat_template(history[:2])
    assert ours.apply_chat_template(history, False) == stock.apply_chat_template(history, False)
    assert ours.chat_template(True) == stock.chat_template(True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"until": [], "do_sample": True, "temperature": 0.8}, "asks for sampling"),
        ({"until": [], "num_beams": 4}, "generation_kwargs has num_beams"),
        ({"until": [], "max_gen_toks": 128}, "max_gen_toks is 128, but the model's context is 128"),
    ],
)
def test_what_greedy_decoding_cannot_honour_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PocketLM(*trained()).generate_until(requests("generate_until", [("The", options)]))


def test_transformers_computes_the_same_logits_and_text(exported: Path) -> None:
    import transformers

    model, tokenizer = trained()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    ids = [tokenizer.end_of_text, *tokenizer.encode(texts()[7])][:100]
    assert their_tokenizer.encode(texts()[7]) == tokenizer.encode(texts()[7])
    with torch.inference_mode():
        difference = (theirs(torch.tensor([ids])).logits - model(torch.tensor([ids]))).abs().max()
    assert difference <= 1e-4

    from pocketlm.generation.engine import Engine, Request

    prompt = tokenizer.encode("The bird went to the")
    stops = (tokenizer.end_of_text, tokenizer.im_end)
    ((completion,),) = Engine(model).generate([Request(prompt, 40, stop_tokens=stops)])
    generated = theirs.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)[0, len(prompt) :]
    assert their_tokenizer.decode(generated, skip_special_tokens=True) == tokenizer.decode(completion.tokens)
