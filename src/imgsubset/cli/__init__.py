"""The command line: parse, call, print, exit code. The only package that prints, or knows click and tqdm.

May import: everything.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback

import click

from imgsubset import __version__
from imgsubset.cli.batch import batch_command
from imgsubset.cli.cache import cache_group, embed_command
from imgsubset.cli.distributed_run import run_distributed
from imgsubset.cli.evaluate import compare_command, estimate_command, score_command, verify_command
from imgsubset.cli.help import HelpGroup
from imgsubset.cli.output import discard_stdout, print_error, print_text
from imgsubset.cli.select import demo_command, select_command
from imgsubset.cli.signals import FATAL_SIGNALS, EndedBySignal, exit_on_signal, handle_signals, restore_defaults
from imgsubset.cli.split import split_command
from imgsubset.cli.terminal import THREADS_ADVICE, explain_resource_error, lacks_threads
from imgsubset.errors import EXIT_CODES, ImgsubsetError, OutputError, shorten
from imgsubset.results.text import printable

COMMANDS = [
    *(select_command, split_command, score_command, estimate_command, compare_command, verify_command),
    *(batch_command, embed_command, cache_group, demo_command),
]
EXIT_CODES_HELP = "\n".join(["\b", "Exit codes:", *(f"  {code:<5}{meaning}" for code, meaning in EXIT_CODES.items())])


@click.group(cls=HelpGroup, commands=COMMANDS, epilog=EXIT_CODES_HELP, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="imgsubset")
def program() -> None:
    """Choose the images of a folder whose distribution is closest to that of the whole folder.

    \b
    imgsubset select photos subset -n 500    the 500 closest, copied to subset/
    imgsubset split photos sets train=80% test=20%
    imgsubset score photos subset            how close any subset is
    imgsubset estimate photos subset results.csv    what results on it say of all
    imgsubset compare real generated         how far apart two folders are
    imgsubset demo trial                     try it on pictures that it draws
    """


def main() -> None:
    """The entry point of the `imgsubset` command."""
    _open_streams()
    for library in ("PIL", "concurrent.futures"):  # their lines about a failure name no file, and it is told of here
        logging.getLogger(library).addHandler(logging.NullHandler())
    try:
        with handle_signals(exit_on_signal, *FATAL_SIGNALS):
            code = run_distributed(_run_program)
            restore_defaults()  # the interpreter takes a while to end, and would print where it was interrupted
    except EndedBySignal as ended:
        code = ended.exit_code
        if code == 128 + signal.SIGINT and lacks_threads():
            code = _lacking(THREADS_ADVICE)
        else:
            print_error("interrupted")
        os._exit(code)  # without waiting for threads in the middle of a long sum
    sys.exit(code)


def _run_program() -> int:
    stdout = sys.stdout
    try:
        return int(program.main(prog_name="imgsubset", standalone_mode=False) or 0)
    except SystemExit:
        if sys.stdout is stdout:
            raise
        return 128 + 13  # click prints help itself, and puts another stdout there when nobody reads it
    except click.exceptions.NoArgsIsHelpError as error:
        print_error(error.format_message(), "")
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"; see '{context.command_path} --help'" if context else ""
        message = shorten(" ".join(error.format_message().split())).rstrip(".") + hint
        if "--json" in sys.argv[1:]:
            print_text(json.dumps({"error": message, "exit_code": error.exit_code}))
        print_error(f"error: {printable(message)}")
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print_error("interrupted")
        return 130
    except Exception as error:
        if isinstance(error, OSError) and _is_of_echo(error):  # help is printed by click itself
            discard_stdout()
            print_error(f"error: cannot write to stdout: {error.strerror}")
            return OutputError.exit_code
        lacking = explain_resource_error(error)
        if lacking is None:
            raise
        return _lacking(lacking)


def _lacking(what: str) -> int:
    """Tell what there is too little of; the exit code."""
    if "--json" in sys.argv[1:]:
        print_text(json.dumps({"error": what, "exit_code": ImgsubsetError.exit_code}))
    print_error(f"error: {printable(what)}")
    return ImgsubsetError.exit_code


def _is_of_echo(error: BaseException) -> bool:
    """Whether an error was raised while click printed."""
    return any(frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


def _open_streams() -> None:
    """Give closed standard streams a place: else the next file that is opened would take their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
