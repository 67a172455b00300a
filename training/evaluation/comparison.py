"""Runs beside each other, and which differences are real."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from desertmind_seg.model.files import whole_file
from desertmind_seg.model.ontology import Ontology, load_ontology
from desertmind_seg.reports.output import write_json
from desertmind_seg.reports.page import Fact, write_report
from desertmind_seg.reports.tables import table_section
from desertmind_seg.scores.bootstrap import (
    STATISTICS,
    ComparisonError,
    PairedDifference,
    paired_differences,
)
from training.evaluation.metrics_file import Metrics

_COLUMNS = (
    'run',
    'recipe',
    'parent',
    'mIoU(all)',
    '95 % interval',
    'mIoU(present)',
    'pixel accuracy',
    'boundary F1',
    'ECE',
    'false safe',
    'kept epoch',
    'steps',
    'frames',
    'scored on',
)


@dataclass(frozen=True)
class Comparison:
    """Two runs on one split: what is said, and the difference of every score and class."""

    first: str
    second: str
    sentence: str
    differences: list[PairedDifference]


def run_names(paths: Sequence[Path]) -> list[str]:
    """Name each run by its folder, by as many of its parents as tell the runs apart."""
    folders = [path.parent if path.is_file() else path for path in paths]
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(len(part) for part in parts) + 1):
        names = ['/'.join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ComparisonError(f'one run is given twice: {", ".join(map(str, paths))}')


def table(names: Sequence[str], runs: Sequence[Metrics]) -> list[list[str]]:
    """Return the experiment table as text cells, the header first."""
    rows = [list(_COLUMNS)]
    for name, run in zip(names, runs, strict=True):
        interval = run.miou_all_interval_95
        rows.append(
            [
                name,
                str(run.recipe.get('name', '-')),
                str(run.recipe.get('parent', '-')),
                _figure(run.miou_all),
                '-' if interval is None else f'{interval[0]:.4f} to {interval[1]:.4f}',
                _figure(run.miou_present),
                _figure(run.pixel_accuracy),
                _figure(run.boundary_f1),
                _figure(run.ece),
                _figure(run.false_safe_rate),
                '-' if run.best_epoch is None else f'{run.best_epoch}/{run.epochs}',
                '-' if run.steps is None else str(run.steps),
                str(run.frames),
                f'{run.dataset} {run.split} {run.data_hash[:8]}' + (' TTA' if run.tta else ''),
            ]
        )
    return rows


def compare(first: tuple[str, Metrics], second: tuple[str, Metrics]) -> Comparison:
    """Compare two named runs on one split, score by score and class by class.

    Raises:
        ComparisonError: they were scored on other frames, or know other classes.
    """
    (name, run), (other_name, other) = first, second
    if run.ontology_sha256 != other.ontology_sha256:
        raise ComparisonError(
            f'{name} knows the classes of {run.ontology}, {other_name} those of {other.ontology}; '
            'only runs of one class table can be compared'
        )
    if run.data_hash != other.data_hash:
        raise ComparisonError(
            f'{name} was scored on {run.dataset} {run.split} (data hash {run.data_hash[:12]}), '
            f'{other_name} on {other.dataset} {other.split} ({other.data_hash[:12]}): their '
            'difference means nothing. Score both on one split with python -m training.evaluate'
        )
    ontology = _ontology_of(run)
    shown = [entry.name for entry in run.classes if entry.pixels]
    scores = [score for score in STATISTICS if getattr(run, score) is not None]
    differences = paired_differences(
        run.block_counts, other.block_counts, ontology, [*scores, *shown]
    )
    return Comparison(name, other_name, differences[0].sentence(name, other_name), differences)


def _ontology_of(run: Metrics) -> Ontology:
    ontology = load_ontology(run.ontology)
    if ontology.sha256 != run.ontology_sha256:
        raise ComparisonError(
            f'the class table {run.ontology} is {ontology.sha256[:12]} now, but the runs were '
            f'scored with {run.ontology_sha256[:12]}; score them again'
        )
    return ontology


def comparisons(
    names: Sequence[str], runs: Sequence[Metrics]
) -> Iterator[Comparison | ComparisonError]:
    """Yield what can be said about pairs of runs, or why it cannot.

    Two runs are compared with each other; of more, each with its parent among them.
    """
    given = list(zip(names, runs, strict=True))
    pairs = [(given[0], given[1])] if len(given) == 2 else []
    if not pairs:
        by_recipe = {run.recipe.get('name'): (name, run) for name, run in given}
        pairs = [
            ((name, run), by_recipe[run.recipe['parent']])
            for name, run in given
            if run.recipe.get('parent') in by_recipe
        ]
    for first, second in pairs:
        try:
            yield compare(first, second)
        except ComparisonError as err:
            yield err


def _figure(score: float | None) -> str:
    return '-' if score is None else f'{score:.4f}'


def _cells(difference: PairedDifference) -> list[str]:
    interval = difference.interval_95
    return [
        difference.label,
        f'{difference.difference:+.4f}',
        '-' if interval is None else f'{interval[0]:+.4f} to {interval[1]:+.4f}',
        'yes' if difference.is_real else 'no',
    ]


def _difference_rows(comparison: Comparison) -> list[list[str]]:
    header = [f'{comparison.first} minus {comparison.second}', 'difference', '95 %', 'real']
    return [header, *(_cells(difference) for difference in comparison.differences)]


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out in columns: words to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    figures = [
        all(not cell[:1].isalpha() for cell in column[1:]) for column in zip(*rows, strict=True)
    ]
    return '\n'.join(
        '  '.join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, figures, strict=True)
        ).rstrip()
        for row in rows
    )


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out as a Markdown table."""
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    lines.insert(1, '|' + '---|' * len(rows[0]))
    return '\n'.join(lines)


def write(
    path: Path,
    rows: Sequence[Sequence[str]],
    found: Sequence[Comparison],
    warnings: Sequence[str],
) -> None:
    """Write what was found as .html, .md or .json, by the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.json':
        header, *body = rows
        write_json(
            path,
            {
                'runs': [dict(zip(header, row, strict=True)) for row in body],
                'comparisons': [
                    {
                        **asdict(comparison),
                        'differences': [
                            {**asdict(difference), 'is_real': difference.is_real}
                            for difference in comparison.differences
                        ],
                    }
                    for comparison in found
                ],
                'warnings': list(warnings),
            },
        )
    elif path.suffix == '.md':
        parts = [as_markdown(rows), *warnings]
        for comparison in found:
            parts += [f'**{comparison.sentence}.**', as_markdown(_difference_rows(comparison))]
        with whole_file(path) as temporary:
            temporary.write_text('\n\n'.join(parts) + '\n', encoding='utf-8')
    else:
        sections = [table_section('Runs', rows, ' '.join(warnings))]
        sections += [
            table_section(
                f'{comparison.first} against {comparison.second}',
                _difference_rows(comparison),
                comparison.sentence + '.',
            )
            for comparison in found
        ]
        best = max(rows[1:], key=lambda row: float(row[3]))
        write_report(
            path,
            'Experiments',
            [', '.join(row[0] for row in rows[1:])],
            [Fact('runs', str(len(rows) - 1)), Fact('highest mIoU(all)', best[3], best[0])],
            sections,
        )
