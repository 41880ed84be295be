"""Jobs over HTTP: asked for, planned, listed, canceled and tried again, by httpx on a real server."""

import uuid
from contextlib import asynccontextmanager

import engines
import httpx
import pytest
import trio
from engines import ExecutorPlugin, ScriptedExecutor, steps
from servers import open_test_server
from strangers import StepParams

from cryomamba_core.errors import OutOfMemory
from cryomamba_core.hookspecs import hookimpl
from cryomamba_core.interfaces import ModelRunner
from cryomamba_core.labels import name_labels
from cryomamba_core.models import ModelInfo
from cryomamba_core.plans import RunPlan
from cryomamba_core.wire import to_plain
from cryomamba_server.engine import fitting
from cryomamba_server.http.routes import jobs as routes

#: Workers wait for the file ``go``.
WAIT = "\nwhile not (directory.path / 'go').exists() and not directory.cancel_ordered: time.sleep(0.01)\n"
OBEY = WAIT + "if directory.cancel_ordered: sys.exit(EXIT_CANCELED)\n" + engines.SUCCEED
DEAF = "\nwhile not (directory.path / 'go').exists(): time.sleep(0.01)\n" + engines.SUCCEED


@asynccontextmanager
async def opened(tmp_path, *plugins, script=OBEY, slots=("cpu",), **serving):
    """A server whose workers run a script, and its data directory's jobs."""
    executor = ScriptedExecutor(script, slots=slots)
    plugins = (ExecutorPlugin(executor), *plugins)
    try:
        async with open_test_server(tmp_path / "data", *plugins, allow_roots=(tmp_path,), **serving) as server:
            yield server
    finally:
        executor.stop()


@asynccontextmanager
async def client(server, subject="ada"):
    headers = server.headers(subject=subject)
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=engines.DEADLINE) as made:
        yield made


def body(tomogram, **params):
    return to_plain(steps(tomogram, **params))


async def submit(made, tomogram, **headers):
    answer = await made.post("/v1/jobs", json=body(tomogram), headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()["job_id"]


async def until(made, job_id, *states):
    """Wait for a job to be in one of some states."""
    with trio.fail_after(engines.DEADLINE):
        while (job := (await made.get(f"/v1/jobs/{job_id}")).json())["state"] not in states:
            await trio.sleep(0.01)
    return job


def go(server, *job_ids):
    for job_id in job_ids:
        folder = server.settings.jobs_dir / job_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "go").touch()


async def test_a_job_is_queued_run_and_shown_with_its_artifacts(tmp_path, tomogram):
    async with opened(tmp_path) as server, client(server) as ada:
        answer = await ada.post("/v1/jobs", json=body(tomogram))
        job = answer.json()
        assert answer.status_code == 201
        assert answer.headers["Location"] == f"/v1/jobs/{job['job_id']}"
        assert (job["state"], job["owner"], job["queue_position"]) == ("queued", "ada", 0)
        assert uuid.UUID(job["job_id"]).version == 7
        go(server, job["job_id"])
        done = await until(ada, job["job_id"], "completed")
        assert [artifact["name"] for artifact in done["artifacts"]] == ["stats.json"]
        assert done["artifacts"][0]["url"].startswith(f"{server.url}/v1/files/{job['job_id']}/stats.json?")
        assert (done["queue_position"], done["error"], done["attempt"]) == (None, None, 1)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"source": {"path": "/etc/passwd"}}, 403, "access/forbidden"),
        ({"source": {"path": "relative.npy"}}, 403, "access/forbidden"),
        ({"source": {}}, 422, "input/invalid"),
        ({"source": {"file_id": "0" * 64}}, 404, "storage/unknown-object"),
        ({"model": "nothing"}, 404, "model/unknown"),
        ({"runner": "nothing"}, 422, "plugin/unknown"),
        ({"params": {"speed": 3}}, 422, "input/invalid-parameter"),
        ({"params": {"depth": "deep"}}, 422, "input/invalid-parameter"),
        ({"artifacts": ["mask.xyz"]}, 422, "plugin/unknown"),
        ({"colour": "red"}, 422, "input/invalid-parameter"),
        ({"preview": {"max_voxels": 1}}, 422, "input/invalid-parameter"),
        ({"preview": {"max_voxels": 1e12}}, 422, "input/invalid-parameter"),
    ],
)
@pytest.mark.parametrize("address", ["/v1/jobs", "/v1/jobs/plan"])
async def test_what_is_wrong_with_a_job_is_said_at_once(tmp_path, tomogram, address, change, status, code):
    async with opened(tmp_path) as server, client(server) as ada:
        answer = await ada.post(address, json=body(tomogram) | change)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert (await ada.get("/v1/jobs")).json()["jobs"] == []


