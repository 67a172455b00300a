"""A fleet from its manifest to its report: what is done already is not done again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import csv
from dataclasses import dataclass, field
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from desertmind_seg.fleet import store, tables
from desertmind_seg.fleet.manifest import find_bags, manifest_rows
from desertmind_seg.fleet.pool import Pool, check_extra, connected, evaluation_pass, index_pass
from desertmind_seg.fleet.progress import Progress
from desertmind_seg.fleet.records import (
    BagEntry,
    BagRow,
    FleetError,
    Limits,
    Run,
    RunOptions,
    code_sha256,
)
from desertmind_seg.model.bundle import Bundle, read_bundle
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.release.criteria import Verdict, judge, read_criteria
from desertmind_seg.release.page import write_fleet_report
from desertmind_seg.release.totals import FleetTotals, Totals
from desertmind_seg.reports.provenance import environment

# Rows that are read at once: a store answers in 30 ms.
_THREADS, _AT_ONCE = 16, 1024
TOTALS, REPORT, MANIFEST, LOG = 'totals.json', 'report.html', 'manifest.parquet', 'log.jsonl'
WORST, _WORST_FRAMES = 'worst_frames.csv', 1000


@dataclass(frozen=True)
class FleetRequest:
    """What `evaluate_fleet` is asked.

    Attributes:
        source: manifest, folder, prefix or glob.
        options: of each bag.
        bundle: path of the model.
        against: path of a second one; None without.
        out: folder or prefix of the results.
        limits: of each bag.
        pool: who works.
        by: tags to slice by.
        criteria: file of bounds; None without.
        retry: evaluate again what is not ok.
    """

    source: str
    options: RunOptions
    bundle: Path
    against: Path | None
    out: str
    limits: Limits = field(default_factory=Limits)
    pool: Pool = field(default_factory=Pool)
    by: Sequence[str] = ()
    criteria: Path | None = None
    retry: bool = False


@dataclass(frozen=True)
class FleetResult:
    """What came of it.

    Attributes:
        totals: of all bags.
        verdicts: of the criteria.
        folder: where totals.json and report.html lie.
        worst: bags and frames worth a look are asked here.
        entries: the manifest, by bag_id.
    """

    totals: FleetTotals
    verdicts: list[Verdict]
    folder: str
    worst: Totals
    entries: dict[str, BagEntry]


def evaluate_fleet(request: FleetRequest) -> FleetResult:
    """Evaluate every bag that has no results yet, and write what all of them say.

    Raises:
        OSError, DesertmindError: the bundle, the manifest or the criteria cannot be used, results
            cannot be put, or no worker runs. Never on account of a bag.
    """
    bundle, against, run = prepared(request)
    ontology = bundle.metadata.ontology
    criteria = None if request.criteria is None else read_criteria(request.criteria, ontology)
    out = request.out if store.is_remote(request.out) else str(Path(request.out).absolute())
    folder = store.join(out, 'runs', run.run_id)
    entries = {entry.bag_id: entry for entry in find_bags(request.source)}
    check_extra(request.source, out)
    store.put(store.join(folder, MANIFEST), tables.encoded_rows(manifest_rows(entries.values())))
    totals = Totals(ontology)
    waiting = dict(entries)
    for row in _rows(out, run.run_id, sorted(tables.done_bags(out, run.run_id) & entries.keys())):
        if row.status == 'ok' or not request.retry:
            totals.add(row)
            del waiting[row.bag_id]
    log = Path(f'fleet-{run.run_id}.jsonl' if store.is_remote(out) else f'{folder}/{LOG}')
    with Progress(len(entries), len(entries) - len(waiting), log) as progress:

        def on_row(row: BagRow) -> None:
            totals.add(row)
            progress.on_row(row)

        if waiting:
            second = None if against is None else against.path.read_bytes()
            with connected(request.pool):
                left = index_pass(
                    [*waiting.values()], run, out, request.pool, on_row, progress.on_tick
                )
                if left:
                    evaluation_pass(
                        left,
                        run,
                        (bundle.path.read_bytes(), second),
                        request.limits,
                        out,
                        request.pool,
                        on_row,
                        progress.on_tick,
                    )
    found = totals.totals(run.run_id, request.by)
    verdicts = []
    if criteria is not None:
        verdicts = judge(criteria, totals, lambda run_id: _totals_of(out, run_id, ontology))
    document = found.model_dump(by_alias=True)
    document['criteria'] = [verdict.model_dump() for verdict in verdicts]
    document['environment'] = environment()
    store.put(store.join(folder, TOTALS), json.dumps(document, indent=2).encode())
    store.put(store.join(folder, WORST), _worst_csv(totals).encode())
    with TemporaryDirectory() as scratch:
        page = Path(scratch, REPORT)
        write_fleet_report(
            page,
            totals,
            found,
            verdicts,
            _source(request, run, bundle, against),
            lambda bag_id: tables.read_row(out, run.run_id, bag_id, bulk=True),
        )
        store.put(store.join(folder, REPORT), page.read_bytes())
    if store.is_remote(out):
        store.put(store.join(folder, LOG), log.read_bytes())
    return FleetResult(found, verdicts, folder, totals, entries)


def prepared(request: FleetRequest) -> tuple[Bundle, Bundle | None, Run]:
    """Read the bundles, and say which run it is.

    Raises:
        OSError, DesertmindError: they cannot be read, or not be used so.
    """
    options = request.options
    bundle = read_bundle(request.bundle)
    against = None if request.against is None else read_bundle(request.against)
    for each in (bundle, against):
        if each is not None and each.metadata.modality == 'rgbd' and options.depth is None:
            raise FleetError(
                f'bundle {each.metadata.name!r} takes RGB and depth; pass --depth TOPIC, or use '
                'an rgb bundle'
            )
    if against is not None:
        first, second = bundle.metadata.ontology, against.metadata.ontology
        if first.sha256 != second.sha256:
            raise FleetError(
                f'the bundles have other classes: {first.name} ({first.sha256}) and '
                f'{second.name} ({second.sha256}); only bundles of one class table can be compared'
            )
        alphas = (options.temporal_alpha, options.against_temporal_alpha)
        if bundle.sha256 == against.sha256 and alphas[0] == alphas[1]:
            raise FleetError(
                f'both models are {bundle.path}; give --against another bundle, or another '
                '--against-temporal-alpha'
            )
    run = Run(
        options=options,
        bundle_sha256=bundle.sha256,
        against_sha256=None if against is None else against.sha256,
        code_sha256=code_sha256(Path(__file__).resolve().parents[1]),
    )
    return bundle, against, run


def _worst_csv(totals: Totals) -> str:
    """Return the worst frames as a table, to be taken out of their bags and labelled."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['uri', 'stamp_ns', 'badness', 'miou', 'disagreement', 'confidence'])
    for worst in totals.worst_frames(_WORST_FRAMES):
        frame = worst.frame
        numbers = (frame.badness, frame.miou, frame.disagreement, frame.confidence)
        shown = ['' if number is None else f'{number:.4f}' for number in numbers]
        writer.writerow([worst.uri, frame.stamp_ns, *shown])
    return text.getvalue()


