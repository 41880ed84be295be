import os
import stat

import numpy as np
import pytest

from cryomamba_core.durable import PARTIAL
from cryomamba_core.geometry import VoxelGrid
from cryomamba_core.volumes import IntensityStatistics
from cryomamba_gui.volumes.overview import Overview
from cryomamba_gui.volumes.overview_cache import OverviewCache, default_overview_folder, overview_key

GRID = VoxelGrid(shape=(40, 50, 60), voxel_size=(10, 10, 10))


def make_overview(seed=1):
    rng = np.random.default_rng(seed)
    return Overview(
        factor=2,
        grid=GRID.coarsen(2),
        voxels=rng.normal(size=(20, 25, 30)).astype(np.float32),
        statistics=IntensityStatistics(minimum=-1.5, maximum=2.5, mean=0.1, standard_deviation=1 / 3),
        histogram=rng.integers(0, 100, 256),
        edges=np.linspace(-1, 1, 257),
        not_finite=3,
    )


def kept(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_kept_comes_back_as_it_was(tmp_path):
    cache, made = OverviewCache(tmp_path / "a" / "overviews"), make_overview()
    assert cache.load("key", GRID) is None
    cache.save("key", made)
    found = cache.load("key", GRID)
    for name in ("factor", "grid", "statistics", "not_finite"):
        assert getattr(found, name) == getattr(made, name)
    for name in ("voxels", "histogram", "edges"):
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
        assert getattr(found, name).dtype == getattr(made, name).dtype
    assert not found.voxels.flags.writeable
    assert stat.S_IMODE((tmp_path / "a" / "overviews").stat().st_mode) == 0o700
    assert kept(tmp_path / "a" / "overviews") == ["key.npz"]


def test_another_voxel_size_has_the_same_overview_elsewhere(tmp_path):
    cache = OverviewCache(tmp_path)
    cache.save("key", make_overview())
    other = GRID.with_voxel_size((1, 2, 3))
    assert cache.load("key", other).grid == other.coarsen(2)


def cut(data):
    return data[: len(data) // 2]


def flip(data):
    place = len(data) // 3
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage", [cut, flip, lambda _: b"", lambda _: b"not an overview" * 99], ids=["cut", "flipped", "empty", "other"]
)
def test_a_damaged_one_is_left_out_and_removed(tmp_path, damage, caplog):
    cache, path = OverviewCache(tmp_path), tmp_path / "key.npz"
    cache.save("key", make_overview())
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load("key", GRID) is None
    assert not path.exists()
    assert "damaged" in caplog.text


def test_one_that_would_run_code_is_left_out(tmp_path):
    cache = OverviewCache(tmp_path)
    np.savez(tmp_path / "key.npz", factor=np.array([print], dtype=object))
    assert cache.load("key", GRID) is None


def test_one_of_another_tomogram_is_left_out(tmp_path):
    cache = OverviewCache(tmp_path)
    cache.save("key", make_overview())
    assert cache.load("key", VoxelGrid(shape=(40, 50, 70), voxel_size=(10, 10, 10))) is None


def test_those_that_were_not_used_for_the_longest_time_go(tmp_path):
    OverviewCache(tmp_path).save("a", make_overview())
    size = (tmp_path / "a.npz").stat().st_size
    cache = OverviewCache(tmp_path, most_bytes=3 * size)
    for age, key in enumerate("abc"):
        cache.save(key, make_overview())
        os.utime(tmp_path / f"{key}.npz", (1000 + age, 1000 + age))
    assert cache.load("a", GRID) is not None  # a use
    cache.save("d", make_overview())
    assert kept(tmp_path) == ["a.npz", "c.npz", "d.npz"]


def test_what_a_killed_process_left_goes_and_what_another_writes_stays(tmp_path):
    old, new, foreign = tmp_path / f".x.1{PARTIAL}", tmp_path / f".y.2{PARTIAL}", tmp_path / "README"
    for path in (old, new, foreign):
        path.write_bytes(b"x")
    os.utime(old, (1000, 1000))
    os.utime(foreign, (1000, 1000))
    OverviewCache(tmp_path).save("key", make_overview())
    assert kept(tmp_path) == sorted([new.name, foreign.name, "key.npz"])


def test_a_folder_that_cannot_be_made_is_no_failure(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    cache = OverviewCache(tmp_path / "file" / "overviews")
    cache.save("key", make_overview())
    assert "could not be kept" in caplog.text
    assert cache.load("key", GRID) is None


def test_a_key_is_of_the_content_and_of_how_it_was_read(tmp_path):
    path, link = tmp_path / "a.mrc", tmp_path / "b.mrc"
    path.write_bytes(b"12")
    link.symlink_to(path)
    status = path.stat()
    key = overview_key(path, status, {"reader": "mrc"})
    assert overview_key(link, status, {"reader": "mrc"}) == key
    assert overview_key(path, status, {"reader": "other"}) != key
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    assert overview_key(path, path.stat(), {"reader": "mrc"}) != key


def test_the_users_own_folder_is_for_what_can_be_made_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_overview_folder() == tmp_path / "cryomamba" / "overviews"
