"""Files on their way from a client: begun, received in parts, completed, and cleaned away if nobody goes on.

A part is acknowledged when its bytes and then its record are durable. A file is complete when its
whole content has been checked, renamed into its place, and recorded, in that order. Whatever moment
the process is killed at, a client that asks again gets on from what was acknowledged:

1. Bytes without a record: the part is sent again, over what is there.
2. All parts recorded: completing can be asked for as often as it takes. Content that was renamed
   without a record is found by its key, which belongs to this upload alone.
3. A record without content, as of an upload that was being dropped: it is forgotten, and the client
   begins another.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol, runtime_checkable
from weakref import WeakValueDictionary

import trio
import uuid_utils
from attrs import evolve

from cryomamba_core.errors import (
    InputError,
    InvalidParameter,
    PartRefused,
    StorageError,
    UnknownUpload,
    UploadConflict,
    UploadIncomplete,
)
from cryomamba_core.interfaces import Storage
from cryomamba_core.plugins import PluginHost
from cryomamba_core.protocol.uploads import MAX_PARTS, PartReceipt, UploadedFile, UploadRequest, UploadStatus
from cryomamba_server.engine.database import Database
from cryomamba_server.engine.ledger import Ledger
from cryomamba_server.engine.part_slots import PartSlots
from cryomamba_server.engine.records import StoredFile, now
from cryomamba_server.engine.upload_content import OTHER_CONTENT, UploadContent
from cryomamba_server.engine.upload_rules import UploadRules
from cryomamba_server.engine.upload_store import Upload, UploadStore, unknown

log = logging.getLogger(__name__)

#: In the place of a part's number, the whole upload.
WHOLE = -1

#: How many numbers of missing parts are named in an error.
NAMED_PARTS = 10

#: How many refused uploads are remembered, so that parts that were under way learn why.
REMEMBERED = 1000

#: Seconds that an upload has for its first part: it holds room on the disk from its beginning.
EMPTY_SECONDS = 3600.0

#: Open writes that no record names are left by a crash. They are given so many times the time of an upload, and so
#: many seconds at least: the writes of others are among them.
ORPHANS = 2.0
ORPHAN_SECONDS = 24 * 3600.0


@runtime_checkable
class ReadsInto(Protocol):
    """A body that can be read into memory without a copy on the way."""

    async def read_into(self, view: memoryview) -> int:
        """Fill memory as far as the body reaches; returns the bytes that came."""
        ...


class Uploads:
    """Uploads of any number of owners; another's upload is unknown.

    Parameters
    ----------
    host
        Has the readers that look at the first part.
    storage
        Where the content goes.
    ledger, database
        The job store.
    rules
        What is allowed.
    """

    def __init__(
        self, *, host: PluginHost, storage: Storage, ledger: Ledger, database: Database, rules: UploadRules
    ) -> None:
        self.rules = rules
        self._content = UploadContent(host=host, storage=storage, reserve_bytes=rules.reserve_bytes)
        self._ledger = ledger
        self._store = UploadStore(database)
        self._slots = PartSlots(rules.parallel_parts, rules.part_size)
        self._locks: WeakValueDictionary[tuple[str, int], trio.Lock] = WeakValueDictionary()
        self._busy: Counter[str] = Counter()
        self._refused: OrderedDict[tuple[str, str], InputError] = OrderedDict()

    async def begin(self, request: UploadRequest, *, owner: str) -> UploadStatus:
        """Start an upload, or go on with the owner's own of the same file.

        Content that this owner has sent before is complete at once. That others have sent it makes
        no difference: a digest alone opens nobody's file.

        Raises
        ------
        QuotaExceeded, StorageFull
            If there is no room for it.
        """
        known = await self._known(request, owner)
        if known is not None:
            return known
        earlier = await self._earlier(request, owner)
        if earlier is not None:
            return earlier
        if request.size > MAX_PARTS * self.rules.part_size:
            raise InvalidParameter(
                f"a file of {request.size} bytes has more than {MAX_PARTS} parts of {self.rules.part_size} bytes",
                hint="send a smaller file, or name its path on the server",
            )
        await self._ledger.call(self._store.require_quota, owner, request.size, self.rules.quota_bytes)
        upload = self._new(request, owner)
        with trio.CancelScope(shield=True):
            opened = evolve(upload, token=await trio.to_thread.run_sync(self._content.open, upload))
            try:
                await self._ledger.call(self._store.add, opened, quota=self.rules.quota_bytes)
            except BaseException:
                await trio.to_thread.run_sync(self._content.clear, opened)
                raise
        return self._status(opened, {})

    async def status(self, upload_id: str, *, owner: str) -> UploadStatus:
        """How far an upload is; raises `UnknownUpload`, or why it was refused."""
        upload = await self._find(upload_id, owner)
        if await self._forgotten_if_lost(upload):
            upload = await self._find(upload_id, owner)  # there if it was completed at this moment
            if upload.file_id is None:
                raise unknown(upload_id)
        return await self._current(upload)

    async def receive(
        self, upload_id: str, index: int, *, owner: str, length: int, sha256: str, body: AsyncIterator[bytes]
    ) -> PartReceipt:
        """Take in a part; it is durable when this returns.

        The body is read when there is room for it in memory. Once it is there, it is stored even if
        the caller is cancelled.

        Parameters
        ----------
        upload_id, index, owner
            Which part of which upload.
        length, sha256
            What its sender says of it.
        body
            Its bytes, in pieces of any size.

        Raises
        ------
        PartRefused
            If the upload has no such part, or the bytes are not what was said of them.
        UploadConflict
            If the upload is complete, or has other bytes for the part.
        InputError
            If the first part shows that the file is of no use: the upload is dropped then.
        """
        upload, stored = await self._find_part(upload_id, index, owner)
        _check_announced(upload, index, length=length, sha256=sha256, stored=stored)
        async with self._slots.take(owner, length) as slot:
            with slot.filling() as view:
                await _fill(view, body, index)
            with self._occupied(upload_id), trio.CancelScope(shield=True):
                async with self._lock(upload_id, index):
                    upload, stored = await self._find_part(upload_id, index, owner)
                    await self._keep(upload, index, view, sha256, stored)
        return PartReceipt(upload_id=upload_id, index=index, size=length, sha256=sha256)

    async def complete(self, upload_id: str, *, owner: str, sha256: str | None = None) -> UploadedFile:
        """Make a file of an upload all of whose parts are there; asked again, the answer is the same.

        It is carried through even if the caller is cancelled.

        Parameters
        ----------
        upload_id, owner
            Which upload.
        sha256
            What the digest of the whole has to be; None for what was announced, if anything was.

        Raises
        ------
        UploadIncomplete
            If parts are missing.
        UploadConflict
            If the whole has another digest.
        """
        with self._occupied(upload_id), trio.CancelScope(shield=True):
            async with self._lock(upload_id, WHOLE):
                upload = await self._find(upload_id, owner)
                if upload.file_id is not None:
                    return await self._completed(upload, upload.file_id, sha256)
                await self._require_parts(upload)
                expected = _expected(upload, sha256)
                digest = await trio.to_thread.run_sync(self._content.place, upload, expected)
                if digest is None:
                    await self._forget(upload)
                    raise unknown(upload.id)
                stored = await self._ledger.call(self._store.complete, upload, digest)
                if stored.key != upload.key:
                    await self._drop_copy(upload, stored)
        return _uploaded(stored)

    async def abort(self, upload_id: str, *, owner: str) -> None:
        """Drop an upload and what came of it.

        Raises
        ------
        UploadConflict
            If it is complete: its file stays.
        """
        with trio.CancelScope(shield=True):
            async with self._lock(upload_id, WHOLE):
                upload = await self._find(upload_id, owner)
                if upload.file_id is not None:
                    raise UploadConflict("the upload is complete, and its file stays")
                await self._drop(upload)

    async def expire(self, older_than: float) -> int:
        """Drop uploads to which nothing came for so many seconds, or no part in an hour; files of complete ones stay.

        Returns
        -------
        dropped
            How many unfinished ones there were.
        """
        dropped = 0
        for listed in await self._ledger.call(self._store.untouched, older_than, empty_for=EMPTY_SECONDS):
            with trio.CancelScope(shield=True):
                async with self._lock(listed.id, WHOLE):
                    dropped += await self._drop_untouched(listed)
        patience = max(ORPHANS * older_than, ORPHAN_SECONDS)
        return dropped + await trio.to_thread.run_sync(self._content.expire, patience)

    # Beginning.

    async def _known(self, request: UploadRequest, owner: str) -> UploadStatus | None:
        """A complete upload, where the owner has sent the same content before."""
        if request.sha256 is None:
            return None
        stored = await self._ledger.call(self._store.file, request.sha256, owner)
        if (
            stored is None
            or stored.record.size != request.size
            or not await trio.to_thread.run_sync(self._content.has, stored)
        ):
            return None
        upload = evolve(self._new(request, owner), key=stored.key, file_id=stored.record.id)
        if not await self._ledger.call(self._store.add_complete, upload, stored.record.id):
            return None
        return self._status(upload, {})

    async def _earlier(self, request: UploadRequest, owner: str) -> UploadStatus | None:
        """The owner's last upload of the same file, as far as can be known before it is sent."""
        if request.fingerprint is None:
            return None
        find = partial(self._store.find, fingerprint=request.fingerprint, size=request.size, filename=request.filename)
        earlier = await self._ledger.call(find, owner)
        if earlier is None:
            return None
        digest = earlier.file_id or earlier.sha256
        if request.sha256 is not None and digest is not None and request.sha256 != digest:
            return None
        if earlier.file_id is None:
            if await self._forgotten_if_lost(earlier):
                return None
            await self._ledger.call(self._store.resume, earlier.id, sha256=request.sha256)
            earlier = evolve(earlier, touched_at=now())
        else:
            stored = await self._ledger.call(self._store.use_file, earlier.file_id, owner)
            if stored is None or not await trio.to_thread.run_sync(self._content.has, stored):
                return None
        return await self._current(earlier)

    def _new(self, request: UploadRequest, owner: str) -> Upload:
        identity, at = str(uuid_utils.uuid7()), now()
        return Upload(
            id=identity,
            owner=owner,
            filename=request.filename,
            size=request.size,
            part_size=self.rules.part_size,
            fingerprint=request.fingerprint,
            sha256=request.sha256,
            key=f"raw/{identity}{self._content.suffix(request.filename)}",
            token=None,
            file_id=None,
            created_at=at,
            touched_at=at,
        )

    # Parts.

    async def _keep(self, upload: Upload, index: int, view: memoryview, sha256: str, stored: str | None) -> None:
        """Make a part durable, first its bytes, then its record."""
        _check_announced(upload, index, length=len(view), sha256=sha256, stored=stored)
        try:
            write = partial(self._content.write, upload, index, view, sha256, fresh=stored is None)
            await trio.to_thread.run_sync(write)
        except InputError as error:
            await self._drop(upload)
            self._refused[upload.owner, upload.id] = error
            while len(self._refused) > REMEMBERED:
                self._refused.popitem(last=False)
            raise
        except UnknownUpload:
            await self._forget(upload)
            raise
        if stored is None:
            await self._ledger.call(self._store.add_part, upload, index, sha256)

    # Completing.

    async def _require_parts(self, upload: Upload) -> None:
        parts = await self._ledger.call(self._store.parts, upload.id)
        missing = [index for index in range(upload.part_count) if index not in parts]
        if missing:
            named = ", ".join(map(str, missing[:NAMED_PARTS])) + ", …" * (len(missing) > NAMED_PARTS)
            raise UploadIncomplete(
                f"{len(missing)} of {upload.part_count} parts are missing: {named}",
                hint="send them, then complete the upload again",
            )

    async def _drop_copy(self, upload: Upload, stored: StoredFile) -> None:
        """Remove content that was there before it was sent, or let it take the place of what is lost."""
        if await trio.to_thread.run_sync(self._content.has, stored):
            await trio.to_thread.run_sync(self._content.remove, upload)
        else:
            await self._ledger.call(self._store.move_files, stored.key, upload.key)

    async def _completed(self, upload: Upload, file_id: str, sha256: str | None) -> UploadedFile:
        if sha256 not in (None, file_id):
            raise UploadConflict(f"the file has the digest {file_id}, not {sha256}", hint=OTHER_CONTENT)
        stored = await self._ledger.call(self._store.use_file, file_id, upload.owner)
        if stored is None:
            raise unknown(upload.id)
        return _uploaded(stored)

    # Dropping.

    async def _drop(self, upload: Upload) -> None:
        """Drop an unfinished upload: first its content, since a full disk takes no record."""
        await trio.to_thread.run_sync(self._content.clear, upload)
        await self._ledger.call(self._store.remove, upload.id)

    async def _forgotten_if_lost(self, upload: Upload) -> bool:
        """Forget an unfinished upload of which there is nothing; returns whether it was so."""
        lost = upload.file_id is None and await trio.to_thread.run_sync(self._content.is_lost, upload)
        if lost:
            await self._forget(upload)
        return lost

    async def _forget(self, upload: Upload) -> None:
        """Remove the record of an upload of which nothing is stored; if the disk is full, that is found out again."""
        log.info("nothing is stored of upload %s any more: it is forgotten", upload.id)
        with suppress(StorageError):
            await self._ledger.call(self._store.remove_unfinished, upload.id)

    async def _drop_untouched(self, listed: Upload) -> int:
        try:
            upload = await self._ledger.call(self._store.upload, listed.id, owner=listed.owner)
        except UnknownUpload:
            return 0
        if self._busy[upload.id] or upload.touched_at != listed.touched_at:
            return 0
        if upload.file_id is None:
            await trio.to_thread.run_sync(self._content.abort, upload)
            await self._ledger.call(self._store.remove, upload.id)
            return 1
        if not await self._ledger.call(self._store.in_use, upload.key):
            await trio.to_thread.run_sync(self._content.remove, upload)
        await self._ledger.call(self._store.remove, upload.id)
        return 0

    # What all of them need.

    async def _find(self, upload_id: str, owner: str) -> Upload:
        with self._explaining(upload_id, owner):
            return await self._ledger.call(self._store.upload, upload_id, owner=owner)

    async def _find_part(self, upload_id: str, index: int, owner: str) -> tuple[Upload, str | None]:
        with self._explaining(upload_id, owner):
            return await self._ledger.call(self._store.upload_and_part, upload_id, index, owner=owner)

    @contextmanager
    def _explaining(self, upload_id: str, owner: str) -> Iterator[None]:
        """Say of an upload that was refused why it is not there."""
        try:
            yield
        except UnknownUpload:
            refused = self._refused.get((owner, upload_id))
            if refused is None:
                raise
            raise type(refused)(refused.message, hint=refused.hint) from None

    async def _current(self, upload: Upload) -> UploadStatus:
        parts = await self._ledger.call(self._store.parts, upload.id) if upload.file_id is None else {}
        return self._status(upload, parts)

    def _status(self, upload: Upload, parts: dict[int, str]) -> UploadStatus:
        complete = upload.file_id is not None
        return UploadStatus(
            upload_id=upload.id,
            filename=upload.filename,
            size=upload.size,
            part_size=upload.part_size,
            part_count=upload.part_count,
            received=tuple(range(upload.part_count) if complete else parts),
            digests={str(index): sha256 for index, sha256 in parts.items()},
            file_id=upload.file_id,
            sha256=upload.file_id or upload.sha256,
            expires_at=None if complete else self._end_of(upload, begun=bool(parts)),
        )

    def _end_of(self, upload: Upload, *, begun: bool) -> datetime:
        """When an upload is dropped if nothing more comes."""
        end = upload.touched_at + timedelta(hours=self.rules.hours)
        return end if begun else min(end, upload.created_at + timedelta(seconds=EMPTY_SECONDS))

    def _lock(self, upload_id: str, index: int) -> trio.Lock:
        return self._locks.setdefault((upload_id, index), trio.Lock())

    @contextmanager
    def _occupied(self, upload_id: str) -> Iterator[None]:
        """Keep an upload from being cleaned away."""
        self._busy[upload_id] += 1
        try:
            yield
        finally:
            self._busy[upload_id] -= 1
            self._busy += Counter()  # forgets those at which nobody is


