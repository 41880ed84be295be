"""Settings of ``cryomamba serve``: the TOML table ``[serve]``, then ``CRYOMAMBA_SERVE_*`` variables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from attrs import field, frozen

from cryomamba_core.settings import load_table
from cryomamba_server.engine.upload_rules import UploadRules


def _absolute_paths(paths: str | Sequence[str | Path]) -> tuple[Path, ...]:
    named = [path for path in paths.split(os.pathsep) if path] if isinstance(paths, str) else paths
    return tuple(Path(path).expanduser().absolute() for path in named)


@frozen(kw_only=True)
class ServeSettings:
    """What can be set for a server.

    Attributes
    ----------
    host, port
        Where it listens; port 0 takes a free one (``CRYOMAMBA_SERVE_HOST``, ``CRYOMAMBA_SERVE_PORT``).
    allow_roots
        Folders whose files jobs may name by their path, none by default; in the variable they are separated
        by colons.
    certificate, private_key
        PEM files for TLS.
    self_signed
        Whether to make and keep a certificate of one's own.
    plain_http
        Whether plain HTTP may leave this machine.
    graceful_seconds
        How long requests in progress may take to end when the server stops.
    idle_seconds
        A peer that neither sends nor takes a byte for so long is cut off.
    least_rate
        A request body that comes slower than this, in bytes a second, is cut off.
    part_size
        Bytes of an upload's parts.
    parallel_parts
        Parts of all uploads together that may be in memory at a time.
    requests_per_minute
        Control requests that each token may make; 0 for any number.
    quota_bytes
        What each owner may keep in files; 0 for any amount.
    reserve_bytes
        Free space on the disk that uploads leave alone.
    upload_hours
        An upload to which nothing was added for so long is dropped.
    keep_jobs_days, keep_files_days
        Ended jobs with their results, and files that no job used, are removed after so long; 0 for never.
    url_seconds
        How long the address of an artifact can be used, at most 900.
    public_url
        Where clients reach a server that is behind a proxy, e.g. ``https://tomo.example.org``; the
        addresses of artifacts begin with it. Without it they begin with the host that a client has
        asked, and behind a proxy with ``/v1``: relative to the server's address.
    log_format
        How the log on standard error is worded: ``json``, ``console`` for people, or ``auto``, which is
        for people on a terminal and JSON elsewhere.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    allow_roots: tuple[Path, ...] = field(default=(), converter=_absolute_paths)
    certificate: Path | None = None
    private_key: Path | None = None
    self_signed: bool = False
    plain_http: bool = False
    graceful_seconds: float = 30.0
    idle_seconds: float = 30.0
    least_rate: int = 1024
    part_size: int = 16 << 20
    parallel_parts: int = 5
    requests_per_minute: int = 60
    quota_bytes: int = 0
    reserve_bytes: int = 1 << 30
    upload_hours: float = 72.0
    keep_jobs_days: float = 0.0
    keep_files_days: float = 0.0
    url_seconds: int = 900
    public_url: str = ""
    log_format: Literal["auto", "json", "console"] = "auto"

    @property
    def upload_rules(self) -> UploadRules:
        """What the engine allows of uploads."""
        return UploadRules(
            part_size=self.part_size,
            parallel_parts=self.parallel_parts,
            quota_bytes=self.quota_bytes,
            reserve_bytes=self.reserve_bytes,
            hours=self.upload_hours,
        )


def load_serve_settings(config_file: Path | None = None) -> ServeSettings:
    """Settings from the TOML file's ``[serve]`` table and from the environment.

    Parameters
    ----------
    config_file
        As for `cryomamba_core.settings.load_settings`.

    Raises
    ------
    InvalidParameter
        If a named file is missing, or a setting is unknown or has a wrong type.
    """
    return load_table(ServeSettings, config_file, section="serve", prefix="CRYOMAMBA_SERVE_")
