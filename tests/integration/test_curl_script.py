"""The main job by curl and a stock WebSocket client alone: the script that the documentation shows."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import mrcfile
import numpy as np
import pytest
from servers import ServerProcess

from cryomamba_core.protocol.uploads import format_digest

DOCS = Path(__file__).resolve().parents[2] / "docs" / "howto"
SCRIPT = DOCS / "segment-with-curl.sh"

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        any(shutil.which(program) is None for program in ("bash", "curl", "jq", "openssl")),
        reason="the script needs bash, curl, jq and openssl",
    ),
]


@pytest.fixture
def tomogram(tmp_path):
    """A bright ball in noise, in three parts of 1 MiB; the truth is what lies in the ball."""
    z, y, x = np.ogrid[:64, :96, :100]
    truth = (z - 30) ** 2 + (y - 50) ** 2 + (x - 40) ** 2 < 20**2
    voxels = np.where(truth, 100.0, 0.0) + np.random.default_rng(2).normal(size=truth.shape)
    path = tmp_path / "a ball.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(voxels.astype(np.float32))
        mrc.voxel_size = 10.0
    return path, truth


def run(server, tomogram, folder, **environment):
    command = [SCRIPT, tomogram, "threshold", folder]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHON": sys.executable,
        "CRYOMAMBA_SERVER": server.url,
        "CRYOMAMBA_TOKEN": server.token(),
        **environment,
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def small_parts():
    return {"CRYOMAMBA_SERVE_PART_SIZE": str(1 << 20)}


@pytest.mark.parametrize("arguments", [[], ["--tls-self-signed"]], ids=["http", "https"])
def test_curl_and_a_stock_websocket_client_segment_a_tomogram(tmp_path, tomogram, arguments):
    path, truth = tomogram
    with ServerProcess(tmp_path / "data", *arguments, environment=small_parts()) as server:
        certificate = tmp_path / "data" / "tls" / "certificate.pem"
        trust = {"CRYOMAMBA_CACERT": str(certificate)} if arguments else {}
        done = run(server, path, tmp_path / "results", **trust)
        assert done.returncode == 0, done.stderr
        again = run(server, path, tmp_path / "again", **trust)
        assert again.returncode == 0, again.stderr
    mask = tmp_path / "results" / "a ball.mask.mrc"
    assert str(mask) in done.stdout.splitlines()
    assert np.array_equal(mrcfile.read(mask) > 0, truth)
    assert mrcfile.validate(mask, print_file=sys.stderr)
    statistics = json.loads((tmp_path / "results" / "a ball.stats.json").read_text())
    assert statistics["labels"][0]["voxels"] == truth.sum()
    assert [line for line in done.stderr.splitlines() if line.startswith("sending")] == [
        f"sending part {number} of 3" for number in (1, 2, 3)
    ]
    assert "sending" not in again.stderr, "the server has the file"
    assert "completed" in done.stderr, "it heard of the end by WebSocket"
    assert not list(tmp_path.rglob("*.part"))


def test_the_script_sends_only_what_is_missing(tmp_path, tomogram):
    path, truth = tomogram
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    second = data[1 << 20 : 2 << 20]
    with ServerProcess(tmp_path / "data", environment=small_parts()) as server:
        with httpx.Client(base_url=server.url, headers=server.headers()) as client:
            announcement = {"filename": path.name, "size": len(data), "sha256": sha256, "fingerprint": sha256}
            upload = client.post("/v1/uploads/init", json=announcement).raise_for_status().json()
            address = f"/v1/uploads/{upload['upload_id']}/part/1"
            digest = format_digest(hashlib.sha256(second).hexdigest())
            client.put(address, content=second, headers={"Content-Digest": digest}).raise_for_status()
        done = run(server, path, tmp_path / "results")
    assert done.returncode == 0, done.stderr
    sent = [line for line in done.stderr.splitlines() if line.startswith("sending")]
    assert sent == ["sending part 1 of 3", "sending part 3 of 3"]
    assert np.array_equal(mrcfile.read(tmp_path / "results" / "a ball.mask.mrc") > 0, truth)


def test_a_refused_token_ends_the_script_with_the_reason(tmp_path, tomogram):
    path, _ = tomogram
    with ServerProcess(tmp_path / "data") as server:
        done = run(server, path, tmp_path / "results", CRYOMAMBA_TOKEN="no")
    assert done.returncode != 0
    assert "access/unauthenticated" in done.stdout + done.stderr


def test_the_page_shows_the_script_that_is_run_here():
    assert "{literalinclude} segment-with-curl.sh" in (DOCS / "segment-with-curl.md").read_text()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say():
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
