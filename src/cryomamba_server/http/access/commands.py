"""``cryomamba token``: who may use the server of a data directory, whether it runs or not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from cryomamba_core.cli.completion import quietly
from cryomamba_core.cli.options import json_option
from cryomamba_core.cli.state import CliState
from cryomamba_core.errors import InvalidParameter, MissingFile

if TYPE_CHECKING:
    from cryomamba_server.http.access.token_store import TokenRecord, TokenStore
    from cryomamba_server.http.access.tokens import Issuer

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Lifetime(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A time such as ``90s``, ``30m``, ``12h`` or ``7d``."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The time."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", str(value), re.ASCII)
        if found is None:
            self.fail(f"{value!r} is no time: write 90s, 30m, 12h or 7d", param, ctx)
        return timedelta(**{_UNITS[found[2]]: int(found[1])})


def data_dir_option(function: F) -> F:
    """``--data-dir``, also after the command's name."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Data directory of the server (CRYOMAMBA_DATA_DIR).",
    )(function)


def _scopes(_: click.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    from cryomamba_server.http.routing import Scope

    before = incomplete.rpartition(" ")[0]
    given = before.split()
    return ((" ".join([*given, scope]), "") for scope in Scope if scope not in given)


def _tokens(context: click.Context, _: str) -> Iterable[tuple[str, str]]:
    return ((record.id, f"{record.subject}, {record.state}") for record in _known(context))


def _subjects(context: click.Context, _: str) -> Iterable[tuple[str, str]]:
    return ((subject, "") for subject in sorted({record.subject for record in _known(context)}))


def _known(context: click.Context) -> Iterable[TokenRecord]:
    """Tokens that count, if there is a job store; completing makes none."""
    from cryomamba_core.settings import load_settings
    from cryomamba_server.engine.database import FILE_NAME

    given = context.params.get("data_dir") or context.find_root().params.get("data_dir")
    folder = Path(given) if given else load_settings(context.find_root().params.get("config")).data_dir
    if not (folder / FILE_NAME).exists():
        return []
    with _opened(folder) as (_, store):
        return [record for record in store.all() if record.state == "valid"]


@click.group()
def token() -> None:
    """Make, list and take back the tokens of a server.

    They are run on the server's machine, by the user who runs it.
    """


@token.command("create")
@data_dir_option
@click.option(
    "--subject",
    metavar="NAME",
    required=True,
    shell_complete=quietly(_subjects),
    help="Whose token it is: the owner of the jobs and files that are made with it.",
)
@click.option(
    "--scope",
    "scopes",
    metavar="SCOPES",
    multiple=True,
    shell_complete=quietly(_scopes),
    help='What it allows, separated by spaces; all that clients need if left out: "jobs:read jobs:write '
    'uploads:write artifacts:read". A program that collects metrics needs metrics:read.',
)
@click.option(
    "--ttl",
    type=Lifetime(),
    metavar="TIME",
    default="30d",
    show_default=True,
    help="How long it counts, such as 30m, 12h or 7d; at most 366d.",
)
@json_option
@click.pass_obj
def create(
    state: CliState,
    *,
    data_dir: Path | None,
    subject: str,
    scopes: tuple[str, ...],
    ttl: timedelta,
    as_json: bool,
) -> None:
    """Make a token and print it, and nothing else, on standard output.

    It is shown this once: nothing of it is kept but its name, scopes and times.
    """
    from cryomamba_core import wording
    from cryomamba_server.http.access.tokens import DEFAULT_SCOPES

    wanted = _parse_scopes(scopes) if scopes else DEFAULT_SCOPES
    with _issuing(state, data_dir, made=True) as (issuer, _):
        issued = issuer.create(subject=subject, scopes=wanted, ttl=ttl)
    if as_json:
        state.print_json({"token": issued.token, **_plain(issued.record)})
        return
    click.echo(issued.token)
    until = wording.moment(issued.record.expires_at)
    state.err.print(f"token {issued.record.id} of {subject} counts until {until}", style="dim")


@token.command("list")
@data_dir_option
@json_option
@click.pass_obj
def list_tokens(state: CliState, *, data_dir: Path | None, as_json: bool) -> None:
    """List the tokens, newest first. The tokens themselves are not kept."""
    from rich.text import Text

    from cryomamba_core import wording
    from cryomamba_core.cli.tables import new_table

    with _issuing(state, data_dir) as (_, store):
        records = store.all()
    if as_json:
        state.print_json({"tokens": [_plain(record) for record in records]})
        return
    if not records:
        state.err.print("no tokens yet; make one with: cryomamba token create --subject NAME")
        return
    styles = {"valid": "green", "revoked": "yellow", "expired": "dim"}
    table = new_table("token", "subject", "state", "until", "scopes")
    for record in records:
        table.add_row(
            Text(record.id, style="bold"),
            record.subject,
            Text(record.state, style=styles[record.state]),
            wording.moment(record.revoked_at or record.expires_at),
            " ".join(record.scopes),
        )
    state.out.print(table)


@token.command("revoke")
@click.argument("token_ids", metavar="ID...", nargs=-1, shell_complete=quietly(_tokens))
@data_dir_option
@click.option("--subject", metavar="NAME", shell_complete=quietly(_subjects), help="All tokens of this name.")
@json_option
@click.pass_obj
def revoke(
    state: CliState, token_ids: tuple[str, ...], *, data_dir: Path | None, subject: str | None, as_json: bool
) -> None:
    """Take tokens back: from now on they do not count, also where a server runs."""
    from cryomamba_core import wording

    if bool(token_ids) == (subject is not None):
        raise click.UsageError("name tokens by their ids, or a subject with --subject")
    with _issuing(state, data_dir) as (_, store):
        gone = store.revoke(token_ids) if subject is None else store.revoke_subject(subject)
    if as_json:
        state.print_json({"tokens": [_plain(record) for record in gone]})
        return
    state.err.print(f"took back {wording.plural(len(gone), 'token')}")


@token.command("rotate")
@data_dir_option
@click.option("--now", "at_once", is_flag=True, help="Let no token count that was made until now.")
@json_option
@click.pass_obj
def rotate(state: CliState, *, data_dir: Path | None, at_once: bool, as_json: bool) -> None:
    """Sign with a new key from now on.

    What the old key signed counts until it expires, and the key is forgotten then. With --now it does
    not count any more: for keys that somebody may have seen.
    """
    with _issuing(state, data_dir) as (issuer, _):
        key = issuer.end() if at_once else issuer.rotate()
    if as_json:
        state.print_json({"key_id": key.id, "created_at": key.created_at.isoformat()})
        return
    ending = "every token must be made anew" if at_once else "tokens that were made count until they expire"
    state.err.print(f"tokens are signed with key {key.id} from now on; {ending}")


@contextmanager
def _issuing(state: CliState, data_dir: Path | None, *, made: bool = False) -> Iterator[tuple[Issuer, TokenStore]]:
    """What is behind the commands; with `made`, for a server that never ran, too."""
    from cryomamba_server.engine.database import FILE_NAME

    state.use_data_dir(data_dir)
    folder = state.settings.data_dir
    if not made and not (folder / FILE_NAME).exists():
        raise MissingFile(f"no server ever ran on {folder}", hint="name its data directory with --data-dir")
    with _opened(folder) as opened:
        yield opened


@contextmanager
def _opened(folder: Path) -> Iterator[tuple[Issuer, TokenStore]]:
    from cryomamba_server.http.access.tokens import open_issuer

    with open_issuer(folder) as opened:
        yield opened


def _parse_scopes(given: tuple[str, ...]) -> list[Any]:
    from cryomamba_server.http.routing import Scope

    words = [word for each in given for word in each.split()]
    unknown = [word for word in words if word not in list(Scope)]
    if unknown:
        raise InvalidParameter(f"{unknown[0]!r} is no scope", hint=f"scopes are: {' '.join(Scope)}")
    return [Scope(word) for word in words]


def _plain(record: TokenRecord) -> dict[str, Any]:
    from cryomamba_core.wire import to_plain

    plain: dict[str, Any] = to_plain(record)
    del plain["key_id"]
    return {**plain, "state": record.state}
