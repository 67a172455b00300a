"""What all commands share: their options, the one way they fail, and their exit codes.

A command reads its arguments, then imports what it runs (so that `--help` answers at once), calls
one function with typed arguments, and prints what came of it.
"""

import argparse
from collections.abc import Callable
from io import TextIOWrapper
from math import isfinite
import os
from pathlib import Path
import re
import select
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

from desertmind_seg.messages.compressed_format import COMPRESSED_COLORS
from desertmind_seg.messages.pairing import MAX_DT_MS, MAX_WAIT_MS
from desertmind_seg.model.errors import DesertmindError, visible
from desertmind_seg.model.files import DEFAULT_BUNDLE
from desertmind_seg.model.installed import as_called, called, check_installed, import_failure
from desertmind_seg.model.processes import drop_closed_terminal

ALL_DONE, DONE_IN_PART, NOTHING_WRITTEN, STOPPED = 0, 1, 2, 130
# What a shell shows of a program that SIGPIPE (13) ended, as in `segment ... | head`.
NO_READER = 128 + 13
EXIT_CODES = """\
exit status: 0 all done, 1 done in part, 2 nothing written, 130 stopped by Ctrl-C, 141 nobody reads
what it prints"""
# In the order in which auto tries them; engines/load.py has what they are, a test compares.
BACKENDS = ('tensorrt', 'onnxruntime-cuda', 'onnxruntime-cpu')


def command_parser(
    module: str, description: str, examples: str = '', exit_codes: str = EXIT_CODES
) -> argparse.ArgumentParser:
    """Build the parser of the command `python -m MODULE`, with its examples below the options.

    The last lines of its help say what its exit status means: `exit_codes`, where a command that
    writes nothing has others.

    Usage, errors and examples name commands as `as_called` does. From here on the process has
    stdin, stdout and stderr.
    """
    _open_closed_streams()
    return _Parser(
        prog=called(module),
        description=description,
        epilog='\n\n'.join(filter(None, [as_called(examples.rstrip()), exit_codes])),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _open_closed_streams() -> None:
    """Open onto nowhere what the caller has closed of stdin, stdout and stderr.

    Else the next file or socket gets its number, and what C++ libraries log goes into that.
    """
    for name, mode in (('stdin', 'r'), ('stdout', 'w'), ('stderr', 'w')):  # 0, 1, 2
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding='utf-8'))  # noqa: SIM115


def error_line(prog: str, message: object) -> str:
    """Return what a command says on stderr of an error; in colour where the terminal wants that.

    NO_COLOR, FORCE_COLOR and TERM=dumb are obeyed in the order in which Python 3.13 does.
    """
    names = os.environ.get
    in_colour = not names('NO_COLOR') and (
        names('FORCE_COLOR') or (names('TERM') != 'dumb' and sys.stderr.isatty())
    )
    mark = '\x1b[1;31merror:\x1b[0m' if in_colour else 'error:'
    return f'{prog}: {mark} {as_called(visible(str(message)))}'