async def test_a_key_makes_one_job_of_a_request_that_is_sent_again(tmp_path, tomogram):
    async with opened(tmp_path) as server, client(server) as ada, client(server, "bob") as bob:
        key = {"Idempotency-Key": str(uuid.uuid4())}
        first = await ada.post("/v1/jobs", json=body(tomogram), headers=key)
        again = await ada.post("/v1/jobs", json=body(tomogram), headers=key)
        assert (first.status_code, again.status_code) == (201, 200)
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.json()["job_id"] == first.json()["job_id"]
        quoted = await ada.post(
            "/v1/jobs", json=body(tomogram), headers={"Idempotency-Key": f'"{key["Idempotency-Key"]}"'}
        )
        assert quoted.json()["job_id"] == first.json()["job_id"]

        other = await ada.post("/v1/jobs", json=body(tomogram, depth=2), headers=key)
        assert (other.status_code, other.json()["error"]["code"]) == (422, "job/idempotency-conflict")
        theirs = await bob.post("/v1/jobs", json=body(tomogram), headers=key)
        assert theirs.status_code == 201
        assert theirs.json()["job_id"] != first.json()["job_id"]
        assert len((await ada.get("/v1/jobs")).json()["jobs"]) == 1


class HeldRunner(ModelRunner):
    """Does not answer before it is released what a run would cost."""

    name = "held"
    params_type = StepParams

    def __init__(self):
        self.asked, self.released = trio.Event(), trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    @hookimpl
    def cryomamba_register_runners(self, register):
        register(self)

    def models(self):
        return [ModelInfo(name="held", runner="held", labels=name_labels({1: "positive"}))]

    def plan(self, model, grid, params, device):
        trio.from_thread.run_sync(self.asked.set, trio_token=self._token)
        trio.from_thread.run(self.released.wait, trio_token=self._token)
        return RunPlan(tiles=1, ram_bytes=1)

    def segment(self, volume, params, context):
        raise AssertionError("it is never reached")


async def test_two_requests_with_one_key_at_the_same_time_make_one_job(tmp_path, tomogram):
    runner = HeldRunner()
    request = {"json": body(tomogram) | {"runner": "held"}, "headers": {"Idempotency-Key": "one"}}
    answers = []
    async with opened(tmp_path, runner) as server, client(server) as ada:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def first():
                answers.append(await ada.post("/v1/jobs", **request))

            await runner.asked.wait()
            meanwhile = await ada.post("/v1/jobs", **request)
            assert (meanwhile.status_code, meanwhile.json()["error"]["code"]) == (409, "job/in-flight")
            assert meanwhile.json()["error"]["retryable"]
            assert int(meanwhile.headers["Retry-After"]) > 0
            runner.released.set()
        assert answers[0].status_code == 201
        later = await ada.post("/v1/jobs", **request)
        assert later.json()["job_id"] == answers[0].json()["job_id"]


@pytest.mark.parametrize("key", ["", "x" * 129, "two words", '""', 'a"b', "\xe9"])
async def test_a_key_that_cannot_be_one_is_refused(tmp_path, tomogram, key):
    async with opened(tmp_path) as server, client(server) as ada:
        answer = await ada.post("/v1/jobs", json=body(tomogram), headers={"Idempotency-Key": key.encode("latin-1")})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "request/malformed")


async def test_a_plan_tells_what_a_job_would_cost_and_starts_nothing(tmp_path, tomogram):
    async with opened(tmp_path, slots=()) as server, client(server) as ada:
        for _ in range(2):
            await submit(ada, tomogram)
        plan = (await ada.post("/v1/jobs/plan", json=body(tomogram))).json()
        assert (plan["run"]["tiles"], plan["run"]["ram_bytes"], plan["queue_position"]) == (6, 120, 2)
        assert plan["run"]["seconds"] is None
        assert len((await ada.get("/v1/jobs")).json()["jobs"]) == 2


async def test_shards_are_asked_for_in_the_body_and_refused_with_a_reason(tmp_path, tomogram):
    async with opened(tmp_path) as server, client(server) as ada:
        for address in ("/v1/jobs/plan", "/v1/jobs"):
            whole = await ada.post(address, json=body(tomogram) | {"shards": 2}, headers={"Idempotency-Key": "two"})
            assert whole.json()["error"]["code"] == "plugin/no-shards"  # this server's executor runs whole jobs
            assert whole.json()["error"]["hint"]
            none = await ada.post(address, json=body(tomogram) | {"shards": 0}, headers={"Idempotency-Key": "none"})
            assert (none.status_code, none.json()["error"]["code"]) == (422, "input/invalid-parameter")


