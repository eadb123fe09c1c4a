"""A command of several processes: rank 0 does it and prints, the others help; and how all of them end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

from imgsubset.cli.output import complain, say
from imgsubset.cli.scarce import scarcity
from imgsubset.cli.signals import FATAL, EndedBySignal
from imgsubset.errors import ImgsubsetError
from imgsubset.ranks import Ranks, join, place_of
from imgsubset.results.lines import printable
from imgsubset.watch import End

SIGNALLED = "rank {} was ended by a signal; when one is gone, torchrun ends all, and says which was the first"
GRACE_SECONDS = 5.0  # for the main thread, to leave what it does


def by_rank(run: Callable[[], int]) -> int:
    """The exit code of run(), which rank 0 does with the help of the others, or this process where it works alone."""
    place = None
    try:
        place = place_of(os.environ)
        if place is None:
            return run()
        if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1":
            # From torchrun, for programs that do not share the cores by themselves. The sums of rank 0, which works
            # alone then, would have another order than in a process alone.
            del os.environ["OMP_NUM_THREADS"]
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a closed connection is pages of warnings
        ranks = join(place, sys.argv[1:], _interrupt)
    except ImgsubsetError as error:
        _tell(str(error), error.exit_code, first=place is not None and place.rank == 0)
        return error.exit_code
    code = _ended(ranks, run)
    if code:
        for number in FATAL:
            signal.signal(number, signal.SIG_IGN)  # the end is told of, and has its exit code
        ranks.watch.linger()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)  # threads may wait for what no rank will send
    return code


def _ended(ranks: Ranks, run: Callable[[], int]) -> int:
    """The exit code of this rank, once it has done its part, and where that failed, once the others are told."""
    rank, watch = ranks.place.rank, ranks.watch
    try:
        if rank == 0:
            with ranks.at_hand():
                code = run()
            if code:
                return watch.end("", code).code
        else:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what Ctrl-C ends, and how, rank 0 says
            from imgsubset.features.serving import serve

            serve(ranks)
        ranks.leave()
        return 0
    except ImgsubsetError as error:
        end = watch.end(f"rank {rank}: {error}", error.exit_code)
    except EndedBySignal as signalled:
        told = watch.told()
        end = told or watch.end(SIGNALLED.format(rank) if rank else "", signalled.exit_code)
        if told is None and rank == 0:
            complain("interrupted")
    except SystemExit as leaving:
        return watch.end("", int(leaving.code or 0)).code
    except BaseException as error:
        lacking = scarcity(error) if isinstance(error, Exception) else None
        end = watch.end(f"rank {rank} failed: {lacking or type(error).__name__}")
        if lacking is None:
            traceback.print_exception(error)
    if end.message:
        _tell(*end, first=rank == 0)
    return end.code


def _tell(message: str, code: int, first: bool) -> None:
    """Tell of an error, on stdout too where the one rank that prints is asked for JSON."""
    if first and "--json" in sys.argv[1:]:
        say(json.dumps({"error": message, "exit_code": code}))
    complain(f"error: {printable(message)}")


def _interrupt(end: End) -> None:
    """Have the main thread leave, as by a signal; or end the process, where it does not."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    if end.message:
        complain(f"error: {printable(end.message)}")
    os._exit(end.code)
