import errno

import pytest

from cryomamba_core import errors
from cryomamba_core.errors import CryoMambaError, ErrorInfo, JobFailed, MissingFile, StorageFull


def all_errors(base=CryoMambaError):
    for kind in base.__subclasses__():
        yield kind
        yield from all_errors(kind)


def test_every_error_of_the_tree_stands_in_the_drawing_with_its_code():
    for kind in all_errors():
        assert kind.__name__ in errors.__doc__
        if not kind.__subclasses__() and kind is not JobFailed:
            assert kind.code in errors.__doc__


def test_no_two_errors_share_a_code():
    codes = [kind.code for kind in all_errors() if isinstance(kind.code, str)]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_one_that_may_have_room_later(number):
    info = ErrorInfo.of(OSError(number, "x"))
    assert (info.code, info.retryable) == ("storage/full", True)
    assert info.hint


def test_running_out_of_memory_is_told_as_such():
    assert ErrorInfo.of(MemoryError()).code == "job/out-of-memory"


def test_a_stranger_is_an_internal_fault_that_names_its_type():
    info = ErrorInfo.of(KeyError("x"))
    assert info.code == "internal/fault"
    assert "KeyError" in info.message


def test_a_caller_can_catch_the_standard_class():
    with pytest.raises(FileNotFoundError):
        raise MissingFile("no such file")
    with pytest.raises(OSError):  # noqa: PT011  # the class is what is tested
        raise StorageFull("no room")


def test_a_failed_job_carries_the_workers_code():
    failed = JobFailed(ErrorInfo(code="input/corrupt-file", message="m", hint="h"))
    assert (failed.code, failed.hint, str(failed)) == ("input/corrupt-file", "h", "m")