def run_command(parser: argparse.ArgumentParser, work: Callable[[], int]) -> int:
    """Do a command's work and return its exit status.

    What the person at the keyboard can mend becomes one line on stderr, in the form in which
    argparse says what is wrong with an option.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        # Paths that are not UTF-8 are printed as on stderr.
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        return _work_or_reason(parser, work)
    except BrokenPipeError:
        if _drop_unread_output():
            return NO_READER
        raise


def _work_or_reason(parser: argparse.ArgumentParser, work: Callable[[], int]) -> int:
    try:
        check_installed()
        status = _interruptible(parser.prog, work)
        if lost := _lost_output():
            print(error_line(parser.prog, lost), file=sys.stderr)
            return DONE_IN_PART if status == ALL_DONE else status
        return status
    except (DesertmindError, OSError) as err:
        if isinstance(err, BrokenPipeError) and _drop_unread_output():
            return NO_READER
        if isinstance(err, OSError) and err.filename is None and (lost := _lost_output()):
            print(error_line(parser.prog, lost), file=sys.stderr)
            return DONE_IN_PART  # commands print when there are results
        print(error_line(parser.prog, err), file=sys.stderr)
        return NOTHING_WRITTEN
    except UnicodeEncodeError as err:  # of a name, as Python holds it
        named = err.object[max(err.start - 100, 0) : err.end + 100]
        print(error_line(parser.prog, f'a name: {_name_error(named)}'), file=sys.stderr)
        return NOTHING_WRITTEN
    except ImportError as err:
        if (err.name or '').startswith(('desertmind_seg', 'training')):
            raise
        print(error_line(parser.prog, import_failure(err)), file=sys.stderr)
        return NOTHING_WRITTEN
    except RuntimeError as err:
        if not str(err).startswith('Symlink loop'):  # as Path.resolve words it before Python 3.13
            raise
        print(error_line(parser.prog, f'{err}: a link leads back to itself'), file=sys.stderr)
        return NOTHING_WRITTEN
    except KeyboardInterrupt:
        print(f'{parser.prog}: stopped', file=sys.stderr)
        return STOPPED


class _Parser(argparse.ArgumentParser):
    """Refuses empty arguments, with errors of one line and a quiet end for `--help | head`."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(NOTHING_WRITTEN, error_line(self.prog, ' '.join(message.split())) + '\n')

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; Path takes an empty text for the current folder."""
        given = sys.argv[1:] if args is None else args
        if '' in given:
            self.error('an argument is empty; is a variable of the shell not set?')
        for text in given:
            if text.startswith('--') and text.endswith('=--'):
                # Python before 3.13 takes it for no value at all, and goes on with a list.
                self.error(f'{text[:60]!r} has no value; expected one after the =')
            if any('\udc80' <= character <= '\udcff' for character in text):
                # Reports are UTF-8, and OpenCV crashes where it shall write to such a path.
                self.error(_name_error(text))
        return super().parse_known_args(args, namespace)

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse's, which says nothing where it cannot write."""
        try:
            (file or sys.stderr).write(message)
        except BrokenPipeError:
            if _drop_unread_output():
                sys.exit(NO_READER)
            raise
        except OSError as err:
            if file is sys.stdout:
                self.exit(NOTHING_WRITTEN, error_line(self.prog, _without_stdout(err)) + '\n')
            raise

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        try:
            lost = _lost_output()
        except BrokenPipeError:
            if _drop_unread_output():
                sys.exit(NO_READER)
            raise
        if lost:
            status, message = NOTHING_WRITTEN, error_line(self.prog, lost) + '\n'
        super().exit(status, message)


def _name_error(name: str) -> str:
    """Say what is wrong with a name that Python could not decode."""
    try:
        name.encode('utf-8', 'surrogateescape').decode('utf-8')
    except UnicodeDecodeError:
        return f'{name!a} has other bytes than UTF-8; rename that file or folder'
    return (
        f'{name!a} is UTF-8, but the locale of this shell is of {sys.getfilesystemencoding()}; '
        'set one of UTF-8 before: export LC_ALL=C.UTF-8'
    )


def _lost_output() -> str:
    """Flush stdout; say why that cannot be, as on a full disk, '' where it can.

    Raises:
        BrokenPipeError: it has no reader.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as err:
        return _without_stdout(err)
    return ''


def _without_stdout(err: OSError) -> str:
    """Send stdout nowhere, as Python would flush it once more at its end; say why."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return f'stdout cannot be written to, and what was printed is lost: {err.strerror}'


def _drop_unread_output() -> bool:
    """Send stdout and stderr nowhere where their pipe has no reader; return whether one had none.

    Not every broken pipe is one of these two, and Python would flush them once more at its end.
    """
    dropped = False
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            dropped = True
    return dropped


def _interruptible(prog: str, work: Callable[[], int]) -> int:
    """Do a command's work; the first Ctrl-C unwinds it, and the second ends the process at once.

    A terminal that closes unwinds it, too, unless nohup has that signal ignored.

    Ctrl-C may come during an import, where libraries turn it into errors of their own, and in a
    finaliser or in what C calls, where Python can only say that it was ignored: that ends the
    process at once, too, and quietly. So does one while an extension in C is loaded: raised in
    that of onnx, it was seen to end in a segmentation fault. Once all is put away the process ends
    here: Python's own end waits for the threads of libraries, and was seen aborted by one of
    ONNX Runtime's.
    """
    interrupted, unraisable = False, sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if number == signal.SIGHUP:
            drop_closed_terminal()
            if interrupted:  # it comes twice: from bash, and from the kernel when bash ends
                return
        if interrupted:
            _leave()
        interrupted = True
        if _loads_extension(frame):
            print(f'{prog}: stopped', file=sys.stderr, flush=True)
            _leave()
        raise KeyboardInterrupt

    def ignored(what: 'sys.UnraisableHookArgs') -> None:
        if interrupted and issubclass(what.exc_type, KeyboardInterrupt):
            print(f'{prog}: stopped', file=sys.stderr, flush=True)
            _leave()
        unraisable(what)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupt)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, interrupt)
        sys.unraisablehook = ignored
    try:
        return work()
    except BaseException:
        if not interrupted:
            raise
        sys.stdout.flush()
        print(f'{prog}: stopped', file=sys.stderr, flush=True)
        _leave()
    finally:
        interrupted, sys.unraisablehook = True, unraisable


