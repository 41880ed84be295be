"""Every file that cannot be right is refused before any work: by name, with a hint, in little memory."""

import bz2
import gzip
import json
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest

from cryomamba_core.errors import CryoMambaError
from cryomamba_core.plugins import PluginHost

NRRD_HEADER = """NRRD0004
type: {type}
dimension: {dimension}
sizes: {sizes}
space: right-anterior-superior
space directions: (1e-6,0,0) (0,1e-6,0) (0,0,1e-6)
space origin: (0,0,0)
space units: "mm" "mm" "mm"
endian: little
encoding: {encoding}
{more}
"""


def nrrd_bytes(
    data: bytes = bytes(24),
    *,
    type_: str = "uint8",
    dimension: str = "3",
    sizes: str = "4 3 2",
    encoding: str = "raw",
    more: str = "",
) -> bytes:
    header = NRRD_HEADER.format(type=type_, dimension=dimension, sizes=sizes, encoding=encoding, more=more)
    return header.encode() + (b"" if header.endswith("\n\n") else b"\n") + data


def nifti_bytes(
    shape: tuple[int, ...] = (4, 3, 2), dtype: Any = np.int16, data: bytes | None = None, **fields: Any
) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_zooms([1e-6] * len(shape))
    header["xyzt_units"] = 2
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    for name, value in fields.items():
        header[name] = value
    size = int(np.prod([1, *shape[:4]], dtype=object)) * np.dtype(dtype).itemsize
    return header.binaryblock + bytes(4) + (bytes(size) if data is None else data)


MRC_FIELDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "zero-size": ({"nx": 0}, "input/corrupt-file", "0 × 7 × 5"),
    "negative size": ({"ny": -7}, "input/corrupt-file", "11 × -7 × 5"),
    "huge size": ({"nx": 2**31 - 1, "ny": 2**31 - 1, "nz": 2**31 - 1}, "input/truncated-file", "the header claims"),
    "13 GB in a small file": ({"nx": 1500, "ny": 1500, "nz": 1500}, "input/truncated-file", "13500001024 bytes"),
    "huge extended header": ({"nsymbt": 2**31 - 1}, "input/corrupt-file", "2147483647 bytes"),
    "extended header beyond the file": ({"nsymbt": 1 << 20}, "input/truncated-file", "the header claims"),
    "negative extended header": ({"nsymbt": -1}, "input/corrupt-file", "-1 bytes"),
    "unknown mode": ({"mode": 77}, "input/corrupt-file", "no mode 77"),
    "negative mode": ({"mode": -2}, "input/corrupt-file", "no mode -2"),
    "complex mode 3": ({"mode": 3}, "input/unsupported-file", "mode 3 holds complex"),
    "complex mode 4": ({"mode": 4}, "input/unsupported-file", "mode 4 holds complex"),
    "4-bit mode": ({"mode": 101}, "input/unsupported-file", "4-bit"),
    "no axis order": ({"mapc": 1, "mapr": 1, "maps": 3}, "input/corrupt-file", "axis order (1, 1, 3)"),
    "stack of images": ({"ispg": 0, "mz": 1}, "input/unsupported-file", "stack of 5 images"),
    "stack of volumes of a broken number": (
        {"ispg": 401, "mz": 2},
        "input/corrupt-file",
        "5 sections are a stack of volumes of 2 sections",
    ),
    "stack of volumes of no sections": ({"ispg": 630, "mz": 0}, "input/corrupt-file", "volumes of 0 sections"),
    "stack of volumes larger than itself": ({"ispg": 401, "mz": 10}, "input/corrupt-file", "volumes of 10 sections"),
    "stack of volumes along x": (
        {"ispg": 401, "mz": 1, "mapc": 3, "maps": 1},
        "input/unsupported-file",
        "do not follow each other along z",
    ),
    "stack of a thousand volumes": ({"ispg": 401, "mz": 1, "nz": 1000}, "input/unsupported-file", "1000 volumes"),
    "stack of volumes of which some are missing": (
        {"ispg": 401, "mz": 5, "nz": 10},
        "input/truncated-file",
        "claims 4104 bytes",
    ),
    "skewed cell": ({"cellb": (90, 90, 120)}, "input/unsupported-file", "(90, 90, 120)°"),
    "angle that is no number": ({"cellb": (90, np.nan, 90)}, "input/unsupported-file", "skewed"),
    "no voxel size": ({"cella": (0, 0, 0)}, "input/voxel-size", "no length"),
    "one voxel size missing": ({"cella": (100, 100, 0)}, "input/voxel-size", "(0, "),
    "voxel size that is no number": ({"cella": (np.nan, 1, 1)}, "input/voxel-size", "nan"),
    "infinite voxel size": ({"cella": (np.inf, 1, 1)}, "input/voxel-size", "inf"),
    "negative voxel size": ({"cella": (-1, 1, 1)}, "input/voxel-size", "-"),
    "no sampling": ({"mx": 0}, "input/voxel-size", "0) Å"),
}

