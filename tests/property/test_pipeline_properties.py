"""Properties of storage, ledger and seeds, over random inputs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketlm.errors import CorruptionError, InputError
from pocketlm.pipeline.artifact import Artifact, Draft
from pocketlm.pipeline.ledger import Ledger, check_ledger, without_secrets
from pocketlm.pipeline.seeds import derive_seed
from pocketlm.pipeline.storage import canonical_json, commit_folder, verify_folder
from pocketlm.pipeline.verification import verify_run
from tests import toy

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_canonical_json_is_a_fixed_point(value: object) -> None:
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(min_size=1), st.integers(), min_size=2))
def test_canonical_json_ignores_key_order(value: dict[str, int]) -> None:
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {"a": {1, 2}}, b"bytes", [object()]])
def test_values_without_canonical_form_are_refused(value: object) -> None:
    with pytest.raises(InputError, match="canonical form"):
        canonical_json(value)


def test_every_flipped_bit_of_a_committed_folder_is_found(tmp_path: Path) -> None:
    draft = tmp_path / ".tmp-draft"
    draft.mkdir()
    for name, size in (("a.bin", 700), ("b.bin", 1), ("c.json", 40)):
        (draft / name).write_bytes(random.Random(name).randbytes(size))
    final = tmp_path / "final"
    commit_folder(draft, final, {"kind": "test"})
    chooser = random.Random(1)
    for _ in range(400):
        victim = chooser.choice([path for path in final.iterdir() if path.name != "manifest.json"])
        original = victim.read_bytes()
        position = chooser.randrange(len(original))
        flipped = bytearray(original)
        flipped[position] ^= 1 << chooser.randrange(8)
        victim.write_bytes(flipped)
        with pytest.raises(CorruptionError, match=victim.name):
            verify_folder(final)
        victim.write_bytes(original)
    verify_folder(final)


def test_every_flipped_byte_of_a_ledger_is_found(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for number in range(4):
        ledger.append("event", {"number": number, "text": "ä\n"})
    data = ledger.path.read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8)
        ledger.path.write_bytes(changed)
        assert check_ledger(ledger.path)[0], f"byte {position}"
    ledger.path.write_bytes(data)
    assert check_ledger(ledger.path)[0] == []


@settings(max_examples=50)
@given(st.data())
def test_removed_or_reordered_ledger_lines_are_found(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder))
        for number in range(5):
            ledger.append("event", {"number": number})
        lines = ledger.path.read_text().splitlines(keepends=True)
        changed = data.draw(st.permutations(lines).map(lambda p: p[: data.draw(st.integers(1, 5))]))
        if changed == lines[: len(changed)]:
            return
        ledger.path.write_text("".join(changed))
        assert check_ledger(ledger.path)[0]


def test_every_flipped_byte_anywhere_in_a_run_is_found_and_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    seal = toy.run(run).seal
    files = [path for path in run.rglob("*") if path.is_file() and path.stat().st_size]
    chooser = random.Random(3)
    for victim in files:
        original = victim.read_bytes()
        for position in {0, len(original) - 1, *(chooser.randrange(len(original)) for _ in range(12))}:
            changed = bytearray(original)
            changed[position] ^= 1 << chooser.randrange(8)
            victim.write_bytes(changed)
            found = [
                problem for check in verify_run(run, toy.registry(), toy.derive, seal) for problem in check.problems
            ]
            assert any(victim.name in problem for problem in found), (victim, position)
        victim.write_bytes(original)
    assert not any(check.problems for check in verify_run(run, toy.registry(), toy.derive, seal))


def test_cut_tail_and_consistent_rewrite_are_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    seal = toy.run(run).seal
    ledger = run / "ledger.jsonl"
    original = ledger.read_bytes()
    ledger.write_bytes(b"".join(original.splitlines(keepends=True)[:-1]))
    assert any(
        "tail was cut" in line for check in verify_run(run, toy.registry(), toy.derive) for line in check.problems
    )
    other = tmp_path / "other"
    toy.run(other, "words.count=6")
    assert not any(check.problems for check in verify_run(other, toy.registry(), toy.derive))
    assert any(check.problems for check in verify_run(other, toy.registry(), toy.derive, seal))


@given(st.integers(0, 2**63), st.text(max_size=9), st.lists(st.integers(0, 99), max_size=3))
def test_seeds_are_stable_and_in_range(root: int, purpose: str, indices: list[int]) -> None:
    seed = derive_seed(root, purpose, *indices)
    assert seed == derive_seed(root, purpose, *indices)
    assert 0 <= seed < 2**63
    assert seed != derive_seed(root + 1, purpose, *indices)


def test_no_secret_enters_the_ledger() -> None:
    cleaned = without_secrets(["run", "--hub-token", "abc", "--api-key=def", "--max-tokens", "5"])
    assert cleaned == ["run", "--hub-token", "(hidden)", "--api-key=(hidden)", "--max-tokens", "5"]


def test_a_committed_artifact_reads_like_a_reopened_one(tmp_path: Path) -> None:
    """Down to the order of its keys: else a run that was killed in between makes other bytes downstream."""
    inputs = {"models": {"b": {"stage": "b"}, "a": {"stage": "a"}}}
    draft = Draft(tmp_path / "made", {"kind": "k", "stage": "s", "inputs": inputs, "fingerprint": "f"})
    made = draft.commit({"z": 1, "a": (1, 2)})
    assert json.dumps(made.manifest) == json.dumps(Artifact.open(tmp_path / "made").manifest)
