"""Runs beside each other, and which differences are real."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from os.path import realpath  # Path.resolve raises for links that go round
from pathlib import Path

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from desertmind_seg.model.files import make_folder, write_text
from desertmind_seg.model.ontology import Ontology, available_ontologies, load_ontology
from desertmind_seg.reports.output import write_json
from desertmind_seg.reports.page import Fact, write_report
from desertmind_seg.reports.tables import table_section
from desertmind_seg.scores.bootstrap import (
    STATISTICS,
    ComparisonError,
    PairedDifference,
    interval_95,
    paired_differences,
    paired_share,
    resampled,
)
from desertmind_seg.scores.confusion import Counts, ratio
from training.evaluation.evaluation_report import REPORT_FILE
from training.evaluation.metrics_file import METRICS_FILE, Metrics, read_metrics
from training.evaluation.text import as_markdown, figure, interval

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
_CALLED_SAFE = ' called traversable'


@dataclass(frozen=True)
class Comparison:
    """Two runs on one split: what is said, and the difference of every score and class.

    The differences end with a row for each class of obstacles and non-traversable ground: the
    share of its pixels that is called traversable.
    """

    first: str
    second: str
    sentence: str
    differences: list[PairedDifference]


@dataclass(frozen=True)
class ComparedRuns:
    """Runs by their names, comparisons of pairs of them, and what could not be compared."""

    runs: dict[str, Metrics]
    comparisons: list[Comparison]
    warnings: list[str]


def check_no_file_of(runs: Sequence[Path], out: Path) -> None:
    """Refuse to write a comparison onto what is compared, or onto its report.

    Args:
        runs: as for `compare_runs`.
        out: where the comparison goes.

    Raises:
        ComparisonError: names the run.
    """
    for run in runs:
        folder = run if run.is_dir() else run.parent
        files = (run, folder / METRICS_FILE, folder / REPORT_FILE)
        if realpath(out) in map(realpath, files):
            raise ComparisonError(
                f'--out {out} is a file of the run {run}, which would be lost; give another name'
            )


def compare_runs(paths: Sequence[Path]) -> ComparedRuns:
    """Compare two runs with each other; of more, each with every run of its parent among them.

    Args:
        paths: each a metrics.json, or a folder that holds one.

    Raises:
        FileNotFoundError: there is no metrics.json.
        MetricsFileError: a file is none.
        ComparisonError: one run is given twice.
    """
    runs = dict(zip(run_names(paths), map(read_metrics, paths), strict=True))
    pairs = [tuple(runs)] if len(runs) == 2 else []
    if not pairs:
        pairs = [
            (name, parent)
            for (name, run), (parent, other) in permutations(runs.items(), 2)
            if run.recipe.get('parent', 'none') == other.recipe.get('name')
        ]
    comparisons, warnings = [], []
    splits = {run.data_hash for run in runs.values()}
    if len(splits) > 1:
        warnings.append(f'The runs were scored on {len(splits)} different sets of frames.')
    for first, second in pairs:
        try:
            comparisons.append(compare((first, runs[first]), (second, runs[second])))
        except ComparisonError as err:
            warnings.append(f'Not compared: {err}')
    return ComparedRuns(runs, comparisons, warnings)


def run_names(paths: Sequence[Path]) -> list[str]:
    """Name each run by its folder, by as many of its parents as tell the runs apart."""
    folders = [path.parent if path.is_file() else path for path in paths]
    parts = [Path(realpath(folder)).parts for folder in folders]
    for depth in range(1, max(len(part) for part in parts) + 1):
        names = ['/'.join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ComparisonError(f'one run is given twice: {", ".join(map(str, paths))}')


def same_blocks(first: Metrics, second: Metrics) -> tuple[dict[str, Counts], dict[str, Counts]]:
    """Return the counts of two runs over the same frames, by blocks that hold the same frames.

    How frames are cut into blocks is of a model's recipe, so two models may cut the same frames
    otherwise. Blocks that share a frame are then counted together, however many they are.
    """
    runs = (first, second)
    if any(frame.block is None for run in runs for frame in run.per_frame):
        return first.block_counts, second.block_counts
    blocks = [(run, block) for run in (0, 1) for block in runs[run].block_counts]
    joined = DisjointSet(blocks)
    for one, other in zip(first.per_frame, second.per_frame, strict=True):
        joined.merge((0, one.block), (1, other.block))
    counts: tuple[dict[str, Counts], dict[str, Counts]] = ({}, {})
    for run, block in blocks:
        name = joined[run, block][1]
        counts[run][name] = counts[run].get(name, np.int64(0)) + runs[run].block_counts[block]
    return counts


def compare(first: tuple[str, Metrics], second: tuple[str, Metrics]) -> Comparison:
    """Compare two named runs on one split, score by score and class by class.

    Raises:
        ComparisonError: they were scored on other frames, or know other classes.
    """
    (name, run), (other_name, other) = first, second
    if run.ontology_sha256 != other.ontology_sha256:
        raise ComparisonError(
            f'{name} knows the classes of {_shown(run)}, {other_name} those of {_shown(other)}; '
            'only runs of one class table can be compared. Score both on one labelled set by what '
            'they share: python -m training.evaluate --map groups'
        )
    if run.data_hash != other.data_hash:
        raise ComparisonError(
            f'{name} was scored on {run.dataset} {run.split} (data hash {run.data_hash[:12]}), '
            f'{other_name} on {other.dataset} {other.split} ({other.data_hash[:12]}): their '
            'difference means nothing. Score both on one split with python -m training.evaluate'
        )
    maps = [each.label_map and each.label_map.classes for each in (run, other)]
    if maps[0] != maps[1]:
        raise ComparisonError(
            f'{name} and {other_name} were scored with different maps of the labels (--map): '
            f'{maps[0]} and {maps[1]}. Score both with one'
        )
    ontology = _ontology_of(run, other)
    shown = [entry.name for entry in run.classes if entry.pixels]
    scores = [score for score in STATISTICS if getattr(run, score) is not None]
    of_run, of_other = same_blocks(run, other)
    differences = paired_differences(of_run, of_other, ontology, [*scores, *shown])
    hazards = [
        paired_share(f'{hazard}{_CALLED_SAFE}', counts, others)
        for (hazard, counts), (_, others) in zip(
            _hazard_counts([*of_run.values()], ontology),
            _hazard_counts([of_other[block] for block in of_run], ontology),
            strict=True,
        )
    ]
    together = [each for each in differences if each.score == 'false_safe_rate']
    said = _verdict(name, other_name, differences[0], [*hazards, *together])
    return Comparison(name, other_name, said, [*differences, *hazards])


def _hazard_counts(of_blocks: Sequence[Counts], ontology: Ontology) -> list[tuple[str, Counts]]:
    """Count, of each hazardous class that the split shows, pixels and those called safe.

    Args:
        of_blocks: confusion counts of a run, each int64 (C, C + 1).
        ontology: its class table.

    Returns:
        Names with int64 (blocks, 2).
    """
    safe = [entry.id for entry in ontology.classes if entry.group == 'traversable']
    counts = np.stack(of_blocks)  # (B, C, C + 1)
    pairs = np.stack([counts.sum(axis=2), counts[:, :, safe].sum(axis=2)], axis=2)  # (B, C, 2)
    return [
        (entry.name, pairs[:, entry.id])
        for entry in ontology.classes
        if entry.group in ('obstacle', 'non_traversable') and pairs[:, entry.id, 0].any()
    ]


def _verdict(
    name: str, other_name: str, miou: PairedDifference, hazards: Sequence[PairedDifference]
) -> str:
    """Say which run is better by its mIoU, and which calls more of a hazard traversable.

    A higher mIoU does not make the better model where that calls more of a hazard safe: ground
    has a hundred times the pixels of rocks, and the mIoU does not know what hits a vehicle.
    """
    worse = {
        run: [
            f'{_hazard_name(hazard.score)} {abs(hazard.difference):+.4f}'
            for hazard in hazards
            if hazard.is_real and (hazard.difference > 0) == first
        ]
        for run, first in ((name, True), (other_name, False))
    }
    higher, lower = (name, other_name) if miou.is_better else (other_name, name)
    said = miou.sentence(name, other_name)
    if miou.is_real and worse[higher]:
        said = (
            f'{higher} has the higher mIoU(all), by {abs(miou.difference):.4f}, but is not better '
            f'than {lower}'
        )
    for run, kinds in worse.items():
        if kinds:
            said += f'; {run} calls more traversable of: {", ".join(kinds)}'
    return said


def _hazard_name(score: str) -> str:
    return 'all together' if score == 'false_safe_rate' else score.removesuffix(_CALLED_SAFE)


def _shown(run: Metrics) -> str:
    return f'{run.ontology} ({run.ontology_sha256[:12]})'


def _ontology_of(*runs: Metrics) -> Ontology:
    """Return the class table of runs of one; files of 0.1.0 have no more than its name."""
    for run in runs:
        if run.class_table is not None and run.class_table.sha256 == run.ontology_sha256:
            return run.class_table
    name, sha256 = runs[0].ontology, runs[0].ontology_sha256
    if name in available_ontologies() and (shipped := load_ontology(name)).sha256 == sha256:
        return shipped
    raise ComparisonError(
        f'no metrics.json of the runs holds their class table {name} ({sha256[:12]}), as those '
        'written by 0.1.0; score one of them again with python -m training.evaluate'
    )


def table(compared: ComparedRuns) -> list[list[str]]:
    """Return a row a run as text cells, the header first."""
    rows = [
        [
            name,
            str(run.recipe.get('name', '-')),
            str(run.recipe.get('parent', '-')),
            figure(run.miou_all),
            interval(run.miou_all_interval_95),
            figure(run.miou_present),
            figure(run.pixel_accuracy),
            figure(run.boundary_f1),
            figure(run.ece),
            figure(run.false_safe_rate),
            '-' if run.best_epoch is None else f'{run.best_epoch}/{run.epochs}',
            '-' if run.steps is None else str(run.steps),
            str(run.frames),
            f'{run.dataset} {run.split} {run.data_hash[:8]}' + (' TTA' if run.tta else ''),
        ]
        for name, run in compared.runs.items()
    ]
    return [list(_COLUMNS), *rows]


def hazard_rows(compared: ComparedRuns) -> list[list[str]]:
    """Return, a row a hazardous class, how much of it each run calls traversable; header first.

    Nothing where no run shows a hazard; a run whose class table is not known has dashes.
    """
    cells: dict[str, dict[str, str]] = {}
    for name, run in compared.runs.items():
        try:
            ontology = _ontology_of(run)
        except ComparisonError:
            continue
        for hazard, counts in _hazard_counts([*run.block_counts.values()], ontology):
            pixels, called = counts.sum(axis=0).tolist()
            drawn = resampled(counts)
            bounds = interval_95(ratio(drawn[:, 1], drawn[:, 0])) if len(counts) > 1 else None
            cells.setdefault(hazard, {})[name] = f'{figure(called / pixels)} ({interval(bounds)})'
    rows = [
        [hazard, *(of.get(name, '-') for name in compared.runs)] for hazard, of in cells.items()
    ]
    return [['called traversable', *compared.runs], *rows] if rows else []


def difference_rows(comparison: Comparison) -> list[list[str]]:
    """Return a row a score and class as text cells, the header first."""
    rows = [
        [
            difference.label,
            f'{difference.difference:+.4f}',
            interval(difference.interval_95, '+.4f'),
            'yes' if difference.is_real else 'no',
            figure(difference.first),
            figure(difference.second),
        ]
        for difference in comparison.differences
    ]
    first, second = comparison.first, comparison.second
    return [[f'{first} minus {second}', 'difference', '95 %', 'real', first, second], *rows]


def write(path: Path, compared: ComparedRuns) -> None:
    """Write what was found as .html, .md or .json, by the path's suffix."""
    make_folder(path.parent)
    rows = table(compared)
    if path.suffix == '.json':
        _write_json(path, rows, compared)
    elif path.suffix == '.md':
        hazards = hazard_rows(compared)
        parts = [as_markdown(rows), *([as_markdown(hazards)] if hazards else [])]
        parts += compared.warnings
        for comparison in compared.comparisons:
            parts += [f'**{comparison.sentence}.**', as_markdown(difference_rows(comparison))]
        write_text(path, '\n\n'.join(parts) + '\n')
    else:
        _write_page(path, rows, compared)


