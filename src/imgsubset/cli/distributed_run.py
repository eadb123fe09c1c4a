"""A command under torchrun or srun: rank 0 runs it and prints, the others help; and how all of them end."""

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

from imgsubset.cli.output import print_error, print_text
from imgsubset.cli.signals import FATAL_SIGNALS, EndedBySignal
from imgsubset.cli.terminal import explain_resource_error
from imgsubset.distributed import ProcessGroup, RunEnd, join_group, read_process_info
from imgsubset.errors import ImgsubsetError
from imgsubset.results.text import printable

SIGNAL_MESSAGE = "rank {} was ended by a signal; when one is gone, torchrun ends all, and says which was the first"
GRACE_SECONDS = 5.0  # for the main thread, to leave what it does


def run_distributed(run: Callable[[], int]) -> int:
    """The exit code of run(), which rank 0 does with the help of the others, or this process where it works alone."""
    place = None
    try:
        place = read_process_info(os.environ)
        if place is None:
            return run()
        if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1":
            # From torchrun, for programs that do not share the cores by themselves. The sums of rank 0, which works
            # alone then, would have another order than in a process alone.
            del os.environ["OMP_NUM_THREADS"]
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a closed connection is pages of warnings
        ranks = join_group(place, sys.argv[1:], _interrupt_main_thread)
    except ImgsubsetError as error:
        _print_failure(str(error), error.exit_code, first=place is not None and place.rank == 0)
        return error.exit_code
    code = _run_rank(ranks, run)
    if code:
        for number in FATAL_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # the end is told of, and has its exit code
        ranks.watch.wait_until_seen()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)  # threads may wait for what no rank will send
    return code


def _run_rank(ranks: ProcessGroup, run: Callable[[], int]) -> int:
    """The exit code of this rank, once it has done its part, and where that failed, once the others are told."""
    rank, watch = ranks.place.rank, ranks.watch
    try:
        if rank == 0:
            with ranks.activate():
                code = run()
            if code:
                return watch.end("", code).code
        else:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what Ctrl-C ends, and how, rank 0 says
            from imgsubset.features.distributed_ingest import serve_requests

            serve_requests(ranks)
        ranks.leave()
        return 0
    except ImgsubsetError as error:
        end = watch.end(f"rank {rank}: {error}", error.exit_code)
    except EndedBySignal as signalled:
        told = watch.told()
        end = told or watch.end(SIGNAL_MESSAGE.format(rank) if rank else "", signalled.exit_code)
        if told is None and rank == 0:
            print_error("interrupted")
    except SystemExit as leaving:
        return watch.end("", int(leaving.code or 0)).code
    except BaseException as error:
        lacking = explain_resource_error(error) if isinstance(error, Exception) else None
        end = watch.end(f"rank {rank} failed: {lacking or type(error).__name__}")
        if lacking is None:
            traceback.print_exception(error)
    if end.message:
        _print_failure(*end, first=rank == 0)
    return end.code


def _print_failure(message: str, code: int, first: bool) -> None:
    """Tell of an error, on stdout too where the one rank that prints is asked for JSON."""
    if first and "--json" in sys.argv[1:]:
        print_text(json.dumps({"error": message, "exit_code": code}))
    print_error(f"error: {printable(message)}")


def _interrupt_main_thread(end: RunEnd) -> None:
    """Have the main thread leave, as by a signal; or end the process, where it does not."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    if end.message:
        print_error(f"error: {printable(end.message)}")
    os._exit(end.code)