async def test_a_plan_expects_what_such_jobs_have_taken_before(tmp_path, tomogram):
    async with opened(tmp_path) as server, client(server) as ada:
        before = await submit(ada, tomogram)
        go(server, before)
        await until(ada, before, "completed")
        running, waiting = await submit(ada, tomogram), await submit(ada, tomogram)
        await until(ada, running, "running")
        plan = (await ada.post("/v1/jobs/plan", json=body(tomogram))).json()
        assert plan["run"]["seconds"] > 0
        assert plan["starts_in_seconds"] >= plan["run"]["seconds"]
        shown = (await ada.get(f"/v1/jobs/{waiting}")).json()
        assert shown["queue_position"] == 0
        assert 0 <= shown["starts_in_seconds"] <= plan["starts_in_seconds"]
        listed = {job["job_id"]: job for job in (await ada.get("/v1/jobs")).json()["jobs"]}
        assert listed[waiting]["starts_in_seconds"] is not None
        assert listed[running]["starts_in_seconds"] is None
        go(server, running, waiting)


class HungryRunner(ModelRunner):
    """Needs a gigabyte for each section."""

    name = "hungry"
    params_type = StepParams

    @hookimpl
    def cryomamba_register_runners(self, register):
        register(self)

    def models(self):
        return [ModelInfo(name="hungry", runner="hungry", labels=name_labels({1: "positive"}))]

    def plan(self, model, grid, params, device):
        if params.fault == "says so":
            raise OutOfMemory("it is too much", hint="cut it")
        if params.fault.startswith("keeps "):
            return RunPlan(tiles=1, ram_bytes=1, disk_bytes=int(params.fault.removeprefix("keeps ")))
        vram = grid.shape[0] << 30 if params.fault == "vram" else 0
        return RunPlan(tiles=1, ram_bytes=0 if vram else grid.shape[0] << 30, vram_bytes=vram)

    def segment(self, volume, params, context):
        raise AssertionError("it is never reached")


@pytest.mark.parametrize(
    ("fault", "message", "hint"),
    [
        ("", "the run needs about 6.44 GB of memory, and there are 4.29 GB", "bin the tomogram by 2, or run it on"),
        ("vram", "the run needs about 6.44 GB of GPU memory, and there are 2.15 GB", "bin the tomogram by 3, or run"),
        ("says so", "it is too much", "cut it"),
    ],
)
@pytest.mark.parametrize("address", ["/v1/jobs", "/v1/jobs/plan"])
async def test_what_cannot_fit_is_refused_with_what_would_make_it_fit(
    tmp_path, tomogram, monkeypatch, address, fault, message, hint
):
    memory = fitting.Memory(ram_bytes=4 << 30, vram_bytes=2 << 30)
    monkeypatch.setattr("cryomamba_server.engine.engine.computer_memory", lambda: memory)
    request = body(tomogram, fault=fault) | {"runner": "hungry"}
    async with opened(tmp_path, HungryRunner()) as server, client(server) as ada:
        answer = await ada.post(address, json=request)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["retryable"]) == (422, "job/does-not-fit", False)
        assert error["message"] == message
        assert error["hint"].startswith(hint)


