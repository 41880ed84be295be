"""Secrets in text that others will read."""

import pytest

from cryomamba_core.hiding import HIDDEN, hide_secrets

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl-_x"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {TOKEN}",
        "Authorization: bearer opaque-secret",
        f"it was {TOKEN!r}, they say",
        "GET /v1/files/1?expires=5&signature=opaque-secret&key=3",
        "token=opaque-secret",
        "PASSWORD=opaque-secret&x=1",
    ],
)
def test_secrets_are_left_out_wherever_they_stand(text):
    hidden = hide_secrets(text)
    assert TOKEN not in hidden
    assert "opaque-secret" not in hidden
    assert HIDDEN in hidden


@pytest.mark.parametrize("text", ["", "the token has expired", "GET /v1/jobs?limit=5", "eye of the storm"])
def test_other_words_stay(text):
    assert hide_secrets(text) == text
