"""What a fleet run costs, and what it survives; prints JSON.

    python test/benchmark/fleet.py make DRIVE FLEET      # 200 bags, 8 of them odd, of one drive
    python test/benchmark/fleet.py equal FLEET           # against a plain loop of evaluate_bag
    python test/benchmark/fleet.py kill FLEET            # kill -9 of worker and driver, run again
    python test/benchmark/fleet.py nodes FLEET           # two Ray nodes, one of them killed
    python test/benchmark/fleet.py overhead FLEET        # against the loop, whole bags
    python test/benchmark/fleet.py simulate 200 2000     # so many bags, an engine without work

Needs the extra fleet. DRIVE is a bag with images and labels, such as training.synthetic writes;
FLEET a folder. The model is a tiny one, or --bundle. At most two workers, on loopback.

equal: 192 bags ok and 8 with the right status; counts equal bit for bit, scores to 1e-12.
kill, nodes: the same totals, and how many bags were begun twice.
overhead: wall clock times workers over the seconds that the bags themselves took in the same run,
at most 1.25 with bags of 10 s or more; --bags makes them longer.
simulate: CPU seconds of the driver for each 1,000 bags, and its memory, by the size of the fleet.
"""

from __future__ import annotations

import argparse
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
import subprocess
import sys
import tempfile
import time
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test')]
os.environ['PYTHONPATH'] = os.pathsep.join(sys.path[:2])  # of the workers

import numpy as np
import psutil
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from desertmind_seg.evaluation.run import evaluate_bag
from desertmind_seg.fleet import tables
from desertmind_seg.fleet.pool import Pool
from desertmind_seg.fleet.records import BagEntry, Limits, RunOptions
from desertmind_seg.messages.bags import Bag
from desertmind_seg.pipeline.load import load_segmenter
from desertmind_seg.release.run import FleetRequest, evaluate_fleet

# Short, for its sockets; of this process alone.
TEMPORARY = f'/tmp/fleet-ray-{os.getpid()}'
IMAGE, LABELS = '/camera/color/image_raw', '/labels/ycor_8'
ODD = {
    **{f'torn_{index}.mcap': 'torn' for index in range(4)},
    **{f'no_topic_{index}': 'no_topic' for index in range(2)},
    'kills': 'failed',
    'hangs': 'timeout',
}