def _write_json(path: Path, rows: Sequence[Sequence[str]], compared: ComparedRuns) -> None:
    header, *body = rows
    hazards = hazard_rows(compared)
    comparisons = [
        {
            **asdict(comparison),
            'differences': [
                {**asdict(difference), 'is_real': difference.is_real}
                for difference in comparison.differences
            ],
        }
        for comparison in compared.comparisons
    ]
    document = {
        'runs': [dict(zip(header, row, strict=True)) for row in body],
        'hazards': [dict(zip(hazards[0], row, strict=True)) for row in hazards[1:]],
        'comparisons': comparisons,
        'warnings': compared.warnings,
    }
    write_json(path, document)


def _write_page(path: Path, rows: Sequence[Sequence[str]], compared: ComparedRuns) -> None:
    sections = [table_section('Runs', rows, ' '.join(compared.warnings))]
    if hazards := hazard_rows(compared):
        sections.append(table_section('Hazards called traversable', hazards))
    sections += [
        table_section(
            f'{comparison.first} against {comparison.second}',
            difference_rows(comparison),
            comparison.sentence + '.',
        )
        for comparison in compared.comparisons
    ]
    best = max(compared.runs, key=lambda name: compared.runs[name].miou_all)
    write_report(
        path,
        'Experiments',
        [', '.join(compared.runs)],
        [
            Fact('runs', str(len(compared.runs))),
            Fact('highest mIoU(all)', figure(compared.runs[best].miou_all), best),
        ],
        sections,
    )
