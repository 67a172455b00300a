"""Every kind of page that the commands write, from tiny data: what a browser has to show."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
import sys
from types import SimpleNamespace
from unittest.mock import patch

import cv2
import numpy as np
from tiny_bag import DEPTH_TOPIC, IMAGE_TOPIC, LABEL_TOPIC, DepthShot, TinyDrive, write_drive
from tiny_bundle import write_tiny_bundle

from desertmind_seg import benchmark, evaluate_bag
from desertmind_seg.evaluation.pictures import FrameSources
from desertmind_seg.evaluation.results import EvaluationMetrics, Percentiles
from desertmind_seg.messages.bags import Bag
from desertmind_seg.model.ontology import Ontology, load_ontology
from desertmind_seg.replay.page import write_replay_report
from desertmind_seg.replay.player import PlayStatistics
from desertmind_seg.replay.results import (
    NodeMetrics,
    NodeStatus,
    PlayMetrics,
    ReplayFrames,
    ReplayLatency,
    ReplayMetrics,
)
from desertmind_seg.replay.through_node import Replay
from desertmind_seg.replay.video import VIDEO, write_video
from desertmind_seg.reports.provenance import environment
from desertmind_seg.scores.split_scores import SplitScores
from desertmind_seg.timing import cases as cases_module
from desertmind_seg.timing import limits
from desertmind_seg.timing.engine_case import TimedEngine
from training import audit
from training.data.frames import LabelledFrame
from training.evaluation import comparison
from training.evaluation.evaluation_report import write_evaluation_report
from training.evaluation.metrics_file import DepthCurve, DepthPoint, Metrics, write_metrics
from training.evaluation.run_report import write_run_report
from training.evaluation.score import score_frames
from training.recipes.schema import Recipe

YCOR8, GOOSE = load_ontology('ycor-8'), load_ontology('goose-64')
CURVES = """\
epoch,lr-AdamW/pg1,lr-AdamW/pg2,step,train_loss,val_iou/sky,val_iou/obstacle,val_loss,val_miou_all
,0.001,0.0004,0,,,,,
0,,,0,2.5,,,,
0,,,1,,0.4,0.1,2.0,0.2
,0.0005,0.0002,2,,,,,
1,,,2,1.5,,,,
1,,,3,,0.6,0.2,1.4,0.3
"""


def _drive(**changes: object) -> TinyDrive:
    """A drive past a box of 0.6 m at 3 m, with depth."""
    rows, columns = np.mgrid[:66, :90]
    depth_m = 60.0 / np.maximum(rows - 33.0, 0.1)
    depth_m[rows < 36] = 0.0
    depth_m[(rows >= 41) & (rows < 53) & (columns >= 35) & (columns < 55)] = 3.0
    millimetres = (1000 * depth_m).astype(np.uint16)
    shots = tuple(DepthShot(100.0 * index, millimetres) for index in range(5))
    drive = {'num_frames': 6, 'depth': shots, 'focal_px': 60.0, **changes}
    return TinyDrive(**drive)  # type: ignore[arg-type]


def _evaluate(drive: Path, out: Path, *more: str) -> Path:
    arguments = [str(drive), '--image', IMAGE_TOPIC, '--backend', 'onnxruntime-cpu']
    assert evaluate_bag.main([*arguments, '--out', str(out), *more]) in (0, 1)
    return out / 'report.html'


def evaluations(folder: Path) -> dict[str, Path]:
    """Colour alone with bad frames; and two models over colour, depth and labels."""
    rgb = str(write_tiny_bundle(folder / 'rgb.onnx').path)
    rgbd = str(write_tiny_bundle(folder / 'rgbd.onnx', modality='rgbd', temperature=3.0).path)
    broken = write_drive(folder / 'broken', _drive(broken={2: {'encoding': 'yuv9'}}))
    whole = write_drive(folder / 'drive', _drive(broken_labels={5: {'encoding': 'yuv9'}}))
    both = ('--labels', LABEL_TOPIC, '--depth', DEPTH_TOPIC, '--against', rgb)
    return {
        'evaluate_bag': _evaluate(broken, folder / 'colour', '--bundle', rgb),
        'evaluate_bag, RGB-D': _evaluate(whole, folder / 'both', '--bundle', rgbd, *both),
    }


def replay(folder: Path, drive: Path, evaluated: Path) -> Path:
    """What a replay would write of masks that came from evaluate_bag."""
    folder.mkdir()
    found = EvaluationMetrics.model_validate_json((evaluated / 'metrics.json').read_text())
    document = found.model_dump(by_alias=True, include=set(ReplayMetrics.model_fields))
    latencies = [40.0, 42.0, 45.0, 39.0, 60.0]
    log = 'health: Engine says: no GPU; ' * 4
    values = {'published': '5', 'dropped_no_depth_in_time_for_the_frame': '1', 'engine': 'ort'}
    metrics = ReplayMetrics.model_validate(
        {
            **document,
            'command': 'replay_bag',
            'frames': ReplayFrames(
                in_=6,
                out=5,
                dropped=1,
                repeated_stamps=0,
                damaged=0,
                refused=0,
                lost=0,
                dropped_by_reason={'superseded': 1},
                first_dropped_ns=[1],
                without_confidence=0,
            ),
            'latency_ms': ReplayLatency(publish_to_mask=Percentiles.of(latencies)),
            'depth': None,
            'hazards': None,
            'play': PlayMetrics(rate=1.0, max_late_ms=2.0),
            'node': NodeMetrics(
                exit_status=0,
                diagnostics={
                    'segmentation: Input': NodeStatus(level=0, message='ok', values=values),
                    'segmentation: Engine': NodeStatus(level=1, message=log, values=values),
                },
            ),
        }
    )
    with Bag(drive) as bag, Bag(evaluated / 'masks') as masks:
        times = {raw.stamp_ns(): raw.log_time_ns for raw in bag.messages(IMAGE_TOPIC)}
        stamps = sorted(times)
        sources = FrameSources(bag, IMAGE_TOPIC, [masks], times)
        frames = sources.read([(stamp, 'now') for stamp in stamps[:2]])
        write_video(folder / VIDEO, bag, IMAGE_TOPIC, masks, stamps[:5], YCOR8)
    played = PlayStatistics()
    result = Replay(stamps, 0, 0, 0, stamps[:5], times, latencies, 0, [], {}, played, 0)
    page = folder / 'report.html'
    write_replay_report(page, metrics, result, YCOR8, frames, frames, video=True)
    return page


def timed(folder: Path) -> Path:
    """Two bundles on the CPU, one of them also on a GPU that is not there."""
    bundles = [
        write_tiny_bundle(folder / f'{name}.onnx').path for name in ('first', 'a_much_longer_name')
    ]
    here = SimpleNamespace(TimedEngine=TimedEngine)
    with (
        patch.object(cases_module, '_engine_process', lambda: nullcontext(here)),
        patch.object(limits, '_SECONDS_A_SAMPLE', 0.0),
        patch.object(limits, '_COPY_BYTES', 2**20),
    ):
        backends = ['--backend', 'onnxruntime-cpu', 'onnxruntime-cuda', '--size', '64x96']
        few = ['--frames', '5', '--num-threads', '1', '--out', str(folder / 'timed')]
        assert benchmark.main([*map(str, bundles), *backends, *few]) in (0, 1)
    return folder / 'timed/report.html'


def audited(folder: Path) -> Path:
    """A set with depth, a fault, a warning, and one picture on both sides of the split."""
    for number in range(6):
        labels = np.full((48, 64), 8, np.uint8)
        labels[16:], labels[40:] = 1 + number % 2, 0
        if number == 1:
            labels[0, :7] = 77
        coarse = np.random.default_rng(number % 5).integers(0, 256, (6, 8, 3), np.uint8)
        picture = cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC)
        depth = np.full((48, 64), 2000 + 100 * number, np.uint16)
        depth[:12] = 0
        for name, pixels in (('images', picture), ('masks', labels), ('depth', depth)):
            if (name, number) == ('depth', 2):
                continue
            path = folder / f'set/{name}/{number}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), pixels)
    arguments = ['--dataset', 'folder', '--root', str(folder / 'set'), '--ontology', 'ycor-8']
    split = ['--block-frames', '2', '--val-every-groups', '3', '--out', str(folder / 'audit')]
    assert audit.main([*arguments, *split]) == 1
    return folder / 'audit/report.html'


def trained(folder: Path, recipe: Recipe, frames: list[LabelledFrame]) -> Path:
    """A run with curves, and a parent that was worse."""
    folder.mkdir()

    def spoilt(share: float) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        def predict(rgb: np.ndarray, depth: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
            del depth
            colors = YCOR8.colors_rgb[:8].astype(int)
            distance = np.abs(rgb[:, :, None].astype(int) - colors).sum(axis=3)  # (H, W, 8)
            mask = distance.argmin(axis=2).astype(np.uint8)
            mask[:, : round(share * mask.shape[1])] = 4
            return mask, np.full_like(mask, 200)

        return predict

    runs = {
        name: _metrics(
            dict(score_frames(frames, YCOR8, spoilt(share))),
            YCOR8,
            recipe={**recipe.model_dump(mode='json'), 'name': name, 'seed': round(10 * share)},
            epochs=2,
            steps=4,
            class_bias=[0.1] * 8,
        )
        for name, share in (('mother', 0.4), ('child', 0.1))
    }
    child = recipe.model_copy(update={'name': 'child', 'parent': 'mother'})
    (folder / 'metrics.csv').write_text(CURVES)
    parts = (runs['child'], child, frames, spoilt(0.1), YCOR8, runs['mother'])
    write_run_report(folder, *parts)
    return folder / 'report.html'


def _metrics(scores: dict[str, object], ontology: Ontology, **more: object) -> Metrics:
    fixed = {
        **{'recipe': {'name': 'some', 'parent': 'none'}, 'ontology': ontology.name},
        **{'ontology_sha256': ontology.sha256, 'dataset': 'ycor', 'split': 'val'},
        **{'split_rule': 'every third block', 'data_hash': 'a' * 64},
    }
    return Metrics.model_validate({**fixed, **scores, 'environment': environment(), **more})


def _scores(ontology: Ontology, wrong: int) -> dict[str, object]:
    scores = SplitScores(ontology)
    for number in range(4):
        truth = np.arange(ontology.num_classes, dtype=np.uint8).repeat(20)[None]
        mask = np.roll(truth, wrong + number)
        scores.add(f'frame {number}', f'b{number}', truth, mask, np.full_like(truth, 200))
    return dict(scores.metrics())


def scored(folder: Path) -> dict[str, Path]:
    """An evaluation with depth, one with 64 classes, and a table of both."""
    folder.mkdir()

    def point(share: float) -> DepthPoint:
        around = (0.25 + share / 8, 0.27 + share / 8)
        return DepthPoint(
            kept_share=share,
            valid_share=0.6 * share,
            miou_all=sum(around) / 2,
            miou_all_interval_95=around,
            pixel_accuracy=0.8,
            false_safe_rate=0.1 - 0.05 * share,
            against_none=share / 8,
            against_none_interval_95=(0.1 * share, 0.15 * share) if share else None,
        )

    points = [point(share) for share in (0.0, 0.5, 1.0)]
    curve = DepthCurve(
        dataset='synthetic', root='drives', frames=9, blocks=3, data_hash='a' * 64, points=points
    )
    few = _metrics(_scores(YCOR8, 3), YCOR8, model='models/few.onnx', depth_curve=curve)
    write_evaluation_report(folder / 'few.html', few, YCOR8)
    many = _metrics(_scores(GOOSE, 5), GOOSE, model='models/many_classes.onnx')
    write_evaluation_report(folder / 'many.html', many, GOOSE)
    names = ['ycor8_rgb_with_a_long_name', 'ycor8_rgbd']
    for name, wrong in zip(names, (2, 5), strict=True):
        (folder / name).mkdir()
        write_metrics(folder / name / 'metrics.json', _metrics(_scores(YCOR8, wrong), YCOR8))
    compared = comparison.compare_runs([folder / name for name in names])
    comparison.write(folder / 'compared.html', compared)
    return {
        'training.evaluate': folder / 'few.html',
        'training.evaluate, 64 classes': folder / 'many.html',
        'training.compare': folder / 'compared.html',
    }


def soaked(out: Path) -> Path:
    """A soak that did not hold."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'soak'))
    import measurements  # noqa: PLC0415
    import run  # noqa: PLC0415

    samples = [
        measurements.Sample(
            float(second), 400.0 + second, 70.0, 26, 22, 300.0, 20 * second, 10 * second, 0
        )
        for second in range(60)
    ]
    findings = [
        measurements.Finding('slope of RSS after warm-up', '60.0 MB/h', '2.0 MB/h', held=False),
        measurements.Finding('threads, first and last tenth', '26, 26', 'no more', held=True),
    ]
    run.write_results(out, SimpleNamespace(samples=samples, rests=[]), findings, 10.0, 20.0)
    return out / 'report.html'


def every_page(folder: Path, recipe: Recipe, frames: list[LabelledFrame]) -> dict[str, Path]:
    """Write every kind of page; return them by the command that writes them."""
    evaluated = evaluations(folder)
    return {
        **evaluated,
        'replay_bag': replay(folder / 'replay', folder / 'drive', folder / 'both'),
        'benchmark': timed(folder),
        'training.audit': audited(folder),
        'training.train': trained(folder / 'run', recipe, frames),
        **scored(folder / 'scored'),
        'soak': soaked(folder / 'soak'),
    }
