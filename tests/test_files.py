"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import create

from imgsubset.cli.signals import EndedBySignal
from imgsubset.files import write_atomic


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("mode", "expected"), [(None, 0o640), (0o600, 0o600), (0o664, 0o664)])
def test_a_file_has_the_mode_of_the_earlier_one_or_what_the_umask_leaves(
    tmp_path: Path, mode: int | None, expected: int
) -> None:
    if mode is not None:
        create(tmp_path / "file", b"earlier").chmod(mode)
    write_atomic(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert (tmp_path / "file").stat().st_mode & 0o777 == expected


def test_a_link_is_replaced_and_lends_no_mode(tmp_path: Path) -> None:
    victim = create(tmp_path / "victim", b"mine")
    victim.chmod(0o600)
    (tmp_path / "file").symlink_to(victim)
    write_atomic(tmp_path / "file", b"content")
    assert (victim.read_bytes(), victim.stat().st_mode & 0o777) == (b"mine", 0o600)
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_signal_at_any_call_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(os, call)

    def signalled(*arguments: Any, **options: Any) -> None:
        done = real(*arguments, **options)
        if call == "open":
            os.close(done)
        raise EndedBySignal(15)

    monkeypatch.setattr(os, call, signalled)
    with pytest.raises(EndedBySignal):
        write_atomic(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == []
