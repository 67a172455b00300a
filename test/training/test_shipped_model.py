"""The shipped models score what their cards say, on real frames that they were not trained on."""

from collections.abc import Sequence
import json
from pathlib import Path

import numpy as np
import pytest

from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.protocol import Engine
from desertmind_seg.evaluate_bag import main as evaluate_bag
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE
from desertmind_seg.pipeline.temporal import ALPHA
from desertmind_seg.scores.confusion import ConfusionMatrix
from training.bundles.parity import (
    CAMERA_SIZES_HW,
    broken_limit,
    frame_inputs,
    frame_labels,
)
from training.data.datasets import choose_frames, split_rule
from training.data.frames import LabelledFrame
from training.evaluate import main
from training.recipes.schema import DatasetSection
from training.synthetic import main as synthetic

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / 'models').glob('*.onnx'))


@pytest.mark.data
@pytest.mark.slow
def test_the_runtime_reproduces_the_card(shared_data_dir: Path, tmp_path: Path) -> None:
    bundle = ROOT / DEFAULT_BUNDLE
    arguments = ['--dataset', 'ycor', '--root', str(shared_data_dir / 'ycor'), '--split', 'val']
    assert main(['--bundle', str(bundle), *arguments, '--out', str(tmp_path)]) == 0
    found = json.loads((tmp_path / 'metrics.json').read_text())
    promised = read_bundle(bundle).metadata.scores
    # The card was measured with torch, the runtime is ONNX Runtime: 0.05 % of pixels may differ.
    assert found['miou_all'] == pytest.approx(promised['miou_all'], abs=1e-3)
    assert found['ece'] == pytest.approx(promised['ece'], abs=1e-3)
    assert found['miou_all'] >= 0.5


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_the_bundle_passed_the_parity_check(path: Path) -> None:
    metadata = read_bundle(path).metadata
    assert broken_limit(metadata.parity, metadata.precision) is None
    assert metadata.parity['frames'] >= 8
    assert set(metadata.parity['pixel_agreement_by_size']) == {
        f'{height}x{width}' for height, width in CAMERA_SIZES_HW
    }
    assert 0.0 <= metadata.parity['confidence_mean_difference'] < 0.02


@pytest.mark.data
@pytest.mark.slow
def test_the_int8_bundle_differs_as_its_parity_check_found(shared_data_dir: Path) -> None:
    """Two figures of the parity check again, from the two bundles alone.

    That compared with torch, whose weights are not shipped. The fp32 bundle agrees with torch
    on all but 0.001 % of the pixels, so it stands in for it.
    """
    bundle = read_bundle(ROOT / 'models/ycor8_rgb_int8.onnx')
    parity, ontology = bundle.metadata.parity, bundle.metadata.ontology
    rule = split_rule(bundle.metadata.recipe)
    assert rule is not None
    section = DatasetSection(
        dataset='ycor', root=str(shared_data_dir / 'ycor'), split='val', repeat=1
    )
    frames, _ = choose_frames(section, ontology, rule, 'auto')
    assert len(frames) == parity['frames']
    size_hw = CAMERA_SIZES_HW[0]
    shown = f'{size_hw[0]}x{size_hw[1]}'
    int8 = load_engine(bundle, 'onnxruntime-cpu')
    fp32 = load_engine(read_bundle(ROOT / DEFAULT_BUNDLE), 'onnxruntime-cpu')
    scores = ConfusionMatrix(ontology)
    agreement = []
    for index, frame in enumerate(frames):
        rgb, _ = frame_inputs(frame, size_hw, with_depth=False)
        mask = int8.infer(rgb, outputs=('mask',))['mask']
        scores.add(frame_labels(frame, size_hw, ontology), mask)
        if index % 8 == 0:  # the fp32 bundle is the slower one
            agreement.append((mask == fp32.infer(rgb, outputs=('mask',))['mask']).mean())
    # Another CPU rounds elsewhere; one without VNNI would saturate and lose more.
    assert scores.miou_present == pytest.approx(parity['miou_by_size'][shown], abs=3e-3)
    # Every 8th frame stands for all.
    found = parity['pixel_agreement_by_size'][shown]
    assert np.mean(agreement) == pytest.approx(found, abs=6e-3)


