"""Labelled bags: images with labels of the same stamp, and the depth that the node would take."""

from collections.abc import Callable
import dataclasses
from dataclasses import dataclass
from functools import lru_cache
import os
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from desertmind_seg.messages.bag_depth import decode_recorded_depth, pair_recorded
from desertmind_seg.messages.bags import (
    IMAGE_TYPE,
    Bag,
    BagError,
    RawMessage,
    decode_frame,
)
from desertmind_seg.messages.images import MessageError, decode_labels
from desertmind_seg.messages.pairing import DepthPairing
from desertmind_seg.model.files import expanded
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.storage.recording import METADATA, is_recording
from training.data.frames import (
    DatasetError,
    DepthArray,
    LabelledFrame,
    UInt8Array,
    checked_ids,
    file_version,
)
from training.data.listing import Listing, block_of, entries, split_root

_Decoded = TypeVar('_Decoded')


class _Topics(NamedTuple):
    image: str
    labels: str
    depth: str | None


class _Place(NamedTuple):
    """Where a message lies in its bag."""

    topic: str
    log_time_ns: int
    stamp_ns: int


def list_bags(root: str, ontology: Ontology, block_frames: int) -> Listing:
    """List labelled bags; root is 'PATH?image=TOPIC&labels=TOPIC[&depth=TOPIC]'.

    PATH is one bag, whose groups are blocks of frames, or a folder of bags, each of which is a
    group. Labels are class ids and belong to the image of equal stamp. Depth is paired with it as
    the node does by default, and a frame that the node would segment without depth has none.
    """
    path, options = split_root(root, {'image', 'labels', 'depth'})
    missing = [name for name in ('image', 'labels') if name not in options]
    folder = expanded(path)
    if folder.name == METADATA:
        folder = folder.parent
    if missing:
        raise DatasetError(
            f'{root}: which topics? Missing: {", ".join(missing)}. Write the root as '
            "'PATH?image=/camera/color/image_raw&labels=/labels/ycor_8&depth=/...'"
        )
    bags = [folder]
    if folder.is_dir() and not (folder / METADATA).is_file():
        bags = [entry for entry in entries(folder) if is_recording(entry)]
    topics = _Topics(options['image'], options['labels'], options.get('depth'))
    listing = Listing()
    for number, path_of_bag in enumerate(bags):
        try:
            found = _frames_of(path_of_bag, topics, ontology)
        except BagError as err:
            if len(bags) == 1:
                raise DatasetError(str(err)) from err
            listing.unpaired.append(str(err))  # the other bags are looked at all the same
            continue
        listing.unpaired.extend(found.unpaired)
        listing.notes.extend(found.notes)
        for position, frame in enumerate(found.frames):
            group = (path_of_bag.name, number)
            if len(bags) == 1:
                group = block_of(position, block_frames)
            listing.frames.append(
                dataclasses.replace(frame, group=group[0], group_number=group[1])
            )
    return listing


def _frames_of(path: Path, topics: _Topics, ontology: Ontology) -> Listing:
    with Bag(path) as bag:
        bag.topic(topics.image)
        recorded = bag.ontology_sha256(topics.labels)
        if recorded not in (None, ontology.sha256):
            raise DatasetError(
                f'{path}: {topics.labels!r} belongs to the ontology with SHA-256 {recorded}, not '
                f'to {ontology.name} with {ontology.sha256}; name another topic or ontology'
            )
        bag.topic(topics.labels, {IMAGE_TYPE})
        listing = Listing()
        labels = _by_stamp(bag, topics.labels, listing)
        images = _by_stamp(bag, topics.image, listing)
        depths: dict[int, _Place] = {}
        if topics.depth is not None:
            bag.topic(topics.depth)
            depths = _depths(bag, topics.image, topics.depth, set(labels), listing)
        listing.unpaired.extend(f'{path}: {loss}' for loss in bag.findings.losses)
    listing.unpaired.extend(
        f'{path}: {topics.labels} of stamp {stamp} has no {topics.image}'
        for stamp in sorted(set(labels) - set(images))
    )
    listing.frames.extend(
        BagFrame(
            f'{path.name}/{stamp}',
            'bag',
            '',
            0,
            None,
            bag=path,
            image=images[stamp],
            labels=labels[stamp],
            depth=depths.get(stamp),
        )
        for stamp in sorted(set(labels) & set(images))
    )
    return listing


def _place(raw: RawMessage) -> _Place:
    return _Place(raw.topic, raw.log_time_ns, raw.stamp_ns())


def _has_stamp(raw: RawMessage, stamp_ns: int) -> bool:
    try:
        return raw.stamp_ns() == stamp_ns
    except BagError:  # cut off, and of the same instant as one that is whole
        return False


