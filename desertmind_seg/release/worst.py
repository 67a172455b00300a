"""The worst frames of a fleet as a folder to label, with the model's masks to correct."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from desertmind_seg.fleet.records import BagEntry, FleetError, RunOptions
from desertmind_seg.fleet.scratch import local_copy
from desertmind_seg.labelling.extraction import IMAGES, data_name
from desertmind_seg.labelling.pictures import image_file
from desertmind_seg.labelling.pre_labels import CVAT, LABEL_STUDIO, RESULTS, pre_labels
from desertmind_seg.messages.bags import Bag, decode_frame
from desertmind_seg.model.arrays import Rgb
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.pipeline.load import load_segmenter
from desertmind_seg.release.listing import Listing
from desertmind_seg.release.totals import WorstFrame
from desertmind_seg.reports.output import output_folder


def export_worst(
    worst: Sequence[WorstFrame],
    listing: Listing,
    bundle: Path,
    options: RunOptions,
    out: Path,
    scratch: Path,
    report: Callable[[str], None],
) -> int:
    """Write images/, masks/, classes.yaml, cvat/ and label_studio/ of frames into `out`.

    Frames that can no longer be had are told to `report`. An rgbd model sees no depth here.

    Returns:
        How many frames were written.

    Raises:
        DesertmindError, OSError: the bundle cannot be used, or `out` not be written to.
    """
    segmenter = load_segmenter(bundle, options.backend, options.confidence_threshold)
    tools, images = (CVAT, LABEL_STUDIO), f'{out.name}/{IMAGES}'
    scratch.mkdir(parents=True, exist_ok=True)
    written = 0
    with (
        output_folder(out, (IMAGES, *RESULTS), replace=True) as folder,
        pre_labels(folder, data_name(out), segmenter, tools, images) as masks,
    ):
        (folder / IMAGES).mkdir()
        for bag_id in dict.fromkeys(each.bag_id for each in worst):
            stamps = {each.frame.stamp_ns for each in worst if each.bag_id == bag_id}
            entry = listing[bag_id]
            try:
                frames = _frames(entry, options, stamps, scratch)
            except (DesertmindError, OSError) as err:
                report(f'{entry.uri}: {err}')
                continue
            for stamp_ns, rgb in frames.items():
                found = segmenter.segment(rgb)
                confidence = 0.0 if found.confidence is None else found.confidence.mean() / 255
                content, suffix = image_file(rgb, b'', lossy=False)
                stem = f'{bag_id}_{stamp_ns:019d}'
                (folder / IMAGES / f'{stem}{suffix}').write_bytes(content)
                masks.add(stem, suffix, found.mask, float(confidence))
                written += 1
        if not written:
            raise FleetError('no frame could be exported: there is none, or none can be read')
    return written


def _frames(
    entry: BagEntry, options: RunOptions, stamps: set[int], scratch: Path
) -> dict[int, Rgb]:
    """Read the frames of these stamps, (H, W, 3) uint8 each; of one stamp the first."""
    found: dict[int, Rgb] = {}
    with local_copy(entry.uri, scratch, entry) as path, Bag(path) as bag:
        bag.compressed_colors = options.compressed_colors
        bag.topic(options.image)
        for raw in bag.messages(options.image):
            try:
                stamp_ns = raw.stamp_ns()
                if stamp_ns in stamps and stamp_ns not in found:
                    found[stamp_ns] = decode_frame(bag, options.image, bag.deserialize(raw))
            except DesertmindError:  # it was bad, and scored by none
                continue
    return found
