"""Language identification: what is asked of the runtime, what comes back, and what a user without it is told."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from pocketlm.data.gates import language
from pocketlm.data.gates.gate_settings import GateSettings
from pocketlm.errors import InputError

ENGLISH = GateSettings(minimum_language_confidence=0.65)
OTHERS = GateSettings(minimum_language_confidence=0.5, languages=("de", "fr"))
TEXTS = pa.array(["the text\nof a page", "der Text " * 500, "", "\u20ac" * 1_000], pa.large_string())


@pytest.fixture(autouse=True)
def fresh_models() -> Iterator[None]:
    language._load.cache_clear()
    yield
    language._load.cache_clear()


class Runtime:
    """Stands for the module `fasttext`: notes what it is asked and knows two words."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def load_model(self, path: str) -> SimpleNamespace:
        if Path(path).read_bytes() != b"model":
            raise ValueError(f"{path} has wrong file format!")
        return SimpleNamespace(predict=self.predict)

    def predict(self, text: str, k: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
        self.asked.append(text)
        if not text:
            return (), ()
        best = ("__label__en", "__label__fr") if text.startswith("the") else ("__label__de", "__label__en")
        return best, (1.00001, 0.25)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    stand_in = Runtime()
    monkeypatch.setattr(importlib, "import_module", lambda name: stand_in)
    return stand_in


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.ftz"
    path.write_bytes(b"model")
    return path


def test_probability_of_the_allowed_languages(runtime: Runtime, model: Path) -> None:
    source = np.array([0, 1, 0, 1])
    assert language.identify(TEXTS, model, [ENGLISH, OTHERS], source).tolist() == [1.0, 1.0, 0.0, 1.0]
    assert language.identify(TEXTS, model, [OTHERS, ENGLISH], source).tolist() == [0.25, 0.25, 0.0, 0.25]
    assert max(len(text.encode()) for text in runtime.asked) <= language.HEAD_BYTES
    assert not any("\n" in text for text in runtime.asked)


def test_sources_that_do_not_ask_are_not_looked_at(runtime: Runtime, model: Path) -> None:
    found = language.identify(TEXTS, model, [GateSettings(), ENGLISH], np.array([0, 1, 0, 0]))
    assert np.isnan(found).tolist() == [True, False, True, True]
    assert len(runtime.asked) == 1
    assert np.isnan(language.identify(TEXTS, "nowhere", [GateSettings()], np.zeros(4, np.int64))).all()


def test_errors_say_what_to_do(runtime: Runtime, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.write_bytes(b"something else")
    with pytest.raises(InputError, match="wrong file format"):
        language.identify(TEXTS, model, [ENGLISH], np.zeros(4, np.int64))
    with pytest.raises(InputError, match="minimum_language_confidence"):
        language.identify(TEXTS, tmp_path / "missing.ftz", [ENGLISH], np.zeros(4, np.int64))

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pocketlm\[language\]"):
        language.identify(TEXTS, tmp_path / "another.ftz", [ENGLISH], np.zeros(4, np.int64))


def test_the_content_of_the_model_is_its_identity(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.ftz"
    copy.write_bytes(b"model")
    assert language.model_identity(model) == language.model_identity(copy)
    copy.write_bytes(b"Model")
    assert language.model_identity(model) != language.model_identity(copy)