def _rows(out: str, run_id: str, bag_ids: Sequence[str]) -> Iterator[BagRow]:
    """Yield the summaries of what is done; a file that is torn is done again."""
    with ThreadPoolExecutor(_THREADS) as threads:
        for at in range(0, len(bag_ids), _AT_ONCE):
            some = bag_ids[at : at + _AT_ONCE]
            for row in threads.map(lambda bag_id: tables.read_row(out, run_id, bag_id), some):
                if row is not None:
                    yield row.summary()


def _totals_of(out: str, run_id: str, ontology: Ontology) -> Totals:
    """Add up another run.

    Raises:
        OSError, FleetError: there is none, or it has other classes.
    """
    done = sorted(tables.done_bags(out, run_id))
    if not done:
        raise FleetError(
            f'{out} has no results of run {run_id!r}, which the criteria name; not_worse_than '
            'takes a run_id as in the names of the folders in bags/, or against'
        )
    totals = Totals(ontology)
    for row in _rows(out, run_id, done):
        if row.model is not None and row.ontology_sha256 != ontology.sha256:
            raise FleetError(
                f'run {run_id!r} has other classes ({row.ontology_sha256}) than the bundle '
                f'({ontology.name}, {ontology.sha256}); only runs of one class table compare'
            )
        totals.add(row)
    return totals


def _source(
    request: FleetRequest, run: Run, bundle: Bundle, against: Bundle | None
) -> dict[str, str]:
    """Return what was run on what, as rows of the page."""
    rows = {'bags': request.source, 'results': request.out, 'run': run.run_id}
    for name, each in (('bundle', bundle), ('against', against)):
        if each is not None:
            rows[name] = f'{each.metadata.name}, {each.path}, SHA-256 {each.sha256}'
    rows |= {
        name: str(value) for name, value in run.options.model_dump().items() if value is not None
    }
    rows['sources'] = f'SHA-256 {run.code_sha256}'
    return rows
