"""Settings of a process: defaults, then a TOML file, then ``CRYOMAMBA_*`` variables, later ones winning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import platformdirs
from attrs import field, frozen

from cryomamba_core.errors import InvalidParameter

S = TypeVar("S")


def default_data_dir() -> Path:
    """The platform's folder for a user's application data."""
    return Path(platformdirs.user_data_dir("cryomamba", appauthor=False))


def default_config_file() -> Path:
    """The TOML file that is read if it exists and no other is named."""
    return Path(platformdirs.user_config_dir("cryomamba", appauthor=False)) / "cryomamba.toml"


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()


@frozen(kw_only=True)
class Settings:
    """What can be set for a process.

    Attributes
    ----------
    data_dir
        Where jobs, models and inputs are kept (``CRYOMAMBA_DATA_DIR``).
    devices
        Devices that jobs run on, one job for each at a time (``CRYOMAMBA_DEVICES``, comma-separated).
    threads
        CPU threads of a worker; 0 for as many as there are physical cores (``CRYOMAMBA_THREADS``).
    max_attempts
        How many workers may die on a job before it fails (``CRYOMAMBA_MAX_ATTEMPTS``).
    stale_seconds
        A worker whose heart has not beaten for so long is taken for lost (``CRYOMAMBA_STALE_SECONDS``).
    warm_seconds
        How long the process of a worker that is done waits for another job of its model; 0 for not at all
        (``CRYOMAMBA_WARM_SECONDS``).
    warm_mib
        A process that holds more memory than so many MiB after its job does not wait (``CRYOMAMBA_WARM_MIB``).
    nifti_angstrom_as_mm
        Whether NIfTI and NRRD masks are written with 1 Å as 1 mm, for viewers that cannot show lengths of
        1e-7 mm; else in true mm (``CRYOMAMBA_NIFTI_ANGSTROM_AS_MM``).
    allow_plain_http
        Whether a client may send its token and its tomograms unencrypted to another computer: for a network
        of which nobody else hears anything (``CRYOMAMBA_ALLOW_PLAIN_HTTP``).
    """

    data_dir: Path = field(factory=default_data_dir, converter=_absolute)
    devices: tuple[str, ...] = ("cpu",)
    threads: int = 0
    max_attempts: int = 2
    stale_seconds: float = 60.0
    warm_seconds: float = 0.0
    warm_mib: int = 4096
    nifti_angstrom_as_mm: bool = False
    allow_plain_http: bool = False

    @property
    def models_dir(self) -> Path:
        """Installed models, a folder each."""
        return self.data_dir / "models"

    @property
    def jobs_dir(self) -> Path:
        """Job directories, named by the jobs' ids."""
        return self.data_dir / "jobs"


def load_settings(config_file: Path | None = None) -> Settings:
    """Settings from the TOML file's ``[cryomamba]`` table and from the environment.

    Parameters
    ----------
    config_file
        The file; None for ``CRYOMAMBA_CONFIG`` or, without that, `default_config_file` if it exists.

    Raises
    ------
    InvalidParameter
        If a named file is missing, or a setting is unknown or has a wrong type.
    """
    return load_table(Settings, config_file, section="cryomamba", prefix="CRYOMAMBA_")


def load_table(kind: type[S], config_file: Path | None, *, section: str, prefix: str) -> S:
    """Settings of one class from a table of the TOML file and from the environment.

    Parameters
    ----------
    kind
        An attrs class with defaults.
    config_file
        As for `load_settings`.
    section
        Name of the table.
    prefix
        What the names of its environment variables start with.

    Raises
    ------
    InvalidParameter
        If a named file is missing, or a setting is unknown or has a wrong type.
    """
    import typed_settings
    from typed_settings.exceptions import TsError

    named = config_file or (Path(os.environ["CRYOMAMBA_CONFIG"]) if os.environ.get("CRYOMAMBA_CONFIG") else None)
    if named is not None and not named.is_file():
        raise InvalidParameter(f"the settings file {named} does not exist")
    files = [file for file in [named or default_config_file()] if file.is_file()]
    converter = typed_settings.default_converter()
    typed_settings.register_strlist_hook(converter, sep=",")  # type: ignore[arg-type]  # its own converter is meant
    try:
        return typed_settings.load_settings(
            kind,
            loaders=[
                typed_settings.FileLoader(
                    files=files, env_var=None, formats={"*.toml": typed_settings.TomlFormat(section=section)}
                ),
                typed_settings.EnvLoader(prefix=prefix),
            ],
            converter=converter,
        )
    except (TsError, ValueError) as error:
        raise InvalidParameter(
            f"the settings cannot be used: {' '.join(str(error).split())}",
            hint="see the list of settings in the documentation",
        ) from error
