"""How far a long work is: a bar in a terminal, a whole line now and then anywhere else."""

import sys
import time
from typing import Any

from tqdm import tqdm

# So often a log or a pipe gets a line; the first one so late.
EVERY_SEC = 10.0


class Progress(tqdm):  # type: ignore[type-arg]  # it has none when the program runs
    """tqdm, but where stderr is no terminal it writes lines that a log can keep.

    'segmenting: 1200 of 5000 frames, 12.3 a second, 05:09 left'. What is done before the first
    line is due says nothing.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._in_lines = not sys.stderr.isatty()
        self._said = time.monotonic()
        if self._in_lines:
            options |= {'mininterval': EVERY_SEC, 'maxinterval': EVERY_SEC}
        super().__init__(*arguments, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write the bar, or the line if it is due; `tqdm.write` asks for it after each error."""
        if not self._in_lines:
            super().display(msg, pos)
        elif 0 < self.n != self.total and time.monotonic() - self._said >= EVERY_SEC:
            self._said = time.monotonic()
            self.fp.write(f'{self._line()}\n')
            self.fp.flush()

    def clear(self, *arguments: Any, **options: Any) -> None:
        """Take the bar away; lines stay."""
        if not self._in_lines:
            super().clear(*arguments, **options)

    def close(self) -> None:
        """End the bar; lines need no end."""
        if 'leave' not in vars(self):  # Ctrl-C came while it began
            return
        self.leave = self.leave and not self._in_lines
        super().close()

    def _line(self) -> str:
        now = self.format_dict
        rate = (self.n - self.initial) / max(now['elapsed'], 1e-9)
        total = f' of {self.total}' if self.total else ''
        said = [f'{self.n}{total} {self.unit}s', f'{rate:.3g} a second', now['postfix']]
        if self.total and rate > 0.0:
            said.append(f'{self.format_interval((self.total - self.n) / rate)} left')
        prefix = f'{now["prefix"]}: ' if now['prefix'] else ''
        return prefix + ', '.join(filter(None, said))
