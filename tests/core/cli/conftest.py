"""The command as its users meet it: in this process for its words, in another one for its ends."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import engines
import mrcfile
import numpy as np
import pytest

from cryomamba_core.cli.main import main


class Answer:
    """What a call of the command left behind."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """A data directory of the test's own, and nothing else set; plugins of a stranger are installed."""
    for name in list(os.environ):
        if name.startswith("CRYOMAMBA_"):
            monkeypatch.delenv(name)
    folder = tmp_path / "data"
    monkeypatch.setenv("CRYOMAMBA_DATA_DIR", str(folder))
    monkeypatch.setenv("CRYOMAMBA_CONFIG", "")
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def cryomamba(data_dir, capfd):
    """Call the command in this process."""
    before = list(logging.getLogger().handlers)

    def call(*words):
        capfd.readouterr()
        code = main([str(word) for word in words])
        captured = capfd.readouterr()
        return Answer(code, captured.out, captured.err)

    yield call
    for handler in set(logging.getLogger().handlers) - set(before):
        logging.getLogger().removeHandler(handler)


@pytest.fixture
def process(data_dir):
    """Start the command as a process of its own; whatever is left of it is ended with the test."""
    started = []

    def start(*words, **options):
        call = [sys.executable, "-m", "cryomamba_core.cli.main", *map(str, words)]
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        running = subprocess.Popen(
            call, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **settings
        )
        started.append(running)
        return running

    yield start
    for running in started:
        if running.poll() is None:
            running.kill()
        running.communicate()


@pytest.fixture
def tomogram(tmp_path):
    """Write an MRC file with a bright block in noise."""

    def write(name="a.mrc", *, shape=(12, 20, 20), voxel_size=10.0, fill=None):
        rng = np.random.default_rng(5)
        voxels = rng.normal(size=shape).astype(np.float32)
        voxels[2:6, 4:12, 4:12] += 20
        if fill is not None:
            voxels[...] = fill
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with mrcfile.new(path) as mrc:
            mrc.set_data(voxels)
            mrc.voxel_size = voxel_size
        return Path(name)

    return write


@pytest.fixture
def gated(tmp_path):
    """Words of a call whose jobs stop before the gate is opened, and the gate."""
    gate = tmp_path / "gate"
    gate.mkdir()
    engines.make_tomogram(tmp_path / "slow.npy")
    return ["slow.npy", "--runner", "steps", "--param", f"gate={gate}"], gate
