"""The command ``densepose-engine``: dispatch to the verbs in ``commands``, and errors as sentences and exit codes."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn, TextIO, cast

from .commands import VERBS
from .commands.interruption import Terminated, termination_as_interrupt
from .commands.terminal import say
from .errors import (
    BackendUnavailable,
    BuildError,
    DensePoseEngineError,
    ExportError,
    GraphFileError,
    InferenceError,
    missing_package,
)
from .files.output_files import OUTPUT_ERRNOS, OutputError, remove_unfinished
from .wording import printable

OK, SOME_FAILED, USAGE, BAD_INPUT, BAD_RUNTIME, BAD_OUTPUT = range(6)
# As sysexits.h and the shell have them.
BUG, HUNG_UP, INTERRUPTED, CLOSED_PIPE, TERMINATED = 70, 129, 130, 141, 143

EXIT_CODES = {
    OK: "all right",
    SOME_FAILED: "some pictures failed or could not be written, the others are done; doctor: inference does not work",
    USAGE: "wrong usage: an argument is missing, unknown or out of range",
    BAD_INPUT: "an input cannot be used: missing, damaged, of another version, or not supported",
    BAD_RUNTIME: "a runtime is missing or refuses: the model cannot be exported, built or run here",
    BAD_OUTPUT: "an output cannot be written, or exists and --force was not given",
    BUG: "an error in densepose-engine itself",
    HUNG_UP: "the terminal was closed (SIGHUP); as 130",
    INTERRUPTED: "interrupted (Ctrl-C); finished outputs are kept, unfinished ones removed",
    CLOSED_PIPE: "whoever read the output stopped reading",
    TERMINATED: "told to end (SIGTERM); as 130",
}
#: What ``--version`` looks for, beside this package and Python.
RUNTIMES = (
    *("numpy", "Pillow", "openvino", "tensorrt", "tensorrt-rtx-cu13", "pycuda"),
    *("torch", "onnx", "onnxscript", "av", "onnxruntime"),
)

_EXAMPLES = """\
examples:
  densepose-engine export --config demo.yaml --weights demo.pth -o demo.onnx --input-size 320x448
  densepose-engine build demo.onnx -o demo.engine
  densepose-engine infer demo.engine photo.jpg folder/ -o out/
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's own) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal's encoding lacks is escaped; it must not end the work.
        with suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with _checked_stdout() as checked:
        try:
            code = _run(sys.argv[1:] if argv is None else argv)
            if checked is not None:
                checked.finish(said=code not in (OK, SOME_FAILED))
        except BrokenPipeError:
            code = CLOSED_PIPE
        except OutputError as error:
            say(f"error: {error}")
            code = BAD_OUTPUT
    if code in (CLOSED_PIPE, BAD_OUTPUT):
        _drop(sys.stdout)
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):
        _drop(sys.stderr)  # nobody hears the remarks; that is no reason to fail
    return code


def _run(argv: Sequence[str]) -> int:
    """All but what is wrong with standard output at the end, which is the caller's."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as end:  # argparse ends the process itself after --help, --version and wrong usage
        return int(end.code or 0)
    debug = arguments.debug or os.environ.get("DENSEPOSE_DEBUG", "0") not in ("", "0")
    try:
        with _warnings_as_remarks(everything=debug), termination_as_interrupt():
            return arguments.run(arguments)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt as end:
        return _interrupted(end)
    except Exception as raised:
        if (interrupt := _interrupt_behind(raised)) is not None:
            return _interrupted(interrupt)
        error = missing_package(raised) or raised
        code = exit_code(error)
        if code == BUG:
            say(
                f"error: this is a mistake in densepose-engine ({type(error).__name__}: {error}); "
                "please report it with the lines below"
            )
        if debug or code == BUG:
            traceback.print_exc()
        if code != BUG:
            say("error: " + "\n".join(map(printable, _sentence(error).split("\n"))))
        return code
    finally:
        remove_unfinished()


def _interrupted(end: KeyboardInterrupt) -> int:
    if isinstance(end, Terminated):
        say(f"ended by {end}")
        return 128 + end.number
    say("interrupted")
    return INTERRUPTED


def _interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """What a library made an error of its own of: torch's exporter does, for one."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, KeyboardInterrupt):
            return current
        seen.add(id(current))
        current = current.__cause__ or current.__context__
    return None


