"""`pocketlm eval`: the file it writes, and its refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pocketlm.errors import InputError
from pocketlm.evaluation.benchmarks.tasks import SIX, content_hash
from pocketlm.evaluation.command import Order, evaluate
from pocketlm.statistics.splits import split_of
from tests.benchmark_files import benchmark_rows, write_benchmarks
from tests.evaluation_world import run_folder, trained, write_data, write_tokenizer
from tests.gguf_files import write_gguf


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("command"))


def test_scores_items_and_versions_are_written(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    names = ["last_word_cloze", "arithmetic_level_1", "arithmetic_level_2"]
    lines = evaluate(Order(run, names), out)
    written = json.loads(out.read_text())
    manifest = json.loads((run / "artifacts" / "tuned" / "manifest.json").read_text())
    assert written["model"] == manifest["digest"]
    assert written["lm_eval"][0].isdigit()
    assert set(written["tasks"]) == {"arithmetic", *names}
    cloze = written["tasks"]["last_word_cloze"]
    assert (cloze["n"], len(cloze["items"])) == (20, 20)
    accuracy = cloze["scores"]["accuracy"]
    assert accuracy["value"] == sum(item["correct"] for item in cloze["items"]) / 20
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert len({item["hash"] for item in cloze["items"]}) == 20
    assert any(line.startswith("last_word_cloze  accuracy") for line in lines)
    assert evaluate(Order(run, names), tmp_path / "again.json") == lines
    assert (tmp_path / "again.json").read_bytes() == out.read_bytes()


def test_limit_scores_the_first_items_and_a_missing_level_gives_no_mean(run: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    out = tmp_path / "scores.json"
    evaluate(Order(run / "artifacts" / "base", ["arithmetic_level_2"], str(data), limit=3), out)
    written = json.loads(out.read_text())
    assert list(written["tasks"]) == ["arithmetic_level_2"]
    scored = [item["id"] for item in written["tasks"]["arithmetic_level_2"]["items"]]
    assert scored == ["addition/3+10", "addition/10+3", "addition/7+10"]


@pytest.mark.parametrize(
    ("names", "out", "message"),
    [
        (["last_word_close"], "o.json", "did you mean last_word_cloze"),
        ([], "o.json", "--tasks is empty; tasks with data here: heldout_bits_per_byte"),
        (["last_word_cloze"], "missing/o.json", "name a file in a folder that exists"),
        (["last_word_cloze"], ".", "name a file in a folder that exists"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    run: Path, tmp_path: Path, names: list[str], out: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(Order(run, names), tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def test_a_model_outside_a_run_needs_data(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "artifacts" / "tuned", tmp_path / "alone")
    with pytest.raises(InputError, match="is not part of a run: say where the tasks' files are with --data DIR"):
        evaluate(Order(tmp_path / "alone", ["last_word_cloze"]), tmp_path / "o.json")


def written(order: Order, out: Path) -> tuple[dict[str, Any], list[str]]:
    lines = evaluate(order, out)
    return json.loads(out.read_text()), lines


def test_the_six_get_a_mean_of_their_primary_metrics_and_five_do_not(run: Path, tmp_path: Path) -> None:
    data = write_benchmarks(tmp_path / "data")
    result, _ = written(Order(run, ["six"], str(data)), tmp_path / "six.json")
    tasks = result["tasks"]
    primary = {name: tasks[name]["scores"][tasks[name]["primary"]]["value"] for name in SIX}
    assert {name: tasks[name]["primary"] for name in ("hellaswag", "winogrande", "lambada_openai")} == {
        "hellaswag": "acc_norm",
        "winogrande": "acc",
        "lambada_openai": "acc",
    }
    assert tasks["six_tasks"]["scores"]["accuracy"]["value"] == pytest.approx(sum(primary.values()) / 6)
    assert "items" not in tasks["six_tasks"]
    five = [name for name in SIX if name != "piqa"]
    result, lines = written(Order(run, five, str(data)), tmp_path / "five.json")
    assert "six_tasks" not in result["tasks"]
    assert "six_tasks: no mean, for piqa is missing" in lines


def test_the_two_splits_by_hash_are_disjoint_and_complete(run: Path, tmp_path: Path) -> None:
    data = write_benchmarks(tmp_path / "data")
    hashes = {}
    for split in ("all", "selection", "report"):
        order = Order(run, ["piqa", "winogrande"], str(data), split=split)
        result, _ = written(order, tmp_path / f"{split}.json")
        hashes[split] = [item["hash"] for task in result["tasks"].values() for item in task["items"]]
        assert result["settings"] == {"limit": None, "chat": False, "split": split}
    rows = {"piqa": benchmark_rows()["piqa/validation"], "winogrande": benchmark_rows()["winogrande/validation"]}
    sides = [split_of(content_hash(task, row)) for task, own in rows.items() for row in own]
    assert {split: sides.count(split) for split in ("selection", "report")} == {  # type: ignore[comparison-overlap]
        split: len(hashes[split]) for split in ("selection", "report")
    }
    assert sorted(hashes["selection"] + hashes["report"]) == sorted(hashes["all"])
    assert 0 < len(hashes["selection"]) < len(hashes["all"]) == 12


def test_a_split_does_not_depend_on_ids_columns_or_their_order() -> None:
    row = benchmark_rows()["arc_easy/test"][0]
    twin = {"more": 1, **dict(reversed(row.items())), "id": "another"}
    assert content_hash("arc_easy", row) == content_hash("arc_easy", twin)
    assert len({content_hash("arc_easy", one) for one in benchmark_rows()["arc_easy/test"]}) == 6


def test_names_that_nothing_has_are_not_passed_over(run: Path, tmp_path: Path) -> None:
    data = str(write_benchmarks(tmp_path / "data", ["piqa"]))
    for names in (["piqa", "behaviour-facts"], ["behaviours"]):
        with pytest.raises(InputError, match="there is no task 'behaviour"):
            evaluate(Order(run, names, data), tmp_path / "o.json")
    with pytest.raises(InputError, match="did you mean behaviour_facts"):
        evaluate(Order(run, ["behaviour_fact"], data), tmp_path / "o.json")
    with pytest.raises(InputError, match="--data hub has none of --tasks all"):
        evaluate(Order(run, ["all"], "hub"), tmp_path / "o.json")
    assert not (tmp_path / "o.json").exists()


def test_gsm8k_generates_five_shot_and_counts_what_does_not_fit(run: Path, tmp_path: Path) -> None:
    data = write_benchmarks(tmp_path / "data", ["gsm8k"])
    with pytest.raises(InputError, match="max_gen_toks is 256, but the model's context is 128 tokens"):
        evaluate(Order(run, ["gsm8k"], str(data)), tmp_path / "o.json")


def test_chat_asks_benchmarks_in_the_chat_form(run: Path, tmp_path: Path) -> None:
    data = write_benchmarks(tmp_path / "data", ["piqa"])
    plain, _ = written(Order(run, ["piqa"], str(data)), tmp_path / "plain.json")
    chat, _ = written(Order(run, ["piqa"], str(data), chat=True), tmp_path / "chat.json")
    ours, others = (result["tasks"]["piqa"]["items"] for result in (plain, chat))
    assert [item["hash"] for item in ours] == [item["hash"] for item in others]
    assert all(one["log_likelihoods"] != other["log_likelihoods"] for one, other in zip(ours, others, strict=True))


def test_behaviour_checks_need_no_data(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "artifacts" / "tuned", tmp_path / "alone")
    result, _ = written(Order(tmp_path / "alone", ["behaviour_facts"], limit=2), tmp_path / "o.json")
    assert result["name"] == "alone"
    entry = result["tasks"]["behaviour_facts"]
    assert entry["n"] == 2
    assert {"accuracy", "ended", "looped"} <= set(entry["scores"])


def test_a_gguf_file_scores_as_the_folder_that_it_was_made_from(run: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from pocketlm.evaluation.models.exports import export_hugging_face
    from pocketlm.evaluation.models.loading import locate

    data = write_benchmarks(tmp_path / "data", ["piqa"])
    export_hugging_face(locate(run), tmp_path / "exported")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    vocabulary = trained()[1].definition()["model"]["vocab"]
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    file = tmp_path / "gguf" / "small.gguf"
    file.parent.mkdir()
    write_gguf(file, theirs, tokens=tokens)
    folder, _ = written(Order(tmp_path / "exported", ["piqa"], str(data)), tmp_path / "folder.json")
    with pytest.raises(InputError, match="carries no tokenizer"):
        evaluate(Order(file, ["piqa"], str(data)), tmp_path / "none.json")
    definition = tmp_path / "exported" / "tokenizer.json"
    given, _ = written(Order(file, ["piqa"], str(data), tokenizer=definition), tmp_path / "given.json")
    write_tokenizer(file.parent, trained()[1])
    beside, _ = written(Order(file, ["piqa"], str(data)), tmp_path / "beside.json")
    for result in (given, beside):
        for one, other in zip(result["tasks"]["piqa"]["items"], folder["tasks"]["piqa"]["items"], strict=True):
            assert one["log_likelihoods"] == pytest.approx(other["log_likelihoods"], rel=1e-5)
    assert given["model"] == beside["model"] != folder["model"]
    with pytest.raises(InputError, match="--tokenizer is for a GGUF file"):
        evaluate(Order(run, ["piqa"], str(data), tokenizer=definition), tmp_path / "o.json")
