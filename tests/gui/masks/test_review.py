"""A verdict is kept with the job, and read again."""

from datetime import UTC, datetime

import pytest

from cryomamba_core.errors import InvalidParameter, StorageDamaged, StorageError
from cryomamba_gui.masks.draft import load_draft, save_draft
from cryomamba_gui.masks.review import LONGEST_NOTE, Review, Verdict, load_review, save_review, user_name


@pytest.mark.parametrize("verdict", Verdict)
def test_a_review_is_read_as_it_was_kept(tmp_path, verdict):
    review = Review.now(verdict, "the membrane at the rim\nis doubled · 膜", reviewer="Ada Löwe")
    save_review(tmp_path, review)
    assert load_review(tmp_path) == review
    assert [path.name for path in tmp_path.iterdir()] == ["review.json"]


def test_a_later_review_takes_the_place_of_an_earlier_one_and_none_takes_it_away(tmp_path):
    assert load_review(tmp_path) is None
    save_review(tmp_path, Review.now(Verdict.REJECTED))
    save_review(tmp_path, Review.now(Verdict.ACCEPTED))
    assert load_review(tmp_path).verdict is Verdict.ACCEPTED
    save_review(tmp_path, None)
    save_review(tmp_path, None)
    assert load_review(tmp_path) is None


def test_a_review_says_who_and_when():
    before = datetime.now(UTC)
    review = Review.now(Verdict.NEEDS_WORK)
    assert before <= review.at <= datetime.now(UTC)
    assert review.reviewer == user_name()


def test_a_note_has_a_limit():
    Review.now(Verdict.REJECTED, "x" * LONGEST_NOTE)
    with pytest.raises(InvalidParameter, match="may have"):
        Review.now(Verdict.REJECTED, "x" * (LONGEST_NOTE + 1))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"verdict": "perhaps", "at": "2026-01-01T00:00:00+00:00"}'])
def test_a_damaged_review_is_said_to_be_one(tmp_path, text):
    (tmp_path / "review.json").write_text(text)
    with pytest.raises(StorageDamaged, match="cannot be read"):
        load_review(tmp_path)
    save_review(tmp_path, Review.now(Verdict.ACCEPTED))
    assert load_review(tmp_path).verdict is Verdict.ACCEPTED


def test_a_folder_that_is_gone_is_told_as_an_error_of_the_disk(tmp_path):
    with pytest.raises(StorageError, match="cannot be kept"):
        save_review(tmp_path / "none", Review.now(Verdict.ACCEPTED))


def test_a_draft_is_read_as_it_was_kept_until_it_is_taken_away(tmp_path):
    assert load_draft(tmp_path) is None
    for note in ("the membrane at the rim\nis doubled · 膜", ""):
        save_draft(tmp_path, note)
        assert load_draft(tmp_path) == note
    save_draft(tmp_path, None)
    save_draft(tmp_path, None)
    assert load_draft(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_draft_that_cannot_be_kept_is_an_error_with_a_hint(tmp_path):
    with pytest.raises(StorageError) as refused:
        save_draft(tmp_path / "gone", "note")
    assert refused.value.hint
