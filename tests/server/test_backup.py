"""Backups of the records: of one moment, whole, and true where they are put back."""

import hashlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from contextlib import closing
from functools import partial

import engines
import pytest
import servers
import trio
from attrs import evolve

from cryomamba_core.errors import (
    CryoMambaError,
    DataDirectoryUnusable,
    MissingFile,
    OutputExists,
    StorageDamaged,
    UnknownObject,
)
from cryomamba_core.jobs import JobState, Source
from cryomamba_core.protocol.uploads import UploadRequest
from cryomamba_server.http.upkeep.backup import make_backup
from cryomamba_server.http.upkeep.restore import restore_backup

#: A worker of ada's held job waits for a file called open in its job directory.
HELD = "\nif 'held' in str(spec.config.label):\n  while not (directory.path / 'open').exists(): time.sleep(0.01)\n"


@pytest.fixture
def backup_file(tmp_path):
    return tmp_path / "records.backup"


@pytest.fixture
def target(tmp_path):
    return engines.make_settings(tmp_path / "restored")


@pytest.fixture
async def records(settings, tomogram, backup_file):
    """A backup of two completed jobs, and the data directory that it is of."""
    async with engines.scripted_engine(settings) as engine:
        for _ in range(2):
            job = await engine.submit(engines.steps(tomogram), owner="ada")
            await engines.heard(engine, job.id)
        make_backup(settings.data_dir, backup_file, with_keys=False)
    return settings


def storage_of(settings):
    return engines.make_host(settings).storages.get("filesystem")


def restore(backup_file, settings):
    return restore_backup(backup_file, settings.data_dir, storage_of(settings))


