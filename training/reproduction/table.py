"""The results as one table: Markdown, a page, and JSON for programs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from desertmind_seg.model.files import write_text
from desertmind_seg.reports.output import write_json
from desertmind_seg.reports.page import Fact, write_report
from desertmind_seg.reports.tables import pairs_section, table_section
from training.evaluation.metrics_file import Metrics, without_details
from training.evaluation.text import as_markdown, figure, interval
from training.reproduction.results import Compared, Result

TABLE = 'reproduction'
_HOW_TO_READ = (
    'Ours are small networks that were trained for minutes: figures are not to be compared, but '
    'changes are. A conclusion holds (yes) or not (no) where the interval of our change excludes '
    'zero; where that covers zero, it cannot be told. Intervals are 95 %, paired over blocks of '
    'frames; they say nothing of another seed.'
)
_KINDS = {'val': 'validation', 'out_of_fold': 'out of fold', 'hidden_test': 'hidden test'}


def experiment_rows(results: Sequence[Result]) -> list[list[str]]:
    """Return a row an experiment as text cells, the header first."""
    header = ['experiment', 'reported mIoU', 'ours', '95 %', 'against']
    header += ['reported change', 'our change', '95 %', 'holds', 'of the classes']
    rows = [header]
    for result in results:
        kind, value = result.reported.figure
        metrics = result.metrics
        rows.append(
            [
                result.name,
                f'{figure(value)} ({_KINDS[kind]})',
                result.why_not if metrics is None else figure(metrics.miou_all),
                '-' if metrics is None else interval(metrics.miou_all_interval_95),
                '-' if result.reported.against is None else result.parent,
                *_change_cells(result.miou),
                ', '.join(f'{n} {holds}' for holds, n in result.classes_hold.items()) or '-',
            ]
        )
    return rows


def _change_cells(compared: Compared) -> list[str]:
    change = compared.change
    return [
        '-' if compared.reported_change is None else f'{compared.reported_change:+.4f}',
        '-' if change is None else f'{change.difference:+.4f}',
        '-' if change is None else interval(change.interval_95, '+.4f'),
        compared.holds,
    ]


def class_rows(result: Result) -> list[list[str]]:
    """Return a row for each class that the report speaks of, the header first."""
    header = ['class', 'reported IoU', 'ours', 'reported change', 'our change', '95 %', 'holds']
    rows = []
    for entry in result.classes:
        cells = _change_cells(entry)
        if entry.reported_change is None and entry.expected:
            cells[0] = 'up'
        rows.append([entry.name, figure(entry.reported), figure(entry.ours), *cells])
    return [header, *rows]


def origin_rows(results: Sequence[Result]) -> list[list[str]]:
    """Return how each experiment was made, the header first."""
    header = ['experiment', 'seed', 'epochs', 'kept', 'steps', 'training']
    rows = [[*header, 'frames', 'blocks', 'data', 'commit']]
    for result in results:
        if (metrics := result.metrics) is None:
            continue
        sec = result.training_sec
        optim = metrics.recipe.get('optim', {})
        rows.append(
            [
                result.name,
                str(metrics.recipe['seed']),
                str(optim.get('epochs', '-')),
                str(metrics.best_epoch or '-'),
                str(metrics.steps or '-'),
                '-' if sec is None else f'{sec / 60:.1f} min',
                str(metrics.frames),
                str(metrics.blocks),
                metrics.data_hash[:12],
                str(metrics.environment['git_hash'])[:12],
            ]
        )
    return rows


def machines(results: Sequence[Result]) -> dict[str, str]:
    """Return each machine with its versions, and which experiments ran there."""
    found: dict[str, list[str]] = {}
    for result in results:
        if result.metrics is not None:
            found.setdefault(_machine(result.metrics), []).append(result.name)
    return {', '.join(names): machine for machine, names in found.items()}


def _machine(metrics: Metrics) -> str:
    machine, versions = metrics.environment['machine'], metrics.environment['versions']
    listed = ', '.join(f'{name} {version}' for name, version in versions.items())
    return f'{machine["cpu"]}, {machine["cpus"]} CPUs, {machine["memory_gib"]} GiB; {listed}'


def write_tables(out: Path, results: Sequence[Result]) -> Path:
    """Write reproduction.html, .md and .json into a folder, each whole or not at all.

    Args:
        out: the folder of all experiments.
        results: of `collect`.

    Returns:
        The page.
    """
    out.mkdir(parents=True, exist_ok=True)
    titled = [('Experiments', experiment_rows(results))]
    titled += [(f'Classes of {each.name}', class_rows(each)) for each in results if each.classes]
    titled += [('How they were made', origin_rows(results))]
    write_json(out / f'{TABLE}.json', {'experiments': [_document(each) for each in results]})
    apart = {each.name: each.why_not for each in results if each.metrics and each.why_not}
    parts = [_HOW_TO_READ]
    for title, rows in titled:
        parts += [f'**{title}**', as_markdown(rows)]
    parts += [f'{name} was not compared: {why}.' for name, why in apart.items()]
    parts += [f'{names}: {machine}' for names, machine in machines(results).items()]
    write_text(out / f'{TABLE}.md', '\n\n'.join(parts) + '\n')
    held = Counter(result.miou.holds for result in results)
    page = out / f'{TABLE}.html'
    write_report(
        page,
        'The reference experiments, small',
        [f'{sum(each.metrics is not None for each in results)} of {len(results)} were run'],
        [
            Fact('changes there', str(held['yes'])),
            Fact('not there', str(held['no'])),
            Fact('cannot be told', str(held['cannot be told']), 'the interval covers 0'),
        ],
        [
            *(
                table_section(title, rows, '' if number else _HOW_TO_READ)
                for number, (title, rows) in enumerate(titled)
            ),
            *([pairs_section('Not compared', apart)] if apart else []),
            pairs_section('Where', machines(results)),
        ],
    )
    return page


def _document(result: Result) -> dict[str, Any]:
    metrics = result.metrics
    document = {
        'name': result.name,
        'parent': result.parent,
        'reported': result.reported.model_dump(exclude_defaults=True),
        'why_not': result.why_not,
        'comparisons': [
            {**asdict(each), 'holds': each.holds} for each in (result.miou, *result.classes)
        ],
        'training_sec': result.training_sec,
        'run': None,
    }
    if metrics is not None:
        document['run'] = without_details(metrics.model_dump(mode='json', exclude_unset=True))
    return document
