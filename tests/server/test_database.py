"""Where the job store may lie, how it is upgraded and what its complaints become."""

import os
import sqlite3
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from cryomamba_core.errors import DataDirectoryUnusable, StorageFull
from cryomamba_server.engine import database, schema
from cryomamba_server.engine.database import FILE_NAME, Database, file_system_of, open_database

OPEN = "import sys; from pathlib import Path; from cryomamba_server.engine.database import open_database;"


@pytest.fixture
def opened(tmp_path):
    engine = open_database(tmp_path)
    yield engine
    engine.dispose()


def test_the_steps_from_an_empty_database_lead_to_the_tables_of_the_schema(opened):
    with opened.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
        assert {index["name"] for index in sa.inspect(connection).get_indexes("jobs")} == {
            index.name for index in schema.jobs.indexes
        }


def test_the_revision_of_the_schema_is_the_newest_step():
    config = Config()
    config.set_main_option("script_location", str(database.Path(database.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "newline")
    assert ScriptDirectory.from_config(config).get_heads() == [schema.REVISION]


def test_the_database_is_as_safe_as_sqlite_can_be(opened):
    with opened.begin() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "delete", "synchronous": 2, "foreign_keys": 1}


def test_writing_transactions_take_the_lock_when_they_begin(opened, tmp_path):
    other = sqlite3.connect(tmp_path / FILE_NAME, timeout=0)
    with (
        opened.execution_options(writes=True).begin(),
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("BEGIN IMMEDIATE")
    with opened.begin():
        other.execute("BEGIN IMMEDIATE")
    other.close()


def test_an_open_of_a_current_database_does_not_import_alembic(opened, tmp_path):
    code = f"{OPEN} open_database(Path(sys.argv[1])); sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


def test_processes_that_open_a_new_data_directory_together_all_succeed(tmp_path):
    code = f"{OPEN} sys.stdin.read(1); open_database(Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path / "new")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        process.stdin.write(b"x")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0] * 4


def test_the_data_of_a_newer_version_is_left_alone(opened, tmp_path):
    with opened.execution_options(writes=True).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'r9999'"))
    opened.dispose()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(DataDirectoryUnusable, match="newer version") as refused:
        open_database(tmp_path)
    assert "upgrade" in refused.value.hint
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"these are not the tables you are looking for" * 100)
    with pytest.raises(DataDirectoryUnusable, match="cannot be used"):
        open_database(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes().startswith(b"these are not")


def test_a_data_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataDirectoryUnusable, match="cannot be made"):
        open_database(tmp_path / "file" / "data")


MOUNTS = """\
overlay / overlay rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sda1 /home/ada/local\\040disk ext4 rw 0 0
ada@host:/data /mnt/far fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/x", "overlay"),
        ("/home/ada/.local/share/cryomamba", "nfs4"),
        ("/home/ada/local disk/cryomamba", "ext4"),
        ("/homework", "overlay"),
        ("/mnt/far", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_the_closest_mount(path, kind):
    assert file_system_of(database.Path(path), MOUNTS) == kind


def test_a_network_file_system_is_refused_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "file_system_of", lambda *_: "nfs4")
    with pytest.raises(DataDirectoryUnusable, match="network file system") as refused:
        open_database(tmp_path / "data")
    assert "CRYOMAMBA_DATA_DIR" in refused.value.hint
    assert not list((tmp_path / "data").iterdir())


def test_a_full_disk_is_called_by_its_name(opened, tmp_path):
    with opened.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with (
        pytest.raises(StorageFull),
        database.translated(tmp_path / FILE_NAME),
        opened.execution_options(writes=True).begin() as connection,
    ):
        connection.execute(
            schema.files.insert().values(
                id="a", owner="b", name="c" * 100_000, size=1, sha256="d", key="e", created_at="f"
            )
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataDirectoryUnusable):
        open_database(tmp_path)
    tmp_path.chmod(0o700)


def test_transactions_of_several_threads_follow_each_other(tmp_path):
    store = Database(tmp_path)
    begun, go_on, counted = threading.Event(), threading.Event(), []

    def write():
        with store.writing() as connection:
            connection.exec_driver_sql("PRAGMA user_version = 7")
            begun.set()
            go_on.wait(60)

    def read():
        with store.reading() as connection:
            counted.append(connection.exec_driver_sql("PRAGMA user_version").scalar())

    threads = [threading.Thread(target=write), *(threading.Thread(target=read) for _ in range(8))]
    threads[0].start()
    assert begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join()
    store.close()
    assert counted == [7] * 8