def _check_announced(upload: Upload, index: int, *, length: int, sha256: str, stored: str | None) -> None:
    """Refuse a part for what is said of it."""
    if upload.file_id is not None:
        raise UploadConflict("the upload is complete and takes no more parts", hint="begin another for another file")
    expected = upload.part_length(index)
    if length != expected:
        raise PartRefused(f"part {index} has {length} bytes instead of {expected}", hint="see part_size and size")
    if stored not in (None, sha256):
        raise UploadConflict(
            f"part {index} is there with the digest {stored}, not {sha256}",
            hint="the file seems to have changed: abort the upload and begin again",
        )


async def _fill(view: memoryview, body: AsyncIterator[bytes], index: int) -> None:
    filled = await body.read_into(view) if isinstance(body, ReadsInto) else 0
    async for piece in body:
        end = filled + len(piece)
        if end > len(view):
            raise PartRefused(f"part {index} goes on behind its {len(view)} bytes", hint="see part_size and size")
        view[filled:end] = piece
        filled = end
    if filled < len(view):
        raise PartRefused(f"part {index} ends after {filled} of {len(view)} bytes", hint="send it again")


def _expected(upload: Upload, sha256: str | None) -> str | None:
    if None not in (sha256, upload.sha256) and sha256 != upload.sha256:
        raise UploadConflict(
            f"the digest {sha256} is not {upload.sha256}, which was announced first", hint=OTHER_CONTENT
        )
    return sha256 or upload.sha256


def _uploaded(stored: StoredFile) -> UploadedFile:
    record = stored.record
    return UploadedFile(
        file_id=record.id,
        filename=record.name,
        size=record.size,
        sha256=record.sha256,
        created_at=record.created_at,
    )
