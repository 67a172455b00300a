"""The synthetic drive, rendered before or on the fly."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from desertmind_seg.model.documents import read_json
from desertmind_seg.model.files import expanded
from desertmind_seg.model.ontology import Ontology
from training import scenery, simulator
from training.data.frames import (
    DatasetError,
    DepthArray,
    FileFrame,
    LabelledFrame,
    UInt8Array,
    code_version,
)
from training.data.listing import Listing, entries, split_root, whole_frames, with_numbered_groups
from training.scenery.parameters import HAZARDS
from training.simulator.depth_sensor import frame_depth_mm
from training.simulator.drive import SyntheticDrive

_MOST_FRAMES = 10_000_000


def list_drives(root: str, ontology: Ontology) -> Listing:
    """Drives of training.synthetic: its folder, or 'seeds:A:B?frames=N&rate_hz=1&size=480x640'.

    `&hazards=all`, or some of rock,log,stump,ledge,ditch, puts these on the trail. Each drive is a
    group.
    """
    if root.startswith('seeds:'):
        return _rendered_drives(root, ontology)
    listing = Listing()
    for folder in entries(expanded(root), 'drive_*'):
        if folder.is_dir() and not (folder / 'drive.json').is_file():
            listing.unpaired.append(f'{folder}: no drive.json beside its frames; render it again')
    for drive in (path.parent for path in entries(expanded(root), '*/drive.json')):
        known = read_json(drive / 'drive.json').get('ontologies')
        if not isinstance(known, dict) or known.get(ontology.name) != ontology.sha256:
            raise DatasetError(
                f'{drive}: its labels are those of {known}, not of {ontology.name} '
                f'{ontology.sha256}; choose one of them or render the drive again'
            )
        folders = [path for path in entries(drive) if path.is_dir()]
        names = ('rgb.jpg', f'labels_{ontology.name.replace("-", "")}.png', 'depth.png')
        kinds = {
            name: {folder.name: folder / name for folder in folders if (folder / name).is_file()}
            for name in names
        }
        for key, (image, labels, depth) in whole_frames(listing, kinds):
            group, files = (drive.name, 0, None), (image, labels, depth)
            name = f'{drive.name}/{key}'
            listing.frames.append(FileFrame(name, 'synthetic', *group, *files, label_form='ids'))
    return with_numbered_groups(listing)


def _rendered_drives(root: str, ontology: Ontology) -> Listing:
    head, options = split_root(root, {'frames', 'rate_hz', 'size', 'hazards'})
    try:
        _, first, last = head.split(':')
        seeds = range(int(first), int(last))
        frames = int(options['frames'])
        rate_hz = float(options.get('rate_hz', '1'))
        height, width = (int(side) for side in options.get('size', '480x640').split('x'))
        named = options.get('hazards', 'none')
        hazards = {'all': HAZARDS, 'none': ()}.get(named, tuple(named.split(',')))
        if len(seeds) * frames > _MOST_FRAMES:
            raise ValueError(f'more than {_MOST_FRAMES:,} frames')
        # ValueError says what is not drawn.
        SyntheticDrive(seeds.start, (height, width), rate_hz, hazards)
    except (KeyError, ValueError, OverflowError) as err:
        raise DatasetError(
            f"{root}: expected 'seeds:A:B?frames=N', as in 'seeds:100:140?frames=6&rate_hz=1&"
            f"size=480x640' ({err})"
        ) from err
    known = ('desert-10', 'ycor-8')
    if ontology.name not in known:
        raise DatasetError(f'{root}: drawn with the labels of {known}, not of {ontology.name}')
    listing = Listing()
    for number, seed in enumerate(seeds):
        drive = f'drive_{seed:06d}'
        for index in range(frames):
            group = (f'{drive}/{index:06d}', 'synthetic', drive, number, None)
            frame = RenderedFrame(*group, seed, index, (height, width), rate_hz, hazards)
            listing.frames.append(frame)
    return listing


@dataclass(frozen=True)
class RenderedFrame(LabelledFrame):
    """Frame `index` of a drive that is rendered when it is read.

    A world takes about 4 s and a frame 0.8 s on one core, so this is for a set with a cache
    (`data.cache_dir`): the first pass renders, drive by drive, and later ones read.
    """

    seed: int
    index: int
    size_hw: tuple[int, int]
    rate_hz: float
    hazards: tuple[str, ...]

    @property
    def has_depth(self) -> bool:
        return True

    def _rendered(self) -> '_Rendered':
        return _render(self.seed, self.index, self.size_hw, self.rate_hz, self.hazards)

    def read_rgb(self) -> UInt8Array:
        return self._rendered().rgb

    def read_labels(self, ontology: Ontology) -> UInt8Array:
        return self._rendered().labels[ontology.name]

    def read_depth(self) -> DepthArray:
        return self._rendered().depth_m

    def content(self) -> bytes:
        return self.version().encode()

    def version(self) -> str:
        drive = f'{self.seed} {self.size_hw} {self.rate_hz} {self.hazards}'
        return f'{drive} {self.index} {code_version(scenery, simulator)}'


@dataclass(frozen=True)
class _Rendered:
    rgb: UInt8Array
    labels: dict[str, UInt8Array]
    depth_m: DepthArray


@lru_cache(maxsize=1)
def _render(
    seed: int, index: int, size_hw: tuple[int, int], rate_hz: float, hazards: tuple[str, ...]
) -> _Rendered:
    frame = SyntheticDrive(seed, size_hw, rate_hz, hazards).frame(index)
    labels = {'desert-10': frame.labels_desert_10, 'ycor-8': frame.labels_ycor_8}
    depth_mm = frame_depth_mm(seed, index, frame)
    depth_m = np.divide(depth_mm, np.float32(1000.0), dtype=np.float32)
    return _Rendered(frame.rgb, labels, depth_m)