@pytest.mark.parametrize("address", ["/v1/jobs", "/v1/jobs/plan"])
async def test_what_a_runner_keeps_on_the_disk_is_part_of_what_a_job_needs(tmp_path, tomogram, address):
    async with opened(tmp_path, HungryRunner(), slots=()) as server, client(server) as ada:

        async def ask(address, kept):
            return await ada.post(address, json=body(tomogram, fault=f"keeps {kept}") | {"runner": "hungry"})

        plans = [(await ask("/v1/jobs/plan", kept)).json() for kept in (0, 1000)]
        assert plans[1]["disk_bytes"] - plans[0]["disk_bytes"] == 1000
        refused = await ask(address, 1 << 60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage/full")
        assert "1152921504.62 GB" in refused.json()["error"]["message"]
        assert (await ada.get("/v1/jobs")).json()["jobs"] == []


async def test_jobs_are_listed_newest_first_and_in_pages(tmp_path, tomogram):
    async with opened(tmp_path, slots=()) as server, client(server) as ada, client(server, "bob") as bob:
        ids = [await submit(ada, tomogram) for _ in range(5)]
        await submit(bob, tomogram)
        seen, before = [], None
        while True:
            page = (await ada.get("/v1/jobs", params={"limit": 2} | ({"before": before} if before else {}))).json()
            seen.append([job["job_id"] for job in page["jobs"]])
            before = page["next_before"]
            if before is None:
                break
        assert seen == [ids[:2:-1], ids[2:0:-1], ids[:1]]
        assert len((await ada.get("/v1/jobs", params={"limit": 5})).json()["jobs"]) == 5
        assert (await ada.get("/v1/jobs", params={"limit": 5})).json()["next_before"] is None


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=501", "limit=x", "limit=", "limit=1e2", "limit=1&limit=2", "page=2"]
)
async def test_a_query_that_makes_no_sense_is_refused(tmp_path, query):
    async with opened(tmp_path) as server, client(server) as ada:
        answer = await ada.get(f"/v1/jobs?{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "request/malformed")


async def test_waiting_and_running_jobs_are_canceled_and_tried_again(tmp_path, tomogram):
    async with opened(tmp_path) as server, client(server) as ada:
        running, waiting = await submit(ada, tomogram), await submit(ada, tomogram)
        await until(ada, running, "running")
        for job_id in (waiting, running, running):
            answer = await ada.delete(f"/v1/jobs/{job_id}")
            assert (answer.status_code, answer.json()["state"]) == (200, "canceled")
        answer = await ada.post(f"/v1/jobs/{waiting}/retry")
        assert (answer.status_code, answer.json()["state"]) == (200, "queued")
        go(server, waiting)
        await until(ada, waiting, "completed")
        answer = await ada.post(f"/v1/jobs/{waiting}/retry")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job/illegal-transition")
        answer = await ada.delete(f"/v1/jobs/{waiting}")
        assert (answer.status_code, answer.json()["state"]) == (200, "completed")


async def test_a_worker_that_takes_its_time_to_stop_is_not_waited_for(tmp_path, tomogram, monkeypatch):
    monkeypatch.setattr(routes, "CANCEL_SECONDS", 0.1)
    async with opened(tmp_path, script=DEAF) as server, client(server) as ada:
        job_id = await submit(ada, tomogram)
        await until(ada, job_id, "running")
        answer = await ada.delete(f"/v1/jobs/{job_id}")
        assert (answer.status_code, answer.json()["state"]) == (202, "running")
        go(server, job_id)
        await until(ada, job_id, "completed", "canceled")


async def test_what_belongs_to_somebody_else_does_not_exist(tmp_path, tomogram):
    async with opened(tmp_path, slots=()) as server, client(server) as ada, client(server, "bob") as bob:
        job_id = await submit(ada, tomogram)
        nowhere = uuid.UUID(int=0)
        for method, address in [
            ("GET", "/v1/jobs/{}"),
            ("DELETE", "/v1/jobs/{}"),
            ("POST", "/v1/jobs/{}/retry"),
            ("GET", "/v1/jobs/{}/events"),
            ("GET", "/v1/files/{}/mask.npy"),
        ]:
            theirs, none = [await bob.request(method, address.format(each)) for each in (job_id, nowhere)]
            assert (theirs.status_code, none.status_code) == (404, 404)
            assert theirs.text.replace(job_id, "") == none.text.replace(str(nowhere), "")
        assert (await bob.get("/v1/jobs")).json()["jobs"] == []
        assert (await ada.get(f"/v1/jobs/{job_id}")).json()["state"] == "queued"


async def test_owners_take_turns_and_one_job_runs_in_each_slot(tmp_path, tomogram):
    slots = ("cuda:0", "cuda:1")
    async with opened(tmp_path, slots=slots) as server, client(server, "ada") as ada, client(server, "bob") as bob:
        jobs = [await submit(ada, tomogram) for _ in range(4)] + [await submit(bob, tomogram)]
        for job_id in jobs[:2]:
            await until(ada, job_id, "running")
        positions = [(await ada.get(f"/v1/jobs/{job_id}")).json()["queue_position"] for job_id in jobs[:4]]
        assert positions == [None, None, 1, 2]
        assert (await bob.get(f"/v1/jobs/{jobs[4]}")).json()["queue_position"] == 0
        go(server, jobs[0])
        await until(bob, jobs[4], "running")
        assert (await ada.get(f"/v1/jobs/{jobs[2]}")).json()["state"] == "queued"
        go(server, *jobs)
        for job_id in jobs[:4]:
            await until(ada, job_id, "completed")
