"""What a fleet run costs, and what it survives; prints JSON.

    python test/benchmark/fleet.py make DRIVE FLEET      # 200 bags of one drive, 8 of them odd
    python test/benchmark/fleet.py equal FLEET           # against a plain loop of evaluate_bag
    python test/benchmark/fleet.py kill FLEET            # kill -9 of worker and driver, run again
    python test/benchmark/fleet.py nodes FLEET           # two Ray nodes, one of them killed
    python test/benchmark/fleet.py overhead FLEET        # against the loop, whole bags
    python test/benchmark/fleet.py simulate 200 2000     # so many bags, an engine without work
    python test/benchmark/fleet.py driver 2000 100000    # what the driver does of it but for Ray

Needs the extra fleet. DRIVE is a bag with images and labels, such as training.synthetic writes;
FLEET a folder. make --real ../shared/data/bags/orfd_rgbd cuts some of the bags from that recorded
drive; nobody labelled it, so the shipped model's masks are its labels. A DRIVE of fewer frames
than --frames is repeated. The model is a tiny one, or
--bundle. At most two workers, on loopback.

equal: 192 bags ok and 8 with the right status; counts equal bit for bit, scores to 1e-12.
kill, nodes: the same totals, and how often bags were begun, as the children say that begin them.
overhead: wall clock times workers over that of the plain loop, half of which runs before the fleet
and half of it after; at most 1.25 with bags of 10 s or more. Also over as many loops side by side,
which share the memory of the machine as the workers do. make --plain makes no odd bags for it.
simulate: CPU seconds of the driver for each 1,000 bags, and its memory, by the size of the fleet;
and those of the same command again, when all is done.
driver: likewise of a process that reads the manifest, is told of rows, and adds up.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
import json
import os
from pathlib import Path
import resource
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test')]
os.environ['PYTHONPATH'] = os.pathsep.join(sys.path[:2])  # of the workers

import instant_fleet_child
import numpy as np
import psutil
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from desertmind_seg.evaluation.run import BagInputs, evaluate_bag
from desertmind_seg.fleet import tables
from desertmind_seg.fleet.child import ChildSetup, Job
from desertmind_seg.fleet.manifest import find_bags, manifest_rows
from desertmind_seg.fleet.pool import Pool
from desertmind_seg.fleet.records import BagEntry, Limits, RunOptions
from desertmind_seg.messages.bags import IMAGE_TYPE, ONTOLOGY_KEY_PREFIX, Bag, decode_frame
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.pipeline.load import load_segmenter
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.release.listing import Listing
from desertmind_seg.release.page import write_fleet_report
from desertmind_seg.release.progress import Progress
from desertmind_seg.release.run import FleetRequest, evaluate_fleet, prepared
from desertmind_seg.release.totals import Totals

# Short, for its sockets; of this process alone.
TEMPORARY = f'/tmp/fleet-ray-{os.getpid()}'
IMAGE, LABELS = '/camera/color/image_raw', '/labels/ycor_8'
STARTS = 'FLEET_STARTS'
REAL = 4
ODD = {
    **{f'torn_{index}.mcap': 'torn' for index in range(4)},
    **{f'no_topic_{index}': 'no_topic' for index in range(2)},
    'kills': 'failed',
    'hangs': 'timeout',
}


def make(drive: Path, fleet: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Cut drives into bags of so many frames, the windows moving on by one; and make odd ones."""
    fleet.mkdir(parents=True)
    odd = {} if options.plain else ODD
    good = [f'drive_{index:04}' for index in range(options.bags - len(odd))]
    real = [f'real_{index}' for index in range(REAL)] if options.real else []
    good[len(good) - len(real) :] = real
    sources = {'': longer(*recorded(drive), options.frames)}
    if options.real:
        sources['real'] = recorded(options.real, load_segmenter(share_path(DEFAULT_BUNDLE)))
    for index, name in enumerate([*good, *(n for n in odd if not n.startswith('torn'))]):
        messages, custom = sources['real' if name in real else '']
        stamps = sorted({stamp_ns for _, stamp_ns, _, _ in messages})
        first = index % max(1, len(stamps) - options.frames)
        window = set(stamps[first : first + options.frames])
        topics = [LABELS] if name.startswith('no_topic') else [IMAGE, LABELS]
        plugin = StoragePlugin.SQLITE3 if index % 4 == 3 else StoragePlugin.MCAP
        store = get_typestore(Stores.ROS2_KILTED)
        with Writer(fleet / name, version=8, storage_plugin=plugin) as writer:
            for key, value in custom.items():
                writer.set_custom_data(key, value)
            connections = {
                topic: writer.add_connection(topic, IMAGE_TYPE, typestore=store)
                for topic in topics
            }
            for topic, stamp_ns, log_time_ns, cdr in messages:
                if topic in connections and stamp_ns in window:
                    writer.write(connections[topic], log_time_ns, cdr)
    whole = next((fleet / good[0]).glob('*.mcap')).read_bytes()
    for name in odd:
        if name.startswith('torn'):
            (fleet / name).write_bytes(whole[: len(whole) * 2 // 3])
    return {'bags': options.bags, 'real': len(real), 'frames': options.frames, 'bytes': len(whole)}


def longer(
    messages: list[Any], custom: dict[str, str], frames: int
) -> tuple[list[Any], dict[str, str]]:
    """Return a drive again and again, with later stamps, until it has more than so many frames."""
    stamps = sorted({stamp_ns for _, stamp_ns, _, _ in messages})
    span_ns = stamps[-1] - stamps[0] + stamps[1] - stamps[0]
    found = []
    for shift_ns in range(0, span_ns * (1 + frames // len(stamps)), span_ns):
        for topic, stamp_ns, log_time_ns, cdr in messages:
            # Images begin with their stamp, after the 4 bytes that say how they are encoded.
            stamp = struct.pack('<iI', *divmod(stamp_ns + shift_ns, 10**9))
            moved = cdr[:4] + stamp + cdr[12:]
            found.append((topic, stamp_ns + shift_ns, log_time_ns + shift_ns, moved))
    return found, custom


def recorded(path: Path, segmenter: Segmenter | None = None) -> tuple[list[Any], dict[str, str]]:
    """Return (topic, stamp, log time, CDR) of images and labels, and what the bag says of these.

    The masks of a segmenter are the labels of a bag that has none.
    """
    store = get_typestore(Stores.ROS2_KILTED)
    messages = []
    with Bag(path) as bag:
        custom = dict(bag.custom_data)
        for raw in bag.messages(*({IMAGE, LABELS} & bag.topics.keys())):
            stamp_ns, log_time_ns = raw.stamp_ns(), raw.log_time_ns
            messages.append((raw.topic, stamp_ns, log_time_ns, bytes(raw.cdr)))
            if segmenter is not None:
                message = bag.deserialize(raw)
                mask = segmenter.segment(decode_frame(bag, IMAGE, message)).mask
                height, width = mask.shape
                labels = store.types[IMAGE_TYPE](
                    message.header, height, width, 'mono8', 0, width, mask.reshape(-1)
                )
                cdr = bytes(store.serialize_cdr(labels, IMAGE_TYPE))
                messages.append((LABELS, stamp_ns, log_time_ns, cdr))
                custom[f'{ONTOLOGY_KEY_PREFIX}{LABELS}'] = segmenter.ontology.sha256
    return messages, custom


def run_here(options: argparse.Namespace) -> dict[str, Any]:
    """Run the fleet in this process, as the command does; say what it took."""
    start = time.monotonic()
    result = evaluate_fleet(
        FleetRequest(
            source=options.path,
            options=RunOptions(image=IMAGE, labels=LABELS, backend='onnxruntime-cpu'),
            bundle=options.bundle,
            against=None,
            out=options.out,
            limits=Limits(timeout_sec=options.timeout_sec, memory_gib=2.0),
            pool=Pool(
                options.address,
                options.workers,
                scratch=options.scratch,
                temporary=None if options.address else options.temporary,
                child=options.child,
            ),
        )
    )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        'folder': result.folder,
        'run_id': result.totals.run_id,
        'statuses': result.totals.statuses,
        'wall_sec': time.monotonic() - start,
        'driver_cpu_sec': usage.ru_utime + usage.ru_stime,
        'driver_peak_mb': usage.ru_maxrss / 1024,
    }


def loop(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Evaluate every n-th bag in a plain loop of evaluate_bag; say what it took."""
    first, step = map(int, options.share.split('/'))
    start = time.monotonic()
    segmenter = load_segmenter(options.bundle, 'onnxruntime-cpu', num_threads=1)
    paths = sorted(path for path in Path(options.path).iterdir() if path.name not in ODD)[
        first::step
    ]
    each = []
    for path in paths:
        began = time.monotonic()
        evaluate_bag(path, BagInputs(IMAGE, LABELS), segmenter, folder / 'loop', force=True)
        each.append(time.monotonic() - began)
    return {'wall_sec': time.monotonic() - start, 'bags_sec': each}


class Fleet:
    """Runs `run` of this script in processes of their own."""

    def __init__(self, options: argparse.Namespace, folder: Path, path: Path | str) -> None:
        self._arguments = [
            *('run', str(path), '--bundle', str(options.bundle), '--out', str(folder / 'out')),
            *('--scratch', str(folder / 'scratch'), '--timeout-sec', str(options.timeout_sec)),
            *('--workers', str(options.workers), '--temporary', TEMPORARY),
        ]
        self._path = Path(path)
        self.out = folder / 'out'

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start it."""
        command = [sys.executable, __file__, *self._arguments, *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Wait for it, and return what it says."""
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f'the fleet ended with {process.returncode}')
        return dict(json.loads(said.splitlines()[-1]))

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the log."""
        return [
            json.loads(line)
            for path in self.out.glob('runs/*/log.jsonl')
            for line in path.read_text().splitlines()
        ]

    def results(self) -> int:
        """Return how many bags have results."""
        return len([*self.out.glob('bags/*/*.parquet')])

    def wait_for(self, share: float, process: subprocess.Popen[str]) -> None:
        """Wait until workers have evaluated such a share of the bags, or the process has ended.

        Raises:
            SystemExit: neither came within ten minutes.
        """
        deadline = time.monotonic() + 600.0
        refused = sum(status in ('torn', 'no_topic') for status in ODD.values())  # by the index
        count = refused + int(share * (len([*self._path.iterdir()]) - refused))
        while self.results() < count and process.poll() is None:
            if time.monotonic() > deadline:
                raise SystemExit(f'{self.results()} of {count} bags have results after 600 s')
            time.sleep(0.05)


def totals_of(said: dict[str, Any]) -> dict[str, Any]:
    """Return what must be equal of two runs; latencies are not."""
    document = json.loads(Path(said['folder'], 'totals.json').read_text())
    numbers = document['slices'][0]['numbers']
    return {
        'statuses': document['statuses'],
        'segmentation': document['segmentation'],
        'numbers': {name: value for name, value in numbers.items() if 'latency' not in name},
    }


def equal(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare every bag, and the sum, with a plain loop of evaluate_bag."""
    fleet = Fleet(options, folder, options.path)
    said = fleet.finish(fleet.start('--child', 'odd_fleet_child'))
    segmenter = load_segmenter(options.bundle, 'onnxruntime-cpu', num_threads=1)
    total: Any = 0
    worst = 0.0
    differing = []
    rows = {}
    for path in fleet.out.glob('bags/*/*.parquet'):
        row = tables.read_row(str(fleet.out), said['run_id'], path.stem)
        assert row is not None
        rows[Path(row.uri).name] = row
    start = time.monotonic()
    for path in sorted(Path(options.path).iterdir()):
        if path.name in ODD:
            continue
        metrics = evaluate_bag(
            path, BagInputs(IMAGE, LABELS), segmenter, folder / 'loop', force=True
        ).segmentation
        model = rows[path.name].model
        assert metrics is not None
        assert model is not None
        counts = np.array(metrics.confusion)
        total = total + counts
        if counts.ravel().tolist() != model.confusion:
            differing.append(path.name)
        for name in ('miou_all', 'miou_present', 'pixel_accuracy'):
            worst = max(worst, abs(getattr(metrics, name) - getattr(model, name)))
    fleet_total = totals_of(said)['segmentation']['confusion']
    return {
        **said,
        'loop_sec': time.monotonic() - start,
        'right_status': all(rows[name].status == status for name, status in ODD.items()),
        'reasons': {name: rows[name].reason for name in ODD},
        'bags_that_differ': differing,
        'sum_is_equal': total.tolist() == fleet_total,
        'largest_difference_of_scores': worst,
    }


def count_starts(path: Path) -> Path:
    """Let the children of fleets that are started from now on write down which bags they begin."""
    os.environ[STARTS] = str(path)
    return path


def kill(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kill a worker, then the driver, in the middle; run again, and compare with a whole run."""
    whole = Fleet(options, folder / 'whole', options.path)
    expected = totals_of(whole.finish(whole.start('--child', 'odd_fleet_child')))
    fleet = Fleet(options, folder / 'killed', options.path)
    starts = count_starts(folder / 'starts')
    process = fleet.start('--child', 'odd_fleet_child')
    fleet.wait_for(0.25, process)
    workers = workers_of(process.pid)
    workers[0].kill()
    fleet.wait_for(0.5, process)
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    done_before = fleet.results()
    orphans = left_of(below)
    said = fleet.finish(fleet.start('--child', 'odd_fleet_child'))
    return {
        'workers_seen': len(workers),
        'done_when_the_driver_was_killed': done_before,
        'processes_left_behind': orphans,
        **begun(fleet, starts),
        # One of the worker that was killed, and one of each when the driver was.
        'begun_again_at_most': 1 + options.workers,
        'same_totals': totals_of(said) == expected,
        'statuses': said['statuses'],
    }


def begun(fleet: Fleet, starts: Path) -> dict[str, Any]:
    """Say how often bags were begun: as their children wrote down, and as the log of the run."""
    by_child = Counter(starts.read_text().split())
    by_log = Counter(line['bag_id'] for line in fleet.log() if line['event'] == 'begin')
    done = Counter(line['bag_id'] for line in fleet.log() if line['event'] == 'bag')
    return {
        'bags_begun': len(by_child),
        'begun_again': by_child.total() - len(by_child),
        'begun_again_by_the_log': by_log.total() - len(by_log),
        'most_starts_of_a_bag': max(by_child.values()),
        'rows_put_twice': done.total() - len(done),
    }


def workers_of(pid: int) -> list[psutil.Process]:
    """Return the actors below a process."""
    below = psutil.Process(pid).children(recursive=True)
    return [each for each in below if each.name().startswith('ray::BagHost')]


def left_of(processes: list[psutil.Process], most_sec: float = 120.0) -> int:
    """Return how many of these run still, after a while."""
    return len(psutil.wait_procs(processes, most_sec)[1])


@contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[list[int], str, Callable[[], None]]]:
    """Start two Ray nodes on loopback; yield them, their address, and what kills the second."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    ray = str(Path(sys.executable).with_name('ray'))
    common = [
        *('--num-cpus', '1', '--block'),
        *('--object-store-memory', str(100 * 2**20), '--disable-usage-stats'),
    ]
    # Other addresses of loopback: Ray takes 127.0.0.1 for that of the network card.
    first, second = '127.0.0.2', '127.0.0.3'
    address = f'{first}:{port}'
    os.environ.update(
        RAY_USAGE_STATS_ENABLED='0',
        RAY_AUTH_MODE='token',  # which `ray start` asks for
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        no_proxy=f'127.0.0.1,{first},{second}',  # gRPC would ask a proxy for them
    )
    head = [
        *(ray, 'start', '--head', '--port', str(port), '--include-dashboard', 'false'),
        *('--temp-dir', TEMPORARY, '--node-ip-address', first, *common),
    ]
    nodes = []
    with (folder / 'nodes.log').open('w') as log:
        other = [ray, 'start', '--address', address, '--node-ip-address', second, *common]
        for command in (head, other):
            nodes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
            wait_for_port(first, port)

        def kill_second() -> None:
            os.killpg(nodes[1].pid, signal.SIGKILL)

        try:
            yield [node.pid for node in nodes], address, kill_second
        finally:
            for node in nodes:
                try:
                    os.killpg(node.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def wait_for_port(host: str, port: int, most_sec: float = 120.0) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + most_sec
    while time.monotonic() < deadline:
        with socket.socket() as tried:
            if tried.connect_ex((host, port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f'nothing listens at {host}:{port}')


def nodes(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run on two nodes, kill one in the middle, and compare with a run on one machine."""
    whole = Fleet(options, folder / 'whole', options.path)
    expected = totals_of(whole.finish(whole.start('--child', 'odd_fleet_child')))
    fleet = Fleet(options, folder / 'two', options.path)
    (folder / 'two').mkdir()
    starts = count_starts(folder / 'starts')
    with two_nodes(folder / 'two') as (pids, address, kill_second):
        process = fleet.start('--child', 'odd_fleet_child', '--address', address)
        fleet.wait_for(0.3, process)
        before = [len(workers_of(pid)) for pid in pids]
        kill_second()
        said = fleet.finish(process)
    return {
        'workers_by_node': before,
        **begun(fleet, starts),
        'same_totals': totals_of(said) == expected,
        'statuses': said['statuses'],
        'wall_sec': said['wall_sec'],
    }


def overhead(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare the wall clock with that of the plain loop, alone and side by side."""

    def loops(*shares: str) -> list[dict[str, Any]]:
        command = [sys.executable, __file__, 'loop', options.path, '--bundle', options.bundle]
        started = [
            subprocess.Popen([*command, '--share', share], stdout=subprocess.PIPE, text=True)
            for share in shares
        ]
        return [json.loads(each.communicate()[0].splitlines()[-1]) for each in started]

    before = loops('0/2')
    fleet = Fleet(options, folder, options.path)
    said = fleet.finish(fleet.start())
    alone = [*before, *loops('1/2')]
    beside = loops(*(f'{index}/{options.workers}' for index in range(options.workers)))
    each = [seconds for one in alone for seconds in one['bags_sec']]
    loop_sec = sum(one['wall_sec'] for one in alone)
    beside_sec = max(one['wall_sec'] for one in beside)
    rows = [line for line in fleet.log() if line['event'] == 'bag' and line['status'] == 'ok']
    return {
        **said,
        'bags': len(each),
        'shortest_bag_sec': min(each),
        'loop_sec': loop_sec,
        'loops_side_by_side_sec': beside_sec,
        'bags_sec_in_the_fleet': sum(row['evaluate_sec'] for row in rows),
        'ratio': said['wall_sec'] * options.workers / loop_sec,
        'ratio_to_loops_side_by_side': said['wall_sec'] / beside_sec,
    }


def simulate(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run fleets of several sizes over links to one bag with an engine that returns at once."""
    found = []
    bag = make_one(options, folder)
    for count in map(int, options.sizes):
        manifest = folder / f'{count}.parquet'
        info = bag.stat()
        entries = (
            BagEntry(
                uri=str(bag), size=info.st_size, etag=str(index), tags={'site': f'{index % 3}'}
            )
            for index in range(count)
        )
        tables.write_rows(manifest, manifest_rows(entries))
        fleet = Fleet(options, folder / str(count), manifest)
        said = fleet.finish(fleet.start('--child', 'instant_fleet_child'))
        again = fleet.finish(fleet.start('--child', 'instant_fleet_child'))
        per = count / 1000
        found.append(
            {
                'bags': count,
                'ok': said['statuses']['ok'],
                'wall_sec': said['wall_sec'],
                'driver_cpu_sec': said['driver_cpu_sec'],
                'driver_cpu_sec_per_1000': said['driver_cpu_sec'] / per,
                'driver_peak_mb': said['driver_peak_mb'],
                'again_cpu_sec_per_1000': again['driver_cpu_sec'] / per,
                'again_peak_mb': again['driver_peak_mb'],
            }
        )
        shutil.rmtree(folder / str(count))
    return found


def driver(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Do what the driver does for each bag and for all, each size in a process of its own."""
    if len(options.sizes) > 1:
        command = [sys.executable, __file__, 'driver']
        said = [
            subprocess.run([*command, size], stdout=subprocess.PIPE, text=True, check=True).stdout
            for size in options.sizes
        ]
        return [each for one in said for each in json.loads(one.splitlines()[-1])]
    count = int(options.sizes[0])
    manifest = folder / 'fleet.parquet'
    entries = (
        BagEntry(uri=f's3://drives/{index}.mcap', size=1, etag='x', tags={'site': f'{index % 3}'})
        for index in range(count)
    )
    tables.write_rows(manifest, manifest_rows(entries))
    _, _, run = prepared(FleetRequest('', RunOptions(image=IMAGE), options.bundle, None, ''))
    setup = ChildSetup(
        bundle=options.bundle,
        against=None,
        options=run.options,
        run_id=run.run_id,
        threads=1,
        scratch=folder,
        parent_pid=os.getpid(),
    )
    instant = instant_fleet_child.load(setup)
    ontology = load_ontology('ycor-8')
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    listing = Listing(find_bags(str(manifest)), str(manifest))
    totals = Totals(ontology)
    with Progress(count, 0, folder / 'log.jsonl') as progress:
        for entry in listing.waiting():
            progress.on_begin(entry)
            row = instant(Job(entry=entry, path=folder, label_bag=None)).summary()
            totals.add(row)
            listing.done(entry.bag_id)
            progress.on_row(row)
            progress.on_tick()
    added = time.process_time()
    found = totals.totals(run.run_id, ['site'])
    write_fleet_report(folder / 'page.html', totals, found, [], {}, lambda _: None)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return [
        {
            'bags': found.bags,
            'rows_cpu_sec_per_1000': (added - start) / count * 1000,
            'totals_cpu_sec_per_1000': (time.process_time() - added) / count * 1000,
            'peak_mb_before': before.ru_maxrss / 1024,
            'peak_mb': after.ru_maxrss / 1024,
        }
    ]


def make_one(options: argparse.Namespace, folder: Path) -> Path:
    """Return a bag of two frames."""
    from tiny_bag import TinyDrive, write_drive

    return next(write_drive(folder / 'bag', TinyDrive(num_frames=2)).glob('*.mcap'))


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {
        'equal': equal,
        'kill': kill,
        'nodes': nodes,
        'overhead': overhead,
        'simulate': simulate,
        'driver': driver,
    }
    parser.add_argument('part', choices=('make', 'run', 'loop', *parts))
    parser.add_argument('path')
    parser.add_argument('sizes', nargs='*', help='of make: FLEET; of simulate: more sizes')
    parser.add_argument('--bundle', type=Path)
    parser.add_argument('--out')
    parser.add_argument('--scratch')
    parser.add_argument('--temporary')
    parser.add_argument('--address')
    parser.add_argument('--child', default='desertmind_seg.fleet.child')
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--timeout-sec', type=float, default=60.0)
    parser.add_argument('--bags', type=int, default=200)
    parser.add_argument('--frames', type=int, default=3)
    parser.add_argument('--real', type=Path)
    parser.add_argument('--plain', action='store_true')
    parser.add_argument('--share', default='0/1')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='fleet-') as name:
        folder = Path(name)
        if options.bundle is None:
            from tiny_bundle import write_tiny_bundle

            options.bundle = write_tiny_bundle(folder / 'tiny.onnx').path
        if options.part == 'make':
            said: Any = make(Path(options.path), Path(options.sizes[0]), options)
        elif options.part == 'run':
            said = run_here(options)
        elif options.part == 'loop':
            said = loop(options, folder)
        else:
            if options.part in ('simulate', 'driver'):
                options.sizes.insert(0, options.path)
            said = parts[options.part](options, folder)
    print(json.dumps(said))


if __name__ == '__main__':
    main()
