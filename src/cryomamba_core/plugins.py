"""The plugin host: finds plugins, keeps what they register, and survives what is wrong with them."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import attrs
import pluggy

from cryomamba_core import hookspecs, interfaces
from cryomamba_core.artifacts import require_plain_name
from cryomamba_core.errors import InputError, InvalidParameter, MissingFile, PluginFault, UnknownFormat, UnknownPlugin
from cryomamba_core.interfaces.readers import FIRST_BYTES
from cryomamba_core.plugin_record import InstalledPlugin, PluginRecord, installed_plugins
from cryomamba_core.settings import Settings

if TYPE_CHECKING:
    import click

    from cryomamba_core.jobs import JobRecord

T = TypeVar("T")
log: logging.Logger = logging.getLogger(__name__)

#: Distribution whose plugins are registered first, so that no stranger takes their names.
OURS = "cryomamba"


class Registry(Generic[T]):
    """What is registered of one kind, by name, in order of registration."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(self._entries.values())

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def names(self) -> tuple[str, ...]:
        """Names, in order of registration."""
        return tuple(self._entries)

    def get(self, name: str) -> T:
        """The entry called `name`; raises `UnknownPlugin`."""
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(self._entries) or "none"
            raise UnknownPlugin(
                f"no {self.kind} is called {name!r}",
                hint=f"installed: {known}; cryomamba plugins shows what could not be loaded",
            ) from None

    def _add(self, name: str, entry: T) -> None:
        self._entries[name] = entry


