"""What mIoU it costs to decide each pixel's class at another size than the camera's; prints JSON.

    python test/benchmark/decision_size.py --root ../shared/data/ycor

The logits of a bundle's network, at its own stride, are resized bilinearly to each of these sizes;
the class is decided there, and every camera pixel gets the nearest one: the camera's size, the
network's (what bundles do), half of that, and the stride itself. One confusion matrix over all
frames at the labels' resolution. The network's size may lose at most 0.3 points of mIoU against
the camera's; exit status 1 above.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys

import numpy as np
import onnx
from onnx.utils import Extractor
import onnxruntime
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from desertmind_seg.model.bundle import IMAGE_INPUT, read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE
from desertmind_seg.scores.confusion import ConfusionMatrix

MAX_LOSS = 0.003


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--bundle', type=Path, default=ROOT / DEFAULT_BUNDLE)
    parser.add_argument('--dataset', default='ycor')
    parser.add_argument('--root', required=True)
    arguments = parser.parse_args()

    # Torch takes seconds, and arguments need none of it.
    import torch
    from torch.nn import functional

    from training.bundles.half_precision import network_nodes
    from training.data.datasets import choose_frames, split_rule
    from training.networks.checkpoint import environment
    from training.recipes.schema import DatasetSection

    metadata = read_bundle(arguments.bundle).metadata
    ontology = metadata.ontology
    section = DatasetSection(dataset=arguments.dataset, root=arguments.root, split='val', repeat=1)
    rule = split_rule(metadata.recipe)
    if rule is None:
        raise SystemExit(f'{arguments.bundle} does not say which frames validate')
    frames, _ = choose_frames(section, ontology, rule, 'auto')

    model = onnx.load(arguments.bundle)
    last = [node for node in network_nodes(model) if node.op_type == 'Conv'][-1].output[0]
    session = onnxruntime.InferenceSession(
        Extractor(model).extract_model([IMAGE_INPUT], [last]).SerializeToString(),
        providers=['CPUExecutionProvider'],
    )
    height, width = metadata.network_size_hw
    scores = {name: ConfusionMatrix(ontology) for name in ('camera', 'network', 'half', 'stride')}
    for frame in tqdm(frames, unit='frame'):
        rgb, labels = frame.read_rgb(), frame.read_labels(ontology)
        logits = torch.from_numpy(session.run([last], {IMAGE_INPUT: rgb[None]})[0])
        sizes_hw = {
            'camera': labels.shape,
            'network': (height, width),
            'half': (height // 2, width // 2),
            'stride': tuple(logits.shape[2:]),
        }
        for name, size_hw in sizes_hw.items():
            resized = functional.interpolate(logits, size_hw, mode='bilinear')
            decided = resized.argmax(dim=1, keepdim=True).float()
            mask = functional.interpolate(decided, labels.shape, mode='nearest')[0, 0]
            scores[name].add(labels, mask.numpy().astype(np.uint8))
    miou = {name: score.miou_all for name, score in scores.items()}
    loss = miou['camera'] - miou['network']
    result = {
        'bundle': str(arguments.bundle),
        'network_size_hw': [height, width],
        'frames': len(frames),
        'miou_all_by_decision_size': miou,
        'loss_at_network_size': loss,
        'limit': MAX_LOSS,
        'environment': environment(),
    }
    print(json.dumps(result, indent=2))
    return int(loss > MAX_LOSS)


if __name__ == '__main__':
    sys.exit(main())