@pytest.mark.slow
def test_the_temporal_filter_lowers_flicker_and_not_the_score(tmp_path: Path) -> None:
    drive, out, bundle = str(tmp_path / 'drive'), tmp_path / 'out', str(ROOT / DEFAULT_BUNDLE)
    # A drive that the model was not trained on.
    rendered = ['--bag', drive, '--seed', '9001', '--frames', '12', '--size', '240x320']
    assert synthetic(rendered) == 0
    topics = ['--image', '/camera/color/image_raw', '--labels', '/labels/ycor_8']
    models = ['--bundle', bundle, '--temporal-alpha', str(ALPHA), '--against', bundle]
    backend = ['--backend', 'onnxruntime-cpu']
    assert evaluate_bag([drive, *topics, *models, *backend, '--out', str(out)]) == 0
    metrics = json.loads((out / 'metrics.json').read_text())
    rows = {row['score']: row for row in metrics['against']['comparison']['differences']}
    assert rows['flicker']['first'] < 0.8 * rows['flicker']['second']
    assert rows['miou_present']['difference'] > -0.005


def _miou(engine: Engine, frames: Sequence[LabelledFrame], *, with_depth: bool) -> float:
    """Score frames by mIoU at their own size, with their depth or with all of it missing."""
    ontology = engine.bundle.metadata.ontology
    takes_depth = engine.bundle.metadata.modality == 'rgbd'
    scores = ConfusionMatrix(ontology)
    for frame in frames:
        rgb = frame.read_rgb()
        depth = frame.read_depth() if with_depth else np.zeros(rgb.shape[:2], np.float32)
        mask = engine.infer(rgb, depth if takes_depth else None, outputs=('mask',))['mask']
        scores.add(frame.read_labels(ontology), mask)
    return scores.miou_present


@pytest.fixture(scope='module')
def rgb_and_rgbd() -> tuple[Engine, Engine]:
    """The engines of the RGB default and of the RGB-D model."""
    paths = (ROOT / DEFAULT_BUNDLE, ROOT / 'models/ycor8_rgbd.onnx')
    rgb, rgbd = (load_engine(read_bundle(path), 'onnxruntime-cpu') for path in paths)
    assert rgbd.bundle.metadata.modality == 'rgbd'
    return rgb, rgbd


@pytest.mark.data
def test_without_depth_the_rgbd_model_is_as_good_as_the_default(
    shared_data_dir: Path, rgb_and_rgbd: tuple[Engine, Engine]
) -> None:
    rgb, rgbd = rgb_and_rgbd
    promised = [engine.bundle.metadata.scores['miou_all'] for engine in rgb_and_rgbd]
    assert promised[1] >= promised[0] - 0.01  # of all 147 frames, as the cards say
    section = DatasetSection(
        dataset='ycor', root=str(shared_data_dir / 'ycor'), split='val', repeat=1
    )
    rule = split_rule(rgbd.bundle.metadata.recipe)
    assert rule is not None
    frames, _ = choose_frames(section, rgb.bundle.metadata.ontology, rule, 'recipe')
    some = frames[::8]
    found = [_miou(engine, some, with_depth=False) for engine in rgb_and_rgbd]
    # Only filters for depth were trained, and these see none.
    assert found[1] == pytest.approx(found[0], abs=1e-3), found


def test_with_depth_the_rgbd_model_beats_the_default_on_drives_that_neither_has_seen(
    rgb_and_rgbd: tuple[Engine, Engine],
) -> None:
    rgb, rgbd = rgb_and_rgbd
    ontology = rgb.bundle.metadata.ontology
    # The training drives have the seeds 100 to 139 and 2000 to 2037, the model card's 900 to 923.
    root = 'seeds:960:962?frames=3&rate_hz=0.5&size=240x320'
    section = DatasetSection(dataset='synthetic', root=root, split='all', repeat=1)
    rule = split_rule(rgbd.bundle.metadata.recipe)
    assert rule is not None
    frames, _ = choose_frames(section, ontology, rule, 'recipe')
    default, without = (_miou(engine, frames, with_depth=False) for engine in rgb_and_rgbd)
    with_depth = _miou(rgbd, frames, with_depth=True)
    assert without == pytest.approx(default, abs=1e-3)
    assert with_depth > without + 0.001, (with_depth, without)
    curve = rgbd.bundle.metadata.scores['depth_curve']['points']
    assert [point['kept_share'] for point in curve] == [0.0, 0.25, 0.5, 0.75, 1.0]
    gains = [point['against_none'] for point in curve]
    assert gains == sorted(gains)  # more depth, better masks
    assert (
        rgbd.bundle.metadata.scores['depth_curve']['points'][-1]['against_none_interval_95'][0] > 0
    )
