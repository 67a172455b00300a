"""What a rendered drive knows of its hazards: true heights, kinds and sizes, on /ground_truth."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from desertmind_seg.messages.bags import IMAGE_TYPE, Bag, BagError, RawMessage
from desertmind_seg.messages.images import MessageError, decode_labels, image_rows
from desertmind_seg.model.documents import DocumentError, parse_json
from desertmind_seg.scores.hazards import Truth

# Of rendered drives with hazards: metres, kinds of hazards, centimetres.
HEIGHT_TOPIC = '/ground_truth/height'
KIND_TOPIC = '/ground_truth/hazard'
SIZE_TOPIC = '/ground_truth/hazard_size'
# custom_data of the bag: JSON whose hazard_kinds are names and codes.
DRIVE_KEY = 'desertmind_seg.drive'
_NO_HAZARD = 'none'
# One plant does not end where the next begins: no size.
_WITHOUT_SIZE = ('vegetation',)
# A message is looked for so long after its frame, in log time, and so many frames wait for theirs.
_LATE_NS = 1_000_000_000
_MAX_WAITING = 64


class RecordedTruth:
    """The truth of the frames of a rendered drive, read along with them.

    Args:
        bag: open. One without these topics, as every recorded one, knows nothing.

    Attributes:
        topics: that the bag has of them.
        kinds: names of the kinds of hazards.
    """

    def __init__(self, bag: Bag) -> None:
        self.topics = [
            name
            for name in (HEIGHT_TOPIC, KIND_TOPIC, SIZE_TOPIC)
            if name in bag.topics and bag.topics[name].type == IMAGE_TYPE
        ]
        codes = _codes(bag) if KIND_TOPIC in self.topics else {}
        self.kinds = tuple(name for name in codes if name != _NO_HAZARD)
        self._index = np.full(256, 255, np.uint8)
        self._index[[codes[name] for name in self.kinds]] = np.arange(len(self.kinds))
        self._sized = np.zeros(256, bool)
        self._sized[[codes[name] for name in self.kinds if name not in _WITHOUT_SIZE]] = True
        self._bag = bag
        self._messages = bag.messages(*self.topics) if self.topics else iter(())
        self._next: RawMessage | None = next(self._messages, None)
        self._waiting: dict[int, dict[str, RawMessage]] = {}

    def at(self, stamp_ns: int, log_time_ns: int, size_hw: tuple[int, int]) -> Truth:
        """Return what is known of a frame; frames come in the order of the bag, about.

        A message that is damaged or of another size is as good as none.
        """
        self._read_to(log_time_ns + _LATE_NS, stamp_ns)
        images = self._decode(self._waiting.pop(stamp_ns, {}), size_hw)
        height_m, kind, size_cm = (
            images.get(topic) for topic in (HEIGHT_TOPIC, KIND_TOPIC, SIZE_TOPIC)
        )
        size_m = None
        if kind is not None and size_cm is not None:
            sized = self._sized[kind] & (size_cm > 0)  # a puddle has none
            size_m = np.where(sized, size_cm / np.float32(100), np.float32(np.nan))
        return Truth(
            height_m=height_m,
            kind=None if kind is None else self._index[kind],
            size_m=size_m,
        )

    def _read_to(self, until_ns: int, stamp_ns: int) -> None:
        while self._next is not None and self._next.log_time_ns <= until_ns:
            if len(self._waiting.get(stamp_ns, ())) == len(self.topics):
                return
            with suppress(BagError):
                self._waiting.setdefault(self._next.stamp_ns(), {})[self._next.topic] = self._next
            while len(self._waiting) > _MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
            self._next = next(self._messages, None)

    def _decode(self, raws: dict[str, RawMessage], size_hw: tuple[int, int]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for topic, raw in raws.items():
            try:
                message = self._bag.deserialize(raw)
                image = _floats(message) if topic == HEIGHT_TOPIC else decode_labels(message)
            except (BagError, MessageError):
                continue
            if image.shape == size_hw and image.dtype in (np.uint8, np.float32):
                found[topic] = image
        return found


def _codes(bag: Bag) -> dict[str, int]:
    """Return the codes of the kinds by name; those of a bag that does not say are numbered."""
    try:
        drive = parse_json(bag.custom_data.get(DRIVE_KEY, '{}'), DRIVE_KEY)
        named = drive.get('hazard_kinds', {})
        codes = {str(name): int(code) for name, code in named.items() if 0 <= int(code) < 255}
    except (DocumentError, ValueError, TypeError, AttributeError):
        codes = {}
    return codes or {_NO_HAZARD: 0, **{f'{code}': code for code in range(1, 20)}}


def _floats(message: Any) -> npt.NDArray[np.float32]:
    if message.encoding != '32FC1':
        raise MessageError(f'encoding {message.encoding!r}; expected 32FC1')
    rows = np.ascontiguousarray(image_rows(message, 4 * message.width, message.height))
    return rows.view('>f4' if message.is_bigendian else '<f4').astype(np.float32, copy=False)
