"""What PyTorch can do on this CPU is asked once, and again where the answer may be another one."""

import subprocess
import sys

import pytest

from cryomamba_backends.nnunet import kept_answers
from cryomamba_backends.nnunet.kept_answers import kept_or_asked

#: Settles a job of the bundled model on a CPU with AMX whose answer is known, as the worker of a job of shards does.
SETTLE = """
import sys
from pathlib import Path
from cryomamba_backends.nnunet import course
from cryomamba_backends.nnunet.kept_answers import kept_or_asked
from cryomamba_backends.nnunet.params import NNUNetParams
from cryomamba_backends.nnunet.runner import NNUNetRunner
from cryomamba_core.settings import Settings
folder, known = Path(sys.argv[1]), sys.argv[2] == "known"
course.CPU_FLAGS = folder / "cpuinfo"
course.CPU_FLAGS.write_text("flags : amx_int8\\n")
if known:
    kept_or_asked(folder / "cpu.json", lambda: True)
runner = NNUNetRunner(Settings(data_dir=folder))
settled = runner.settle(runner.model("cryomamba-demo"), NNUNetParams(), "cpu")
print(settled.precision, "torch" in sys.modules)
"""


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    """Make the CPU of this kind; a frequency says nothing of it."""

    def pretend(flags, *, frequency=2000):
        told = f"model name\t: one\ncpu MHz\t\t: {frequency}\nflags\t\t: {flags}\n\nmodel name\t: the next core\n"
        (tmp_path / "cpuinfo").write_text(told)

    monkeypatch.setattr(kept_answers, "CPU_FLAGS", tmp_path / "cpuinfo")
    pretend("amx_int8")
    return pretend


@pytest.fixture
def asked(tmp_path):
    """Whether it had to be asked."""

    def find(answer, *, path=tmp_path / "cpu.json"):
        times = []
        found = kept_or_asked(path, lambda: times.append(1) or answer)
        assert not times or found is answer
        return bool(times), found

    return find


@pytest.mark.parametrize("answer", [True, False])
def test_an_answer_is_kept(answer, cpu, asked):
    assert asked(answer) == (True, answer)
    cpu("amx_int8", frequency=3000)
    assert asked(not answer) == (False, answer)


def test_another_cpu_and_another_pytorch_are_asked(cpu, asked, monkeypatch):
    asked(True)
    cpu("amx_int8 avx512f")
    assert asked(False) == (True, False)
    monkeypatch.setattr(kept_answers, "_torch", lambda: "another")
    assert asked(True) == (True, True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert asked(False) == (True, False)
    assert asked(True) == (False, False)


def test_an_answer_that_cannot_be_read_or_kept_is_asked_again(cpu, asked, tmp_path):
    (tmp_path / "cpu.json").write_text('{"torch": 1')
    assert asked(True) == (True, True)
    assert asked(False) == (False, True)
    for _ in range(2):
        assert asked(True, path=tmp_path / "nowhere" / "cpu.json") == (True, True)


@pytest.mark.parametrize("known", ["known", "new"])
def test_a_worker_that_knows_the_answer_settles_without_pytorch(known, tmp_path):
    pytest.importorskip("torch")
    told = subprocess.run(
        [sys.executable, "-c", SETTLE, str(tmp_path), known], check=True, capture_output=True, text=True
    ).stdout.split()
    assert told[1] == str(known == "new")
    if known == "known":
        assert told[0] == "fixed"
