"""Addresses of servers and fingerprints of certificates, as people write them."""

import hashlib

import pytest

from cryomamba_core.errors import InvalidParameter
from cryomamba_core.protocol.addresses import ServerAddress, fingerprint_of, parse_fingerprint, shown_fingerprint


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://gpu7:8765", "http://gpu7:8765"),
        ("HTTPS://GPU7.lab/", "https://gpu7.lab"),
        ("https://gpu7:443", "https://gpu7"),
        ("https://lab.example/cryomamba/", "https://lab.example/cryomamba"),
        ("http://[::1]:8765", "http://[::1]:8765"),
        (" http://127.0.0.1:80 ", "http://127.0.0.1"),
    ],
)
def test_an_address_has_one_form_however_it_is_written(written, url):
    address = ServerAddress.parse(written)
    assert address.url == url
    assert ServerAddress.parse(address.url) == address


@pytest.mark.parametrize(
    "written",
    ["", "gpu7:8765", "ftp://gpu7", "https://", "http://gpu7:99999", "http://gpu7:port", "https://gpu7/?a=1",
     "https://gpu7/#top", "https://gpu7/a b", "https://gpu7?", "http://[::1"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_an_example(written):
    with pytest.raises(InvalidParameter) as caught:
        ServerAddress.parse(written)
    assert "https://HOST:PORT" in caught.value.hint


def test_a_secret_in_an_address_is_refused_and_not_repeated():
    for url in ("https://ada:secret@gpu7", "ftp://ada:secret@gpu7?token=secret"):
        with pytest.raises(InvalidParameter) as caught:
            ServerAddress.parse(url)
        assert "secret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://localhost:1", True),
        ("http://127.1.2.3:1", True),
        ("http://[::1]:1", True),
        ("http://gpu7:1", False),
        ("http://10.0.0.1:1", False),
        ("http://localhost.evil.example:1", False),
        ("http://127.0.0.1.evil.example:1", False),
    ],
)
def test_only_this_computer_counts_as_loopback(url, loopback):
    assert ServerAddress.parse(url).loopback is loopback


def test_a_fingerprint_is_the_sha256_of_the_certificate():
    assert fingerprint_of(b"certificate") == hashlib.sha256(b"certificate").hexdigest()


@pytest.mark.parametrize("write", [str, str.upper, shown_fingerprint, lambda digits: f"SHA256:{digits}"])
def test_a_fingerprint_is_read_however_programs_write_it(write):
    digits = "0123456789abcdef" * 4
    assert parse_fingerprint(write(digits)) == digits
    colons = ":".join(digits[place : place + 2] for place in range(0, 64, 2))
    assert parse_fingerprint(f"sha256 Fingerprint={colons.upper()}") == digits


@pytest.mark.parametrize("text", ["", "sha256:", "abc", "g" * 64, "sha1:" + "a" * 40, "a" * 65])
def test_what_is_no_fingerprint_is_refused(text):
    with pytest.raises(InvalidParameter):
        parse_fingerprint(text)
