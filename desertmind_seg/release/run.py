"""A fleet from its manifest to its report: what is done already is not done again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import csv
from dataclasses import dataclass, field
import io
from itertools import islice
import json
from pathlib import Path

from desertmind_seg.evaluation.labels import label_map_of
from desertmind_seg.fleet import store, tables
from desertmind_seg.fleet.manifest import find_bags, manifest_rows
from desertmind_seg.fleet.pool import (
    Pool,
    Watch,
    check_extra,
    connected,
    evaluation_pass,
    index_pass,
)
from desertmind_seg.fleet.records import (
    BagRow,
    FleetError,
    Limits,
    Run,
    RunOptions,
    code_sha256,
)
from desertmind_seg.model.bundle import Bundle, read_bundle
from desertmind_seg.model.errors import did_you_mean
from desertmind_seg.model.files import temporary_folder
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.label_map import check_targets
from desertmind_seg.release.criteria import Verdict, judge, read_criteria
from desertmind_seg.release.listing import Listing
from desertmind_seg.release.page import write_fleet_report
from desertmind_seg.release.progress import Progress
from desertmind_seg.release.totals import FleetTotals, Totals
from desertmind_seg.reports.provenance import environment

# Rows that are read at once: a store answers in 30 ms.
_THREADS, _AT_ONCE = 16, 64
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
        listing: all bags, by bag_id.
    """

    totals: FleetTotals
    verdicts: list[Verdict]
    folder: str
    worst: Totals
    listing: Listing


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
    check_extra('pyarrow')
    if store.is_remote(request.source) or store.is_remote(out):
        check_extra('obstore')
    listing = Listing(find_bags(request.source), request.source)
    _check_asked(request, listing)
    folder = store.join(out, 'runs', run.run_id)
    with temporary_folder() as scratch:
        manifest = scratch / MANIFEST
        tables.write_rows(manifest, manifest_rows(listing))
        store.put(store.join(folder, MANIFEST), manifest)
    totals = Totals(ontology)
    _add_done(request, listing, totals, out, run.run_id)
    log = Path(f'fleet-{run.run_id}.jsonl' if store.is_remote(out) else f'{folder}/{LOG}')
    if totals.statuses.total() < len(listing):  # else all is there, and added up without
        check_extra('ray')
    with Progress(len(listing), totals.statuses.total(), log) as progress:
        if progress.done < len(listing):
            _evaluate_rest(request, run, (bundle, against), listing, totals, out, progress)
    found = totals.totals(run.run_id, request.by)
    verdicts = []
    if criteria is not None:
        verdicts = judge(criteria, totals, lambda run_id: _totals_of(out, run_id, ontology))
    document = found.model_dump(by_alias=True)
    document['criteria'] = [verdict.model_dump() for verdict in verdicts]
    document['environment'] = environment()
    store.put(store.join(folder, TOTALS), json.dumps(document, indent=2).encode())
    store.put(store.join(folder, WORST), _worst_csv(totals).encode())
    with temporary_folder() as scratch:
        page = scratch / REPORT
        write_fleet_report(
            page,
            totals,
            found,
            verdicts,
            _source(request, run, bundle, against),
            lambda bag_id: tables.read_row(out, run.run_id, bag_id, bulk=True),
        )
        store.put(store.join(folder, REPORT), page)
    if store.is_remote(out):
        store.put(store.join(folder, LOG), log)
    return FleetResult(found, verdicts, folder, totals, listing)


def _add_done(
    request: FleetRequest, listing: Listing, totals: Totals, out: str, run_id: str
) -> None:
    """Add up the bags that have rows, and let them wait no longer."""
    stored = (bag_id for bag_id in tables.done_bags(out, run_id) if bag_id in listing)
    for row in _rows(out, run_id, stored):
        if row.status == 'ok' or not request.retry:
            totals.add(row)
            listing.done(row.bag_id)


