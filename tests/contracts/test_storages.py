"""The built-in storage passes the suite that strangers use."""

from pathlib import Path

from cryomamba_backends.filesystem.storage import FilesystemStorage
from cryomamba_core.interfaces import Storage
from cryomamba_core.testing.storages import StorageConformance


class TestFilesystem(StorageConformance):
    def make_storage(self, root: Path) -> Storage:
        return FilesystemStorage(root)


class TestFilesystemBehindALink(StorageConformance):
    """A data directory that is itself a link to a larger disk."""

    def make_storage(self, root: Path) -> Storage:
        disk, link = root / "disk", root / "link"
        if not link.is_symlink():
            disk.mkdir()
            link.symlink_to(disk)
        return FilesystemStorage(link)
