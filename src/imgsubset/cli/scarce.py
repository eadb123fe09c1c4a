"""What a machine has too little of, told from the error that it ends in."""

from __future__ import annotations

import errno
import importlib.util
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

from imgsubset.errors import ImgsubsetError

MEMORY_ADVICE = (
    "too little memory; a smaller --size, fewer --candidates or fewer --workers need less, and so do fewer images"
)
THREADS_ADVICE = (
    "no further thread or process can be started; raise the limit (ulimit -u or -v), or use fewer --workers"
)
OPEN_FILES_ADVICE = "too many open files; raise the limit (ulimit -n), or use fewer --workers"
DISK_SPACE_ADVICE = "no space left on a disk, for temporary files or in /dev/shm"
ADVICE_BY_ERRNO = {
    errno.EMFILE: OPEN_FILES_ADVICE,
    errno.ENFILE: OPEN_FILES_ADVICE,
    errno.ENOMEM: MEMORY_ADVICE,
    errno.EAGAIN: THREADS_ADVICE,
    errno.ENOSPC: DISK_SPACE_ADVICE,
    errno.EDQUOT: DISK_SPACE_ADVICE,
}
ADVICE_BY_PATTERN = {  # of a RuntimeError, most of them torch's
    r"can't allocate memory|bad_alloc|[Cc]annot allocate memory": MEMORY_ADVICE,
    r"could not (create|execute) a primitive": MEMORY_ADVICE,  # all that oneDNN says
    r"can't start new thread|thread initializer failed|Resource temporarily unavailable": THREADS_ADVICE,
    r"Too many open files": OPEN_FILES_ADVICE,
    r"No space left on device": DISK_SPACE_ADVICE,
}
ULIMIT_FLAGS = {"RLIMIT_AS": "-v", "RLIMIT_DATA": "-d"}  # what `ulimit` calls them
SAFE_LIMIT_BYTES = 16 << 30  # bytes, in which torch can always be loaded
MARGIN_BYTES = 256 << 20  # bytes that torch is loaded with to spare, since less is not told from too little
PROBE_SCRIPT = """
import resource, sys
sys.path[:] = sys.argv[3:]
resource.setrlimit(getattr(resource, sys.argv[1]), (int(sys.argv[2]),) * 2)
import torch
"""
LIBRARY_ERROR_PATTERN = r"shared object|cannot allocate memory|failed to map|\.so\b|DLL"  # of an ImportError


def explain_resource_error(error: BaseException) -> str | None:
    """What there was too little of, and what to do, in one line; None if that is not why it failed."""
    first = reversed([*_exception_chain(error)])  # others may wrap it in pages of advice, as numpy does
    return next((said for one in first if (said := _find_advice(one))), None)


def lacks_threads() -> bool:
    """Whether no further thread can be started. OpenBLAS, as numpy loads it, raises SIGINT then."""
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return True
    return False


def check_memory_limit() -> None:
    """Raise ImgsubsetError if torch cannot be loaded within the limits of this process.

    With too little of it torch, or the loader of libraries, may abort, which no program can catch. So another process
    tries first, where there is a limit.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    for name, letter in ULIMIT_FLAGS.items():
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit == resource.RLIM_INFINITY or limit >= SAFE_LIMIT_BYTES or importlib.util.find_spec("torch") is None:
            continue
        command = [sys.executable, "-c", PROBE_SCRIPT, name, str(max(0, limit - MARGIN_BYTES)), *sys.path]
        if subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
            raise ImgsubsetError(
                f"torch cannot be loaded with the {limit / 1e9:.2f} GB of memory that this process may have; "
                f"raise the limit (ulimit {letter})"
            )


def _exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def _find_advice(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return MEMORY_ADVICE
    if isinstance(error, OSError) and error.errno in ADVICE_BY_ERRNO:
        name = f": '{error.filename}'" if error.filename is not None else ""
        return ADVICE_BY_ERRNO[error.errno] + name
    if isinstance(error, RuntimeError):
        return next((said for pattern, said in ADVICE_BY_PATTERN.items() if re.search(pattern, str(error))), None)
    if isinstance(error, ImportError) and re.search(LIBRARY_ERROR_PATTERN, str(error)):
        why = " ".join(str(error).split())
        return f"a library cannot be loaded ({why}); it needs more memory (ulimit -v), or to be installed again"
    return None
