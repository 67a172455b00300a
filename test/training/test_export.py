"""A checkpoint becomes a bundle that computes what torch computes, or nothing is written."""

from dataclasses import replace
import json
from pathlib import Path
import shutil
from typing import get_args

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from tiny_model import EXPORTED, Named, model_section, run, settled, torch_outputs, traced
from tiny_rgbd import (
    tiny_rgbd_checkpoint,
    tiny_rgbd_recipe,
    widened_checkpoint,
    write_tiny_depth,
    write_tiny_nyuv2,
)
import torch
from torch import nn

from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.onnxruntime import OnnxRuntimeEngine
from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.model.bundle import MAX_SIZE_HW, MIN_SIZE_HW, read_bundle
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.pipeline.temporal import TemporalFilter, decide
from training import evaluate, export
from training.bundles import exporting
from training.bundles.frame_choice import calibration_frames, parity_frames
from training.bundles.parity import (
    MIN_PIXEL_AGREEMENT,
    broken_limit,
    made_up_depth,
    what_to_try,
)
from training.bundles.precision import Precision, PrecisionError
from training.networks.checkpoint import Checkpoint, save_checkpoint
from training.networks.network import SegmentationNetwork
from training.networks.vehicle_graph import VehicleGraph

pytestmark = pytest.mark.usefixtures('traced_once')


def test_the_bundle_describes_itself(exported: Path, trained: tuple[Checkpoint, Path]) -> None:
    metadata = read_bundle(exported).metadata
    assert metadata.name == 'tiny'
    assert metadata.ontology.name == 'ycor-8'
    assert metadata.network_size_hw == (64, 96)
    assert metadata.temperature == trained[0].temperature
    assert metadata.data_hash == trained[0].data_hash
    assert metadata.scores['miou_all'] == trained[0].scores['miou_all']
    assert metadata.datasets[0]['licence'].endswith('research only')
    assert metadata.parity['pixel_agreement'] >= MIN_PIXEL_AGREEMENT['fp32']
    assert metadata.parity['frames'] == 2
    assert metadata.parity['dataset'] == 'ycor'
    assert metadata.modality == 'rgb'
    assert metadata.depth_range_m is None
    assert set(metadata.parity['pixel_agreement_by_size']) == {'480x640', '720x1280', '543x1023'}


@pytest.mark.parametrize(
    'size_hw', [MIN_SIZE_HW, (65, 127), (64, 3840), (2159, 65), MAX_SIZE_HW], ids=str
)
def test_any_camera_size_gives_a_mask_of_that_size(
    exported: Path, trained: tuple[Checkpoint, Path], size_hw: tuple[int, int]
) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
    engine = load_engine(read_bundle(exported), 'onnxruntime-cpu')
    out = engine.infer(rgb, outputs=('mask', 'confidence', 'cost'))
    checkpoint = trained[0]
    graph = VehicleGraph(
        checkpoint.network(), checkpoint.parsed_ontology().costs, checkpoint.temperature
    )
    with torch.inference_mode():
        mask, confidence, cost, probabilities = (
            x[0].numpy() for x in graph(torch.from_numpy(rgb)[None])
        )
    assert out['mask'].shape == size_hw
    assert (out['mask'] == mask).mean() >= MIN_PIXEL_AGREEMENT['fp32']
    assert np.abs(out['confidence'].astype(int) - confidence).max() <= 1
    assert np.abs(out['cost'].astype(int) - cost).max() <= 1
    found = engine.infer(rgb, outputs=('probabilities',))['probabilities']
    assert found.shape == (8, 64, 96)
    assert np.abs(found.astype(int) - probabilities).max() <= 1