def rewrite(backup_file, change):
    """Write the backup anew, with what `change` makes of its names and contents."""
    with zipfile.ZipFile(backup_file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    change(contents)
    with zipfile.ZipFile(backup_file, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def relist(contents, **values):
    manifest = json.loads(contents["manifest.json"]) | values
    contents["manifest.json"] = json.dumps(manifest)


def integrity(path):
    with closing(sqlite3.connect(path)) as database:
        return database.execute("PRAGMA integrity_check").fetchone()[0]


def test_a_backup_under_load_is_whole_and_has_every_job_that_was_acknowledged_before(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", engines.install_strangers(tmp_path / "site"))
    tomogram = engines.make_tomogram(tmp_path / "a.npy")
    with servers.ServerProcess(tmp_path / "data", "--allow-root", tmp_path) as server:
        acknowledged = []
        for round_number in range(4):
            before = list(acknowledged)
            name = tmp_path / f"{round_number}.backup"
            words = [sys.executable, "-m", "cryomamba_core", "backup", str(name), "--data-dir", str(server.data_dir)]
            with subprocess.Popen(words) as command:
                while command.poll() is None:
                    acknowledged.append(submit(server, tomogram))
            assert command.returncode == 0
            with zipfile.ZipFile(name) as archive:
                archive.extract("cryomamba.sqlite", tmp_path / str(round_number))
            store = tmp_path / str(round_number) / "cryomamba.sqlite"
            assert integrity(store) == "ok"
            with closing(sqlite3.connect(store)) as database:
                kept = {row[0] for row in database.execute("SELECT id FROM jobs")}
                silent = "SELECT count(*) FROM jobs WHERE last_seq != (SELECT max(seq) FROM events WHERE job_id = id)"
                assert database.execute(silent).fetchone() == (0,)
            assert set(before) <= kept
        assert len(acknowledged) > 4


def submit(server, tomogram):
    body = json.dumps({"source": {"path": str(tomogram)}, "model": "steps"}).encode()
    headers = {**server.headers(), "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/v1/jobs", body, headers)) as answer:
        return json.load(answer)["job_id"]


async def test_a_backup_waits_for_a_writer_where_a_copy_of_the_file_would_be_torn(records, tmp_path):
    store = records.data_dir / "cryomamba.sqlite"
    later = tmp_path / "later.backup"
    with closing(sqlite3.connect(store, isolation_level=None)) as writer:
        rows = [(str(number), "x" * 200) for number in range(2000)]
        writer.executemany("INSERT INTO tokens VALUES (?, 'ada', ?, 'k', '2026', '2027', NULL)", rows)
        writer.execute("PRAGMA cache_size = 2")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE tokens SET key_id = 'l'")
        async with trio.open_nursery() as nursery:
            done = trio.Event()

            async def back_up():
                await trio.to_thread.run_sync(partial(make_backup, records.data_dir, later, with_keys=False))
                done.set()

            nursery.start_soon(back_up)
            with trio.move_on_after(0.5):
                await done.wait()
            assert not done.is_set()
            copied = tmp_path / "copied.sqlite"
            shutil.copy(store, copied)
            writer.execute("ROLLBACK")
    with zipfile.ZipFile(later) as archive:
        archive.extract("cryomamba.sqlite", tmp_path)
    assert changed_in(tmp_path / "cryomamba.sqlite") == 0
    assert changed_in(copied) > 0


def changed_in(store):
    """How many tokens say what was never committed."""
    with closing(sqlite3.connect(store)) as database:
        return database.execute("SELECT count(*) FROM tokens WHERE key_id = 'l'").fetchone()[0]


async def test_restored_records_say_what_is_true_where_they_are_restored(
    settings, target, tomogram, backup_file, monkeypatch
):
    monkeypatch.setattr("cryomamba_server.engine.looking.CANCEL_GRACE", 0.1)  # the worker that is held hears no order
    async with engines.scripted_engine(settings, HELD + engines.SUCCEED) as engine:
        whole, bare = [(await engine.submit(engines.steps(tomogram), owner="ada")).id for _ in range(2)]
        for each in (whole, bare):
            await engines.heard(engine, each)
        kept_file = await engine.add_file(tomogram, owner="ada")
        other = engines.make_tomogram(tomogram.with_name("b.npy"), seed=4)
        lost_file = await engine.add_file(other, owner="ada")
        await engine.uploads.begin(UploadRequest(filename="c.npy", size=100_000), owner="ada")
        held = evolve(engines.steps(tomogram), label="held")
        active, waiting = [(await engine.submit(held, owner="ada")).id for _ in range(2)]
        await engines.heard(engine, active, until=lambda event: getattr(event, "state", "") == JobState.RUNNING)
        make_backup(settings.data_dir, backup_file, with_keys=False)
        for folder in ("raw", f"artifacts/{whole}"):
            shutil.copytree(settings.data_dir / folder, target.data_dir / folder)
        for job_id in (active, waiting):
            await engine.cancel(job_id, owner=None)
    (lost_content,) = [path for path in (target.data_dir / "raw").iterdir() if path.stem == lost_file.sha256]
    lost_content.unlink()

    restored = restore(backup_file, target)
    assert (restored.requeued, restored.without_results, restored.without_content) == (1, 1, 1)
    async with engines.scripted_engine(target) as engine:
        for job_id in (active, waiting):
            await engines.heard(engine, job_id)
        states = {record.id: record.state for record in await engine.jobs(owner="ada")}
        completed = JobState.COMPLETED
        assert states == {whole: completed, bare: JobState.FAILED, active: completed, waiting: completed}
        artifact, key = await engine.artifact(whole, "stats.json", owner="ada")
        assert len(engine.storage.read(key, 0, artifact.size)) == artifact.size
        failed = await engine.job(bare, owner="ada")
        assert (failed.error.code, failed.artifacts) == ("storage/unknown-object", ())
        await engine.retry(bare, owner="ada")
        assert (await engines.heard(engine, bare, after=3))[-1].type == "completed"
        for file_id, known in ((kept_file.id, True), (lost_file.id, False)):
            config = evolve(engines.steps(tomogram), source=Source(file_id=file_id))
            if known:
                assert (await engine.plan(config, owner="ada")).run.tiles
            else:
                with pytest.raises(UnknownObject):
                    await engine.plan(config, owner="ada")


async def test_a_job_that_was_to_stop_does_not_run_again(settings, target, tomogram, backup_file):
    async with engines.scripted_engine(settings, HELD + engines.SUCCEED) as engine:
        job = await engine.submit(evolve(engines.steps(tomogram), label="held"), owner="ada")
        await engines.heard(engine, job.id, until=lambda event: getattr(event, "state", "") == JobState.RUNNING)
        with closing(sqlite3.connect(settings.data_dir / "cryomamba.sqlite")) as database, database:
            database.execute("UPDATE jobs SET cancel_requested = 1")
        make_backup(settings.data_dir, backup_file, with_keys=False)
        folder = settings.jobs_dir / job.id
        folder.mkdir(parents=True, exist_ok=True)  # a job is running as soon as it has its slot
        (folder / "open").touch()
        await engines.heard(engine, job.id)
    restore(backup_file, target)
    async with engines.scripted_engine(target) as engine:
        assert (await engine.job(job.id, owner=None)).state is JobState.CANCELED


@pytest.mark.parametrize("with_keys", [True, False])
async def test_tokens_count_again_only_with_the_keys(tmp_path, settings, target, backup_file, with_keys):
    async with servers.open_test_server(settings.data_dir) as server:
        headers = server.headers()
    make_backup(settings.data_dir, backup_file, with_keys=with_keys)
    assert stat.S_IMODE(backup_file.stat().st_mode) == 0o600
    with zipfile.ZipFile(backup_file) as archive:
        assert ("access/keys.json" in archive.namelist()) == with_keys
    restore(backup_file, target)
    keys = target.data_dir / "access" / "keys.json"
    assert keys.exists() == with_keys
    assert not with_keys or stat.S_IMODE(keys.stat().st_mode) == 0o600
    async with servers.open_test_server(target.data_dir) as server:
        request = urllib.request.Request(f"{server.url}/v1/jobs", headers=headers)
        status = await trio.to_thread.run_sync(status_of, request)
    assert status == (200 if with_keys else 401)


def status_of(request):
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def add(name):
    return lambda contents: contents.update({name: b"evil"})


def list_too(name):
    """Add a member and list it with its true digest: only its name is wrong."""

    def change(contents):
        contents[name] = b"evil"
        members = json.loads(contents["manifest.json"])["members"]
        members[name] = {"size": 4, "sha256": hashlib.sha256(b"evil").hexdigest()}
        relist(contents, members=members)

    return change


def drop(name):
    return lambda contents: contents.pop(name)


def damage(contents):
    store = bytearray(contents["cryomamba.sqlite"])
    store[5000] ^= 1
    contents["cryomamba.sqlite"] = bytes(store)


def bomb(contents):
    contents["cryomamba.sqlite"] += bytes(50_000_000)


@pytest.mark.parametrize(
    "change",
    [
        add("notes.txt"),
        list_too("../evil"),
        list_too("/evil"),
        list_too("access/../../evil"),
        list_too("access/.."),
        list_too("access/deeper/evil"),
        list_too("access\\..\\evil"),
        list_too("raw/evil"),
        drop("manifest.json"),
        drop("cryomamba.sqlite"),
        damage,
        bomb,
        lambda contents: relist(contents, format=2),
        lambda contents: relist(contents, members="none"),
        lambda contents: contents.update({"manifest.json": b"[" * 100_000}),
    ],
)
async def test_a_backup_that_is_not_one_leaves_nothing_behind(records, target, backup_file, tmp_path, change):
    rewrite(backup_file, change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageDamaged) as raised:
        restore(backup_file, target)
    assert raised.value.hint
    assert sorted(tmp_path.rglob("*")) == before


async def test_a_backup_that_was_cut_short_or_changed_anywhere_is_refused(records, target, backup_file):
    whole = backup_file.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        backup_file.write_bytes(whole[:place])
        with pytest.raises(CryoMambaError):
            restore(backup_file, target)
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        backup_file.write_bytes(damaged)
        try:
            restore(backup_file, target)
        except CryoMambaError:
            assert not target.data_dir.exists()
        else:  # a bit that says nothing, such as one of a time
            assert integrity(target.data_dir / "cryomamba.sqlite") == "ok"
            shutil.rmtree(target.data_dir)


async def test_records_of_a_newer_version_are_refused(records, target, backup_file, tmp_path):
    with closing(sqlite3.connect(records.data_dir / "cryomamba.sqlite")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'r9999'")
    newer = tmp_path / "newer.backup"
    make_backup(records.data_dir, newer, with_keys=False)
    with pytest.raises(DataDirectoryUnusable, match="newer version") as raised:
        restore(newer, target)
    assert "upgrade" in raised.value.hint
    assert not target.data_dir.exists()


async def test_a_data_directory_that_is_in_use_is_left_alone(records, target, backup_file):
    with pytest.raises(OutputExists, match=r"cryomamba\.sqlite"):
        restore(backup_file, records)
    target.data_dir.mkdir()
    (target.data_dir / "thesis.tex").touch()
    with pytest.raises(OutputExists, match=r"thesis\.tex"):
        restore(backup_file, target)
    assert [path.name for path in target.data_dir.iterdir()] == ["thesis.tex"]


def test_a_directory_that_a_server_runs_on_is_left_alone(tmp_path, backup_file):
    with servers.ServerProcess(tmp_path / "data") as server:
        settings = engines.make_settings(server.data_dir)
        make_backup(server.data_dir, backup_file, with_keys=False)
        with pytest.raises(OutputExists, match="in use"):
            restore(backup_file, settings)


async def test_a_file_that_exists_is_not_written_over(records, backup_file):
    with pytest.raises(OutputExists):
        make_backup(records.data_dir, backup_file, with_keys=False)


def test_where_there_are_no_records_there_is_nothing_to_back_up(tmp_path, backup_file, target):
    with pytest.raises(DataDirectoryUnusable):
        make_backup(tmp_path, backup_file, with_keys=False)
    with pytest.raises(MissingFile):
        restore(backup_file, target)


async def test_a_damaged_store_is_no_backup(records, tmp_path):
    store = records.data_dir / "cryomamba.sqlite"
    data = bytearray(store.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 64] = os.urandom(64)
    store.write_bytes(data)
    with pytest.raises(CryoMambaError):
        make_backup(records.data_dir, tmp_path / "other.backup", with_keys=False)
    assert not (tmp_path / "other.backup").exists()


def test_the_commands_say_what_they_did(tmp_path):
    data, restored, file = tmp_path / "data", tmp_path / "restored", tmp_path / "a.backup"
    with servers.ServerProcess(data) as server:
        server.token()
        assert "0 jobs, 0 files" in run("backup", file, "--data-dir", data)
        document = json.loads(run("backup", tmp_path / "b.backup", "--data-dir", data, "--with-keys", "--json"))
        assert set(document["members"]) == {"cryomamba.sqlite", "access/keys.json"}
    assert str(restored) in run("restore", file, "--data-dir", restored)
    with servers.ServerProcess(restored) as server:
        assert status_of(urllib.request.Request(f"{server.url}/v1/jobs", headers=server.headers())) == 200


def run(*words):
    command = [sys.executable, "-m", "cryomamba_core", *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
