"""The root of all errors whose message is meant for the person at the keyboard."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
import re

_MOST_SHOWN = 400  # characters


class DesertmindError(Exception):
    """What is wrong, the value, what was expected and how to mend it, in one message.

    Commands print it as one line; everything else that is raised is an error of ours.
    """


def one_line(err: BaseException) -> str:
    """Return what was raised, which may say nothing or several lines."""
    return ' '.join(str(err).split()) or type(err).__name__


def visible(text: str) -> str:
    """Write out all that steers a terminal, but for new lines, as `repr` does.

    Names of files, topics and classes come from others, and may hold such.
    """
    return re.sub(r'[\x00-\x09\x0b-\x1f\x7f-\x9f]', lambda found: repr(found[0])[1:-1], text)


def first_line(err: BaseException) -> str:
    """Return the first line of what was raised, where what follows is of a library's inside."""
    return str(err).strip().partition('\n')[0] or type(err).__name__


def start_problem(err: BaseException) -> str:
    """Say why ROS 2 could not be started in this process, by what rclpy raised."""
    said = re.sub(r', at /\S+:\d+', '', one_line(err))  # places in the sources of ROS
    if 'initialize logging' in said:
        said += '; set ROS_LOG_DIR to a folder that this user may write to'
    return said


def listed(names: Sequence[str], most: int) -> str:
    """Join the first names, and say how many more there are."""
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more


def first_of(problems: Iterable[str], number: int) -> str:
    """Join the first of `number` problems, as many as one can take in, and say how many more.

    The others are not worded: an error of each of 20,000 keys would take half a minute.
    """
    shown: list[str] = []
    for problem in problems:
        if shown and len('; '.join([*shown, problem])) > _MOST_SHOWN:
            break
        shown.append(problem)
    more = [f'and {number - len(shown)} more'] * (len(shown) < number)
    return '; '.join([*shown, *more])


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the nearest of the known names, '' where none is near.

    Capitals, and dashes, underscores or spaces between words, are no difference.
    """

    def plain(name: str) -> str:
        return ''.join(character for character in name.casefold() if character not in ' _-./')

    names = {plain(name): name for name in known}
    nearest = get_close_matches(plain(given), names, n=1, cutoff=0.6)
    return f' (did you mean {names[nearest[0]]!r}?)' if nearest else ''