FILES: dict[str, tuple[str, bytes, str, str]] = {
    "empty": ("a.mrc", b"", "input/truncated-file", "0 bytes"),
    "text named mrc": ("a.mrc", b"hello\n" * 500, "input/corrupt-file", "not an MRC file"),
    "noise named mrc": ("a.mrc", np.random.default_rng(1).bytes(9000), "input/corrupt-file", "not an MRC file"),
    "no known format": ("a.xyz", b"hello\n" * 500, "input/unknown-format", "no known format"),
    "text named nii": ("a.nii", b"hello\n" * 500, "input/corrupt-file", "not a NIfTI file"),
    "text named nii.gz": ("a.nii.gz", gzip.compress(b"hello\n" * 500), "input/corrupt-file", "not a NIfTI file"),
    "junk named nii.gz": ("a.nii.gz", b"\x1f\x8bjunk" * 100, "input/corrupt-file", "not a NIfTI file"),
    "empty nii": ("a.nii", b"", "input/truncated-file", "0 bytes"),
    "nii cut in its header": ("a.nii", nifti_bytes()[:200], "input/truncated-file", "within its header"),
    "nii cut in its data": ("a.nii", nifti_bytes()[:-1], "input/truncated-file", "claims 400 bytes, the file has 399"),
    "nii of no voxels": ("a.nii", nifti_bytes(dim=[3, 0, 4, 4, 1, 1, 1, 1]), "input/corrupt-file", "0 × 4 × 4"),
    "nii of nine dimensions": ("a.nii", nifti_bytes(dim=[9] * 8), "input/corrupt-file", "9 dimensions"),
    "nii of a time series": ("a.nii", nifti_bytes((4, 3, 2, 65)), "input/unsupported-file", "65 volumes, more than"),
    "nii of a time series of vectors": ("a.nii", nifti_bytes((4, 3, 2, 5, 2)), "input/unsupported-file", "5 × 2"),
    "nii of six dimensions": ("a.nii", nifti_bytes((4, 3, 2, 1, 1, 2)), "input/unsupported-file", "1 × 1 × 2 volumes"),
    "nii cut in its second channel": ("a.nii", nifti_bytes((4, 3, 2, 2))[:-1], "input/truncated-file", "claims 448"),
    "nii.gz cut in its second channel": (
        "a.nii.gz",
        gzip.compress(nifti_bytes((4, 3, 2, 2))[:-1]),
        "input/truncated-file",
        "hold 447",
    ),
    "nii.gz bomb of channels": (
        "a.nii.gz",
        gzip.compress(nifti_bytes((1000, 1000, 10, 8), np.float32), compresslevel=9),
        "input/hostile-file",
        "decompression bomb",
    ),
    "complex nii": ("a.nii", nifti_bytes(dtype=np.complex64), "input/unsupported-file", "complex"),
    "coloured nii": ("a.nii", nifti_bytes(datatype=128, bitpix=24), "input/unsupported-file", "colours"),
    "nii of no type": ("a.nii", nifti_bytes(datatype=3), "input/corrupt-file", "no data type 3"),
    "nii of two types": ("a.nii", nifti_bytes(bitpix=32), "input/corrupt-file", "32 bits"),
    "nii with data before its start": ("a.nii", nifti_bytes(vox_offset=4), "input/corrupt-file", "byte 4"),
    "nii with data beyond reason": ("a.nii", nifti_bytes(vox_offset=1e9), "input/corrupt-file", "byte 1e+09"),
    "nii in two files": ("a.hdr.nii", nifti_bytes(magic=b"ni1"), "input/unsupported-file", "second file"),
    "analyze": ("a.nii", nifti_bytes(magic=b""), "input/unsupported-file", "ANALYZE"),
    "nii moved by infinity": (
        "a.nii",
        nifti_bytes(scl_slope=2, scl_inter=np.inf),
        "input/corrupt-file",
        "scales the voxels by 2 and inf",
    ),
    "nii moved by no number": ("a.nii", nifti_bytes(scl_slope=1, scl_inter=np.nan), "input/corrupt-file", "1 and nan"),
    "nii that claims 8 TB": (
        "a.nii",
        nifti_bytes((20000,) * 3, data=b""),
        "input/truncated-file",
        "16000000000352 bytes",
    ),
    "nii.gz that claims 8 TB": (
        "a.nii.gz",
        gzip.compress(nifti_bytes((20000,) * 3, data=b"")),
        "input/truncated-file",
        "cannot hold",
    ),
    "nii.gz bomb with an honest header": (
        "a.nii.gz",
        gzip.compress(nifti_bytes((1000, 1000, 75), np.int32), compresslevel=9),
        "input/hostile-file",
        "decompression bomb",
    ),
    "nii.gz bomb with a lying header": (
        "a.nii.gz",
        gzip.compress(nifti_bytes() + bytes(100 << 20)),
        "input/hostile-file",
        "more than the 400 bytes",
    ),
    "nii.gz that holds less": ("a.nii.gz", gzip.compress(nifti_bytes()[:-3]), "input/truncated-file", "hold 397"),
    "nii.gz cut short": ("a.nii.gz", gzip.compress(nifti_bytes())[:-5], "input/truncated-file", "end after"),
    "nii without a voxel size": ("a.nii", nifti_bytes(pixdim=[0] * 8), "input/voxel-size", "no length"),
    "oblique nii": (
        "a.nii",
        nifti_bytes(sform_code=1, srow_x=[1, 0.1, 0, 0], srow_y=[-0.1, 1, 0, 0], srow_z=[0, 0, 1, 0]),
        "input/unsupported-file",
        "oblique",
    ),
    "nrrd that names a file": (
        "a.nrrd",
        nrrd_bytes(more="data file: ../../../../etc/passwd"),
        "input/hostile-file",
        "names another file",
    ),
    "nrrd that names a file in the old way": (
        "a.nrrd",
        nrrd_bytes(more="DataFile: /etc/passwd"),
        "input/hostile-file",
        "names another file",
    ),
    "nrrd that lists files": ("a.nhdr", nrrd_bytes(more="data file: LIST"), "input/hostile-file", "names another file"),
    "nrrd that names files late": (
        "a.nrrd",
        nrrd_bytes(more="# " + "x" * 5000 + "\ndata file: secret%03d.raw 1 9 1"),
        "input/hostile-file",
        "names another file",
    ),
    "nrrd cut in its header": ("a.nrrd", b"NRRD0004\ntype: uint8\n", "input/truncated-file", "within its header"),
    "nrrd cut in its data": ("a.nrrd", nrrd_bytes(bytes(23)), "input/truncated-file", "the header claims"),
    "nrrd that claims 8 TB": ("a.nrrd", nrrd_bytes(sizes="20000 20000 20000"), "input/truncated-file", "claims 8000"),
    "nrrd of a size with a thousand digits": (
        "a.nrrd",
        nrrd_bytes(sizes="4 3 " + "9" * 1000),
        "input/truncated-file",
        "claims",
    ),
    "nrrd of a size with too many digits": (
        "a.nrrd",
        nrrd_bytes(sizes="4 3 " + "9" * 5000),
        "input/corrupt-file",
        "wrong number",
    ),
    "nrrd of no voxels": ("a.nrrd", nrrd_bytes(sizes="4 0 2"), "input/corrupt-file", "sizes '4 0 2'"),
    "nrrd of two sizes": ("a.nrrd", nrrd_bytes(sizes="4 3"), "input/corrupt-file", "sizes '4 3'"),
    "nrrd of words": ("a.nrrd", nrrd_bytes(sizes="a b c"), "input/corrupt-file", "wrong number"),
    "nrrd of blocks": ("a.nrrd", nrrd_bytes(type_="block"), "input/unsupported-file", "'block'"),
    "nrrd as text": ("a.nrrd", nrrd_bytes(encoding="ascii"), "input/unsupported-file", "'ascii'"),
    "nrrd of five dimensions": ("a.nrrd", nrrd_bytes(dimension="5"), "input/unsupported-file", "5 dimensions"),
    "nrrd of four dimensions and three sizes": (
        "a.nrrd",
        nrrd_bytes(dimension="4"),
        "input/corrupt-file",
        "sizes are 3, its axes 4",
    ),
    "nrrd with vectors": (
        "a.nrrd",
        nrrd_bytes(more="kinds: domain domain 3-vector"),
        "input/unsupported-file",
        "'3-vector'",
    ),
    "nrrd that says things twice": ("a.nrrd", nrrd_bytes(more="type: int8"), "input/corrupt-file", "'type' twice"),
    "nrrd that says twice where its voxels start": (
        "a.nrrd",
        nrrd_bytes(bytes(7 + 24), more="byte skip: 7\nbyteskip: 7"),
        "input/corrupt-file",
        "'byte skip' twice",
    ),
    "nrrd that says twice that its voxels end the file": (
        "a.nrrd",
        nrrd_bytes(bytes(7 + 24), more="byteskip: -1\nbyte skip: -1"),
        "input/corrupt-file",
        "'byte skip' twice",
    ),
    "nrrd that says twice where it starts": (
        "a.nrrd",
        nrrd_bytes(more="axis mins: 1 2 3\naxismins: 1 2 3"),
        "input/corrupt-file",
        "'axis mins' twice",
    ),
    "nrrd without byte order": (
        "a.nrrd",
        nrrd_bytes(bytes(48), type_="int16").replace(b"endian: little\n", b""),
        "input/corrupt-file",
        "'endian'",
    ),
    "nrrd bomb": (
        "a.nrrd",
        nrrd_bytes(gzip.compress(bytes(300 << 20), 9), type_="float", sizes="1024 1024 75", encoding="gzip"),
        "input/hostile-file",
        "decompression bomb",
    ),
    "nrrd bzip2 bomb": (
        "a.nrrd",
        nrrd_bytes(bz2.compress(bytes(300 << 20)), sizes="1024 1024 300", encoding="bzip2"),
        "input/hostile-file",
        "decompression bomb",
    ),
    "nrrd with damaged data": (
        "a.nrrd",
        nrrd_bytes(b"\x1f\x8b\x08\0" + b"junk" * 50, encoding="gzip"),
        "input/corrupt-file",
        "damaged",
    ),
    "nrrd with a wrong checksum": (
        "a.nrrd",
        nrrd_bytes(gzip.compress(bytes(24))[:-8] + b"\0\0\0\0" + (24).to_bytes(4, "little"), encoding="gzip"),
        "input/corrupt-file",
        "damaged",
    ),
}


