"""Sources that are named by their path on the server: what a stranger can open, and what not."""

import os
from contextlib import asynccontextmanager
from pathlib import Path

import engines
import httpx
import numpy as np
import pytest
from attrs import evolve
from engines import OWNER, heard, make_host, make_settings, make_tomogram, steps
from servers import open_test_server

from cryomamba_core.errors import Forbidden
from cryomamba_core.events import Completed, Failed
from cryomamba_core.wire import to_plain
from cryomamba_server.engine.allowed_paths import AllowedPaths
from cryomamba_server.engine.engine import open_engine


@pytest.fixture(autouse=True)
def installed_strangers(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))
    monkeypatch.delenv("CRYOMAMBA_CONFIG", raising=False)


@pytest.fixture
def root(tmp_path):
    """An allowed folder with a tomogram, beside a secret one of the same shape."""
    for folder, seed in ((tmp_path / "allowed" / "cohort", 3), (tmp_path / "secret", 4)):
        folder.mkdir(parents=True)
        make_tomogram(folder / "a.npy", seed=seed)
    return tmp_path / "allowed"


@asynccontextmanager
async def client(data_dir, *roots, subject="ada"):
    async with open_test_server(data_dir, allow_roots=roots) as server:
        headers = server.headers(subject=subject)
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=engines.DEADLINE) as made:
            yield made


async def plan(made, path):
    return await made.post("/v1/jobs/plan", json=to_plain(steps(path)))


async def test_a_tomogram_in_an_allowed_folder_is_segmented_in_place(tmp_path, root):
    settings = make_settings(tmp_path / "data")
    async with open_engine(make_host(settings), settings, allow_roots=[root]) as engine:
        job = await engine.submit(steps(root / "cohort" / "a.npy", artifacts=("mask.npy",)), owner=OWNER)
        assert isinstance((await heard(engine, job.id))[-1], Completed)
        manifest = (settings.data_dir / "artifacts" / job.id / "manifest.json").read_text()
        assert '"name": "a.npy"' in manifest
    mask = np.load(settings.data_dir / "artifacts" / job.id / "mask.npy")
    np.testing.assert_array_equal(mask, np.load(root / "cohort" / "a.npy") > 0)


async def test_outside_the_allowed_folders_every_path_gets_the_same_answer(tmp_path, root):
    link = root / "cohort" / "link.npy"
    link.symlink_to(tmp_path / "secret" / "a.npy")
    async with client(tmp_path / "data", root) as made:
        assert (await plan(made, root / "cohort" / "a.npy")).status_code == 200
        there = await plan(made, tmp_path / "secret" / "a.npy")
        assert (there.status_code, there.json()["error"]["code"]) == (403, "access/forbidden")
        for path in (
            tmp_path / "secret" / "none.npy",
            "/etc/passwd",
            "/proc/self/environ",
            f"/proc/{os.getpid()}/mem",
            "/dev/zero",
            f"{root}/../secret/a.npy",
            f"{root}/cohort/../../secret/a.npy",
            "cohort/a.npy",
            "",
            f"/{root}/cohort/a.npy",
            f"{root}/cohort/a.npy\0",
            f"{root}-other/a.npy",
            "~/a.npy",
        ):
            answer = await plan(made, path)
            assert (answer.status_code, answer.content) == (403, there.content), path


async def test_inside_the_allowed_folders_links_pipes_and_devices_are_forbidden(tmp_path, root):
    (root / "inside.npy").symlink_to(root / "cohort" / "a.npy")
    (root / "outside.npy").symlink_to(tmp_path / "secret" / "a.npy")
    (root / "nowhere.npy").symlink_to(tmp_path / "secret" / "none.npy")
    (root / "folder").symlink_to(tmp_path / "secret")
    os.mkfifo(root / "pipe.npy")
    async with client(tmp_path / "data", root) as made:
        for name in ("inside.npy", "outside.npy", "nowhere.npy", "folder/a.npy", "pipe.npy", "cohort"):
            answer = await plan(made, root / name)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "access/forbidden"), name
        answer = await plan(made, root / "none.npy")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "input/missing-file")


async def test_with_all_paths_allowed_the_kernels_files_still_are_not(tmp_path, root):
    async with client(tmp_path / "data", Path("/")) as made:
        assert (await plan(made, root / "cohort" / "a.npy")).status_code == 200
        for path in ("/proc/self/environ", "/proc/self/fd/0", "/proc/self/root/etc/passwd", "/dev/zero", "/dev/stdin"):
            answer = await plan(made, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "access/forbidden"), path


async def test_the_data_directory_is_closed_even_inside_an_allowed_folder(tmp_path, root):
    data_dir = root / "data"
    (data_dir / "raw").mkdir(parents=True)
    make_tomogram(data_dir / "raw" / "of-somebody.npy")
    async with client(data_dir, root) as made:
        answer = await plan(made, data_dir / "raw" / "of-somebody.npy")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "access/forbidden")


async def test_without_an_allowed_folder_no_path_is_opened(tmp_path, root):
    async with client(tmp_path / "data") as made:
        assert (await plan(made, root / "cohort" / "a.npy")).status_code == 403


async def test_an_allowed_folder_that_is_a_link_is_known_by_both_names(tmp_path, root):
    (tmp_path / "disk").symlink_to(root)
    async with client(tmp_path / "data", tmp_path / "disk") as made:
        assert (await plan(made, tmp_path / "disk" / "cohort" / "a.npy")).status_code == 200
        assert (await plan(made, root / "cohort" / "a.npy")).status_code == 200


@pytest.mark.parametrize(
    ("protected", "allowed"),
    [(True, "."), (True, "cohort"), (True, None), (False, ".")],
    ids=["as it is", "the folder is withdrawn", "taken over by an engine that opens any path", "control"],
)
async def test_a_file_that_becomes_a_link_while_its_job_waits_is_not_followed(
    tmp_path, root, monkeypatch, protected, allowed
):
    path = root / "cohort" / "a.npy"
    settings = make_settings(tmp_path / "data")
    idle = evolve(settings, devices=())
    if not protected:
        monkeypatch.setattr(AllowedPaths, "root_named", lambda *_: None)
    async with open_engine(make_host(idle), idle, allow_roots=[root]) as engine:
        job = await engine.submit(steps(path, artifacts=("mask.npy",)), owner=OWNER)
    path.unlink()
    path.symlink_to(tmp_path / "secret" / "a.npy")
    async with open_engine(make_host(settings), settings, allow_roots=allowed and [root / allowed]) as engine:
        last = (await heard(engine, job.id))[-1]
    if protected:
        assert isinstance(last, Failed)
        assert last.error.code == Forbidden.code
    else:
        mask = np.load(settings.data_dir / "artifacts" / job.id / "mask.npy")
        np.testing.assert_array_equal(mask, np.load(tmp_path / "secret" / "a.npy") > 0)


async def test_an_engine_of_its_own_user_opens_any_path(tmp_path, root):
    settings = make_settings(tmp_path / "data")
    (root / "link.npy").symlink_to(tmp_path / "secret" / "a.npy")
    async with open_engine(make_host(settings), settings) as engine:
        await engine.plan(steps(root / "link.npy"), owner=OWNER)
        await engine.plan(steps(tmp_path / "secret" / "a.npy"), owner=OWNER)
