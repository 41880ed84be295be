"""Requests of any kind, made up from the OpenAPI document by schemathesis, which also judges the answers."""

import hashlib
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import STDOUT

import httpx
import mrcfile
import numpy as np
import pytest
import trio
from engines import DEADLINE
from servers import SCOPES, open_test_server

from cryomamba_core.protocol.uploads import format_digest
from cryomamba_server.http.access import authentication

pytestmark = pytest.mark.once

#: Of each operation and way of making requests up.
EXAMPLES = 10

CONFIGURATION = """
seed = 3
headers = {{ Authorization = "Bearer {token}" }}
warnings = false

[generation]
max-examples = {examples}

[phases]
stateful.enabled = {stateful}

# plain HTTP cannot speak WebSocket; pages are for browsers
[[operations]]
include-operation-id = "watch_job"
enabled = false

[[operations]]
include-tag = "pages"
enabled = false

# whether a job can run, or a file is welcome, is not a matter of a request's form alone
[[operations]]
include-operation-id = ["create_job", "plan_job", "put_part", "begin_upload"]
checks.positive_data_acceptance.expected-statuses = [200, 201, 401, 403, 404, 409, 422, 507]

# a size that nobody has room for is answered by 507; and the addresses of these two are also those
# of a job, or an upload, with such an id, to which other methods apply
[[operations]]
include-operation-id = ["begin_upload", "plan_job"]
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 507]
checks.allow_header_conformance.enabled = false

# schemathesis sends "0" in a header that may be left out, whatever its pattern
[[operations]]
include-operation-id = "complete_upload"
checks.positive_data_acceptance.expected-statuses = [200, 400, 401, 403, 404, 409]
{more}
"""

#: Ids that exist, so that more than "not found" is met.
KNOWN = """
[[operations]]
include-path-regex = "job_id"
parameters = {{ job_id = "{job_id}" }}

[[operations]]
include-path-regex = "upload_id"
parameters = {{ upload_id = "{upload_id}" }}
"""


@pytest.fixture(autouse=True)
def any_number_of_wrong_tokens(monkeypatch):
    monkeypatch.setattr(authentication, "FAILURES", 1_000_000)


@asynccontextmanager
async def open_server_for_strangers(tmp_path):
    """A server with every installed plugin, on which nobody can fill the disk, and a token."""
    async with open_test_server(tmp_path / "data", installed=True, quota_bytes=1_000_000) as server:
        yield server.url, server.token(scopes=[*SCOPES, "metrics:read"])


async def make_job_and_upload(url, token, folder):
    """A job that is completed, and an upload that is under way."""
    path = folder / "noise.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.random.default_rng(1).normal(size=(4, 5, 6)).astype(np.float32))
        mrc.voxel_size = 10.0
    data = path.read_bytes()
    digest = format_digest(hashlib.sha256(data).hexdigest())
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=DEADLINE) as client:
        begun = (await client.post("/v1/uploads/init", json={"filename": path.name, "size": len(data)})).json()
        address = f"/v1/uploads/{begun['upload_id']}"
        await client.put(f"{address}/part/0", content=data, headers={"Content-Digest": digest})
        file = (await client.post(f"{address}/complete")).json()
        config = {"source": {"file_id": file["file_id"]}, "runner": "threshold"}
        job = (await client.post("/v1/jobs", json=config)).json()
        await client.get(f"/v1/jobs/{job['job_id']}/events")
        assert (await client.get(f"/v1/jobs/{job['job_id']}")).json()["state"] == "completed"
        other = (await client.post("/v1/uploads/init", json={"filename": "other.mrc", "size": 3000})).json()
    return KNOWN.format(job_id=job["job_id"], upload_id=other["upload_id"])


async def judge(location, folder, *arguments, **configuration):
    """Run schemathesis; returns its exit status and what it said."""
    file = folder / "schemathesis.toml"
    file.write_text(CONFIGURATION.format(**{"more": "", "stateful": "false", "examples": EXAMPLES, **configuration}))
    program = Path(sys.executable).with_name("schemathesis")
    command = [program, "--config-file", file, "run", location, "--no-color", *arguments]
    done = await trio.run_process(command, cwd=folder, capture_stdout=True, stderr=STDOUT, check=False)
    return done.returncode, done.stdout.decode()


async def test_whatever_is_sent_the_answers_are_those_of_the_document(tmp_path):
    async with open_server_for_strangers(tmp_path) as (url, token):
        code, said = await judge(f"{url}/v1/openapi.json", tmp_path, token=token, stateful="true")
    assert code == 0, said
    assert "No issues found" in said


async def test_the_same_of_a_job_and_an_upload_that_exist(tmp_path):
    async with open_server_for_strangers(tmp_path) as (url, token):
        known = await make_job_and_upload(url, token, tmp_path)
        code, said = await judge(f"{url}/v1/openapi.json", tmp_path, token=token, more=known)
    assert code == 0, said
    assert "No issues found" in said


async def test_an_answer_that_is_not_in_the_document_would_be_found(tmp_path):
    async with open_server_for_strangers(tmp_path) as (url, token):
        async with httpx.AsyncClient() as client:
            document = (await client.get(f"{url}/v1/openapi.json")).json()
        operation = document["paths"]["/v1/jobs"]["get"]
        operation["responses"] = {"204": {"description": "Never."}}
        document["paths"] = {"/v1/jobs": {"get": operation}}
        (tmp_path / "openapi.json").write_text(json.dumps(document))
        code, said = await judge(tmp_path / "openapi.json", tmp_path, "--url", url, token=token, examples=3)
    assert code == 1
    assert "Undocumented status code" in said