def test_a_graph_that_disagrees_is_not_written(
    trained: tuple[Checkpoint, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    honest = OnnxRuntimeEngine.infer

    def wrong_at_the_left(
        self: OnnxRuntimeEngine, *arguments: object, **named: object
    ) -> dict[str, npt.NDArray[np.uint8]]:
        out = honest(self, *arguments, **named)  # type: ignore[arg-type]
        out['mask'][:, :9] = (out['mask'][:, :9] + 1) % 8
        return out

    monkeypatch.setattr(OnnxRuntimeEngine, 'infer', wrong_at_the_left)
    out = tmp_path / 'tiny.onnx'
    checkpoint = str(trained[1] / 'checkpoint.pt')
    assert export.main([checkpoint, '--out', str(out)]) == 2
    message = capsys.readouterr().err
    assert 'of pixels agree with torch fp32, CPU, expected at least 99.95%' in message
    assert 'it is an error of the export, please report it' in message
    assert '{' not in message
    picture = tmp_path / 'tiny.worst_frame.png'
    assert str(picture) in message
    assert list(tmp_path.iterdir()) == [picture]
    # Torch's mask, the bundle's, and where they differ: nowhere but in the first nine columns.
    bgr = cv2.imread(str(picture))
    assert bgr is not None
    apart = bgr[:, 2 * bgr.shape[1] // 3 :].any(axis=2)
    assert apart[:, :9].mean() > 0.8
    assert apart[:, 9:].mean() < 0.001


def check_filter_without_history(path: Path, checkpoint: Checkpoint) -> None:
    """Compare what the temporal filter makes of one frame alone with what the graph makes."""
    bundle = read_bundle(path)
    assert bundle.outputs == ('mask', 'confidence', 'cost', 'probabilities')
    engine = load_engine(bundle, 'onnxruntime-cpu')
    frame = parity_frames(checkpoint, None, None, 'fp32')[0].read_rgb()
    for size_hw in ((480, 640), (543, 1023), (65, 127)):
        rgb = np.ascontiguousarray(cv2.resize(frame, size_hw[::-1]), np.uint8)
        plain, filtered = (
            Segmenter(engine, temporal=temporal).segment(rgb, ('mask', 'confidence', 'cost'))
            for temporal in (None, TemporalFilter(0.5))
        )
        planes = engine.infer(rgb, outputs=('probabilities',))['probabilities']
        check_decisions(planes, plain.mask, filtered.mask)
        assert np.array_equal(plain.confidence, filtered.confidence)
        assert np.abs(plain.cost.astype(int) - filtered.cost).max() <= 4


def check_decisions(
    probabilities: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    filtered: npt.NDArray[np.uint8],
) -> None:
    """Of classes that are equally probable to 1/255 the graph may take another than the filter."""
    rows, columns = (
        np.arange(side) * small // side
        for side, small in zip(mask.shape, probabilities.shape[1:], strict=True)
    )
    planes = probabilities[:, rows[:, None], columns]
    assert np.array_equal(planes.argmax(axis=0), filtered)
    taken = np.take_along_axis(planes, mask[None], axis=0)[0]
    assert np.array_equal(taken, planes.max(axis=0))


def test_the_filter_without_history_decides_as_the_graph(
    exported: Path, trained: tuple[Checkpoint, Path]
) -> None:
    check_filter_without_history(exported, trained[0])


@pytest.mark.parametrize('precision', ['fp16', 'int8'])
def test_other_precisions_pass_the_same_check(
    trained: tuple[Checkpoint, Path], tmp_path: Path, precision: Precision
) -> None:
    out = tmp_path / 'tiny.onnx'
    checkpoint = str(trained[1] / 'checkpoint.pt')
    assert export.main([checkpoint, '--precision', precision, '--out', str(out)]) == 0
    metadata = read_bundle(out).metadata
    check_filter_without_history(out, trained[0])
    assert metadata.precision == precision
    assert broken_limit(metadata.parity, precision) is None
    assert set(metadata.parity['miou_by_size']) == {'480x640', '720x1280', '543x1023'}
    assert set(metadata.parity['iou_difference_by_class']) == set(metadata.ontology.names)
    types = {tensor.data_type for tensor in onnx.load(out).graph.initializer}
    if precision == 'fp16':
        assert onnx.TensorProto.FLOAT16 in types
        assert metadata.quantization is None
    else:
        assert onnx.TensorProto.INT8 in types
        assert metadata.quantization is not None
        assert metadata.quantization['calibration'] == 'percentile'
        assert metadata.quantization['frames'] == 4  # the training frames


def test_branches_of_training_become_one_convolution(
    trained: tuple[Checkpoint, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = model_section('fpn', 'tu-repvgg_a0', 32)
    network = settled(SegmentationNetwork(section, 8))
    recipe = {**trained[0].recipe, 'model': section.model_dump(mode='json')}
    branched = replace(trained[0], recipe=recipe, state_dict=network.state_dict())
    exported: list[VehicleGraph] = []

    def stop(graph: VehicleGraph) -> None:
        exported.append(graph)
        raise PrecisionError('stopped')

    monkeypatch.setattr(exporting, 'to_onnx', stop)
    with pytest.raises(PrecisionError, match='stopped'):
        exporting.export(branched, [], tmp_path / 'x.onnx')
    fused = exported[0].network
    norms = [each for each in fused.network.encoder.modules() if isinstance(each, nn.BatchNorm2d)]
    assert norms == []
    image = 255 * torch.rand((1, 3, 64, 96), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(fused(image), network(image), rtol=1e-3, atol=1e-3)


def test_int8_is_not_calibrated_on_frames_of_the_parity_check(
    trained: tuple[Checkpoint, Path],
) -> None:
    checkpoint = trained[0]
    checked = {frame.name for frame in parity_frames(checkpoint, None, None, 'int8')}
    calibration = {frame.name for frame in calibration_frames(checkpoint, None, None)}
    assert checked
    assert calibration
    assert checked.isdisjoint(calibration)


def test_each_precision_has_its_limit() -> None:
    of = {'reference': 'torch', 'pixel_agreement': 0.9996, 'miou_difference': -0.009}
    assert [broken_limit(of, precision) for precision in get_args(Precision)] == [None] * 3
    of = {**of, 'pixel_agreement': 0.9994, 'miou_difference': -0.011}
    assert '99.9400% of pixels agree with torch' in (broken_limit(of, 'fp32') or '')
    assert broken_limit(of, 'fp16') is None
    assert 'mIoU is 1.10 points below' in (broken_limit(of, 'int8') or '')
    assert 'at least 99.50%' in (broken_limit({**of, 'pixel_agreement': 0.9949}, 'fp16') or '')
    assert 'no labels' in (broken_limit({**of, 'miou_difference': None}, 'int8') or '')


def test_bundle_and_checkpoint_score_alike(
    exported: Path, trained: tuple[Checkpoint, Path], tiny_ycor: Path, tmp_path: Path
) -> None:
    arguments = ['--dataset', 'ycor', '--root', str(tiny_ycor), '--out', str(tmp_path)]
    assert evaluate.main(['--bundle', str(exported), *arguments]) == 0
    scores = json.loads((tmp_path / 'metrics.json').read_text())
    assert scores['miou_all'] == pytest.approx(trained[0].scores['miou_all'], abs=2e-3)


@pytest.mark.parametrize('named', EXPORTED, ids=lambda named: '-'.join(named[:2]))
def test_every_architecture_exports_with_depth(named: Named) -> None:
    graph, model = traced(named)
    assert [value.name for value in model.graph.input] == ['image', 'depth']
    # torch notes of every node in which file, on which machine, it came up.
    assert b'vehicle_graph.py' not in model.SerializeToString()
    # All weights are those of inference: no auxiliary head, nothing twice.
    weights = sum(
        int(np.prod(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    )
    # BatchNorm is folded into convolutions, so that there are never more.
    assert weights <= 1.01 * sum(value.numel() for value in graph.network.state_dict().values())
    for size_hw in ((65, 127), (480, 640)):
        found, expected = run(model, size_hw), torch_outputs(graph, size_hw)
        assert len(np.unique(found[0])) > 1
        assert (found[0] == expected[0]).mean() >= MIN_PIXEL_AGREEMENT['fp32']
        for ours, theirs in zip(found[1:], expected[1:], strict=True):
            assert np.abs(ours.astype(int) - theirs).max() <= 1
        mask, confidence, cost, probabilities = (output[0] for output in found)
        costs = graph.costs.numpy().ravel().astype(np.uint8)
        alone = decide(probabilities.astype(np.float32), costs, size_hw)
        check_decisions(probabilities, mask, alone['mask'])
        assert np.array_equal(confidence, alone['confidence'])
        # Of five classes, each rounded by half a 255th at most, times a cost of up to 254.
        assert np.abs(cost.astype(int) - alone['cost']).max() <= 3


def test_the_made_up_depth_has_all_kinds_of_holes() -> None:
    depth = made_up_depth((480, 640))
    assert depth.dtype == np.float32
    assert np.array_equal(depth, made_up_depth((480, 640)), equal_nan=True)
    finite = depth[np.isfinite(depth) & (depth > 0)]
    assert 0.4 < finite.size / depth.size < 0.7
    assert finite.min() > 1.0
    for hole in (depth == 0, np.isnan(depth), np.isinf(depth)):
        assert 0.005 < hole.mean() < 0.5


@pytest.fixture(scope='module')
def rgbd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Path, Path]:
    """An RGB-D checkpoint with an auxiliary head, its file, and its frames."""
    root = write_tiny_nyuv2(tmp_path_factory.mktemp('nyuv2'))
    checkpoint = tiny_rgbd_checkpoint(tiny_rgbd_recipe(root))
    path = tmp_path_factory.mktemp('rgbd') / 'checkpoint.pt'
    save_checkpoint(checkpoint, path)
    return checkpoint, path, root


def test_an_rgbd_bundle_takes_depth_and_has_no_depth_head(
    rgbd: tuple[Checkpoint, Path, Path], tmp_path: Path
) -> None:
    checkpoint, path, root = rgbd
    out = tmp_path / 'rgbd.onnx'
    data = ['--dataset', 'nyuv2', '--root', str(root)]
    assert export.main([str(path), *data, '--out', str(out)]) == 0
    bundle = read_bundle(out)
    metadata = bundle.metadata
    assert metadata.modality == 'rgbd'
    assert metadata.depth_range_m == (0.5, 10.0)
    assert metadata.parity['depth'] == 'of 3 frames their own, of 0 made up, of 0 none'
    assert metadata.parity['pixel_agreement'] >= MIN_PIXEL_AGREEMENT['fp32']
    assert any(name.startswith('depth_head') for name in checkpoint.state_dict)
    model = onnx.load(out)
    assert not [t.name for t in model.graph.initializer if 'depth_head' in t.name]
    names = [value.name for value in model.graph.output]
    assert names == ['mask', 'confidence', 'cost', 'probabilities']

    engine = load_engine(bundle, 'onnxruntime-cpu')
    rgb = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    near, far = np.full((90, 130), 1.0, np.float32), np.full((90, 130), 9.0, np.float32)
    given = [engine.infer(rgb, depth, ('confidence',))['confidence'] for depth in (near, far)]
    assert not np.array_equal(*given)
    # 0, NaN and a negative depth are all the same: none.
    missing = [
        engine.infer(rgb, np.full((90, 130), value, np.float32), ('confidence',))['confidence']
        for value in (0.0, np.nan, -1.0)
    ]
    assert np.array_equal(missing[0], missing[1])
    assert np.array_equal(missing[0], missing[2])
    with pytest.raises(EngineError, match='no depth was given'):
        engine.infer(rgb)


def test_frames_without_depth_get_a_made_up_one(
    rgbd: tuple[Checkpoint, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(rgbd[2] / 'images', tmp_path / 'set/images')
    shutil.copytree(rgbd[2] / 'labels40', tmp_path / 'set/masks')
    out = tmp_path / 'rgbd.onnx'
    arguments = [
        *('--dataset', 'folder', '--root', str(tmp_path / 'set'), '--ontology', 'nyuv2-13'),
        *('--out', str(out)),
    ]
    assert export.main([str(rgbd[1]), *arguments]) == 0
    assert read_bundle(out).metadata.parity['depth'] == (
        'of 0 frames their own, of 2 made up, of 1 none'
    )
    said = capsys.readouterr().out
    assert 'parity with torch fp32, CPU, on 3 frames of folder at 480x640, 720x1280, 543x' in said
    assert '% of the pixels get the same class (at least 99.95%)' in said
    assert ' MB, rgbd, 13 classes of nyuv2-13' in said
    assert f'next: python -m desertmind_seg.segment --bundle {out} --out masks IMAGES' in said
    arguments[5] = 'ycor-8'
    assert export.main([str(rgbd[1]), *arguments]) == 2
    assert 'its labels are those of ycor-8' in capsys.readouterr().err


def test_what_may_be_tried_where_a_limit_is_broken() -> None:
    assert what_to_try('int8', 'entropy', 32).startswith(
        'Try --calibration percentile or minmax, more and more varied frames to calibrate on '
        '(there were 32)'
    )
    assert 'Export --precision fp32' in what_to_try('fp16', 'entropy', 0)


def test_the_parity_check_of_rgbd_finds_depth_among_the_training_frames(
    trained: tuple[Checkpoint, Path], tmp_path: Path
) -> None:
    root = write_tiny_depth(tmp_path / 'folder', frames=3)
    checkpoint = widened_checkpoint(trained[0])
    section = {'dataset': 'folder', 'root': str(root), 'split': 'all', 'repeat': 1}
    data = checkpoint.recipe['data']
    recipe = {**checkpoint.recipe, 'data': {**data, 'train': [*data['train'], section]}}
    frames = parity_frames(replace(checkpoint, recipe=recipe), None, None, 'fp32')
    assert [(frame.dataset, frame.has_depth) for frame in frames] == [
        *[('ycor', False)] * 2,
        *[('folder', True)] * 2,
    ]
    # An RGB network has no use for them.
    rgb = {**recipe, 'model': {**recipe['model'], 'depth': None}}
    alone = parity_frames(replace(checkpoint, recipe=rgb), None, None, 'fp32')
    assert [frame.dataset for frame in alone] == ['ycor', 'ycor']


def test_the_frames_of_the_parity_check_are_spread_over_all(
    trained: tuple[Checkpoint, Path], tmp_path: Path
) -> None:
    root = write_tiny_depth(tmp_path / 'folder', frames=15)
    frames = parity_frames(trained[0], 'folder', str(root), 'fp32')
    order = sorted(str(number) for number in range(15))
    assert [order.index(frame.name) for frame in frames] == [0, 1, 3, 5, 7, 9, 11, 13]


def test_a_dataset_needs_its_root(
    trained: tuple[Checkpoint, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match='2'):
        export.main([str(trained[1] / 'checkpoint.pt'), '--dataset', 'ycor', '--out', 'x.onnx'])
    assert '--dataset needs --root' in capsys.readouterr().err
