"""``cryomamba token``, as whoever runs a server uses it."""

import json
import logging
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta

import forging
import httpx
import pytest
import servers
from filelock import FileLock

from cryomamba_core.cli.main import main
from cryomamba_server.http.access.tokens import open_issuer

SCOPES = "jobs:read jobs:write uploads:write artifacts:read"


class Answer:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("CRYOMAMBA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CRYOMAMBA_CONFIG", "")
    return tmp_path / "data"


@pytest.fixture
def token(data_dir, capfd):
    """Call ``cryomamba token`` in this process."""
    before = list(logging.getLogger().handlers)

    def call(*words):
        capfd.readouterr()
        code = main(["token", *map(str, words)])
        captured = capfd.readouterr()
        return Answer(code, captured.out, captured.err)

    yield call
    for handler in set(logging.getLogger().handlers) - set(before):
        logging.getLogger().removeHandler(handler)


def in_a_process(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "cryomamba_core", *map(str, words)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def status(url, token):
    return httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {token}"}, timeout=60).status_code


def test_the_token_alone_stands_on_standard_output(data_dir):
    words = ("token", "create", "--data-dir", data_dir, "--subject", "ada", "--scope", SCOPES, "--ttl", "12h")
    answer = in_a_process(*words)
    assert answer.returncode == 0
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", answer.stdout)
    _, claims = forging.parts(answer.stdout.strip())
    assert (claims["sub"], set(claims["scope"].split())) == ("ada", set(SCOPES.split()))
    assert claims["exp"] - claims["iat"] == 12 * 3600


def test_every_command_works_beside_a_running_server_and_takes_effect_at_once(tmp_path):
    with servers.ServerProcess(tmp_path / "data") as server:
        words = ("--data-dir", server.data_dir)

        def create(subject):
            made = in_a_process("token", "create", "--subject", subject, *words)
            assert made.returncode == 0, made.stderr
            return made.stdout.strip()

        first, second = create("ada"), create("ada")
        assert [status(server.url, each) for each in (first, second)] == [200, 200]
        listed = json.loads(in_a_process("token", "list", *words, "--json").stdout)["tokens"]
        ids = {forging.parts(each)[1]["jti"]: each for each in (first, second)}
        assert ids.keys() <= {each["id"] for each in listed}
        assert in_a_process("token", "revoke", forging.parts(first)[1]["jti"], *words).returncode == 0
        assert [status(server.url, each) for each in (first, second)] == [401, 200]
        assert in_a_process("token", "rotate", *words).returncode == 0
        third = create("ada")
        assert [status(server.url, each) for each in (second, third)] == [200, 200]
        assert in_a_process("token", "revoke", "--subject", "ada", *words).returncode == 0
        assert [status(server.url, each) for each in (second, third)] == [401, 401]
        last = create("ada")
        assert status(server.url, last) == 200
        assert in_a_process("token", "rotate", "--now", *words).returncode == 0
        assert [status(server.url, each) for each in (last, create("ada"))] == [401, 200]


def test_tokens_of_many_processes_at_the_same_time_all_count(data_dir):
    words = [sys.executable, "-m", "cryomamba_core", "token"]
    commands = [
        ["create", "--subject", "ada"],
        ["rotate"],
        ["create", "--subject", "bob"],
        ["create", "--subject", "eve"],
    ]
    main(["token", "create", "--subject", "first", "--data-dir", str(data_dir)])
    running = [
        subprocess.Popen([*words, *command, "--data-dir", str(data_dir)], stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    made = [process.communicate(timeout=120)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0] * 4
    with servers.ServerProcess(data_dir) as server:
        assert [status(server.url, each) for each in made if each] == [200] * 3


def test_a_token_waits_while_another_process_changes_the_keys(data_dir):
    with open_issuer(data_dir), FileLock(data_dir / "access" / "keys.lock"):
        process = subprocess.Popen(
            [sys.executable, "-m", "cryomamba_core", "token", "create", "--subject", "ada"],
            env={**os.environ, "CRYOMAMBA_DATA_DIR": str(data_dir)},
            stdout=subprocess.PIPE,
            text=True,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
    assert process.communicate(timeout=120)[0].count(".") == 2


def test_the_data_directory_may_be_named_before_or_behind_the_command(token, data_dir, capfd):
    assert token("create", "--subject", "ada", "--data-dir", data_dir).code == 0
    assert main(["--data-dir", str(data_dir), "token", "list", "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["tokens"]) == 1


def test_the_list_shows_who_may_do_what_until_when_and_never_a_token(token, data_dir):
    made = token("create", "--subject", "ada", "--scope", "jobs:read", "--ttl", "7d", "--json", "--data-dir", data_dir)
    issued = json.loads(made.out)
    assert issued["scopes"] == ["jobs:read"]
    assert timedelta(days=6.9) < datetime.fromisoformat(issued["expires_at"]) - datetime.now().astimezone()
    token("revoke", issued["id"], "--data-dir", data_dir)
    token("create", "--subject", "bob", "--data-dir", data_dir)
    shown = token("list", "--data-dir", data_dir)
    assert re.search(rf"{issued['id']} +ada +revoked .* jobs:read", shown.out)
    assert re.search(r"bob +valid", shown.out)
    plain = token("list", "--json", "--data-dir", data_dir).out
    assert {"id", "subject", "scopes", "created_at", "expires_at", "revoked_at", "state"} == set(
        json.loads(plain)["tokens"][0]
    )
    for text in (shown.out, plain):
        assert issued["token"].rpartition(".")[2] not in text
        assert issued["token"][:40] not in text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["create", "--subject", "a b"], 3, "is no name for a token"),
        (["create", "--subject", "ada", "--scope", "everything"], 3, "scopes are: jobs:read"),
        (["create", "--subject", "ada", "--scope", " "], 3, "would allow nothing"),
        (["create", "--subject", "ada", "--ttl", "367d"], 3, "366 days"),
        (["create", "--subject", "ada", "--ttl", "12"], 2, "write 90s, 30m, 12h or 7d"),
        (["create", "--subject", "ada", "--ttl", "0h"], 2, "write 90s, 30m, 12h or 7d"),
        (["create"], 2, "--subject"),
        (["revoke"], 2, "name tokens by their ids"),
        (["revoke", "x", "--subject", "ada"], 2, "name tokens by their ids"),
        (["revoke", "x"], 10, "there is no token x"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_to_do(token, data_dir, words, code, said):
    token("create", "--subject", "ada", "--data-dir", data_dir)
    answer = token(*words, "--data-dir", data_dir)
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err


@pytest.mark.parametrize("words", [["list"], ["revoke", "x"], ["rotate"]])
def test_a_folder_on_which_no_server_ever_ran_is_left_as_it_is(token, data_dir, words):
    answer = token(*words, "--data-dir", data_dir)
    assert answer.code == 3
    assert "no server ever ran" in answer.err
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["revoke", ""], "ID"),
        (["revoke", "--subject", ""], "ada"),
        (["create", "--scope", ""], "metrics:read"),
        (["create", "--scope", "jobs:"], "jobs:write"),
    ],
)
def test_the_shell_completes_ids_subjects_and_scopes(token, data_dir, words, offered):
    made = json.loads(token("create", "--subject", "ada", "--json", "--data-dir", data_dir).out)
    line = ["cryomamba", "--data-dir", str(data_dir), "token", *words]
    answer = in_a_process(_CRYOMAMBA_COMPLETE="bash_complete", COMP_WORDS=" ".join(line), COMP_CWORD=str(len(line) - 1))
    assert f"plain,{made['id'] if offered == 'ID' else offered}" in answer.stdout.splitlines()


def test_completing_makes_no_job_store(data_dir):
    line = ["cryomamba", "--data-dir", str(data_dir), "token", "revoke", ""]
    in_a_process(_CRYOMAMBA_COMPLETE="bash_complete", COMP_WORDS=" ".join(line), COMP_CWORD="5")
    assert not data_dir.exists()
