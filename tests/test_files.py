"""Writing completely or not at all."""

import pytest

from dfnb import files


def test_a_write_replaces_the_whole_file(tmp_path):
    target = tmp_path / "new" / "file.txt"
    files.atomic_write(target, "first, and longer")
    files.atomic_write(target, b"second")
    assert target.read_bytes() == b"second"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), files.atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("the power went")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_temporary_file_keeps_the_suffix(tmp_path):
    with files.atomic(tmp_path / "array.npy") as temporary:
        assert temporary.suffix == ".npy"
        assert temporary.parent == tmp_path


def test_folders_are_moved_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DFNB_RUNS", str(tmp_path))
    monkeypatch.delenv("DFNB_DATA", raising=False)
    assert files.runs() == tmp_path
    assert files.data() == files.ROOT / "data"
