"""What may be called an artifact, whoever says so."""

import pytest
from attrs import evolve

from cryomamba_core.artifacts import Artifact
from cryomamba_core.errors import InvalidParameter
from cryomamba_core.wire import dump_json, load_json, to_plain

MASK = Artifact(name="mask.mrc", media_type="application/x-mrc", size=3, sha256="ab" * 32)


@pytest.mark.parametrize("name", ["mask.nii.gz", "stats.json", "Membran (außen) 膜.mrc", "a", "x" * 100, "a..b"])
def test_a_plain_file_name_is_a_name(name):
    assert load_json(dump_json(evolve(MASK, name=name)), Artifact).name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".bashrc",
        "../mask.mrc",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\x1b[31mb",
        "a\x9bb",
        "a\u202eb",
        "a\ud800b",
        "x" * 101,
        "ä" * 51,
    ],
)
def test_what_would_leave_its_folder_hide_or_steer_a_terminal_is_no_name(name):
    with pytest.raises(InvalidParameter) as caught:
        evolve(MASK, name=name)
    assert caught.value.message.isprintable()
    with pytest.raises(InvalidParameter):
        load_json(dump_json({**to_plain(MASK), "name": name}), Artifact)


@pytest.mark.parametrize("facts", [{"sha256": "../../x"}, {"sha256": "ab"}, {"sha256": "AB" * 32}, {"size": -1}])
def test_a_digest_or_a_size_that_is_none_is_refused(facts):
    with pytest.raises(InvalidParameter):
        evolve(MASK, **facts)