def _evaluate_rest(
    request: FleetRequest,
    run: Run,
    bundles: tuple[Bundle, Bundle | None],
    listing: Listing,
    totals: Totals,
    out: str,
    progress: Progress,
) -> None:
    """Put the rows of the bags that wait, and add them up.

    Raises:
        OSError, DesertmindError: as `evaluate_fleet`.
    """

    def on_row(row: BagRow) -> None:
        totals.add(row)
        listing.done(row.bag_id)
        progress.on_row(row)

    watch = Watch(progress.on_begin, on_row, progress.on_tick)
    first, second = bundles
    contents = first.path.read_bytes(), None if second is None else second.path.read_bytes()
    limits, pool = request.limits, request.pool
    with connected(pool):
        index_pass(listing.waiting(), run, out, pool, watch)
        if progress.done < len(listing):
            waiting = listing.waiting()
            evaluation_pass(waiting, run, contents, limits, out, pool, watch)


def _check_asked(request: FleetRequest, listing: Listing) -> None:
    """Raise FleetError where tags are asked for that no bag has."""
    for tag in request.by:
        if tag not in listing.tag_names:
            names = ', '.join(sorted(listing.tag_names))
            raise FleetError(
                f'--by {tag}: no bag of {request.source} has this tag'
                f'{did_you_mean(tag, listing.tag_names)}; '
                + (
                    f'there are {names}'
                    if names
                    else 'tags stand in the column tags of a manifest'
                )
            )


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
    ontology = bundle.metadata.ontology
    if options.labels_ontology is not None:
        label_map_of(options.labels_ontology, ontology, options.label_map, '--ontology')
    elif options.label_map:  # each bag says of which classes its labels are
        check_targets(options.label_map, ontology)
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


def _rows(out: str, run_id: str, bag_ids: Iterable[str]) -> Iterator[BagRow]:
    """Yield the summaries of what is done; a file that is torn is done again."""

    def read(bag_id: str) -> BagRow | None:
        row = tables.read_row(out, run_id, bag_id)
        return None if row is None else row.summary()

    left = iter(bag_ids)
    with ThreadPoolExecutor(_THREADS) as threads:
        while some := [*islice(left, _AT_ONCE)]:
            yield from (row for row in threads.map(read, some) if row is not None)


def _totals_of(out: str, run_id: str, ontology: Ontology) -> Totals:
    """Add up another run.

    Raises:
        OSError, FleetError: there is none, it has other classes, or results of it are torn.
    """
    totals = Totals(ontology)
    bags = [*tables.done_bags(out, run_id)]
    for row in _rows(out, run_id, bags):
        if row.model is not None and row.ontology_sha256 != ontology.sha256:
            raise FleetError(
                f'run {run_id!r} has other classes ({row.ontology_sha256}) than the bundle '
                f'({ontology.name}, {ontology.sha256}); only runs of one class table compare'
            )
        totals.add(row)
    if torn := len(bags) - totals.statuses.total():
        raise FleetError(
            f'{torn} of {len(bags)} results of run {run_id!r}, which the criteria name, are torn, '
            f'as by a power cut, in {tables.results_folder(out, run_id)}: do that run again'
        )
    if not totals.statuses:
        raise FleetError(
            f'{out} has no results of run {run_id!r}, which the criteria name; not_worse_than '
            'takes a run_id as in the names of the folders in bags/, or against'
        )
    return totals


def _source(
    request: FleetRequest, run: Run, bundle: Bundle, against: Bundle | None
) -> dict[str, str]:
    """Return what was run on what, as rows of the page."""
    rows = {'bags': request.source, 'results': request.out, 'run': run.run_id}
    for name, each in (('bundle', bundle), ('against', against)):
        if each is not None:
            rows[name] = f'{each.metadata.name}, {each.path}, SHA-256 {each.sha256}'
    for name, value in run.options:
        if isinstance(value, Ontology):
            rows[name] = f'{value.name}, SHA-256 {value.sha256}'
        elif value not in (None, ()):
            rows[name] = ' '.join(value) if isinstance(value, tuple) else str(value)
    rows['sources'] = f'SHA-256 {run.code_sha256}'
    return rows
