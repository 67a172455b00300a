"""The parity check: does an exported graph compute what the torch model computes?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt
import onnx

from desertmind_seg.engines.load import load_engine
from desertmind_seg.engines.protocol import Engine
from desertmind_seg.model.arrays import Mask
from desertmind_seg.model.bundle import Bundle, BundleMetadata, read_bundle, write_bundle
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.files import atomic_write, made_folder, partial_folder
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.pipeline.rendering import colorize, overlay
from desertmind_seg.scores.confusion import ConfusionMatrix
from training.bundles.precision import Calibration, Precision
from training.data.frames import LabelledFrame
from training.evaluation.predict import Predict

# Of all pixels, the share in which the graph and torch must agree.
MIN_PIXEL_AGREEMENT = {'fp32': 0.9995, 'fp16': 0.995}
# What the mIoU over the classes of the frames may fall; 0.01 is one point.
MAX_MIOU_LOSS = {'int8': 0.01}
# VGA, HD, and one that is odd in both directions.
CAMERA_SIZES_HW = ((480, 640), (720, 1280), (543, 1023))


class ParityError(DesertmindError):
    """The exported graph does not compute what the torch model computes."""


def write_checked(
    model: onnx.ModelProto,
    metadata: BundleMetadata,
    out: Path,
    expected: Predict,
    frames: Sequence[LabelledFrame],
    limits_of: Precision,
    *,
    reference: str = 'torch fp32, CPU',
    advice: str = '',
) -> Bundle:
    """Write the bundle, if it passes the parity check, and return it.

    Args:
        model: its graph.
        metadata: its metadata, but for the figures of the check.
        out: its path.
        expected: what it must compute.
        frames: what both are run on.
        limits_of: the precision whose limits hold.
        reference: what `expected` runs, for people.
        advice: one sentence: what to do about a limit that is broken.

    Raises:
        ParityError: a limit is broken; nothing is written under the final name, but beside it the
            worst frame, whose path the message has.
    """
    with made_folder(out.parent), partial_folder(out.parent) as folder:
        candidate = folder / out.name
        write_bundle(model, metadata, candidate)
        engine = load_engine(read_bundle(candidate), 'onnxruntime-cpu')
        figures = parity(expected, engine, frames, metadata.ontology)
        figures['reference'] = reference
        broken = broken_limit(figures, limits_of)
        if broken is not None:
            picture = out.with_name(f'{out.stem}.worst_frame.png')
            write_worst_frame(figures, expected, engine, frames, picture)
            raise ParityError(
                f'{broken}; nothing was written to {str(out)!r}. {advice and advice + ". "}The '
                f'worst frame ({reference}, the bundle, where they differ): {picture}. In '
                f'figures: {"; ".join(x.strip() for x in parity_lines(figures, limits_of))}'
            )
        engine.close()
    return write_bundle(model, metadata.model_copy(update={'parity': figures}), out)


def frame_inputs(
    frame: LabelledFrame, size_hw: tuple[int, int], *, with_depth: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32] | None]:
    """Return a frame at a camera's size; where it has no depth of its own, `made_up_depth`.

    Returns:
        RGB uint8 (H, W, 3), and depth float32 (H, W) metres or None.
    """
    width_height = (size_hw[1], size_hw[0])
    rgb = cv2.resize(frame.read_rgb(), width_height, interpolation=cv2.INTER_AREA)
    depth = None
    if with_depth and frame.has_depth:
        resized = cv2.resize(frame.read_depth(), width_height, interpolation=cv2.INTER_NEAREST)
        depth = np.ascontiguousarray(resized, np.float32)
    elif with_depth:
        depth = made_up_depth(size_hw)
    return np.ascontiguousarray(rgb, np.uint8), depth


def parity_inputs(
    frame: LabelledFrame, index: int, size_hw: tuple[int, int], *, with_depth: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32] | None]:
    """Return what `frame_inputs` does, but no depth at all for every second frame without own."""
    rgb, depth = frame_inputs(frame, size_hw, with_depth=with_depth)
    if depth is not None and not frame.has_depth and index % 2:
        depth = np.zeros_like(depth)
    return rgb, depth


def made_up_depth(size_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return a ground plane below a horizon, float32 (H, W) metres, with all kinds of holes.

    Half of what a real sensor leaves out is 0 here, the other half NaN; the sky is +Inf.
    """
    height, width = size_hw
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None]
    below = rows - 0.4 * height
    depth = np.where(below > 0, 1.5 * height / np.maximum(below, 1.0), np.inf)  # camera 1.5 m up
    depth = depth * (1.0 + 0.1 * np.sin(columns / 37.0))
    depth[(rows % 29 < 5) & (columns % 41 < 7)] = 0.0
    depth[(rows % 31 < 4) & (columns % 23 < 5)] = np.nan
    return np.asarray(depth, np.float32)


