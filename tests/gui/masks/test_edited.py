"""What a folder says of its mask before anybody opens it."""

from cryomamba_gui.masks.mask import EditedMask


def test_a_folder_says_whether_its_mask_was_edited(mask, tmp_path):
    assert not EditedMask.was_edited(tmp_path / "nowhere")
    assert not EditedMask.was_edited(mask.folder)
    mask.begin_edit()
    assert mask.edited
    assert mask.edits == 0, "nothing is to be measured before the end of the stroke"
    mask.close()
    assert EditedMask.was_edited(mask.folder)
    with EditedMask.reopen(mask.folder) as again:
        again.revert()
        assert not EditedMask.was_edited(again.folder)
