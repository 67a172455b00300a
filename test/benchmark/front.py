r"""Time against mIoU of networks for vehicles: JSON and a page with a plot.

    python test/benchmark/front.py --out out/front                       # all networks, untrained
    python test/benchmark/front.py --out out/front --scores out/scores/*  # and trained bundles
    python test/benchmark/front.py --out out/front --precisions fp32 int8 \
        --networks deeplabv3plus:tu-tf_efficientnet_lite0:32:128@288x480

A network is ARCHITECTURE:ENCODER:OUTPUT_STRIDE:DECODER_CHANNELS@HEIGHTxWIDTH, the last its own
size, with :sum before the @ where its decoder sums. Its time does not depend on its weights: it is
exported as `training.export` does, untrained.
--scores are folders that `training.evaluate --bundle` wrote; they say which bundle was scored, and
that one is timed. Without a score a network has a time alone: nothing is guessed.

All bundles run on ONNX Runtime in turns, frame by frame. A ratio is that of a bundle's frame to
the shipped bundle's just before it, the median of all with the 10th and 90th percentile. Other
programs disturb the latencies, but with one thread hardly the CPU time of this process: where the
machine is shared, read that. int8 is calibrated on a made-up frame; which layers stay float32
depends on the weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import os
from pathlib import Path
import re
import sys
import tempfile
import time
from typing import Any, get_args

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from desertmind_seg.engines.load import load_engine
from desertmind_seg.model.bundle import IMAGE_INPUT, Bundle, read_bundle, write_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE
from desertmind_seg.options import size_hw
from desertmind_seg.reports.charts import Figure, Part, axis, figures_section
from desertmind_seg.reports.output import write_json
from desertmind_seg.reports.page import Fact, write_report
from desertmind_seg.reports.provenance import environment
from desertmind_seg.reports.tables import environment_section, table_section
from desertmind_seg.timing.engine_case import OUTPUTS, made_up_frame
from desertmind_seg.timing.graph_cost import bundle_cost
from training.bundles.precision import DEFAULT_CALIBRATION, Precision
from training.evaluation.metrics_file import Metrics, read_metrics
from training.evaluation.text import as_text, figure, interval

WARM_UP = 5
_LITE0 = 'tu-tf_efficientnet_lite0'
# One factor at a time around the first shipped network, then around one that is narrower.
NETWORKS = (
    *(f'deeplabv3plus:{_LITE0}:16:256:sum@{size}' for size in ('288x480', '320x512')),
    *(f'deeplabv3plus:{_LITE0}:32:{channels}:sum@288x480' for channels in (256, 128)),
    *(f'deeplabv3plus:{_LITE0}:32:256:sum@{size}' for size in ('320x512', '384x640')),
    *(f'deeplabv3plus:{_LITE0}:16:{channels}@288x480' for channels in (256, 128, 96, 64)),
    *(f'deeplabv3plus:{_LITE0}:32:{channels}@288x480' for channels in (256, 128, 96, 64)),
    *(f'deeplabv3plus:{_LITE0}:32:128@{size}' for size in ('320x512', '352x576', '384x640')),
    *(f'deeplabv3plus:tu-tf_efficientnet_lite{number}:32:128@288x480' for number in (1, 2)),
    'deeplabv3plus:mobilenet_v2:32:128@288x480',
    *(f'fpn:{_LITE0}:32:{channels}@288x480' for channels in (128, 64)),
    'lraspp:mobilenet_v3_large:16:128@288x480',
)
_NETWORK = re.compile(r'(\w+):([\w.-]+):(\d+):(\d+)(?::(sum))?@(\d+x\d+)')


def network(text: str) -> tuple[str, dict[str, Any]]:
    """Return a network's name, and what it changes in a recipe's model section."""
    found = _NETWORK.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f'{text!r}: expected ARCHITECTURE:ENCODER:OUTPUT_STRIDE:DECODER_CHANNELS[:sum]@HxW, '
            f'such as {NETWORKS[0]}'
        )
    architecture, encoder, stride, channels, fusion, size = found.groups()
    return text, {
        'architecture': architecture,
        'encoder': encoder,
        'output_stride': int(stride),
        'decoder_channels': int(channels),
        'decoder_fusion': fusion,
        'network_size_hw': size_hw(size),
    }


@contextmanager
def exported(
    networks: Sequence[tuple[str, dict[str, Any]]], precisions: Sequence[Precision]
) -> Iterator[list[Bundle]]:
    """Write the bundles of untrained networks, for as long as the context is open."""
    import torch

    from training.bundles.exporting import at_precision, to_onnx
    from training.networks.network import SegmentationNetwork
    from training.networks.vehicle_graph import VehicleGraph
    from training.recipes.load import parse_recipe

    shipped = read_bundle(ROOT / DEFAULT_BUNDLE).metadata
    feeds = [{IMAGE_INPUT: made_up_frame((480, 640))[None]}]
    with tempfile.TemporaryDirectory() as folder:
        bundles = []
        for number, (name, changes) in enumerate(networks):
            model = {**shipped.recipe['model'], 'frozen_encoder': 'none', **changes}
            recipe = parse_recipe({**shipped.recipe, 'model': model}, name)
            torch.manual_seed(0)
            untrained = SegmentationNetwork(recipe.model, shipped.ontology.num_classes)
            graph = VehicleGraph(untrained, shipped.ontology.costs, shipped.temperature)
            fp32 = to_onnx(graph)
            for precision in precisions:
                written, quantization = at_precision(fp32, precision, DEFAULT_CALIBRATION, feeds)
                metadata = shipped.model_copy(
                    update={
                        'name': name,
                        'network_size_hw': recipe.model.network_size_hw,
                        'precision': precision,
                        'quantization': quantization,
                        'recipe': recipe.model_dump(mode='json'),
                        'scores': {},
                        'parity': {},
                    }
                )
                path = Path(folder, f'{number}_{precision}.onnx')
                bundles.append(write_bundle(written, metadata, path))
        yield bundles


def measured(
    bundles: Sequence[Bundle], size_hw: tuple[int, int], frames: int, threads: int
) -> list[dict[str, dict[str, float]]]:
    """Time the bundles in turns, and compare each with the first one.

    Returns:
        For each bundle ``latency`` and ``cpu``: ``median_ms``, and ``ratio``, ``ratio_p10`` and
        ``ratio_p90`` to the first bundle.
    """
    rgb = made_up_frame(size_hw)
    engines = [load_engine(bundle, 'onnxruntime-cpu', threads) for bundle in bundles]
    clocks = {'latency': time.perf_counter, 'cpu': time.process_time}
    took = {name: np.empty((frames, len(engines))) for name in clocks}
    for index in tqdm(range(-WARM_UP, frames), unit='turn'):
        for number, engine in enumerate(engines):
            before = {name: clock() for name, clock in clocks.items()}
            engine.infer(rgb)
            if index >= 0:
                for name, clock in clocks.items():
                    took[name][index, number] = 1e3 * (clock() - before[name])
    for engine in engines:
        engine.close()
    found: list[dict[str, dict[str, float]]] = [{} for _ in engines]
    for name, samples in took.items():
        medians = np.median(samples, axis=0)
        low, middle, high = np.percentile(samples / samples[:, :1], (10, 50, 90), axis=0)
        for number, entry in enumerate(found):
            values = medians[number], middle[number], low[number], high[number]
            keys = ('median_ms', 'ratio', 'ratio_p10', 'ratio_p90')
            entry[name] = dict(zip(keys, map(float, values), strict=True))
    return found


def row(
    bundle: Bundle,
    times: dict[str, dict[str, float]],
    scores: Metrics | None,
    size_hw: tuple[int, int],
) -> dict[str, Any]:
    """Return a bundle's entry in the JSON: what it is, its time, and its scores or null."""
    metadata = bundle.metadata
    model = metadata.recipe['model']
    keys = ('architecture', 'encoder', 'output_stride', 'decoder_channels', 'decoder_fusion')
    scored = None
    if scores is not None:
        scored = {
            'miou_all': scores.miou_all,
            'miou_all_interval_95': scores.miou_all_interval_95,
            'false_safe_rate': scores.false_safe_rate,
            'frames': f'{scores.dataset} {scores.split}, {scores.frames}, {scores.data_hash[:8]}',
        }
    return {
        'bundle': metadata.name,
        **{key: model.get(key) for key in keys},
        'network_size_hw': list(metadata.network_size_hw),
        'precision': metadata.precision,
        'flops': sum(bundle_cost(bundle, size_hw, OUTPUTS).flops.values()),
        'bytes': bundle.path.stat().st_size,
        **times,
        'scores': scored,
    }


def cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the table as text, the header first."""
    header = ['bundle', 'precision', 'CPU time', '10 to 90 %', 'latency', '10 to 90 %', 'CPU ms']
    lines = [[*header, 'GFLOP', 'MB', 'mIoU(all)', '95 %', 'false safe']]
    for each in rows:
        scores = each['scores'] or dict.fromkeys(
            ('miou_all', 'miou_all_interval_95', 'false_safe_rate')
        )
        line = [each['bundle'], each['precision']]
        for name in ('cpu', 'latency'):
            times = each[name]
            line.append(f'{times["ratio"]:.3f}')
            line.append(f'{times["ratio_p10"]:.3f} to {times["ratio_p90"]:.3f}')
        line += [
            f'{each["cpu"]["median_ms"]:.1f}',
            f'{each["flops"] / 1e9:.1f}',
            f'{each["bytes"] / 1e6:.1f}',
            figure(scores['miou_all']),
            interval(scores['miou_all_interval_95']),
            figure(scores['false_safe_rate']),
        ]
        lines.append(line)
    return lines


def plot(rows: Sequence[dict[str, Any]]) -> list[Figure]:
    """Draw mIoU over time of what was scored, and the time of every network."""
    scored = [each for each in rows if each['scores']]
    miou = [each['scores']['miou_all'] for each in scored]
    bounds = [each['scores']['miou_all_interval_95'] or (0.0, 0.0) for each in scored]
    points: Part = {
        'type': 'scatter',
        'mode': 'markers+text',
        'x': [each['cpu']['ratio'] for each in scored],
        'y': miou,
        'text': [each['bundle'] for each in scored],
        'textposition': 'top center',
        'error_y': {
            'type': 'data',
            'symmetric': False,
            'array': [high - value for value, (_, high) in zip(miou, bounds, strict=True)],
            'arrayminus': [value - low for value, (low, _) in zip(miou, bounds, strict=True)],
        },
    }
    layout = {
        'xaxis': {**axis('CPU time, as a ratio to the shipped bundle'), 'rangemode': 'tozero'},
        'yaxis': axis('mIoU(all), 95 %'),
    }
    timed = sorted(rows, key=lambda each: -each['cpu']['ratio'])
    bars: Part = {
        'type': 'bar',
        'orientation': 'h',
        'x': [each['cpu']['ratio'] for each in timed],
        'y': [f'{each["bundle"]} {each["precision"]}' for each in timed],
    }
    times = {'xaxis': axis('CPU time, as a ratio'), 'yaxis': {'automargin': True}}
    front = [Figure('mIoU over time', [points], layout, 380)] if scored else []
    return [*front, Figure('time of every network', [bars], times, 60 + 24 * len(timed))]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, required=True, help='folder for front.json and .html')
    parser.add_argument(
        '--networks', type=network, nargs='*', default=[network(text) for text in NETWORKS]
    )
    parser.add_argument(
        '--precisions', nargs='+', choices=get_args(Precision), default=['fp32'], help='of these'
    )
    parser.add_argument('--scores', type=Path, nargs='*', default=[], metavar='FOLDER')
    parser.add_argument('--size', type=size_hw, default=(480, 640), help="camera's: 480x640")
    parser.add_argument('--frames', type=int, default=50, help='of each bundle (default: 50)')
    parser.add_argument('--threads', type=int, default=1, help='default: 1')
    arguments = parser.parse_args()

    scores = {Path(found.model or ''): found for found in map(read_metrics, arguments.scores)}
    shipped = ROOT / DEFAULT_BUNDLE
    trained = [read_bundle(shipped)]
    trained += [read_bundle(path) for path in scores if path.resolve() != shipped]
    by_path = {path.resolve(): found for path, found in scores.items()}
    load_before = os.getloadavg()[0]
    with exported(arguments.networks, arguments.precisions) as untrained:
        bundles = [*trained, *untrained]
        times = measured(bundles, arguments.size, arguments.frames, arguments.threads)
        rows = [
            row(bundle, took, by_path.get(bundle.path.resolve()), arguments.size)
            for bundle, took in zip(bundles, times, strict=True)
        ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    made_on = environment()
    result = {
        'size_hw': list(arguments.size),
        'threads': arguments.threads,
        'frames': arguments.frames,
        'load_average': {'before': load_before, 'after': os.getloadavg()[0]},
        'networks': rows,
        'environment': made_on,
    }
    write_json(arguments.out / 'front.json', result)
    note = (
        f'One frame of {arguments.size[0]}x{arguments.size[1]}, {arguments.threads} thread(s), '
        f'{arguments.frames} frames of each bundle, in turns. '
        f'Ratios are to {shipped.name}; whiskers are 95 % over blocks of frames.'
    )
    write_report(
        arguments.out / 'front.html',
        'Time against mIoU',
        [shipped.name],
        [Fact('networks', str(len(rows)), f'{len(scores)} of them scored')],
        [
            figures_section('Front', plot(rows), note),
            table_section('Networks', cells(rows)),
            environment_section(made_on),
        ],
    )
    print(as_text(cells(rows)))
    print(arguments.out / 'front.json', arguments.out / 'front.html', sep='\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
