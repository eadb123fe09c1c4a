"""Files with pictures in them that are not read: by their name or first bytes, what they are and what to do."""

from __future__ import annotations

from posixpath import splitext

_CONVERT_ADVICE = "which is not decoded; convert it to PNG or JPEG"
_UNPACK_ADVICE = "which is not looked into; unpack it, and give the folder"
_SOURCE_ADVICE = "which is not looked into; give it as a source of its own, or unpack it"
_UNSUPPORTED_IMAGES = {
    "an AVIF picture": ".avif .avifs",
    "a HEIC picture": ".heic .heif .hif",
    "a JPEG XL picture": ".jxl",
    "a JPEG 2000 picture": ".jp2 .j2k .jpf",
    "a DICOM picture": ".dcm .dicom",
    "a camera's raw picture": ".arw .cr2 .cr3 .dng .nef .nrw .orf .pef .raf .raw .rw2 .srw",
}
_SOURCE_ARCHIVES = {"a zip archive": ".zip", "a tar archive": ".tar", "a Parquet table": ".parquet"}
_UNSUPPORTED_ARCHIVES = {
    "a compressed tar archive": ".tgz .tbz2 .txz",
    "a gzip archive": ".gz",
    "a bzip2 archive": ".bz2",
    "an xz archive": ".xz",
    "a Zstandard archive": ".zst",
    "a 7z archive": ".7z",
    "a rar archive": ".rar",
}
_ADVICE_BY_SUFFIX = {
    suffix: f"{kind}, {advice}"
    for kinds, advice in (
        (_UNSUPPORTED_IMAGES, _CONVERT_ADVICE),
        (_SOURCE_ARCHIVES, _SOURCE_ADVICE),
        (_UNSUPPORTED_ARCHIVES, _UNPACK_ADVICE),
    )
    for kind, suffixes in kinds.items()
    for suffix in suffixes.split()
}
ARCHIVE_MAGIC = {
    b"PK\x03\x04": ".zip",
    b"PK\x05\x06": ".zip",
    b"PAR1\x15": ".parquet",
}  # of files that hold images, but tar's
_MAGIC = (  # where bytes that no text begins with stand in a file, and the suffix of what has them there
    (4, b"ftypavif", ".avif"),
    (4, b"ftypavis", ".avif"),
    *((4, b"ftyp" + brand, ".heic") for brand in (b"heic", b"heix", b"heif", b"hevc", b"mif1", b"msf1")),
    (0, b"\0\0\0\x0cJXL ", ".jxl"),
    (0, b"\0\0\0\x0cjP  ", ".jp2"),
    (128, b"DICM", ".dcm"),
    *((0, start, suffix) for start, suffix in ARCHIVE_MAGIC.items()),
    (257, b"ustar\0", ".tar"),
    (257, b"ustar  \0", ".tar"),
    (0, b"\x1f\x8b", ".gz"),
    (4, b"1AY&SY", ".bz2"),
    (0, b"\xfd7zXZ\0", ".xz"),
    (0, b"\x28\xb5\x2f\xfd", ".zst"),
    (0, b"7z\xbc\xaf\x27\x1c", ".7z"),
    (0, b"Rar!\x1a\x07", ".rar"),
)
HEAD_BYTES = 512  # bytes that tell what a file is
_IMAGE_MAGIC = {
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*": ".tif",
}
UNSUPPORTED_IMAGE_SUFFIXES = frozenset(
    suffix for suffixes in _UNSUPPORTED_IMAGES.values() for suffix in suffixes.split()
)


def describe_unsupported_name(name: str) -> str | None:
    """What a file of this name is, and what to do; None if the name does not tell."""
    return _ADVICE_BY_SUFFIX.get(splitext(name)[1].lower())


def describe_unsupported_content(head: bytes) -> str | None:
    """What a file that begins with these HEAD bytes is, and what to do; None if they do not tell."""
    found = next((suffix for at, magic, suffix in _MAGIC if head.startswith(magic, at)), None)
    return found and _ADVICE_BY_SUFFIX[found]


def guess_suffix(content: bytes) -> str:
    """What the name of a picture with this content ends in; of one that is not known in `.jpg`."""
    return next((suffix for start, suffix in _IMAGE_MAGIC.items() if content.startswith(start)), ".jpg")
