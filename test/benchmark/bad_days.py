"""What masks of bad images are worth, and which of these images the node finds; prints JSON.

    python test/benchmark/bad_days.py --root ../shared/data/ycor --every 8
    python test/benchmark/bad_days.py --limits ../shared/data/ycor/train/*/rgb.jpg

The first takes every eighth validation frame of a bundle, at 512 x 272, spoils it in many ways
(with the noise of a sensor of 8,000 electrons), and gives for each of them mIoU, the share of what
is not traversable that is called so (false safe), the mean confidence, and what was found. The
second gives how near the images of files come to each limit, and which are called bad.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
import json
from pathlib import Path
import sys
import time

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from desertmind_seg.decoding.image_files import read_color_file
from desertmind_seg.engines.load import load_engine
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE
from desertmind_seg.monitoring.image_content import ContentWatch, look_at
from desertmind_seg.pipeline.segmenter import Segmenter
from desertmind_seg.scores.confusion import ConfusionMatrix

Light = npt.NDArray[np.float32]
SIZE_WH = (512, 272)
FULL_WELL, READ_NOISE = 8000.0, 6.0


def light_of(rgb: Rgb) -> Light:
    return np.asarray((rgb / 255.0) ** 2.2, np.float32)


def image_of(
    light: Light, dice: np.random.Generator, gain: float = 1.0, read: float = READ_NOISE
) -> Rgb:
    electrons = np.clip(light, 0.0, 1.0) * FULL_WELL
    noise = np.sqrt(electrons + read**2) * dice.standard_normal(light.shape)
    seen = np.clip((electrons + noise) / FULL_WELL * gain, 0.0, 1.0)
    return np.rint(seen ** (1 / 2.2) * 255).astype(np.uint8)


def out_of_focus(light: Light, share: float) -> Light:
    radius = round(share * light.shape[1])
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.filter2D(light, -1, disc / np.float32(disc.sum())), np.float32)


def turning(light: Light, share: float) -> Light:
    return np.asarray(cv2.blur(light, (round(share * light.shape[1]), 1)), np.float32)


def wet(light: Light, share: float) -> Light:
    soft = cv2.GaussianBlur(light, (0, 0), 0.06 * share * light.shape[1])
    return np.asarray(soft * (1 - 0.7 * share) + 0.7 * share * soft.mean(), np.float32)


def without_lower(rgb: Rgb, share: float) -> Rgb:
    rgb = rgb.copy()
    rgb[round((1 - share) * len(rgb)) :] = (0, 135, 0)
    return rgb


Spoil = Callable[[Rgb, Light, np.random.Generator], Rgb]
WAYS: dict[str, Spoil] = {
    'as it is': lambda rgb, light, dice: rgb,
    'light x 0.01': lambda rgb, light, dice: image_of(light / 100, dice),
    'light x 0.001, gain 16': lambda rgb, light, dice: image_of(light / 1000, dice, 16.0),
    'cap, noise of 30 electrons': lambda rgb, light, dice: image_of(0 * light, dice, read=30.0),
    'light x 16': lambda rgb, light, dice: image_of(light * 16, dice),
    'light x 64': lambda rgb, light, dice: image_of(light * 64, dice),
    'covered': lambda rgb, light, dice: image_of(0 * light + np.float32(0.1), dice),
    'lower half lost': lambda rgb, light, dice: without_lower(rgb, 0.5),
    'lower three quarters lost': lambda rgb, light, dice: without_lower(rgb, 0.75),
    'out of focus by 1 %': lambda rgb, light, dice: image_of(out_of_focus(light, 0.01), dice),
    'out of focus by 2 %': lambda rgb, light, dice: image_of(out_of_focus(light, 0.02), dice),
    'out of focus by 4 %': lambda rgb, light, dice: image_of(out_of_focus(light, 0.04), dice),
    'wet lens': lambda rgb, light, dice: image_of(wet(light, 0.25), dice),
    'turning by 3 %': lambda rgb, light, dice: image_of(turning(light, 0.03), dice),
    'turning by 12 %': lambda rgb, light, dice: image_of(turning(light, 0.12), dice),
    'turning by 25 %': lambda rgb, light, dice: image_of(turning(light, 0.25), dice),
    'upside down': lambda rgb, light, dice: np.ascontiguousarray(rgb[::-1, ::-1]),
}


def spoiled(bundle_path: Path, root: str, every: int) -> dict[str, object]:
    # Torch takes seconds, and arguments need none of it.
    from training.data.datasets import choose_frames, split_rule
    from training.recipes.schema import DatasetSection

    bundle = read_bundle(bundle_path)
    segmenter, ontology = (
        Segmenter(load_engine(bundle, 'onnxruntime-cpu')),
        bundle.metadata.ontology,
    )
    section = DatasetSection(dataset='ycor', root=root, split='val', repeat=1)
    rule = split_rule(bundle.metadata.recipe)
    if rule is None:
        raise SystemExit(f'{bundle_path} does not say which frames validate')
    frames, _ = choose_frames(section, ontology, rule, 'auto')
    scores = {way: ConfusionMatrix(ontology) for way in WAYS}
    confidences: dict[str, list[float]] = {way: [] for way in WAYS}
    found = {way: Counter[str]() for way in WAYS}
    for number, frame in enumerate(tqdm(frames[::every], unit='frame')):
        rgb = np.asarray(
            cv2.resize(frame.read_rgb(), SIZE_WH, interpolation=cv2.INTER_AREA), np.uint8
        )
        labels = cv2.resize(
            frame.read_labels(ontology), SIZE_WH, interpolation=cv2.INTER_NEAREST
        ).astype(np.uint8)
        for way, spoil in WAYS.items():
            image = spoil(rgb, light_of(rgb), np.random.default_rng(number))
            segmentation = segmenter.segment(image)
            truth = labels[::-1, ::-1] if way == 'upside down' else labels
            scores[way].add(truth, segmentation.mask)
            assert segmentation.confidence is not None
            confidences[way].append(float(segmentation.confidence.mean()) / 255)
            found[way][look_at(image)[0].kind or 'good'] += 1
    return {
        way: {
            'miou_all': round(scores[way].miou_all, 3),
            'false_safe_rate': round(scores[way].false_safe_rate, 3),
            'mean_confidence': round(float(np.mean(confidences[way])), 3),
            'found': dict(found[way]),
        }
        for way in WAYS
    }


def limits(paths: list[Path]) -> dict[str, object]:
    contents, seconds, watch = [], [], ContentWatch()
    for path in tqdm(paths, unit='file'):
        rgb = read_color_file(path)
        contents.append(look_at(rgb)[0])
        begin = time.process_time()
        watch.add(rgb, 0)
        seconds.append(time.process_time() - begin)
    sharpness = [each.sharpness for each in contents if each.sharpness is not None]
    return {
        'images': len(contents),
        'least_brightness': min(each.brightness for each in contents),
        'most_burnt_share': round(max(each.burnt_share for each in contents), 3),
        'least_detail': round(min(each.detail for each in contents), 3),
        'least_sharpness': round(min(sharpness), 3),
        'bad': {str(p): c.kind for p, c in zip(paths, contents, strict=True) if c.kind},
        'cpu_ms_p50': round(1e3 * float(np.median(seconds)), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--bundle', type=Path, default=ROOT / DEFAULT_BUNDLE)
    parser.add_argument('--root')
    parser.add_argument('--every', type=int, default=8)
    parser.add_argument('--limits', type=Path, nargs='+', metavar='IMAGE')
    arguments = parser.parse_args()
    if not (arguments.root or arguments.limits):
        parser.error('give --root, --limits or both')
    result: dict[str, object] = {}
    if arguments.root:
        result['spoiled'] = spoiled(arguments.bundle, arguments.root, arguments.every)
    if arguments.limits:
        result['limits'] = limits(arguments.limits)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == '__main__':
    sys.exit(main())
