"""Scores as text: figures, tables, and what a command prints."""

from collections.abc import Sequence
import shutil
import sys
import textwrap

from desertmind_seg.scores.records import Interval, SplitMetrics
from training.evaluation.metrics_file import DepthCurve


def figure(score: float | None) -> str:
    """Return a score with four digits, or a dash where it is not defined."""
    return '-' if score is None else f'{score:.4f}'


def interval(bounds: Interval | None, style: str = '.4f') -> str:
    """Return both ends of an interval, or a dash where there is none."""
    return '-' if bounds is None else f'{bounds[0]:{style}} to {bounds[1]:{style}}'


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out in columns: words to the left, figures to the right."""
    columns = []
    for column in zip(*rows, strict=True):
        width = max(map(len, column))
        to_the_right = all(not cell[:1].isalpha() for cell in column[1:])
        columns.append(
            [cell.rjust(width) if to_the_right else cell.ljust(width) for cell in column]
        )
    return '\n'.join('  '.join(row).rstrip() for row in zip(*columns, strict=True))


def for_terminal(rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out as `as_text`, and where a terminal is narrower, so that it shows them whole.

    Rows become columns where that fits; else the names of the rows are broken.
    """
    text = as_text(rows)
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    if _width(text) <= width:
        return text
    turned = as_text(list(zip(*rows, strict=True)))
    if _width(turned) <= width:
        return turned
    figures = _width(as_text([row[1:] for row in rows]))
    lines: list[list[str]] = []
    for name, *cells in rows:
        parts = textwrap.wrap(name, max(width - figures - 2, 12)) or ['']
        lines += [[part, *([''] * len(cells))] for part in parts[:-1]]
        lines.append([parts[-1], *cells])
    return as_text(lines)


def _width(text: str) -> int:
    return max(map(len, text.splitlines()), default=0)


def short_count(count: int) -> str:
    """Return a number in at most five characters, such as 4.56M."""
    for unit, size in (('G', 10**9), ('M', 10**6), ('k', 10**3)):
        if count >= size:
            return (
                f'{count / size:.3g}{unit}' if count < 999.5 * size else f'{count // size}{unit}'
            )
    return str(count)


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out as a Markdown table."""
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    lines.insert(1, '|' + '---|' * len(rows[0]))
    return '\n'.join(lines)


def print_scores(scores: SplitMetrics) -> None:
    """Print the per-class table and the scores of the whole split."""
    for row in scores.classes:
        print(f'{row.id:3d}  {row.name:32s} {figure(row.iou):>6s}  {row.pixels:>12,d} px')
    bounds = scores.miou_all_interval_95
    shown = 'one block, no interval' if bounds is None else '{:.4f}, {:.4f}'.format(*bounds)
    print(
        f'mIoU(all) {figure(scores.miou_all)} [{shown}]  '
        f'mIoU(present) {figure(scores.miou_present)}\n'
        f'pixel accuracy {figure(scores.pixel_accuracy)}  '
        f'boundary F1 {figure(scores.boundary_f1)}  ECE {figure(scores.ece)}  '
        f'false safe {figure(scores.false_safe_rate)}\n'
        f'{scores.frames} frames in {scores.blocks} blocks'
    )


def print_depth_curve(curve: DepthCurve) -> None:
    """Print a line a share of the depth."""
    for point in curve.points:
        bounds = point.against_none_interval_95
        shown = '' if bounds is None else ' [{:+.4f}, {:+.4f}]'.format(*bounds)
        print(
            f'{point.kept_share:4.0%} of the depth ({point.valid_share:.0%} of the pixels): '
            f'mIoU(all) {figure(point.miou_all)}, against none {point.against_none:+.4f}{shown}'
        )