def make(drive: Path, fleet: Path, bags: int, frames: int) -> dict[str, Any]:
    """Cut a drive into bags of so many frames, the windows moving on by one; and make odd ones."""
    store = get_typestore(Stores.ROS2_KILTED)
    with Bag(drive) as bag:
        messages = [*bag.messages(IMAGE, LABELS)]
        kinds = {name: bag.topics[name].type for name in (IMAGE, LABELS)}
        custom = dict(bag.custom_data)
    stamps = sorted({raw.stamp_ns() for raw in messages})
    good = [f'drive_{index:04}' for index in range(bags - len(ODD))]
    for index, name in enumerate([*good, *(n for n in ODD if not n.startswith('torn'))]):
        first = index % max(1, len(stamps) - frames)
        window = set(stamps[first : first + frames])
        plugin = StoragePlugin.SQLITE3 if index % 4 == 3 else StoragePlugin.MCAP
        with Writer(fleet / name, version=8, storage_plugin=plugin) as writer:
            for key, value in custom.items():
                writer.set_custom_data(key, value)
            topics = [LABELS] if name.startswith('no_topic') else [IMAGE, LABELS]
            connections = {
                topic: writer.add_connection(topic, kinds[topic], typestore=store)
                for topic in topics
            }
            for raw in messages:
                if raw.topic in connections and raw.stamp_ns() in window:
                    writer.write(connections[raw.topic], raw.log_time_ns, bytes(raw.cdr))
    whole = next((fleet / good[0]).glob('*.mcap')).read_bytes()
    for name in ODD:
        if name.startswith('torn'):
            (fleet / name).write_bytes(whole[: len(whole) * 2 // 3])
    return {'bags': bags, 'frames': frames, 'bytes': len(whole)}


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


class Fleet:
    """Runs `run` of this script in processes of their own."""

    def __init__(self, options: argparse.Namespace, folder: Path, path: Path | str) -> None:
        self._arguments = [
            *('run', str(path), '--bundle', str(options.bundle), '--out', str(folder / 'out')),
            *('--scratch', str(folder / 'scratch'), '--timeout-sec', str(options.timeout_sec)),
            *('--workers', str(options.workers), '--temporary', TEMPORARY),
        ]
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

    def wait_for(self, count: int, process: subprocess.Popen[str]) -> None:
        """Wait until so many bags have results, or the process has ended.

        Raises:
            SystemExit: neither came within ten minutes.
        """
        deadline = time.monotonic() + 600.0
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
            path, IMAGE, LABELS, segmenter, folder / 'loop', force=True
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


def kill(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kill a worker, then the driver, in the middle; run again, and compare with a whole run."""
    whole = Fleet(options, folder / 'whole', options.path)
    expected = totals_of(whole.finish(whole.start('--child', 'odd_fleet_child')))
    fleet = Fleet(options, folder / 'killed', options.path)
    process = fleet.start('--child', 'odd_fleet_child')
    count = len([*Path(options.path).iterdir()])
    fleet.wait_for(count // 4, process)
    workers = workers_of(process.pid)
    workers[0].kill()
    fleet.wait_for(count // 2, process)
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    done_before = fleet.results()
    orphans = left_of(below)
    said = fleet.finish(fleet.start('--child', 'odd_fleet_child'))
    bags = [line['bag_id'] for line in fleet.log() if line['event'] == 'bag']
    return {
        'workers_seen': len(workers),
        'done_when_the_driver_was_killed': done_before,
        'processes_left_behind': orphans,
        'bags_done_twice': len(bags) - len(set(bags)),
        'same_totals': totals_of(said) == expected,
        'statuses': said['statuses'],
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
    ray = str(Path(sys.executable).with_name('ray'))
    common = [
        *('--num-cpus', '1', '--block'),
        *('--object-store-memory', str(100 * 2**20), '--disable-usage-stats'),
    ]
    # Other addresses of loopback: Ray takes 127.0.0.1 for that of the network card.
    first, second = '127.0.0.2', '127.0.0.3'
    address = f'{first}:{port}'
    # gRPC would ask a proxy for them.
    os.environ.update(RAY_USAGE_STATS_ENABLED='0', no_proxy=f'127.0.0.1,{first},{second}')
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
    with two_nodes(folder / 'two') as (pids, address, kill_second):
        process = fleet.start('--child', 'odd_fleet_child', '--address', address)
        fleet.wait_for(len([*Path(options.path).iterdir()]) // 3, process)
        before = [len(workers_of(pid)) for pid in pids]
        kill_second()
        said = fleet.finish(process)
    return {
        'workers_by_node': before,
        'same_totals': totals_of(said) == expected,
        'statuses': said['statuses'],
        'wall_sec': said['wall_sec'],
    }


def overhead(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare the wall clock with the time that the bags took in the same run."""
    fleet = Fleet(options, folder, options.path)
    said = fleet.finish(fleet.start())
    bags = [line for line in fleet.log() if line['event'] == 'bag' and line['status'] == 'ok']
    taken = sum(line['evaluate_sec'] for line in bags)
    return {
        **said,
        'bags': len(bags),
        'shortest_bag_sec': min(line['evaluate_sec'] for line in bags),
        'bags_sec': taken,
        'ratio': said['wall_sec'] * options.workers / taken,
    }


def simulate(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run fleets of several sizes over links to one bag with an engine that returns at once."""
    found = []
    bag = make_one(options, folder)
    for count in map(int, options.sizes):
        manifest = folder / f'{count}.parquet'
        info = bag.stat()
        entries = [
            BagEntry(uri=str(bag), size=info.st_size, etag=str(index)) for index in range(count)
        ]
        rows = [{**entry.model_dump(), 'tags': ''} for entry in entries]
        manifest.write_bytes(tables.encoded_rows(rows))
        fleet = Fleet(options, folder / str(count), manifest)
        said = fleet.finish(fleet.start('--child', 'instant_fleet_child'))
        per = count / 1000
        found.append(
            {
                'bags': count,
                'ok': said['statuses']['ok'],
                'wall_sec': said['wall_sec'],
                'driver_cpu_sec': said['driver_cpu_sec'],
                'driver_cpu_sec_per_1000': said['driver_cpu_sec'] / per,
                'driver_peak_mb': said['driver_peak_mb'],
            }
        )
        shutil.rmtree(folder / str(count))
    return found


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
    }
    parser.add_argument('part', choices=('make', 'run', *parts))
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='fleet-') as name:
        folder = Path(name)
        if options.bundle is None:
            from tiny_bundle import write_tiny_bundle

            options.bundle = write_tiny_bundle(folder / 'tiny.onnx').path
        if options.part == 'make':
            said: Any = make(
                Path(options.path), Path(options.sizes[0]), options.bags, options.frames
            )
        elif options.part == 'run':
            said = run_here(options)
        else:
            if options.part == 'simulate':
                options.sizes.insert(0, options.path)
            said = parts[options.part](options, folder)
    print(json.dumps(said))


if __name__ == '__main__':
    main()