def exit_code(error: Exception) -> int:
    """The exit code for an exception that a verb raised."""
    if isinstance(error, OutputError) or (isinstance(error, OSError) and error.errno in OUTPUT_ERRNOS):
        return BAD_OUTPUT
    if isinstance(error, GraphFileError):
        return BAD_INPUT
    if isinstance(error, (BackendUnavailable, BuildError, ExportError, InferenceError)):
        return BAD_RUNTIME
    if isinstance(error, (DensePoseEngineError, OSError)):
        return BAD_INPUT
    return USAGE if isinstance(error, ValueError) else BUG


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in OUTPUT_ERRNOS:
        return f"something cannot be written: {error.strerror} (temporary files go to {tempfile.gettempdir()})"
    return str(error) or type(error).__name__


@contextmanager
def _warnings_as_remarks(everything: bool) -> Iterator[None]:
    """Warnings of this package as one line each; those of the runtimes only where ``everything`` is wanted."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        say(f"warning: {message}")

    with warnings.catch_warnings():
        if not everything:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", module=r"densepose_engine\b")
            warnings.showwarning = show
        yield


class _CheckedStdout:
    """Standard output, whose failures say that they are its own; after the first, what is written goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._failure: BrokenPipeError | OutputError | None = None

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def finish(self, said: bool) -> None:
        """Flush, and raise what failed before, unless it was ``said``: argparse, for one, passes over it in silence."""
        self.flush()
        if self._failure is not None and not said:
            raise self._failure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, action: Callable[[], object]) -> None:
        if self._failure is not None:
            return
        try:
            action()
        except BrokenPipeError as error:
            self._failure = error
            raise
        except OSError as error:
            self._failure = OutputError(f"cannot write to standard output: {error.strerror or error}", error.errno)
            raise self._failure from error


@contextmanager
def _checked_stdout() -> Iterator[_CheckedStdout | None]:
    stream = sys.stdout
    if stream is None:  # the shell closed it
        yield None
        return
    checked = _CheckedStdout(stream)
    sys.stdout = cast("TextIO", checked)
    try:
        yield checked
    finally:
        sys.stdout = stream


def _drop(stream: TextIO) -> None:
    """Let what is left in the buffer go nowhere: Python flushes it at exit, and would fail with a code of its own."""
    with suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# ---- the parser ------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Complains in the same form as the rest of the command."""

    def error(self, message: str) -> NoReturn:
        say(f"error: {printable(message)} (see '{self.prog} --help')")
        raise SystemExit(USAGE)


class _Version(argparse.Action):
    """Prints the versions when asked, not whenever the parser is made."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(versions())
        parser.exit()


def versions() -> str:
    """This package, Python and every installed runtime with their versions, a line each; no runtime is imported."""
    lines = [
        f"densepose-engine {_installed('densepose-engine') or 'not installed'}",
        f"python {platform.python_version()}",
    ]
    lines += [f"{name} {found}" for name in RUNTIMES if (found := _installed(name))]
    from ._core import isa

    lines.append(f"instruction set {isa()}")
    return "\n".join(lines)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    codes = "exit codes:\n" + "\n".join(f"  {code:3}  {meaning}" for code, meaning in EXIT_CODES.items())
    parser = _Parser(
        prog="densepose-engine",
        description="DensePose R-CNN checkpoints from detectron2, compiled into fast inference engines.",
        epilog=f"{_EXAMPLES}\n{codes}",
        formatter_class=form,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="versions of this package and of every runtime, and exit")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for verb in VERBS:
        verb_parser = verbs.add_parser(
            verb.NAME,
            help=verb.HELP,
            description=verb.HELP[0].upper() + verb.HELP[1:] + ".",
            epilog=codes,
            formatter_class=form,
            allow_abbrev=False,
        )
        verb.add_arguments(verb_parser)
        messages = verb_parser.add_argument_group("messages")
        messages.add_argument("-q", "--quiet", action="store_true", help="nothing but errors and JSON")
        messages.add_argument("--debug", action="store_true", help="tracebacks; DENSEPOSE_DEBUG=1 does the same")
        run: Callable[[argparse.Namespace], int] = verb.run
        verb_parser.set_defaults(run=run)
    return parser
