"""A plugin for controls: it takes out of a server's process the protections that ``UNPROTECTED`` names.

What a test proves of a server as it is must be seen to fail of one without.
"""

import os
from contextlib import nullcontext
from functools import partial

cryomamba_api_version = 1


def take_out_the_search_for_workers():
    from cryomamba_server.engine.supervision import Supervision

    async def find_nothing(_):
        return False

    Supervision._find = find_nothing


def take_out_the_reckoning_of_room():
    from cryomamba_server.engine import engine

    engine.require_space = lambda *_: None


def take_out_the_name_of_a_full_disk():
    from cryomamba_server.engine import database

    database.translated = lambda _: nullcontext()


def take_out_the_thread_that_writes_the_log():
    from cryomamba_server.http.logs import LogHandler

    def emit(self, record):
        os.write(self._writer._descriptor, self.format(record).encode() + b"\n")

    LogHandler.emit = emit


def take_out_the_order_of_bytes_and_record():
    from cryomamba_server.engine.uploads import Uploads

    async def keep(self, upload, index, view, sha256, stored):
        import trio

        if stored is None:
            await self._ledger.call(self._store.add_part, upload, index, sha256)
        write = partial(self._content.write, upload, index, view, sha256, fresh=stored is None)
        await trio.to_thread.run_sync(write)

    Uploads._keep = keep


def take_out_the_search_for_renamed_content():
    from cryomamba_server.engine.upload_content import UploadContent

    UploadContent._placed = lambda *_: None


def take_out_the_search_for_lost_content():
    from cryomamba_server.engine.upload_content import UploadContent
    from cryomamba_server.engine.uploads import Uploads

    async def remember(*_):
        return None

    UploadContent.is_lost = lambda *_: False
    Uploads._forget = remember


def take_out_the_sync_of_parts():
    from cryomamba_backends.filesystem import storage

    storage._sync_data = lambda _: None


def take_out_the_redoing_of_one_shard_alone():
    from cryomamba_core.worker.shards import ShardCrew

    lose = ShardCrew._lose

    def lose_all(self, shard, how):
        lose(self, shard, how)
        for other in self._shards:
            if other.handle is not None:
                self._executor.cancel(other.handle, grace=0)
            other.handle = other.place = other.result = None
            other.directory.clear_checkpoint()

    ShardCrew._lose = lose_all


PROTECTIONS = {
    "redoing of one shard alone": take_out_the_redoing_of_one_shard_alone,
    "order of bytes and record": take_out_the_order_of_bytes_and_record,
    "search for renamed content": take_out_the_search_for_renamed_content,
    "search for lost content": take_out_the_search_for_lost_content,
    "sync of parts": take_out_the_sync_of_parts,
    "search for workers": take_out_the_search_for_workers,
    "reckoning of room": take_out_the_reckoning_of_room,
    "name of a full disk": take_out_the_name_of_a_full_disk,
    "thread for the log": take_out_the_thread_that_writes_the_log,
}


def install(site):
    """Make it a plugin of processes with `site` on their path."""
    info = site / "unprotected-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unprotected\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cryomamba]\nunprotected = unprotected\n")


for _name in filter(None, os.environ.get("UNPROTECTED", "").split(", ")):
    PROTECTIONS[_name]()
