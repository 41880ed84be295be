"""``cryomamba models`` and ``cryomamba doctor``."""

import pytest

from cryomamba_core.cli.diagnosis import required


def test_models_of_all_runners_are_listed(cryomamba):
    names = {(model["runner"], model["name"]) for model in cryomamba("models", "list", "--json").json["models"]}
    assert {("threshold", "threshold"), ("steps", "steps")} <= names
    assert "threshold" in cryomamba("models", "list").out


def test_a_model_is_shown_with_the_parameters_of_its_runner(cryomamba):
    answer = cryomamba("models", "show", "threshold")
    assert answer.code == 0
    for word in ("foreground", "value", "a number or none", "dark", "true or false"):
        assert word in answer.out
    parameters = {
        entry["name"]: entry for entry in cryomamba("models", "show", "threshold", "--json").json["parameters"]
    }
    assert parameters["dark"]["default"] is False
    assert parameters["dark"]["choices"] == ["true", "false"]


def test_a_misspelt_model_gets_the_nearest_one(cryomamba):
    answer = cryomamba("models", "show", "thresold")
    assert answer.code == 4
    assert "did you mean threshold?" in answer.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere"], 3, "there is no folder nowhere"),
        (["empty"], 4, "no runner recognises"),
        (["empty", "--runner", "threshold"], 4, "no models to install"),
        (["empty", "--runner", "nobody"], 5, "no runner is called"),
        (["empty", "--runner", "threshold", "--option", "licence"], 3, "'licence' is no option"),
    ],
)
def test_what_is_no_model_is_not_installed(cryomamba, tmp_path, words, code, said):
    (tmp_path / "empty").mkdir()
    answer = cryomamba("models", "install", *words)
    assert answer.code == code
    assert said in answer.err


def test_the_doctor_names_everything_and_says_whether_the_main_job_can_run(cryomamba, data_dir):
    answer = cryomamba("doctor", "--json")
    findings = {finding["name"]: finding for finding in answer.json["findings"]}
    assert {"cryomamba", "machine", "data directory", "core packages", "[server]", "[nnunet]", "plugins"} <= set(
        findings
    )
    assert str(data_dir) in findings["data directory"]["message"]
    problems = [finding for finding in findings.values() if finding["state"] == "problem"]
    assert answer.json["ready"] is not bool(problems)
    assert answer.code == int(bool(problems))
    assert not data_dir.exists()


def test_the_doctor_names_the_command_that_installs_what_is_missing(cryomamba, monkeypatch):
    installed = "cryomamba_core.cli.diagnosis._version"
    monkeypatch.setattr(installed, lambda package: None if package == "torch" else "1.0")
    answer = cryomamba("doctor")
    assert answer.code == 1
    assert 'pip install "cryomamba[nnunet]"' in answer.out
    assert "torch" in answer.out


def test_the_doctor_finds_a_data_directory_that_cannot_be_written(cryomamba, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CRYOMAMBA_DATA_DIR", str(tmp_path / "file" / "data"))
    answer = cryomamba("doctor")
    assert answer.code == 1
    assert "cannot be written to" in answer.out


def test_an_extra_asks_for_what_the_extras_that_it_includes_ask_for():
    assert "sqlalchemy" in required("server")
    assert set(required("server")) <= set(required("all"))
    assert "torch" not in required("")
