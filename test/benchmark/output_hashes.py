"""Hash what bundles say of every frame of bags: two commits whose hashes are equal say the same.

Prints a line for each bundle and bag: the number of frames and the SHA-256 over mask, confidence
and cost of all of them, in the order of the bag. ONNX Runtime adds in another order on other
processors, so compare hashes of one machine only.

    PYTHONPATH=. python test/benchmark/output_hashes.py out/demo/sample_drive
"""

import argparse
import hashlib
from pathlib import Path

from desertmind_seg.engines.load import load_engine
from desertmind_seg.evaluation.depth import DepthTopic, RecordedDepth
from desertmind_seg.evaluation.frames import Frame, RecordedFrames
from desertmind_seg.messages.bags import Bag
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.pipeline.segmenter import Segmenter

MODELS = Path(__file__).resolve().parents[2] / 'models'
IMAGE = '/camera/color/image_raw'
DEPTH = DepthTopic('/camera/aligned_depth_to_color/image_raw')


def hash_outputs(bundle: Path, bag_path: Path) -> tuple[int, str]:
    """Return the number of frames and the SHA-256 of all their outputs."""
    segmenter = Segmenter(load_engine(read_bundle(bundle), 'onnxruntime-cpu'))
    digest, frames = hashlib.sha256(), 0
    with Bag(bag_path) as bag:
        for frame in RecordedFrames(bag, IMAGE, RecordedDepth(bag, DEPTH, IMAGE)):
            assert isinstance(frame, Frame), frame
            segmentation = segmenter.segment(
                frame.rgb,
                depth=frame.depth if segmenter.takes_depth else None,
                outputs=('mask', 'confidence', 'cost'),
            )
            for array in (segmentation.mask, segmentation.confidence, segmentation.cost):
                digest.update(array.tobytes())
            frames += 1
    return frames, digest.hexdigest()


def main() -> None:
    """Hash every shipped bundle over every bag that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('bags', nargs='+', type=Path)
    for bag in parser.parse_args().bags:
        for bundle in sorted(MODELS.glob('*.onnx')):
            frames, digest = hash_outputs(bundle, bag)
            print(f'{digest}  {frames} frames  {bundle.name}  {bag.name}')


if __name__ == '__main__':
    main()
