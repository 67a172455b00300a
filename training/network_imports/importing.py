"""A network of another program as a bundle: frames to check it on, parity check, metadata."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from desertmind_seg.model.arrays import Depth, Mask, Rgb
from desertmind_seg.model.bundle import Bundle, BundleMetadata
from desertmind_seg.model.ontology import UNLABELED, Ontology
from desertmind_seg.reports.provenance import environment
from desertmind_seg.sources.frames import BadFrame, Selection
from desertmind_seg.sources.opening import open_source
from training.bundles.exporting import to_onnx
from training.bundles.half_precision import to_half
from training.bundles.parity import write_checked
from training.bundles.precision import Precision
from training.data.frames import LabelledFrame
from training.evaluation.predict import Predict, predict_with_graph
from training.network_imports.graph import (
    NO_NORMALISATION,
    ImportedGraph,
    Normalisation,
    with_network,
)
from training.network_imports.source import ForeignNetwork, NetworkError, read_network

_FRAMES = 8
# The limit of the parity check is that of half precision, whatever the network's: int8 kernels
# round otherwise where nodes about them differ, and at some network sizes (520 for a camera of
# 640) torch and ONNX Runtime take another of two equally near pixels, in 3 % of the columns.
PARITY_AS: Precision = 'fp16'
# How far probabilities of half precision are from a sum of 1, and those of int8, a class.
_SUM_TOLERANCE, _INT8_TOLERANCE = 0.01, 1 / 255


@dataclass(frozen=True)
class _Picture(LabelledFrame):
    """An image without labels.

    Attributes:
        rgb: uint8 (H, W, 3).
    """

    rgb: Rgb

    @property
    def has_depth(self) -> bool:
        return False

    def read_rgb(self) -> Rgb:
        return self.rgb

    def read_labels(self, ontology: Ontology) -> Mask:
        return np.full(self.rgb.shape[:2], UNLABELED, np.uint8)

    def read_depth(self) -> Depth:
        return np.zeros(self.rgb.shape[:2], np.float32)

    def content(self) -> bytes:
        return self.rgb.tobytes()

    def version(self) -> str:
        return ''


@dataclass(frozen=True)
class Imported:
    """A bundle of a network of another program.

    Attributes:
        bundle: as written.
        of_probabilities: whether the network gives probabilities instead of logits.
        class_shares: of the pixels of the frames, by class.
    """

    bundle: Bundle
    of_probabilities: bool
    class_shares: dict[str, float]


def import_network(
    path: Path,
    ontology: Ontology,
    normalisation: Normalisation | None,
    frames: str,
    out: Path,
    *,
    bgr: bool = False,
    image_topic: str | None = None,
    size_hw: tuple[int, int] | None = None,
    output: str | None = None,
    precision: Precision | None = None,
) -> Imported:
    """Write the bundle of a network that segments RGB images, if it passes the parity check.

    Args:
        path: the ONNX file.
        ontology: its classes, in the order of its scores.
        normalisation: that it was trained with; None only for one that takes bytes as they are.
        frames: what `open_source` takes; up to eight of its frames check the bundle.
        out: the bundle.
        bgr: whether it takes blue first.
        image_topic: of frames from a bag; None for its only one.
        size_hw: height and width to feed the network; None for those in the file.
        output: name of the scores; None for the only ones that there are.
        precision: fp16 for half precision of an fp32 file; None for that of the file.

    Raises:
        OSError: a file cannot be read.
        SourceError: there are no frames.
        NetworkError: the file holds no such network, or a frame cannot be used.
        ParityError: the bundle does not compute what the file does; nothing is written.
        PrecisionError: the network cannot be written in this precision.
    """
    if out.exists() and out.samefile(path):
        raise NetworkError(f'--out is {str(path)!r} itself, the network; give another name')
    network = read_network(path, ontology.num_classes, size_hw, output)
    if precision not in (None, network.precision) and network.precision != 'fp32':
        raise NetworkError(f'{path} is {network.precision} already; leave out --precision')
    normalisation = _checked_normalisation(normalisation, network)
    pictures = _pictures(frames, image_topic)
    graph = ImportedGraph(network, normalisation, ontology.costs, bgr=bgr).eval()
    graph.of_probabilities = _are_probabilities(graph, pictures)
    model = with_network(to_onnx(graph, network.opset), network)
    if precision == 'fp16' and network.precision == 'fp32':
        model = to_half(model)
    metadata = _metadata(out.stem, ontology, graph, precision or network.precision)
    predict = predict_with_graph(graph)
    reference = f'ONNX Runtime on {path.name}'
    bundle = write_checked(model, metadata, out, predict, pictures, PARITY_AS, reference=reference)
    return Imported(bundle, graph.of_probabilities, _class_shares(predict, pictures, ontology))


def _checked_normalisation(given: Normalisation | None, network: ForeignNetwork) -> Normalisation:
    of_bytes = np.dtype(network.input_type) == np.uint8
    if given is None and not of_bytes:
        raise NetworkError(
            'give --normalisation, or --mean and --std: what was done to images in the training '
            f'of {network.path} is not in its file'
        )
    if of_bytes and given not in (None, NO_NORMALISATION):
        raise NetworkError(
            f'{network.path} takes uint8, the bytes of an image as they are; normalised ones, by '
            f'mean {given.mean} and std {given.std}, would be rounded to a few of their 256 '
            'values. Leave out --normalisation, --mean and --std'
        )
    return given or NO_NORMALISATION


def _metadata(
    name: str, ontology: Ontology, graph: ImportedGraph, precision: Precision
) -> BundleMetadata:
    network = graph.network
    made_by = environment()
    return BundleMetadata(
        name=name,
        ontology=ontology,
        ontology_sha256=ontology.sha256,
        network_size_hw=network.size_hw,
        precision=precision,
        recipe={
            'imported_network': {
                'file': network.path.name,
                'sha256': network.sha256,
                'input': network.input,
                'output': network.output,
                'of_probabilities': graph.of_probabilities,
                **asdict(graph.normalisation),
                'bgr': graph.bgr,
            }
        },
        datasets=[],
        scores={'environment': made_by},
        parity={},
        git_hash=made_by['git_hash'] or 'unknown',
        data_hash='unknown',
        seed=0,
    )


def _class_shares(
    predict: Predict, pictures: Sequence[_Picture], ontology: Ontology
) -> dict[str, float]:
    pixels = np.zeros(ontology.num_classes)
    for each in pictures:
        mask, _ = predict(each.rgb, None)
        pixels += np.bincount(mask.ravel(), minlength=ontology.num_classes)
    return dict(zip(ontology.names, pixels / pixels.sum(), strict=True))


def _pictures(source: str, image_topic: str | None) -> list[_Picture]:
    with open_source(source, image_topic=image_topic) as opened:
        count = opened.count or 1
    selection = Selection(every=max(1, count // _FRAMES))
    found = []
    with open_source(source, image_topic=image_topic, selection=selection) as opened:
        for frame in islice(opened, _FRAMES):
            if isinstance(frame, BadFrame):
                raise NetworkError(
                    f'frame {frame.name} of {source} cannot be used: {frame.error}; leave it out'
                )
            rgb = np.ascontiguousarray(frame.rgb)
            found.append(_Picture(frame.name, 'your camera', source, 0, None, rgb))
    return found


def _are_probabilities(graph: ImportedGraph, pictures: Sequence[_Picture]) -> bool:
    """Tell probabilities, which sum to 1 over the classes, from logits, which do not.

    Of a single score all that lies in 0..1 is probabilities.

    Raises:
        NetworkError: there is NaN or infinity among them, or they are a sigmoid's of each class:
            taken for logits, these would make every class about as likely, so that confidence and
            cost were nearly the same everywhere.
    """
    network = graph.network
    lowest, highest, off = 0.0, 0.0, 0.0
    tolerance = _SUM_TOLERANCE
    if network.precision == 'int8':
        classes = network.output_shape[3 if network.classes_last else 1]
        tolerance = max(tolerance, classes * _INT8_TOLERANCE)
    # NaN is an error of every engine, so a covered lens would stop them.
    black = np.zeros_like(pictures[0].rgb)
    for name, rgb in (
        *((f'frame {picture.name}', picture.rgb) for picture in pictures),
        ('a black image', black),
    ):
        with torch.inference_mode():
            image, _ = graph.network_input(graph.tensors(rgb, None)[0])
            scores = graph.scores(image)
        if not scores.isfinite().all():
            raise NetworkError(
                f'{network.path} gives NaN or infinity for {name}; is the normalisation that of '
                'its training, and does it divide by nothing that can be 0?'
            )
        total = scores.sum(dim=3 if network.classes_last else 1)
        if 1 in (scores.shape[1], scores.shape[3]):
            total = total.clamp(min=1)
        lowest, highest = min(lowest, float(scores.min())), max(highest, float(scores.max()))
        off = max(off, float((total - 1).abs().max()))
    if lowest < 0 or off < tolerance:
        return lowest >= 0
    if highest <= 1:
        raise NetworkError(
            f'{network.path} gives scores from 0 to 1 whose sum over the classes is up to '
            f'{off:.2f} away from 1, as of a sigmoid for each class; export it without its '
            'sigmoid, or with a softmax in its place'
        )
    return False
