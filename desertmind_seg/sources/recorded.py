"""The frames of a bag, with their depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
import re

from desertmind_seg.messages.bag_depth import decode_recorded_depth, pair_recorded
from desertmind_seg.messages.bags import (
    COMPRESSED_IMAGE_TYPE,
    IMAGE_TYPES,
    Bag,
    BagError,
    RawMessage,
    decode_frame,
)
from desertmind_seg.messages.pairing import OTHER_FRAME, REASONS, DepthPairing
from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.sources.frames import (
    BadFrame,
    Selection,
    Shot,
    Source,
    SourceError,
    SourceFrame,
)
from desertmind_seg.storage.recording import METADATA

# Of how many different problems with depth the text is kept.
_MAX_PROBLEMS = 5


class BagFrames(Source):
    """The frames of an image topic; NAME_000012 is the 13th of the bag NAME.

    Args:
        path: rosbag2 folder, .mcap, .db3 or ROS 1 .bag.
        image_topic: None for the only one there is.
        depth_topic: registered to the images; None for none.
        selection: which frames are taken.

    Raises:
        BagError: the bag cannot be read, or lacks a topic.
        SourceError: it has several image topics, and none is named.
    """

    def __init__(
        self,
        path: Path,
        image_topic: str | None,
        depth_topic: str | None,
        selection: Selection,
    ) -> None:
        with ExitStack() as stack:
            self.bag = stack.enter_context(Bag(path, logged=False))
            self.depth_topic = depth_topic
            try:
                self.topic = image_topic or _only_topic(self.bag, depth_topic)
                total = self.bag.topic(self.topic).count
                if depth_topic is not None:
                    self.bag.topic(depth_topic)
            except DesertmindError as err:
                # A topic may have been in what is lost.
                said = ' '.join([f'{err}', *map('Lost: {}.'.format, self.bag.findings.losses)])
                raise type(err)(said) from err
            if depth_topic == self.topic:
                raise SourceError(f'{depth_topic!r} is given as topic of images and of depth')
            folder = path.parent if path.name == METADATA else path
            duration_s = self.bag.duration_ns / 1e9
            super().__init__(
                'bag',
                folder.resolve().name if folder.is_dir() else path.name.partition('.')[0],
                f'{path}, topic {self.topic}',
                total,
                selection,
                (total - 1) / duration_s if total > 1 and duration_s > 0.0 else None,
            )
            # Lists that grow: the bag's own losses count wherever a run ends.
            self.losses, self.notes = self.bag.findings.losses, self.bag.findings.notes
            self._stack = stack.pop_all()
        self._total = total
        # Of the frame that was read last.
        self.frame_id = ''
        self._depth_problems: Counter[str] = Counter()

    def close(self) -> None:
        """Close the bag."""
        self._stack.close()

    def _shots(self) -> Iterator[Shot | BadFrame]:
        index = -1
        no_stamps = self._lacks_stamps()
        if no_stamps:
            self.bag.findings.note(
                f'the first frames of {self.topic} have no stamp (0), so the log time of each is '
                'taken for when it was taken'
            )
        for index, (raw, depth) in enumerate(self._pairs()):
            name = f'{self.name}_{index:06d}'
            try:
                stamp_ns = raw.stamp_ns()
            except BagError as err:
                yield BadFrame(name, str(err))
                continue
            if no_stamps:
                stamp_ns = raw.log_time_ns
            yield Shot(name, stamp_ns, partial(self._read, name, stamp_ns, raw, depth))
        if index + 1 < self._total:
            self.losses.append(f'{self._total - index - 1} frames lost: the bag is damaged')
        for text, count in self._depth_problems.most_common(_MAX_PROBLEMS):
            self.losses.append(f'{count} times without depth: {text}')

    def _lacks_stamps(self) -> bool:
        """Whether the first two frames have none: one may be of when a simulation began."""
        stamps_ns: list[int] = []
        for raw in self.bag.messages(self.topic):
            with suppress(BagError):
                stamps_ns.append(raw.stamp_ns())
            if len(stamps_ns) == 2:
                break
        return bool(stamps_ns) and not any(stamps_ns)

    def _pairs(self) -> Iterator[tuple[RawMessage, RawMessage | None]]:
        if self.depth_topic is None:
            for raw in self.bag.messages(self.topic):
                yield raw, None
            return
        pairing: DepthPairing[RawMessage, RawMessage] = DepthPairing()
        for raw, pair in pair_recorded(
            self.bag, self.topic, self.depth_topic, pairing, self._note_problem
        ):
            if pair is not None and pair.depth is None:
                of_topics = pair.reason == OTHER_FRAME
                self._depth_problems[pair.detail if of_topics else REASONS[pair.reason]] += 1
            yield raw, None if pair is None or pair.depth is None else pair.depth.message

    def _note_problem(self, err: BagError) -> None:
        self._depth_problems[str(err)] += 1

    def _read(
        self, name: str, stamp_ns: int, raw: RawMessage, depth_raw: RawMessage | None
    ) -> SourceFrame:
        message = self.bag.deserialize(raw)
        rgb = decode_frame(self.bag, self.topic, message)
        self.frame_id = str(message.header.frame_id)
        depth = None
        if depth_raw is not None:
            try:
                depth = decode_recorded_depth(self.bag, depth_raw, (rgb.shape[0], rgb.shape[1]))
            except DesertmindError as err:
                self._depth_problems[str(err)] += 1
        compressed = self.bag.topics[self.topic].type == COMPRESSED_IMAGE_TYPE
        encoded = bytes(message.data) if compressed else b''
        return SourceFrame(name, rgb, stamp_ns, depth, encoded=encoded)


def _only_topic(bag: Bag, depth_topic: str | None) -> str:
    """Return the image topic of a bag that has one; of a camera's raw and compressed the raw."""
    depth_topics = [*bag.depth_topics(), depth_topic]
    topics = {
        name: topic
        for name, topic in bag.topics.items()
        if topic.type in IMAGE_TYPES and topic.count and name not in depth_topics
    }
    names = [
        name
        for name in topics
        if re.sub('/(compressed|zstd)$', '', name) not in topics.keys() - {name}
    ]
    if len(names) == 1:
        return names[0]
    if not names:
        listed = '; '.join(f'{topic.name} ({topic.type})' for topic in bag.topics.values())
        raise SourceError(
            f'bag {str(bag.path)!r} has no image topic with a message; its topics: '
            f'{listed or "none"}'
        )
    listed = '; '.join(f'{topic.name} ({topic.type}, {topic.count})' for topic in topics.values())
    raise SourceError(
        f'bag {str(bag.path)!r} has {len(topics)} image topics: {listed}. Name the one to take: '
        f'--image {names[0]}'
    )
