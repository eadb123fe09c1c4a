"""Made-up archives."""

from __future__ import annotations

import io
import tarfile
import zipfile
from typing import Any

from conftest import smooth

Contents = dict[str, bytes]


def png(seed: int) -> bytes:
    content = io.BytesIO()
    smooth(seed, 9, 8).save(content, "PNG")
    return content.getvalue()


def tar_of(contents: Contents, format: int = tarfile.PAX_FORMAT, **changed: Any) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format, errors="surrogateescape") as archive:
        for name, content in contents.items():
            add(archive, name, content, **changed)
    return made.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", **changed: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in changed.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(content))


def zip_of(contents: Contents, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return made.getvalue()
