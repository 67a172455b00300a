"""How far a fleet run is: a line in the terminal, and a log of one JSON object a line."""

from __future__ import annotations

from collections import Counter
import json
from pathlib import Path
import sys
import time
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

from desertmind_seg.fleet.records import BagEntry, BagRow, not_counted
from desertmind_seg.model.records import utc_now

# Where nobody watches, a line so often.
_LINE_SEC = 60.0


class Progress:
    """Counts bags as they are done; a context manager.

    Args:
        total: bags of the run.
        done: of these, how many were done before.
        log: file to append to.

    Attributes:
        statuses: how many bags of each status, those of before not included.
    """

    def __init__(self, total: int, done: int, log: Path) -> None:
        self.statuses: Counter[str] = Counter()
        self._total, self._before = total, done
        self._log_path = log
        self._log: TextIO | None = None
        self._start = self._said = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log = self._log_path.open('a', encoding='utf-8')
        self._bar = tqdm(
            total=self._total,
            initial=self._before,
            bar_format='{n_fmt}/{total_fmt} bags |{bar:20}| {desc}',
            disable=None,
        )
        self.event('start', total=self._total, done_before=self._before)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        how = 'end' if exc_type is None else 'stopped'
        self.event(how, **self._numbers(), error='' if exc is None else repr(exc))
        self._bar.close()
        if exc_type is not None:
            self._say(f'{self.done} of {self._total} bags are done; the same command goes on.')
        if self._log is not None:
            self._log.close()

    @property
    def done(self) -> int:
        """How many bags have results."""
        return self._before + self.statuses.total()

    def event(self, event: str, **values: object) -> None:
        """Append a line to the log."""
        assert self._log is not None
        self._log.write(json.dumps({'time': utc_now(), 'event': event, **values}) + '\n')
        self._log.flush()

    def on_begin(self, entry: BagEntry) -> None:
        """Log that a worker gets a bag: what has no row later was in work when all ended."""
        self.event('begin', uri=entry.uri, bag_id=entry.bag_id)

    def on_row(self, row: BagRow) -> None:
        """Count a bag."""
        self.statuses[row.status] += 1
        self.event(
            'bag',
            uri=row.uri,
            bag_id=row.bag_id,
            status=row.status,
            reason=row.reason,
            host=row.host,
            fetch_sec=round(row.fetch_sec, 3),
            evaluate_sec=round(row.evaluate_sec, 3),
            **self._numbers(),
        )
        if row.status != 'ok':
            self._say(f'{row.status}: {row.uri}: {row.reason}')
        self._bar.update()

    def on_tick(self) -> None:
        """Say how far it is."""
        text = self.line()
        self._bar.set_description_str(text)
        if self._bar.disable and time.monotonic() - self._said > _LINE_SEC:
            self._said = time.monotonic()
            self._say(f'{self.done}/{self._total} bags, {text}')

    def _say(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)

    def _numbers(self) -> dict[str, Any]:
        seconds = time.monotonic() - self._start
        here = self.statuses.total()
        per_hour = here / seconds * 3600
        left = self._total - self.done
        return {
            'done': self.done,
            'total': self._total,
            'failures': here - self.statuses['ok'],
            'bags_per_hour': round(per_hour, 1),
            'eta_sec': round(left / per_hour * 3600) if here else None,
        }

    def line(self) -> str:
        """Return bags per hour, the time left, and the failures so far."""
        numbers = self._numbers()
        left = 'unknown'
        if numbers['eta_sec'] is not None:
            hours, rest = divmod(numbers['eta_sec'], 3600)
            left = f'{hours}:{rest // 60:02}:{rest % 60:02}'
        failed = not_counted(self.statuses) or 'no failures'
        return f'{numbers["bags_per_hour"]:.0f} bags/h, {left} left, {failed}'