def _by_stamp(bag: Bag, topic: str, listing: Listing) -> dict[int, _Place]:
    """Return where the message of each stamp is: of several the first, and a note of the others.

    A stamp is all that says which labels belong to which image. A message without a whole header
    is no half of any frame.
    """
    places: dict[int, _Place] = {}
    lost: list[str] = []
    count = 0
    messages = Progress(
        bag.messages(topic),
        desc=f'listing {topic}',
        total=bag.topics[topic].count,
        unit='message',
        leave=False,
    )
    for count, raw in enumerate(messages, start=1):
        try:
            if raw.damage:
                raise BagError(raw.damage)
            place = _place(raw)
        except BagError as err:
            listing.unpaired.append(f'{bag.path}: message {count} of {topic}: {err}')
            continue
        if places.setdefault(place.stamp_ns, place) is not place:
            lost.append(f'message {count} of stamp {place.stamp_ns}')
    if lost:
        listing.notes.append(
            f'{bag.path}: {len(lost)} of {count} messages of {topic} have the stamp of an earlier '
            f'one and are left out: {", ".join(lost[:5])}{", ..." if len(lost) > 5 else ""}; '
            'record again with stamps that differ'
        )
    return places


def _depths(
    bag: Bag, image_topic: str, depth_topic: str, labelled: set[int], listing: Listing
) -> dict[int, _Place]:
    """Return the depth of the first image of each stamp, as the node pairs them.

    Depth without a whole header is named, and so is how many of the frames in `labelled` the node
    would segment without depth.
    """
    if depth_topic == image_topic:
        raise DatasetError(
            f'{bag.path}: {depth_topic!r} is named as topic of the images and of their depth'
        )
    depths: dict[int, _Place] = {}
    seen: set[int] = set()
    reasons: list[str] = []
    pairing: DepthPairing[RawMessage, RawMessage] = DepthPairing()

    def unreadable(err: BagError) -> None:
        listing.unpaired.append(f'{bag.path}: a message of {depth_topic}: {err}')

    for _, pair in pair_recorded(bag, image_topic, depth_topic, pairing, unreadable):
        if pair is None or pair.rgb.stamp_ns in seen:
            continue
        stamp = pair.rgb.stamp_ns
        seen.add(stamp)
        if pair.depth is not None:
            depths[stamp] = _place(pair.depth.message)
        elif stamp in labelled:
            reasons.append(pair.detail)
    if reasons:
        listing.notes.append(
            f'{bag.path}: {len(reasons)} of {len(labelled)} labelled frames have no depth, and '
            f'would have none on the vehicle. The first: {reasons[0]} {pairing.hint()}'.rstrip()
        )
    return depths


@lru_cache(maxsize=8)
def _open_bag(path: Path, process: int) -> Bag:
    # Files that are open across a fork share one read position: one a process. The bag stays open
    # for as long as the process reads frames of it.
    del process
    return Bag(path).__enter__()


@dataclass(frozen=True)
class BagFrame(LabelledFrame):
    """An image of a bag, its labels, and its depth where the node would have one.

    Attributes:
        bag: folder or file.
        image: where the image is; raw or compressed.
        labels: where the labels are; class ids.
        depth: where the depth is; raw or compressedDepth.
    """

    bag: Path
    image: _Place
    labels: _Place
    depth: _Place | None

    @property
    def has_depth(self) -> bool:
        return self.depth is not None

    def _read(self, place: _Place, decode: Callable[[Bag, RawMessage], _Decoded]) -> _Decoded:
        bag = _open_bag(self.bag, os.getpid())
        start = place.log_time_ns
        try:
            for raw in bag.messages(place.topic, start_ns=start, stop_ns=start + 1):
                if _has_stamp(raw, place.stamp_ns):
                    return decode(bag, raw)
            raise BagError(f'the message of stamp {place.stamp_ns} ns is no longer there')
        except (BagError, MessageError) as err:
            raise DatasetError(f'{self.bag}: {place.topic!r}, frame {self.name}: {err}') from err

    def read_rgb(self) -> UInt8Array:
        rgb = self._read(
            self.image, lambda bag, raw: decode_frame(bag, raw.topic, bag.deserialize(raw))
        )
        # A raw image is the message's own read-only memory, which torch does not take.
        return rgb if rgb.flags.writeable else rgb.copy()

    def read_labels(self, ontology: Ontology) -> UInt8Array:
        values = self._read(self.labels, lambda bag, raw: decode_labels(bag.deserialize(raw)))
        return checked_ids(values, ontology, f'{self.bag} {self.labels.topic} {self.name}')

    def _size_hw(self) -> tuple[int, int]:
        # Labels are as large as their image, and cheaper to look at than a compressed one.
        message = self._read(self.labels, lambda bag, raw: bag.deserialize(raw))
        return message.height, message.width

    def read_depth(self) -> DepthArray:
        """Return the depth as the node would give it to the network, at the image's size."""
        size_hw = self._size_hw()
        if self.depth is None:
            return np.zeros(size_hw, np.float32)
        return self._read(self.depth, lambda bag, raw: decode_recorded_depth(bag, raw, size_hw))

    def content(self) -> bytes:
        present = [place for place in (self.image, self.labels, self.depth) if place is not None]
        return b''.join(self._read(place, lambda bag, raw: bytes(raw.cdr)) for place in present)

    def version(self) -> str:
        files = sorted(self.bag.iterdir()) if self.bag.is_dir() else [self.bag]
        versions = ' '.join(file_version(path) for path in files if path.is_file())
        return f'{versions} {self.image} {self.labels} {self.depth}'
