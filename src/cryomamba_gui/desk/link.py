"""The window's connection with an engine: made in the background, watched, and made again when it is lost."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import trio
from attrs import field, frozen
from psygnal import Signal

from cryomamba_core.errors import CryoMambaError, ErrorInfo, RateLimited, ServerUnreachable, ServerUntrusted
from cryomamba_core.models import ModelInfo
from cryomamba_gui.desk.conversation import Conversation
from cryomamba_gui.desk.proofs import Proofs, address_of, is_local
from cryomamba_gui.desk.watching import Pace, Rounds
from cryomamba_gui.desk.words import all_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryomamba_core.credentials import CredentialStore
    from cryomamba_core.interfaces import Credentials, ServerInfo
    from cryomamba_core.plugins import PluginHost
    from cryomamba_gui.desk.history import History
    from cryomamba_gui.desk.journal import Journal
    from cryomamba_gui.desk.troubles import Troubles


class LinkState(StrEnum):
    """How a window stands with its engine.

    ``apart``: it is to be connected with none. ``connecting``: for the first time. ``connected``.
    ``waiting``: the engine does not answer, and is asked again and again. ``refused``: asking again
    would change nothing; `Link.error` says what would.
    """

    APART = "apart"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    REFUSED = "refused"


@frozen(kw_only=True, eq=False)
class _Target:
    """Whom to connect with."""

    url: str
    given: Credentials | None = field(repr=False)
    remember: bool


class Link:
    """One window's connection.

    Parameters
    ----------
    host
        Has the transports.
    history
        Takes down the engine that was used last.
    journal, troubles
        Hear what happens.
    store
        Where tokens and fingerprints are kept; None for the user's own.
    pace
        How often to ask, and how long to wait.

    Attributes
    ----------
    state
        How it stands.
    url
        Address of the engine, in the one form that names it; ``local:`` is this computer. None while apart.
    info, models
        What the engine said last; None and empty before its first answer.
    error
        Why it waits or was refused; while connected, that the engine wants fewer requests.
    session
        To talk with the engine, from its first answer on; it stays the same while the engine is waited
        for. What is asked when it ends raises `ServerUnreachable`.
    strange_certificate
        Fingerprint of a certificate that nobody vouches for: it may be shown, compared with what the
        server printed, and then be given as that of `Credentials`.
    other_certificate
        Fingerprint of a certificate that is not the one that was pinned: somebody may be listening in.
    """

    #: Anything of it is different.
    changed = Signal()

    def __init__(
        self,
        host: PluginHost,
        history: History,
        journal: Journal,
        troubles: Troubles,
        *,
        store: CredentialStore | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.host = host
        self.state: LinkState = LinkState.APART
        self.url: str | None = None
        self.info: ServerInfo | None = None
        self.models: tuple[ModelInfo, ...] = ()
        self.error: ErrorInfo | None = None
        self.session: Conversation | None = None
        self.strange_certificate: str | None = None
        self.other_certificate: str | None = None
        self._history = history
        self._journal = journal
        self._troubles = troubles
        self._proofs = Proofs(journal, store)
        self._pace = pace or Pace()
        self._target: _Target | None = None
        self._rounds = Rounds(self._pace)
        self._scope = trio.CancelScope()
        self._called = trio.Event()

    @property
    def connected(self) -> bool:
        """Whether the engine answers."""
        return self.state is LinkState.CONNECTED

    @property
    def local(self) -> bool:
        """Whether the engine is that of this computer."""
        return self.url is not None and is_local(self.url)

    @property
    def seconds_to_next_try(self) -> float | None:
        """While the engine is waited for: time until it is asked again; None while it is being asked."""
        return self._rounds.seconds_to_next if self.state is LinkState.WAITING else None

    def connect(self, url: str, credentials: Credentials | None = None, *, remember: bool = True) -> None:
        """Connect with an engine, and leave the one before; returns at once, and says by `changed` how it goes.

        Parameters
        ----------
        url
            Its address.
        credentials
            Token and fingerprint; what is None of them comes from ``CRYOMAMBA_TOKEN`` and from what an
            earlier login left.
        remember
            Whether the next window connects with it, and whether credentials that were given are kept
            once they have worked.
        """
        self._begin(_Target(url=address_of(url), given=credentials, remember=remember))

    def disconnect(self) -> None:
        """Leave the engine; jobs go on there."""
        self._begin(None)

    def retry_now(self) -> None:
        """Ask again at once, whatever the state; while connected, the engine's models are asked for anew."""
        if self.state is LinkState.REFUSED and self._target is not None:
            self._begin(self._target)
        else:
            self._rounds.hurry()

    async def run(self) -> None:
        """Be connected with whomever `connect` names, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    target = self._target
                    if target is not None and self.state is not LinkState.REFUSED:
                        with self._scope:
                            await self._serve(target, nursery)
                    if target is self._target:
                        await self._called.wait()
                    self._called = trio.Event()
        finally:
            self._begin(None)

    def _begin(self, target: _Target | None) -> None:
        self._target = target
        self._scope.cancel()
        self._scope, self._rounds = trio.CancelScope(), Rounds(self._pace)
        self._called.set()
        self.info, self.models, self.session, self._journal.engine = None, (), None, None
        self.strange_certificate = self.other_certificate = None
        self._set(
            LinkState.APART if target is None else LinkState.CONNECTING, url=None if target is None else target.url
        )

    async def _serve(self, target: _Target, nursery: trio.Nursery) -> None:
        """Talk with the engine until it refuses; an engine that ends is opened again."""
        rounds = self._rounds
        while True:
            proof: Credentials | None = None
            with all_errors() as errors:
                proof = await self._proofs.find(target.url, target.given)
                await self._talk(target, proof, rounds, nursery)
            if self._target is not target:
                return
            [error, *_] = errors or [ServerUnreachable("the engine has ended")]
            if not isinstance(error, CryoMambaError) or not error.retryable:
                self._refuse(error, proof)
                return
            await self._miss(error, rounds)

    async def _talk(self, target: _Target, proof: Credentials, rounds: Rounds, nursery: trio.Nursery) -> None:
        """Open a session, and ask now and then whether the engine is there; raises why it is not any more."""
        transport = self.host.transport_for(target.url)
        async with transport.open(target.url, proof) as session:
            session.on_waiting = lambda why: self._hear(target, why)
            talk = Conversation(session, self._journal)
            try:
                while True:
                    await self._ask(target, talk, rounds)
                    if self.session is not talk:
                        self._meet(target, talk, nursery)
                    await rounds.rest()
            finally:
                session.on_waiting = None
                if self.session is talk:
                    self.session = None
                    self._tell()
                await talk.close()

    async def _ask(self, target: _Target, talk: Conversation, rounds: Rounds) -> None:
        """Ask what the engine is until it answers; whatever is not worth another try is raised."""
        while True:
            try:
                info = await rounds.ask(talk.server_info)
                models: Sequence[ModelInfo] = self.models
                if rounds.anew:
                    models = await rounds.ask(talk.models)
            except CryoMambaError as error:
                if not error.retryable:
                    raise
                await self._miss(error, rounds)
            else:
                break
        rounds.succeeded()
        before = (self.info, self.models, self.state, self.error)
        self.info, self.models = info, tuple(models)
        self._journal.engine = (target.url, info)
        if before != (self.info, self.models, LinkState.CONNECTED, None) and self.session is talk:
            self._set(LinkState.CONNECTED)

    def _meet(self, target: _Target, talk: Conversation, nursery: trio.Nursery) -> None:
        """The engine has answered for the first time."""
        self.session = talk
        self._set(LinkState.CONNECTED)
        if target.remember:
            self._history.remember_engine(target.url)
            nursery.start_soon(self._keep, target)

    async def _keep(self, target: _Target) -> None:
        with self._troubles.catching(f"keeping the token for {target.url}"):
            await self._proofs.keep(target.url, target.given)

    def _hear(self, target: _Target, why: ErrorInfo | None) -> None:
        """Take in what the session says of the engine's silence."""
        if target is not self._target:
            return
        if why is not None and why.code == RateLimited.code:
            self._set(self.state, error=why)
        elif why is not None:
            self._rounds.patient()
            self._set(LinkState.WAITING, error=why)
        elif self.state is LinkState.WAITING:
            self._rounds.hurry_unless_asking()
        elif self.error is not None:
            self._set(self.state)

    async def _miss(self, error: CryoMambaError, rounds: Rounds) -> None:
        """The engine does not answer: wait until it is to be asked again."""
        rounds.failed()
        limited = isinstance(error, RateLimited) and self.state is LinkState.CONNECTED
        self._set(LinkState.CONNECTED if limited else LinkState.WAITING, error=ErrorInfo.of(error))
        await rounds.pause()

    def _refuse(self, error: Exception, proof: Credentials | None) -> None:
        """It makes no sense to go on trying."""
        if not isinstance(error, CryoMambaError):
            self._troubles.report(error, what=f"connecting with {self.url}")
        if isinstance(error, ServerUntrusted) and error.fingerprint is not None:
            if proof is not None and proof.fingerprint is not None:
                self.other_certificate = error.fingerprint
            else:
                self.strange_certificate = error.fingerprint
        self._set(LinkState.REFUSED, error=ErrorInfo.of(error))

    def _set(self, state: LinkState, *, error: ErrorInfo | None = None, url: str | None = None) -> None:
        if state is not self.state:
            why = f": {error.message}" if error is not None else ""
            self._journal.note("link", f"{state} {url or self.url or ''}{why}")
        self.state, self.error = state, error
        if state in (LinkState.APART, LinkState.CONNECTING):
            self.url = url
        self._tell()

    def _tell(self) -> None:
        with self._troubles.catching("showing the connection"):
            self.changed.emit()