class PluginHost:
    """Keeps the providers of a process.

    A new host is empty. `discover` fills one from the installed distributions; tests call
    `register` with the plugins that they mean.

    Parameters
    ----------
    settings
        Handed to every plugin.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.readers: Registry[interfaces.VolumeReader] = Registry("reader")
        self.runners: Registry[interfaces.ModelRunner] = Registry("runner")
        self.storages: Registry[interfaces.Storage] = Registry("storage")
        self.exporters: Registry[interfaces.Exporter] = Registry("exporter")
        self.transports: Registry[interfaces.Transport] = Registry("transport")
        self.executors: Registry[interfaces.Executor] = Registry("executor")
        self.commands: Registry[click.Command] = Registry("command")
        self._records: list[PluginRecord] = []
        self._pluggy = pluggy.PluginManager(hookspecs.PROJECT)
        self._pluggy.add_hookspecs(hookspecs)

    @classmethod
    def discover(cls, settings: Settings, *, only: str | None = None) -> Self:
        """A host with every installed plugin that works. Never raises because of a plugin.

        Parameters
        ----------
        settings
            Handed to every plugin.
        only
            Name of a distribution; plugins of others are not even imported.
        """
        host = cls(settings)
        for found in sorted(installed_plugins(only), key=lambda found: (found.distribution != OURS, found.name)):
            host._load(found)
        return host

    @property
    def plugins(self) -> Sequence[PluginRecord]:
        """Every plugin that was found, those that were left out included."""
        return tuple(self._records)

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each plugin that was left out."""
        return tuple(
            f"plugin {record.name} of {record.distribution} {record.version}: {record.error}"
            for record in self._records
            if record.error
        )

    def register(self, plugin: object, *, name: str, distribution: str = "-", version: str = "-") -> PluginRecord:
        """Register a plugin, or leave it out whole and say why in the returned record."""
        record = PluginRecord(name=name, distribution=distribution, version=version)
        try:
            provides = self._register(plugin, f"{distribution}:{name}")
        except (Exception, SystemExit) as error:  # noqa: BLE001  # nothing of a stranger's takes the host down
            self._leave_out(record, error)
            return self._records[-1]
        self._records.append(PluginRecord(name=name, distribution=distribution, version=version, provides=provides))
        return self._records[-1]

    def reader_for(self, path: Path) -> interfaces.VolumeReader:
        """The reader that takes a file.

        Raises
        ------
        MissingFile
            If the file cannot be opened.
        UnknownFormat
            If no reader takes it.
        """
        if path.exists() and not path.is_file():
            raise MissingFile(
                f"{path} is not a regular file", hint="give the path of a file, not of a folder or a pipe"
            )
        try:
            with path.open("rb") as stream:
                first_bytes = stream.read(FIRST_BYTES)
        except OSError as error:
            raise MissingFile(
                f"{path} cannot be opened: {error.strerror}", hint="check the path and its permissions"
            ) from error
        return self.reader_of(path, first_bytes)

    def reader_of(self, path: Path, first_bytes: bytes) -> interfaces.VolumeReader:
        """The reader that takes a file of which the name and the first bytes are known; raises `UnknownFormat`."""
        for reader in self.readers:
            try:
                if reader.can_read(path, first_bytes):
                    return reader
            except (Exception, SystemExit) as error:  # it may not raise; others' files stay readable
                reason = _reason(error)
                log.warning(
                    "reader %s cannot say whether it takes %s: %s", reader.name, path.name, reason, exc_info=error
                )
        suffixes = ", ".join(suffix for reader in self.readers for suffix in reader.suffixes)
        raise UnknownFormat(f"{path.name} is of no known format", hint=f"readers are installed for: {suffixes}")

    def exporter_for(self, artifact: str) -> interfaces.Exporter:
        """The exporter that makes an artifact, named by the artifact's or by the exporter's name."""
        for exporter in self.exporters:
            if artifact in (exporter.artifact, exporter.name):
                return exporter
        names = ", ".join(exporter.artifact for exporter in self.exporters)
        raise UnknownPlugin(f"nothing makes an artifact called {artifact!r}", hint=f"there are: {names}")

    def channel_exporter_for(self, name: str) -> interfaces.Exporter:
        """The exporter that writes channels to a file of this name.

        Raises
        ------
        InvalidParameter
            If no exporter does.
        """
        ending = name.lower()
        offers = [(suffix, exporter) for exporter in self.exporters for suffix in exporter.channel_suffixes]
        fitting = [offer for offer in offers if ending.endswith(offer[0])]
        if fitting:
            return max(fitting, key=lambda offer: len(offer[0]))[1]
        suffixes = ", ".join(suffix for suffix, _ in offers)
        raise InvalidParameter(
            f"nothing writes channels to a file called {name}",
            hint=f"let its name end in one of: {suffixes or 'none, since no exporter writes channels'}",
        )

    def transport_for(self, url: str) -> interfaces.Transport:
        """The transport for a URL's scheme."""
        scheme, colon, _ = url.partition(":")
        for transport in self.transports:
            if colon and scheme.lower() in transport.schemes:
                return transport
        schemes = ", ".join(f"{scheme}:" for transport in self.transports for scheme in transport.schemes)
        meant = _whole_address(url)
        hint = f"do you mean {meant}? " if meant else ""
        raise UnknownPlugin(
            f"no transport speaks {url!r}", hint=f"{hint}addresses start with: {schemes or 'none installed'}"
        )

    def job_changed(self, record: JobRecord) -> None:
        """Tell the observers; what they raise is logged."""
        for implementation in self._pluggy.hook.cryomamba_job_changed.get_hookimpls():
            try:
                implementation.function(*[record for _ in implementation.argnames])
            except (Exception, SystemExit):
                log.exception("plugin %s failed on a change of job %s", implementation.plugin_name, record.id)

    def _load(self, found: InstalledPlugin) -> None:
        try:
            plugin = found.load()
        except BaseException as error:  # an import may even call sys.exit
            if isinstance(error, KeyboardInterrupt):
                raise
            record = PluginRecord(name=found.name, distribution=found.distribution, version=found.version)
            self._leave_out(record, error)
            return
        self.register(plugin, name=found.name, distribution=found.distribution, version=found.version)

    def _leave_out(self, record: PluginRecord, error: BaseException) -> None:
        reason = _reason(error)
        log.warning("plugin %s of %s %s is left out: %s", record.name, record.distribution, record.version, reason)
        log.debug("%s", "".join(traceback.format_exception(error)))
        self._records.append(
            PluginRecord(name=record.name, distribution=record.distribution, version=record.version, error=reason)
        )

    def _register(self, plugin: object, name: str) -> dict[str, tuple[str, ...]]:
        wanted = getattr(plugin, "cryomamba_api_version", hookspecs.API_VERSION)
        if wanted != hookspecs.API_VERSION:
            raise PluginFault(f"it was written for API version {wanted}, this is {hookspecs.API_VERSION}")
        if self._pluggy.has_plugin(name):
            raise PluginFault(f"a plugin called {name!r} is already registered")
        try:
            self._pluggy.register(plugin, name=name)
            self._refuse_unknown_hooks(name)
            offers = list(self._offers(name))
            for registry, entry_name, entry in offers:
                registry._add(entry_name, entry)
        except BaseException:
            if self._pluggy.get_plugin(name) is plugin:  # pluggy keeps even what it refuses
                self._pluggy.unregister(name=name)
            raise
        provides: dict[str, tuple[str, ...]] = {}
        for registry, entry_name, _ in offers:
            provides[registry.kind] = (*provides.get(registry.kind, ()), entry_name)
        return provides

    def _refuse_unknown_hooks(self, name: str) -> None:
        plugin = self._pluggy.get_plugin(name)
        known = {hook for hook in vars(hookspecs) if hook.startswith("cryomamba_")}
        marked = {
            attribute for attribute in dir(plugin) if self._pluggy.parse_hookimpl_opts(plugin, attribute) is not None
        }
        prefixes = ("cryomamba_register_", "cryomamba_job_")
        named = {attribute for attribute in dir(plugin) if attribute.startswith(prefixes)}
        unknown = sorted((marked | named) - known)
        if unknown:
            raise PluginFault(f"there is no hook called {unknown[0]}")
        unmarked = sorted(named - marked)
        if unmarked:
            raise PluginFault(f"{unmarked[0]} lacks the hookimpl decorator")

    def _offers(self, name: str) -> Iterator[tuple[Registry[Any], str, Any]]:
        """Call the plugin's hooks and check what it offers, before anything of it is kept."""
        kinds: dict[str, tuple[Registry[Any], type]] = {
            "cryomamba_register_readers": (self.readers, interfaces.VolumeReader),
            "cryomamba_register_runners": (self.runners, interfaces.ModelRunner),
            "cryomamba_register_storages": (self.storages, interfaces.Storage),
            "cryomamba_register_exporters": (self.exporters, interfaces.Exporter),
            "cryomamba_register_transports": (self.transports, interfaces.Transport),
            "cryomamba_register_executors": (self.executors, interfaces.Executor),
            "cryomamba_register_commands": (self.commands, object),
        }
        offered: set[tuple[str, str]] = set()
        artifacts = {exporter.artifact for exporter in self.exporters} | {"manifest.json"}
        schemes = {scheme for transport in self.transports for scheme in transport.schemes}
        for hook, (registry, interface) in kinds.items():
            for entry in self._call(hook, name):
                if not isinstance(entry, interface):
                    raise PluginFault(f"{hook} got a {type(entry).__name__}, which is no {interface.__name__}")
                entry_name = getattr(entry, "name", None)
                if not isinstance(entry_name, str) or not entry_name:
                    raise PluginFault(f"{hook} got a {type(entry).__name__} without a name")
                if entry_name in registry or (registry.kind, entry_name) in offered:
                    raise PluginFault(f"a {registry.kind} called {entry_name!r} is already registered")
                _require_declared(interface, entry, hook)
                if isinstance(entry, interfaces.Exporter):
                    require_plain_name(entry.artifact)
                    if entry.artifact in artifacts:
                        raise PluginFault(f"an artifact called {entry.artifact!r} is already made")
                    artifacts.add(entry.artifact)
                if isinstance(entry, interfaces.Transport):
                    if schemes.intersection(entry.schemes):
                        taken = min(schemes.intersection(entry.schemes))
                        raise PluginFault(f"addresses that start with '{taken}:' are already spoken for")
                    schemes.update(entry.schemes)
                offered.add((registry.kind, entry_name))
                yield registry, entry_name, entry

    def _call(self, hook: str, name: str) -> list[Any]:
        entries: list[Any] = []
        arguments = {"register": entries.append, "settings": self.settings, "host": self}
        for implementation in getattr(self._pluggy.hook, hook).get_hookimpls():
            if implementation.plugin_name == name:
                implementation.function(*[arguments[argument] for argument in implementation.argnames])
        return entries


