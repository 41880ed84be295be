"""A file of 4 GB, most of which is never read; looked at by a process of its own, whose memory is counted."""

import json
import subprocess
import sys

import mrcfile
import pytest

SHAPE = (1024, 1024, 1024)
PLANE = 1024 * 1024 * 4
MB = 1 << 20

LOOK = """
import json, resource, sys, threading
from pathlib import Path
from cryomamba_core.plugins import PluginHost
from cryomamba_core.settings import Settings
from cryomamba_gui.volumes.overview_cache import OverviewCache
from cryomamba_gui.volumes.tomogram import Tomogram

def file_bytes():
    return int(Path("/proc/self/io").read_text().split()[1])

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

def counted(work):
    before, voxels = file_bytes(), tomogram.planes.bytes_read if tomogram else 0
    work()
    return {"file": file_bytes() - before, "voxels": tomogram.planes.bytes_read - voxels, "peak": peak() - start}

def step(axis):
    for index in range(512, 520):
        arrived.clear()
        plane = tomogram.planes[tuple(index if other == axis else slice(None) for other in range(3))]
        assert plane.shape == (1024, 1024)
        if tomogram.planes.pending:
            assert arrived.wait(250)

def open_it():
    global tomogram
    tomogram = Tomogram.open(host, folder / "large.mrc", cache=cache)
    tomogram.planes.arrived.connect(arrived.set)

folder = Path(sys.argv[1])
host = PluginHost.discover(Settings(data_dir=folder), only="cryomamba")
cache, arrived, tomogram = OverviewCache(folder / "overviews"), threading.Event(), None
start = peak()
told = {"open": counted(open_it)}
for axis, name in enumerate(("xy", "xz", "yz")):
    told[name] = counted(lambda: step(axis))
tomogram.close()
with_overview = Tomogram.open(host, folder / "smaller.mrc", cache=cache)
overview = with_overview.survey(lambda done, sections: None, lambda: False)
with_overview.close()
told["survey"] = {"peak": peak() - start, "overview": overview.voxels.nbytes}
print(json.dumps(told))
"""


def make_sparse(path, shape):
    with mrcfile.new_mmap(path, shape, mrc_mode=2) as file:
        file.voxel_size = 10
    return path


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    large = make_sparse(folder / "large.mrc", SHAPE)
    make_sparse(folder / "smaller.mrc", (256, 512, 512))
    assert large.stat().st_size > 4 << 30
    assert large.stat().st_blocks * 512 < 1 * MB
    answer = subprocess.run([sys.executable, "-c", LOOK, str(folder)], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_opening_reads_a_few_sections(told):
    assert told["open"]["file"] < 8 * PLANE


def test_a_step_in_xy_reads_a_section_and_one_ahead(told):
    assert told["xy"]["file"] < 10 * PLANE


def test_a_step_in_xz_reads_as_much_and_little_more(told):
    assert told["xz"]["file"] < (8 + 4 + 4) * PLANE


def test_steps_in_yz_share_one_pass_over_the_file(told):
    assert told["yz"]["voxels"] < (16 + 4) * PLANE
    assert told["yz"]["file"] < 1.1 * 1024 * PLANE


def test_memory_is_bounded(told):
    assert told["yz"]["peak"] < 400 * MB
    assert told["survey"]["overview"] == 128 * 256 * 256 * 4
    assert told["survey"]["peak"] < 400 * MB
