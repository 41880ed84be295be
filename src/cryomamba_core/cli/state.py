"""What every command of one call shares."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cryomamba_core.wording import harmless

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    from cryomamba_core.cli.interruption import Interruption
    from cryomamba_core.interfaces import Credentials, Session
    from cryomamba_core.plugins import PluginHost
    from cryomamba_core.settings import Settings

T = TypeVar("T")

#: The engine in this process.
LOCAL = "local:"

#: Width of lines that go to a file or a pipe: nothing is wrapped there.
_PIPE_WIDTH = 10_000


class CliState:
    """Settings, plugins and consoles, each made when it is first asked for.

    Commands of plugins find it as ``click.get_current_context().obj``.

    Parameters
    ----------
    data_dir, config
        From the command line; None for what environment and files say.

    Attributes
    ----------
    server, fingerprint
        Address of the engine, and of the certificate that it must show, if one was named.
    verbose
        Whether the user wants details.
    """

    def __init__(self, *, data_dir: Path | None = None, config: Path | None = None) -> None:
        self._data_dir = data_dir
        self._config = config
        self.server: str = LOCAL
        self.fingerprint: str | None = None
        self.verbose: bool = False
        self._interruption: Interruption | None = None

    def configure(
        self, *, data_dir: Path | None, config: Path | None, server: str, fingerprint: str | None, verbose: bool
    ) -> None:
        """Take over the global options; what was made for others is forgotten."""
        self.server, self.fingerprint, self.verbose = server, fingerprint, verbose
        self._locate(data_dir, config)

    def use_data_dir(self, data_dir: Path | None) -> None:
        """Take the data directory that a command has as an option of its own; None changes nothing."""
        self._locate(data_dir or self._data_dir, self._config)

    def use_server(self, server: str | None, fingerprint: str | None) -> None:
        """Take what a command has as options of its own; None changes nothing."""
        self.server = server or self.server
        self.fingerprint = fingerprint or self.fingerprint

    @property
    def remote(self) -> bool:
        """Whether the engine is not the one in this process."""
        return self.server.partition(":")[0].strip().lower() != LOCAL.rstrip(":")

    def command(self, words: str) -> str:
        """A command that asks the same engine, for people to copy."""
        if self.remote:
            return f"cryomamba --server {shlex.quote(self.server)} {words}"
        where = "" if self._data_dir is None else f"--data-dir {shlex.quote(str(self._data_dir))} "
        return f"cryomamba {where}{words}"

    def credentials(self) -> Credentials:
        """Who we are to the engine: by option and environment, else by what a login left. It may ask the keyring."""
        from cryomamba_core.credentials import CredentialStore
        from cryomamba_core.interfaces import Credentials

        token = os.environ.get("CRYOMAMBA_TOKEN") or None
        kept = CredentialStore().find(self.server) if self.remote else None
        if kept is None:
            return Credentials(token=token, fingerprint=self.fingerprint)
        return Credentials(token=token or kept.token, fingerprint=self.fingerprint or kept.fingerprint)

    @property
    def config(self) -> Path | None:
        """The settings file that was named, if any."""
        return self._config

    def _locate(self, data_dir: Path | None, config: Path | None) -> None:
        if (data_dir, config) != (self._data_dir, self._config):
            self._data_dir, self._config = data_dir, config
            for made in ("settings", "host", "log_folder"):
                vars(self).pop(made, None)

    @cached_property
    def settings(self) -> Settings:
        """The settings of this process; raises `InvalidParameter`."""
        from attrs import evolve

        from cryomamba_core.settings import load_settings

        settings = load_settings(self._config)
        return settings if self._data_dir is None else evolve(settings, data_dir=self._data_dir)

    @cached_property
    def host(self) -> PluginHost:
        """Every plugin that is installed and works."""
        from cryomamba_core.plugins import PluginHost

        return PluginHost.discover(self.settings)

    @cached_property
    def out(self) -> Console:
        """Standard output: results, and nothing else."""
        return make_console(stderr=False)

    @cached_property
    def err(self) -> Console:
        """Standard error: progress, warnings, errors."""
        return make_console(stderr=True)

    @cached_property
    def log_folder(self) -> Path | None:
        """Where an unexpected error is written down, or None before there is a data directory."""
        try:
            folder = self.settings.data_dir
        except Exception:  # noqa: BLE001  # the settings may be what is wrong
            return None
        return folder if folder.is_dir() else None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A conversation with the engine that `server` names."""
        import trio

        transport = self.host.transport_for(self.server)
        credentials = await trio.to_thread.run_sync(self.credentials, abandon_on_cancel=True)  # a keyring may wait
        opened = transport.open(self.server, credentials)
        if self._interruption is not None:
            opened = self._interruption.outliving(opened)
        async with opened as session:
            yield session

    def ask(self, question: Callable[[Session], Awaitable[T]]) -> T:
        """Open a session, ask one thing, close it."""

        async def work(_: Interruption) -> T:
            async with self.session() as session:
                return await question(session)

        return self.run(work)

    def run(self, work: Callable[[Interruption], Awaitable[T]]) -> T:
        """Run `work` under trio; Ctrl-C and SIGTERM cancel it and raise `Interrupted` once it has ended."""
        from cryomamba_core.cli.interruption import Interruption

        interruption = self._interruption = Interruption()
        try:
            return interruption.run(lambda: work(interruption))
        finally:
            self._interruption = None

    def print_json(self, value: Any) -> None:
        """Write one JSON document to standard output."""
        from cryomamba_core.cli.failures import print_json

        print_json(value)


def make_console(*, stderr: bool) -> Console:
    """A console that shows text as it is: no markup, no emoji, no guessing of colours.

    Labels, names and messages may come from a server, and do not reach the terminal as its orders.
    """
    from rich.console import Console

    class WholeConsole(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            """Everything that is printed comes through here."""
            return map(_tamed, super().render(renderable, options))

        def on_broken_pipe(self) -> None:
            """Leave it to `main`; rich would exit on its own."""
            raise BrokenPipeError

    console = WholeConsole(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def _tamed(segment: Segment) -> Segment:
    """A piece of output without orders to the terminal, unless they are rich's own."""
    text, style, control = segment
    if control:
        return segment
    if style is not None and style.link:  # a colour that a server names may be any style, but only links hold words
        style = style.update_link(None)
    return segment._replace(text=harmless(text), style=style)


@contextmanager
def hushed(logger: str) -> Iterator[None]:
    """Keep the warnings of a logger to itself, where the command is about to say the same."""
    quiet = logging.getLogger(logger)
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        yield
    finally:
        quiet.setLevel(level)


class WarningsOnStderr(logging.Handler):
    """Shows what the library logs, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        from rich.text import Text

        style = {logging.DEBUG: "dim", logging.INFO: "dim"}.get(record.levelno, "yellow")
        line = Text.assemble((f"{record.levelname.lower()}: ", style), " ".join(record.getMessage().split()))
        make_console(stderr=True).print(line)


def listen_to_logs(*, verbose: bool, silent: bool = False) -> None:
    """Show warnings, with `verbose` everything that CryoMamba says, and nothing if `silent`."""
    root = logging.getLogger()
    if not any(isinstance(handler, WarningsOnStderr | logging.NullHandler) for handler in root.handlers):
        root.addHandler(logging.NullHandler() if silent else WarningsOnStderr())
    for name in ("cryomamba_core", "cryomamba_backends", "cryomamba_server"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.WARNING)
