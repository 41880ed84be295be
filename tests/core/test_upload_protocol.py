"""What a client says of a file and of its parts."""

import pytest

from cryomamba_core.errors import BadRequest, InvalidParameter
from cryomamba_core.protocol.uploads import UploadRequest, format_digest, parse_digest
from cryomamba_core.wire import from_plain

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#: The example of RFC 9530, appendix B.1, among others of its algorithms.
ENCODED = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b.mrc",
        "/etc/passwd",
        "..\\a.mrc",
        "a\\b",
        "a\nb",
        "a\0b",
        "a\x7fb",
        "a\u202ecrm.b",
        "a\u2028b",
        "\ud800.mrc",
        "x" * 256,
        "ä" * 128,
    ],
    ids=ascii,
)
def test_a_name_that_is_no_plain_file_name_is_refused(name):
    with pytest.raises(InvalidParameter):
        from_plain({"filename": name, "size": 1}, UploadRequest)


@pytest.mark.parametrize("name", ["a.mrc", "TS 01 (bin 4).mrc", "Zelle-größer.nii.gz", "断層.mrc", "...", "x" * 255])
def test_a_plain_file_name_is_taken(name):
    assert UploadRequest(filename=name, size=1).filename == name


@pytest.mark.parametrize(
    "values",
    [
        {"size": 0},
        {"size": -1},
        {"size": 1.5},
        {"size": True},
        {"size": "1"},
        {"sha256": "abc"},
        {"sha256": EMPTY.upper()},
        {"fingerprint": ""},
        {"fingerprint": "x" * 257},
        {"fingerprint": "\ud800"},
        {"fingerprint": "a\nb"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_what_cannot_be_right_is_refused(values):
    with pytest.raises(InvalidParameter):
        from_plain({"filename": "a.mrc", "size": 1, **values}, UploadRequest)


def test_a_digest_is_written_as_in_rfc_9530():
    assert format_digest(EMPTY) == ENCODED
    assert parse_digest(ENCODED) == EMPTY


@pytest.mark.parametrize(
    "header", [f"sha-512=:AAAA:, {ENCODED}", f" {ENCODED} ,md5=::", f"{ENCODED}\t,\tunixsum=:MTIz:"]
)
def test_other_algorithms_may_stand_beside_it(header):
    assert parse_digest(header) == EMPTY


@pytest.mark.parametrize(
    "header",
    [
        "",
        ",",
        "sha-256",
        "sha-256=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        "sha-256=::",
        "sha-256=:AAAA:",
        "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuF:",
        "SHA-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
        "sha-512=:AAAA:",
        f"{ENCODED}, {ENCODED}",
        f"{ENCODED}, nonsense",
        f"sha-256={EMPTY}",
        "sha-256=:" + "A" * 10_000 + ":",
    ],
)
def test_a_header_without_one_whole_sha_256_is_refused(header):
    with pytest.raises(BadRequest) as caught:
        parse_digest(header)
    assert caught.value.hint