def refusal(host: PluginHost, path: Path) -> CryoMambaError:
    """What is raised between opening a file and the first voxel."""
    with pytest.raises(CryoMambaError) as caught, host.reader_for(path).open(path) as volume:
        volume.read(volume.grid.whole)
    return caught.value


@pytest.mark.parametrize("case", MRC_FIELDS)
def test_an_mrc_header_that_cannot_be_right_is_refused(
    case: str, host: PluginHost, write_mrc: Callable[..., Path]
) -> None:
    fields, code, clause = MRC_FIELDS[case]
    error = refusal(host, write_mrc(**fields))
    assert error.code == code
    assert clause in error.message
    assert error.hint


@pytest.mark.parametrize("case", MRC_FIELDS)
def test_the_same_is_seen_in_big_endian_files(case: str, host: PluginHost, write_mrc: Callable[..., Path]) -> None:
    fields, code, clause = MRC_FIELDS[case]
    error = refusal(host, write_mrc(big_endian=True, **fields))
    assert error.code == code
    assert clause in error.message


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_right_is_refused(case: str, host: PluginHost, tmp_path: Path) -> None:
    name, content, code, clause = FILES[case]
    path = tmp_path / name
    path.write_bytes(content)
    error = refusal(host, path)
    assert error.code == code
    assert clause in error.message
    assert error.hint
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_truncated_mrc_is_refused(host: PluginHost, write_mrc: Callable[..., Path]) -> None:
    path = write_mrc()
    path.write_bytes(path.read_bytes()[:-1])
    error = refusal(host, path)
    assert error.code == "input/truncated-file"
    assert "the header claims 2564 bytes, the file has 2563" in error.message


