"""Files below a folder that others can write to."""

import os
import socket

import pytest

from cryomamba_core import guarded_files
from cryomamba_core.errors import Forbidden, MissingFile
from cryomamba_core.guarded_files import named, opened_below


@pytest.fixture
def root(tmp_path):
    """A folder with a file, beside a secret."""
    folder = tmp_path / "root"
    (folder / "cohort").mkdir(parents=True)
    (folder / "cohort" / "a.mrc").write_bytes(b"tomogram")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.mrc").write_bytes(b"secret")
    return folder


def content(root, path, **values):
    with opened_below(root, path, **values) as descriptor:
        return os.read(descriptor, 100)


def test_a_file_below_is_opened(root):
    assert content(root, root / "cohort" / "a.mrc") == b"tomogram"


def test_the_folder_itself_may_be_a_link(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert content(tmp_path / "link", tmp_path / "link" / "cohort" / "a.mrc") == b"tomogram"


@pytest.mark.parametrize("path", ["cohort/../../secret/a.mrc", "../secret/a.mrc", "/etc/passwd", "", ".", "cohort"])
def test_what_is_not_a_file_below_is_forbidden(root, path):
    with pytest.raises(Forbidden):
        content(root, root / path)


@pytest.mark.parametrize("target", ["../../secret/a.mrc", "a.mrc", "nowhere", "/etc/passwd"])
def test_a_link_is_forbidden_wherever_it_leads(root, target):
    (root / "cohort" / "link").symlink_to(target)
    with pytest.raises(Forbidden):
        content(root, root / "cohort" / "link")


@pytest.mark.parametrize("target", ["../secret", "cohort", "nowhere"])
def test_a_link_on_the_way_is_forbidden_wherever_it_leads(root, target):
    (root / "link").symlink_to(target)
    with pytest.raises(Forbidden):
        content(root, root / "link" / "a.mrc")


def test_a_pipe_a_socket_and_a_device_are_forbidden(root):
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
        for path in (root / "pipe", root / "socket"):
            with pytest.raises(Forbidden):
                content(root, path)
    with pytest.raises(Forbidden):
        content(root.parents[len(root.parents) - 1], root.parents[len(root.parents) - 1] / "dev" / "zero")


@pytest.mark.parametrize("path", ["/proc/self/environ", "/proc/self/status", "/sys/kernel/uevent_seqnum"])
def test_the_kernels_files_are_forbidden(path, root):
    with pytest.raises(Forbidden):
        content(root.__class__("/"), root.__class__(path))


def test_a_closed_folder_is_not_entered_by_any_name(root, tmp_path):
    closed = root / "cohort"
    (tmp_path / "other-name").symlink_to(closed)
    for name in (closed, tmp_path / "other-name"):
        with pytest.raises(Forbidden):
            content(root, root / "cohort" / "a.mrc", closed=[name])
    assert content(root, root / "cohort" / "a.mrc", closed=[tmp_path / "not-there"]) == b"tomogram"
    with pytest.raises(Forbidden):
        content(closed, closed / "a.mrc", closed=[closed])


def test_what_is_missing_below_is_said_to_be_missing(root):
    for path in (root / "cohort" / "b.mrc", root / "none" / "a.mrc", root / ("x" * 300)):
        with pytest.raises(MissingFile):
            content(root, path)


def test_a_named_file_stays_the_same_whatever_happens_to_its_path(root, tmp_path):
    path, links = root / "cohort" / "a.mrc", tmp_path / "links"
    links.mkdir()
    with opened_below(root, path) as descriptor, named(descriptor, path, links) as steady:
        path.unlink()
        path.symlink_to(tmp_path / "secret" / "a.mrc")
        assert steady.name == "a.mrc"
        assert steady.read_bytes() == b"tomogram"
        assert steady.stat().st_size == len(b"tomogram")
        assert path.read_bytes() == b"secret"
    assert not list(links.iterdir())


def test_a_link_that_a_killed_process_left_is_replaced(root, tmp_path):
    path = root / "cohort" / "a.mrc"
    (tmp_path / "a.mrc").symlink_to("/proc/self/fd/999")
    with opened_below(root, path) as descriptor, named(descriptor, path, tmp_path) as steady:
        assert steady.read_bytes() == b"tomogram"


def test_without_names_for_open_files_the_path_has_to_be_the_same_file(root, tmp_path, monkeypatch):
    monkeypatch.setattr(guarded_files, "_DESCRIPTORS", tmp_path / "none")
    path = root / "cohort" / "a.mrc"
    with opened_below(root, path) as descriptor:
        with named(descriptor, path, tmp_path) as steady:
            assert steady == path
        path.unlink()
        path.write_bytes(b"another")
        with pytest.raises(Forbidden), named(descriptor, path, tmp_path):
            pass
