"""The commands: fast help, exit codes, no traceback for bad input."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pocketlm.cli import main


def pocketlm(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pocketlm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


def test_help_is_fast() -> None:
    """The issue's figure is 0.3 s on an idle machine; the best of five tells start-up cost from a busy machine."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        assert pocketlm("--help").returncode == 0
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.3 or os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1), seconds


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['pocketlm', '--help']\n"
        "from pocketlm.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'pyarrow', 'pydantic', 'lm_eval') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_stages_import_nothing_heavy() -> None:
    code = (
        "import sys; from pocketlm.stages import registry; registry()\n"
        "heavy = ('torch', 'transformers', 'lm_eval', 'numba', 'altair', 'datasets', 'scipy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quickstrat"], "did you mean 'quickstart'"),
        (["run", "quickstart", "--set", "pretrain.stepz=3"], "pretrain.stepz: unknown setting"),
        (["run", "quickstart", "--scale", "huge"], "has no scale 'huge'"),
        (["run", "quickstart", "--only", "nothing"], "has no such stage"),
        (["verify", "nowhere"], "is not a run folder"),
        (["why", "nowhere", "pretrain"], "is not a run folder"),
        (["chat", "nowhere"], "nowhere"),
        (["runs", "rm", "."], "is not a run folder"),
        (["export", "nowhere", "--to", "onnx", "x"], "there is no such choice"),
        (["eval", "nowhere", "--tasks", "a", "--out", "o", "--split", "reports"], "did you mean 'report'"),
        (["compare", "smollm2-135", "opt-125m"], "did you mean 'smollm2-135m'"),
        (["generate", "x"], "--prompt"),
    ],
)
def test_bad_input_is_exit_2_without_traceback(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["pocketlm", *arguments])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_process_ends_with_exit_2_without_traceback(tmp_path: Path) -> None:
    result = pocketlm("run", "quickstrat", cwd=tmp_path)
    assert result.returncode == 2, result
    assert "did you mean 'quickstart'" in result.stderr
    assert "Traceback" not in result.stderr


WAYS = ["by path", "as a module"]


@pytest.mark.parametrize("way", ["by name", *(pytest.param(way, marks=pytest.mark.long) for way in WAYS)])
def test_what_to_do_next_can_be_pasted_and_offers_no_chat_without_a_model(way: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("A few words.")
    (tmp_path / "recipe.yaml").write_text("name: texts\nseed: 1\nsources: {docs: {path: text.txt}}\n")
    scripts = Path(sys.executable).parent
    (tmp_path / "an environment").symlink_to(scripts)
    search, typed, printed = {
        "by name": (f"{scripts}:{os.defpath}", "pocketlm", "pocketlm"),
        "by path": (os.defpath, "'an environment/pocketlm'", "'an environment/pocketlm'"),
        "as a module": (os.defpath, f"{sys.executable} -m pocketlm", f"{scripts}/pocketlm"),
    }[way]

    def pasted(line: str) -> subprocess.CompletedProcess[str]:
        command, environment = ["/bin/sh", "-c", line], {**os.environ, "PATH": search}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    result = pasted(f"{typed} run recipe.yaml --out 'my run'")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    seal = next(line for line in lines if line.startswith("seal:")).split()[-1]
    verify = f"{printed} verify 'my run' --seal {seal}"
    assert f"verify: {verify}" in lines
    assert not any(line.startswith("chat:") for line in lines)
    verified = pasted(verify)
    assert verified.returncode == 0, verified.stdout + verified.stderr