@pytest.mark.parametrize("size", [1, 211, 1023])
def test_an_mrc_that_ends_in_its_header_is_refused(size: int, host: PluginHost, write_mrc: Callable[..., Path]) -> None:
    path = write_mrc()
    path.write_bytes(path.read_bytes()[:size])
    assert refusal(host, path).code == "input/truncated-file"


def test_folders_pipes_and_missing_files_are_refused_without_waiting(host: PluginHost, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mrc")
    for path in (tmp_path / "pipe.mrc", tmp_path, tmp_path / "none.mrc"):
        with pytest.raises(CryoMambaError) as caught:
            host.reader_for(path)
        assert caught.value.code == "input/missing-file"
        assert caught.value.hint


def test_a_file_that_shrinks_while_it_is_open_gives_no_voxels(host: PluginHost, write_mrc: Callable[..., Path]) -> None:
    path = write_mrc()
    with host.reader_for(path).open(path) as volume:
        os.truncate(path, 1100)
        with pytest.raises(CryoMambaError) as caught:
            volume.read(volume.grid.whole)
    assert caught.value.code == "input/truncated-file"


def test_a_full_scratch_disk_is_said_before_anything_is_unpacked(
    host: PluginHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((9, 9, 9), np.int16), np.diag([1e-6, 1e-6, 1e-6, 1])), path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    error = refusal(host, path)
    assert error.code == "storage/full"
    assert "TMPDIR" in error.hint


def test_hostile_headers_cost_no_memory(host: PluginHost, write_mrc: Callable[..., Path], tmp_path: Path) -> None:
    """In a process that may not grow by more than 96 MiB."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    expected = {}
    for number, case in enumerate(("huge size", "13 GB in a small file", "huge extended header")):
        fields, code, _ = MRC_FIELDS[case]
        write_mrc(f"hostile/{number}.mrc", **fields)
        expected[f"{number}.mrc"] = code
    for case in FILES:
        if "claims" in case or "bomb" in case or "names" in case:
            name, content, code, _ = FILES[case]
            path = folder / f"{case.replace(' ', '-')}-{name}"
            path.write_bytes(content)
            expected[path.name] = code
    script = """
        import json, resource, sys
        from pathlib import Path
        import numpy
        from cryomamba_backends.formats.mrc.reader import MrcReader
        from cryomamba_backends.formats.nifti.reader import NiftiReader
        from cryomamba_backends.formats.nrrd.reader import NrrdReader
        from cryomamba_core.errors import ErrorInfo
        import bz2, gzip, tempfile
        readers = {".mrc": MrcReader(), ".nrrd": NrrdReader(), ".nhdr": NrrdReader()}
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (96 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        codes = {}
        for path in sorted(Path(sys.argv[1]).iterdir()):
            try:
                with readers.get(path.suffix, NiftiReader()).open(path) as volume:
                    volume.read(volume.grid.whole)
            except BaseException as error:
                codes[path.name] = ErrorInfo.of(error).code
        print(json.dumps(codes))
    """
    if not Path("/proc/self/statm").exists() or not hasattr(resource, "RLIMIT_AS"):
        pytest.skip("memory cannot be limited here")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(folder)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == expected


def test_judges_agree_that_the_good_files_of_these_tests_are_good(
    tmp_path: Path, write_mrc: Callable[..., Path]
) -> None:
    (tmp_path / "a.nrrd").write_bytes(nrrd_bytes(bytes(range(24))))
    assert nrrd.read(str(tmp_path / "a.nrrd"))[0].shape == (4, 3, 2)
    (tmp_path / "a.nii").write_bytes(nifti_bytes())
    assert nibabel.load(tmp_path / "a.nii").shape == (4, 3, 2)
    assert mrcfile.validate(write_mrc())