class _Agreement:
    """What the frames of one camera size add up to.

    Attributes:
        pixels: that torch gives each class, int64 (C,).
        same: of these, to which the engine gives it too, int64 (C,).
        apart: sum over these of the absolute difference of the confidences, float64 (C,).
        furthest: largest such difference, 0..1.
        torch: its masks against the labels.
        engine: likewise.
    """

    def __init__(self, ontology: Ontology) -> None:
        self.pixels = np.zeros(ontology.num_classes, np.int64)
        self.same = np.zeros_like(self.pixels)
        self.apart = np.zeros(ontology.num_classes)
        self.furthest = 0.0
        self.torch, self.engine = ConfusionMatrix(ontology), ConfusionMatrix(ontology)

    def add(
        self, expected: tuple[Mask, Mask], found: tuple[Mask, Mask], labels: npt.NDArray[np.uint8]
    ) -> float:
        """Count a frame by mask and confidence of each; return the share of equal pixels."""
        (mask, confidence), (found_mask, found_confidence) = expected, found
        classes = len(self.pixels)
        equal = mask == found_mask
        self.pixels += np.bincount(mask.ravel(), minlength=256)[:classes]
        self.same += np.bincount(mask[equal], minlength=256)[:classes]
        difference = np.abs(confidence.astype(np.float32) - found_confidence) / 255.0
        self.apart += np.bincount(mask.ravel(), difference.ravel(), minlength=256)[:classes]
        self.furthest = max(self.furthest, float(difference.max()))
        self.torch.add(labels, mask)
        self.engine.add(labels, found_mask)
        return float(equal.mean())


def parity(
    expected: Predict, engine: Engine, frames: Sequence[LabelledFrame], ontology: Ontology
) -> dict[str, Any]:
    """Compare an engine with the torch graph on real frames at every camera size.

    Returns:
        ``pixel_agreement``: share of the pixels that get the same class, of all, by size, and by
        class (of the pixels that torch gives the class).
        ``confidence_max_difference`` and ``confidence_mean_difference``: absolute, 0..1; the mean
        by class too.
        ``miou_by_size`` and ``miou_torch_by_size``: over the classes that the frames' labels have;
        ``miou_difference``: the engine's less torch's, of the size where that is lowest;
        ``iou_difference_by_class``: mean over the sizes. All None without labels.
        ``worst_frame``: the one that agrees least. ``depth``, for RGB-D: where it came from.
    """
    takes_depth = engine.bundle.metadata.modality == 'rgbd'
    sizes: dict[str, _Agreement] = {}
    worst: dict[str, Any] = {'pixel_agreement': 2.0}
    for size_hw in CAMERA_SIZES_HW:
        shown = f'{size_hw[0]}x{size_hw[1]}'
        size = sizes[shown] = _Agreement(ontology)
        for index, frame in enumerate(Progress(frames, desc=f'parity {shown}', unit='frame')):
            rgb, depth = parity_inputs(frame, index, size_hw, with_depth=takes_depth)
            out = engine.infer(rgb, depth, outputs=('mask', 'confidence'))
            labels = frame_labels(frame, size_hw, ontology)
            equal = size.add(expected(rgb, depth), (out['mask'], out['confidence']), labels)
            if equal < worst['pixel_agreement']:
                worst = {'name': frame.name, 'index': index, 'size': shown}
                worst['pixel_agreement'] = equal
    figures = {
        'engine': f'{engine.backend}, {engine.device}',
        'frames': len(frames),
        'dataset': ', '.join(sorted({frame.dataset for frame in frames})),
        **_figures(sizes, ontology),
        'worst_frame': worst,
    }
    if takes_depth:
        own = sum(frame.has_depth for frame in frames)
        none = sum(not frame.has_depth for frame in frames[1::2])
        made_up = len(frames) - own - none
        figures['depth'] = f'of {own} frames their own, of {made_up} made up, of {none} none'
    return figures


def _figures(sizes: Mapping[str, _Agreement], ontology: Ontology) -> dict[str, Any]:
    """Return the figures of `parity` that come of the counts of every size."""
    every = sizes.values()
    pixels, same, apart = (
        np.sum([getattr(size, name) for size in every], axis=0)
        for name in ('pixels', 'same', 'apart')
    )
    iou_difference = np.mean([size.engine.iou() - size.torch.iou() for size in every], axis=0)
    return {
        'pixel_agreement': float(same.sum() / pixels.sum()),
        'pixel_agreement_by_size': {
            shown: float(size.same.sum() / size.pixels.sum()) for shown, size in sizes.items()
        },
        'pixel_agreement_by_class': _by_class(same, pixels, ontology),
        'confidence_max_difference': max(size.furthest for size in every),
        'confidence_mean_difference': float(apart.sum() / pixels.sum()),
        'confidence_mean_difference_by_class': _by_class(apart, pixels, ontology),
        'miou_difference': _figure(
            min(size.engine.miou_present - size.torch.miou_present for size in every)
        ),
        'miou_by_size': {name: _figure(of.engine.miou_present) for name, of in sizes.items()},
        'miou_torch_by_size': {name: _figure(of.torch.miou_present) for name, of in sizes.items()},
        'iou_difference_by_class': {
            name: _figure(value)
            for name, value in zip(ontology.names, iou_difference, strict=True)
        },
    }