def _loads_extension(frame: FrameType | None) -> bool:
    """Whether C code that sets up a module of its own is among what called this frame."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == 'create_module' and code.co_filename.startswith('<frozen importlib'):
            return True
        frame = frame.f_back
    return False


def _leave() -> NoReturn:
    """End the process and those that it started, with nothing put away."""
    # Not imported: the second Ctrl-C may come while the first one's import is half done.
    processes = sys.modules.get('multiprocessing.process')
    for child in getattr(processes, 'active_children', list)():
        child.kill()  # it would wait for work for ever
    os._exit(STOPPED)


def exit_on(*numbers: signal.Signals) -> None:
    """Let these signals end the process at once as stopped, until other handlers are set."""
    for number in numbers:
        signal.signal(number, lambda _number, _frame: os._exit(STOPPED))


def exit_code(done: int, wanted: int) -> int:
    """Return the exit status of a command that did `done` of `wanted` things."""
    if done == wanted:
        return ALL_DONE
    return DONE_IN_PART if done else NOTHING_WRITTEN


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add --bundle: a path, None for the shipped model."""
    parser.add_argument(
        '--bundle', metavar='FILE', type=Path, help=f'the model (default: {DEFAULT_BUNDLE})'
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add --backend: 'auto' or one of `BACKENDS`."""
    parser.add_argument(
        '--backend',
        choices=('auto', *BACKENDS),
        default='auto',
        help='what runs the model (default: auto, the first that works here)',
    )


def add_confidence_threshold(parser: argparse.ArgumentParser) -> None:
    """Add --confidence-threshold: a probability."""
    parser.add_argument(
        '--confidence-threshold',
        metavar='P',
        type=probability,
        default=0.0,
        help='below this probability, 0.0 to 1.0, a pixel becomes unlabelled (default: 0.0)',
    )


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Add --labels and --label-codes, as `evaluation.labels.RecordedLabels` takes them."""
    parser.add_argument('--labels', metavar='TOPIC', help='label images, same stamps')
    parser.add_argument(
        '--label-codes',
        choices=('ids', 'raw'),
        default='ids',
        help='what they hold: class ids 0, 1, 2 ... and 255, or the codes of the data set, which '
        'the class table lists as raw (default: %(default)s)',
    )


def add_label_map(parser: argparse._ActionsContainer, *, merges: bool = False) -> None:
    """Add --ontology and --map, as `pipeline.label_map.parse_label_map` takes it.

    Args:
        parser: to which they are added.
        merges: whether classes of the model may be scored as one; else `LabelMap.into_model`
            refuses it.
    """
    parser.add_argument(
        '--ontology',
        metavar='TABLE',
        help='class table of the labels: name or .yaml file (default: what the data say)',
    )
    parser.add_argument(
        '--map',
        metavar='OLD=NEW',
        nargs='+',
        action='extend',
        default=[],
        help="labels of other classes than the model's: which of the model's each is ("
        + ('several parted by commas; ' if merges else '')
        + "'ignore' leaves pixels out; '*' is all others), or a .yaml file of such lines"
        + ("; or 'groups' to score only what is traversable" if merges else ''),
    )


def add_bag_topics(parser: argparse.ArgumentParser) -> None:
    """Add what is read of a bag that is evaluated, as `evaluation.run.BagInputs` takes it."""
    parser.add_argument('--image', required=True, metavar='TOPIC', help='raw or compressed images')
    add_labels(parser)
    add_label_map(parser)
    parser.add_argument(
        '--depth',
        metavar='TOPIC',
        help='depth registered to the images (raw or compressedDepth): input of rgbd bundles, and '
        'for all of them scores by distance, and with and without the hazards that geometry sees',
    )
    parser.add_argument(
        '--camera-info',
        metavar='TOPIC',
        help='of the images, to find hazards by --depth (default: the one beside the image topic)',
    )
    parser.add_argument(
        '--gravity-frame',
        metavar='FRAME',
        help='frame of /tf whose z is up (default: odom, map, earth or world, or the root of the '
        'tree where the camera moves in it)',
    )
    parser.add_argument(
        '--max-dt-ms',
        type=not_negative,
        default=MAX_DT_MS,
        metavar='MS',
        help='how far apart the stamps of an image and its depth may be (default: %(default)g)',
    )
    parser.add_argument(
        '--max-wait-ms',
        type=not_negative,
        default=MAX_WAIT_MS,
        metavar='MS',
        help='how long an image waits for its depth, by the log time (default: %(default)g)',
    )
    parser.add_argument(
        '--compressed-colors',
        choices=COMPRESSED_COLORS,
        default='auto',
        help='how compressed images are read where their format string is wrong: with the colours '
        'that they store, or with red and blue exchanged (default: %(default)s)',
    )


def add_compared_models(parser: argparse.ArgumentParser) -> None:
    """Add the model, with --against a second one, and how both are run."""
    add_bundle(parser)
    parser.add_argument(
        '--against',
        type=Path,
        metavar='BUNDLE',
        help='a second model for the same frames; the report says which differences are real',
    )
    for option, which in (('', 'the model'), ('against-', 'the model of --against')):
        parser.add_argument(
            f'--{option}temporal-alpha',
            type=filter_weight,
            metavar='ALPHA',
            help=f'temporal filter for {which}: weight of the frames before, such as 0.4 '
            '(default: each frame on its own)',
        )
    add_backend(parser)
    add_confidence_threshold(parser)


def check_bag_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options that mean nothing without another of these two groups."""
    if options.against is None and options.against_temporal_alpha is not None:
        parser.error('--against-temporal-alpha needs --against')
    if options.labels is None and (options.ontology or options.map):
        parser.error('--ontology and --map need --labels')
    if options.depth is None and (options.camera_info or options.gravity_frame):
        parser.error('--camera-info and --gravity-frame need --depth')


def add_output_folder(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add --out and --force, as `reports.output.output_folder` takes them."""
    parser.add_argument(
        '--out', metavar='DIR', type=Path, required=required, help='where results go'
    )
    parser.add_argument('--force', action='store_true', help='replace results of an earlier run')


def add_rerun(parser: argparse.ArgumentParser) -> None:
    """Add --rerun, as `viewer.target.open_recording` takes it; None without."""
    parser.add_argument(
        '--rerun',
        metavar='FILE.rrd',
        nargs='?',
        const='spawn',
        type=_rerun_target,
        help='look at it in the Rerun viewer (pip install rerun-sdk), or write FILE.rrd for it, '
        'or send it to one that runs: rerun+http://HOST:9876/proxy',
    )


def _rerun_target(text: str) -> str:
    # An option whose value may be left out takes what follows it, which may have been meant as
    # the command's input.
    if text != 'spawn' and not text.endswith('.rrd') and not text.startswith('rerun'):
        raise argparse.ArgumentTypeError(
            f'{text!r} is neither a file FILE.rrd nor an address rerun+http://HOST:9876/proxy; '
            'with nothing to follow it, --rerun comes last'
        )
    return text


def number(text: str) -> float:
    """Parse a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = float('nan')
    if not isfinite(value):
        raise argparse.ArgumentTypeError(f'{text!r} is not a number')
    return value


def probability(text: str) -> float:
    """Parse a number from 0 to 1."""
    value = number(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f'{text} is not from 0.0 to 1.0')
    return value


def positive(text: str) -> float:
    """Parse a number above 0, of a size with which times and rates can be computed."""
    value = number(text)
    if not 1e-3 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f'{text} is not from 0.001 to 1000000')
    return value


def not_negative(text: str) -> float:
    """Parse a number from 0, of a size with which times can be computed."""
    value = number(text)
    if not 0.0 <= value <= 1e9:
        raise argparse.ArgumentTypeError(f'{text} is not from 0 to 1000000000')
    return value


def filter_weight(text: str) -> float:
    """Parse the weight of a temporal filter."""
    from desertmind_seg.pipeline.temporal import MAX_ALPHA

    value = number(text)
    if not 0.0 <= value <= MAX_ALPHA:
        raise argparse.ArgumentTypeError(f'{text} is not from 0 to {MAX_ALPHA}')
    return value


def hazard_setting(text: str) -> tuple[str, float]:
    """Parse a setting of `hazards.records.HazardSettings`."""
    from dataclasses import fields

    from desertmind_seg.hazards.records import HazardSettings

    name, _, value = text.partition('=')
    names = [field.name for field in fields(HazardSettings)]
    if name not in names:
        raise argparse.ArgumentTypeError(
            f'{text[:60]!r} sets nothing; expected NAME=VALUE, and one of {", ".join(names)}'
        )
    return name, number(value)


def whole_number(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        # The length first: int() refuses thousands of digits.
        if not text.isdecimal() or len(text) > 20 or not least <= int(text) <= most:
            to = '' if most == 2**63 - 1 else f' to {most}'
            raise argparse.ArgumentTypeError(
                f'{text[:60]!r} is not a whole number from {least}{to}'
            )
        return int(text)

    return parse


def size_hw(text: str) -> tuple[int, int]:
    """Parse a size of 16 to 3840 pixels a side, height x width as in 480x640."""
    match = re.fullmatch(r'(\d{2,4})x(\d{2,4})', text, re.ASCII)
    height, width = map(int, match.groups()) if match else (0, 0)
    if not (16 <= height <= 3840 and 16 <= width <= 3840):
        raise argparse.ArgumentTypeError(
            f'{text[:60]!r} is no size; expected height x width, such as 480x640, each 16 to 3840'
        )
    return height, width