def _require_declared(interface: type, entry: object, hook: str) -> None:
    """Raise `PluginFault` unless the class attributes that an interface declares are what it says."""
    for attribute, (wanted, fits) in _DECLARED.get(interface, {}).items():
        if not fits(getattr(entry, attribute, None)):
            raise PluginFault(f"{hook} got a {type(entry).__name__} whose {attribute} is no {wanted}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _are_texts(value: object) -> bool:
    return isinstance(value, tuple) and all(map(_is_text, value))


def _are_endings(value: object) -> bool:
    return isinstance(value, tuple) and all(_is_text(ending) and ending.startswith(".") for ending in value)


#: Interface → class attribute → what it has to be, in words and as a check; `name` is looked at for all.
_DECLARED: dict[type, dict[str, tuple[str, Callable[[object], bool]]]] = {
    interfaces.VolumeReader: {
        "suffixes": ("tuple of endings such as '.mrc'", lambda value: bool(value) and _are_endings(value)),
    },
    interfaces.ModelRunner: {
        "params_type": ("attrs class", lambda value: isinstance(value, type) and attrs.has(value)),
    },
    interfaces.Exporter: {
        "artifact": ("text", _is_text),
        "suffix": ("text", _is_text),
        "media_type": ("text", _is_text),
        "channel_suffixes": ("tuple of endings such as '.mrc'", _are_endings),
        "channel_types": ("tuple of texts", _are_texts),
    },
    interfaces.Transport: {
        "schemes": ("tuple of texts", lambda value: bool(value) and _are_texts(value)),
    },
}


def _whole_address(url: str) -> str:
    """What somebody may mean who names a server by its host alone, or by host and port; empty for anything else."""
    from cryomamba_core.protocol.addresses import ServerAddress

    found = _HOST.fullmatch(url.strip())
    if found is None:
        return ""
    host, port = found[1], found[2] or f":{_PORT}"
    try:
        scheme = "http" if ServerAddress.parse(f"https://{host}").loopback else "https"
    except InputError:
        return ""
    return f"{scheme}://{host}{port}{found[3] or ''}"


#: A host, a port, and a path; and the port of ``cryomamba serve``, unless it is told another one.
_HOST, _PORT = re.compile(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/\S*)?", re.ASCII), 8765


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, (PluginFault, InputError)) else f"{type(error).__name__}: {text}"