def frame_labels(
    frame: LabelledFrame, size_hw: tuple[int, int], ontology: Ontology
) -> npt.NDArray[np.uint8]:
    """Return a frame's labels at a camera's size, uint8 (H, W), each from one pixel."""
    labels = frame.read_labels(ontology)
    resized = cv2.resize(labels, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_NEAREST)
    return np.ascontiguousarray(resized, np.uint8)


def _by_class(
    sums: npt.NDArray[Any], pixels: npt.NDArray[np.int64], ontology: Ontology
) -> dict[str, float | None]:
    return {
        name: float(sums[i] / pixels[i]) if pixels[i] else None
        for i, name in enumerate(ontology.names)
    }


def _figure(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def broken_limit(figures: dict[str, Any], precision: Precision) -> str | None:
    """Say which limit of the precision the figures of `parity` break; None for none."""
    if precision in MIN_PIXEL_AGREEMENT:
        agreement, least = figures['pixel_agreement'], MIN_PIXEL_AGREEMENT[precision]
        if agreement < least:
            return (
                f'{agreement:.4%} of pixels agree with {figures["reference"]}, expected at least '
                f'{least:.2%}'
            )
        return None
    difference, most = figures['miou_difference'], MAX_MIOU_LOSS[precision]
    if difference is None:
        return f'an {precision} bundle is judged by its mIoU, but the frames have no labels'
    if -difference > most:
        return (
            f'the mIoU is {-100 * difference:.2f} points below that of torch, expected at most '
            f'{100 * most:.1f}'
        )
    return None


def what_to_try(precision: Precision, calibration: Calibration, frames: int) -> str:
    """Say how a bundle that broke a limit may still come about.

    Args:
        precision: of the bundle.
        calibration: how its ranges were chosen, if it is int8.
        frames: how many they were chosen from.
    """
    if precision == 'fp32':
        return 'Both compute in 32 bits: it is an error of the export, please report it'
    if precision == 'fp16':
        return 'Export --precision fp32, which TensorRT runs too'
    others = ' or '.join(name for name in get_args(Calibration) if name != calibration)
    return (
        f'Try --calibration {others}, more and more varied frames to calibrate on (there were '
        f'{frames}), a network that is trained longer, or --precision fp32'
    )


def parity_lines(figures: dict[str, Any], precision: Precision) -> list[str]:
    """Return what a person wants to know of the figures of `parity`."""
    limit = ''
    if precision in MIN_PIXEL_AGREEMENT:
        limit = f' (at least {MIN_PIXEL_AGREEMENT[precision]:.2%})'
    lines = [
        f'parity with {figures["reference"]}, on {figures["frames"]} frames of '
        f'{figures["dataset"]} at {", ".join(figures["pixel_agreement_by_size"])}:',
        f'  {figures["pixel_agreement"]:.4%} of the pixels get the same class{limit}',
        f'  confidence differs by {figures["confidence_mean_difference"]:.4f} on average and '
        f'{figures["confidence_max_difference"]:.4f} at most',
    ]
    if figures['miou_difference'] is not None:
        limit = f' (at least {-100 * MAX_MIOU_LOSS[precision]:g})' if precision == 'int8' else ''
        lines.append(f'  mIoU {100 * figures["miou_difference"]:+.2f} points{limit}')
    changes = figures['iou_difference_by_class']
    lost = sorted((value, name) for name, value in changes.items() if value is not None)
    if lost and lost[0][0] <= -0.001:
        listed = ', '.join(f'{name} {100 * value:+.1f}' for value, name in lost[:3] if value < 0)
        lines.append(f'  IoU of the classes that lose most, in points: {listed}')
    return lines


def write_worst_frame(
    figures: dict[str, Any],
    expected: Predict,
    engine: Engine,
    frames: Sequence[LabelledFrame],
    out: Path,
) -> None:
    """Write, side by side, what torch and the engine say of the frame that agrees least.

    The third picture is black but for the pixels that differ, in the engine's class colours.
    """
    metadata = engine.bundle.metadata
    height, _, width = figures['worst_frame']['size'].partition('x')
    index = figures['worst_frame']['index']
    takes_depth = metadata.modality == 'rgbd'
    size_hw = (int(height), int(width))
    rgb, depth = parity_inputs(frames[index], index, size_hw, with_depth=takes_depth)
    mask, _ = expected(rgb, depth)
    found = engine.infer(rgb, depth, outputs=('mask',))['mask']
    ontology = metadata.ontology
    apart = colorize(found, ontology)
    apart[mask == found] = 0
    picture = np.hstack([overlay(rgb, mask, ontology), overlay(rgb, found, ontology), apart])
    written, png = cv2.imencode('.png', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert written
    with atomic_write(out) as temporary:
        temporary.write_bytes(png.tobytes())
