"""What a number format gains on the CPU, and what surrounds the network there; prints JSON.

    python test/benchmark/precision_ratio.py                     # the shipped bundles at 480x640
    python test/benchmark/precision_ratio.py --checkpoint out/ycor8_rgb/averaged.pt --frames 60
    python test/benchmark/precision_ratio.py --size 720 1280

The same frames go in turn through torch eager (channels-last, inference mode, with the same pre-
and post-processing; only with --checkpoint), the fp32 bundle and the int8 bundle, each with as
many threads, so that all see the same machine. The ratios are those of the median latencies: fp32
over torch must be at most 0.60, int8 over fp32 at most 0.75; exit status 1 above. Other programs
disturb the latencies, but with one thread hardly `cpu_ms`, the CPU time of this process.

`around the network` is the share of the fp32 bundle's time that pre- and post-processing take: one
less the time of the network alone, between what its first convolution reads and what its last one
gives, on the same frames. It must be at most 0.20.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import os
from pathlib import Path
import sys
import time
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from desertmind_seg.engines.load import load_engine
from desertmind_seg.model.bundle import IMAGE_INPUT, read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE
from training.bundles.quantization import network_feeds, network_model
from training.networks.checkpoint import environment, load_checkpoint
from training.networks.vehicle_graph import VehicleGraph

WARM_UP = 5
LIMITS = {'fp32 / torch': 0.60, 'int8 / fp32': 0.75}
MAX_AROUND_NETWORK = 0.20
Infer = Callable[[npt.NDArray[np.uint8]], None]


def with_bundle(path: Path, threads: int) -> Infer:
    engine = load_engine(read_bundle(path), 'onnxruntime-cpu', threads)

    def infer(rgb: npt.NDArray[np.uint8]) -> None:
        engine.infer(rgb)

    return infer


def network_alone(path: Path, threads: int, shown: list[npt.NDArray[np.uint8]]) -> Infer:
    """Take the frames in the order in which they are shown."""
    model = onnx.load(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        network_model(model).SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    feeds = iter(network_feeds(model, [{IMAGE_INPUT: rgb[None]} for rgb in shown]))

    def infer(_rgb: npt.NDArray[np.uint8]) -> None:
        session.run(None, dict(next(feeds)))

    return infer


def with_torch(path: Path, threads: int) -> Infer:
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(path)
    costs = checkpoint.parsed_ontology().costs
    network = checkpoint.network().drop_depth_head().to(memory_format=torch.channels_last)
    graph = VehicleGraph(network, costs, checkpoint.temperature).eval()

    def infer(rgb: npt.NDArray[np.uint8]) -> None:
        with torch.inference_mode():
            for tensor in graph(torch.from_numpy(rgb)[None])[:2]:
                tensor.numpy()

    return infer


def frames(size_hw: tuple[int, int], count: int) -> list[npt.NDArray[np.uint8]]:
    """Smooth random frames; what is in them does not change the time."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 9, 13, 3), np.uint8)
    return [np.ascontiguousarray(cv2.resize(frame, size_hw[::-1]), np.uint8) for frame in coarse]


def measure(methods: dict[str, Infer], shown: list[npt.NDArray[np.uint8]]) -> dict[str, Any]:
    wall: dict[str, list[float]] = {name: [] for name in methods}
    cpu: dict[str, list[float]] = {name: [] for name in methods}
    for index, rgb in enumerate(shown):
        for name, infer in methods.items():
            before, cpu_before = time.perf_counter(), time.process_time()
            infer(rgb)
            took, cpu_took = time.perf_counter() - before, time.process_time() - cpu_before
            if index >= WARM_UP:
                wall[name].append(1e3 * took)
                cpu[name].append(1e3 * cpu_took)
    return {
        name: {
            'latency_ms': {f'p{p}': float(np.percentile(wall[name], p)) for p in (50, 95)},
            'cpu_ms': float(np.median(cpu[name])),
        }
        for name in methods
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--fp32', type=Path, default=ROOT / DEFAULT_BUNDLE)
    parser.add_argument('--int8', type=Path, default=ROOT / 'models/ycor8_rgb_int8.onnx')
    parser.add_argument('--checkpoint', type=Path, help='of the same network, for torch eager')
    parser.add_argument('--frames', type=int, default=40, help='default: 40')
    parser.add_argument('--threads', type=int, default=1, help='default: 1')
    parser.add_argument('--size', type=int, nargs=2, default=(480, 640), metavar=('H', 'W'))
    arguments = parser.parse_args()

    methods = {
        name: with_bundle(path, arguments.threads)
        for name, path in (('fp32', arguments.fp32), ('int8', arguments.int8))
    }
    if arguments.checkpoint is not None:
        methods['torch'] = with_torch(arguments.checkpoint, arguments.threads)
    shown = frames(tuple(arguments.size), WARM_UP + arguments.frames)
    methods['network'] = network_alone(arguments.fp32, arguments.threads, shown)
    found = measure(methods, shown)
    whole, network = found['fp32'], found['network']
    around = {
        'latency': 1 - network['latency_ms']['p50'] / whole['latency_ms']['p50'],
        'cpu': 1 - network['cpu_ms'] / whole['cpu_ms'],
        'limit': MAX_AROUND_NETWORK,
    }
    pairs = [pair for pair in LIMITS if set(pair.split(' / ')) <= set(methods)]
    ratios = {}
    for pair in pairs:
        above, below = (found[name] for name in pair.split(' / '))
        ratios[pair] = {
            'latency': above['latency_ms']['p50'] / below['latency_ms']['p50'],
            'cpu': above['cpu_ms'] / below['cpu_ms'],
            'limit': LIMITS[pair],
        }
    result = {
        'size_hw': list(arguments.size),
        'threads': arguments.threads,
        'frames': arguments.frames,
        'methods': found,
        'ratios': ratios,
        'around the network': around,
        'load_average': os.getloadavg()[0],
        'environment': environment(),
    }
    print(json.dumps(result, indent=2))
    return int(any(row['latency'] > row['limit'] for row in (*ratios.values(), around)))


if __name__ == '__main__':
    sys.exit(main())
