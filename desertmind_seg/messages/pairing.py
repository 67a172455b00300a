"""Which depth image belongs to which colour image: pure logic, for node and bags alike.

RGB leads: every image comes out once, in the order in which it came in, with the depth whose
stamp is nearest or with the reason why there is none. No thread, no clock and no ROS in here: the
caller says what time it is, on any clock that rises (`time.monotonic_ns()` in a node, the log time
of a bag), and hands over messages that are only passed on. Calls must not overlap.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite
from statistics import median, median_low
from typing import Any, Generic, TypeVar

R = TypeVar('R')
D = TypeVar('D')

# Half a period of 15 Hz depth is 33 ms; a vehicle of 5 m/s moves 0.2 m in 40 ms.
MAX_DT_MS = 40.0
MAX_WAIT_MS = 50.0
# What is held at most, for rates up to 90 Hz; beyond it the oldest image is decided at once.
MAX_WAITING_RGB = 8
MAX_HELD_DEPTH = 16
_CAME = 128  # images for which depth of the same stamp may still come
# Stamps of one camera rise. Two cameras on one topic, by mistake, differ by less than this.
TIME_JUMP_NS = 100_000_000
# Depth pipelines exchange neighbours; a stamp further back is a bag that began again.
_DEPTH_JUMP_NS = 500_000_000
# Of one jump of time, the two streams tell within this long of each other.
_ONE_JUMP_NS = 1_000_000_000
# Two streams of one camera take about equally long; clocks that differ do so by more.
_TWO_CLOCKS_MS = 250.0
# Exposed together means within a few milliseconds, not within half a period.
_SYNCED_MS = 10.0
_APART_PERIODS = 0.6
_PERIODS = 15
# Depth that has missed this many periods has stopped: images do not wait for it until it is back.
# One in five messages lost at random is three lost in a row every 8 s at 15 Hz.
_STALL_PERIODS = 4
# As long as the period is not known.
_STALL_NS = 500_000_000
# Where both streams pause, the first images after it are no sign.
_STALL_IMAGES = 3

NO_DEPTH = 'no depth'
TOO_FAR = 'too far apart'
OTHER_FRAME = 'other frame'
REASONS = {
    NO_DEPTH: 'no depth was there in time',
    TOO_FAR: 'the nearest depth was further away than max_dt_ms',
    OTHER_FRAME: 'depth was in another frame than the image',
}

# Bins of dt (depth minus RGB) in milliseconds, lower edge included.
DT_EDGES_MS = (
    *(-inf, -500.0, -200.0, -100.0, -50.0, -40.0, -30.0, -20.0, -10.0, -5.0, -1.0),
    *(1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0, 200.0, 500.0, inf),
)


@dataclass(frozen=True)
class Stamped(Generic[R]):
    """A message with what its header says; `message` is only passed on."""

    stamp_ns: int
    frame_id: str
    message: R


@dataclass(frozen=True)
class Pair(Generic[R, D]):
    """An image and its depth.

    Attributes:
        rgb: the image.
        depth: its depth, None where there is none.
        dt_ms: stamp of the nearest depth minus that of the image, also where it is too far; None
            where there was none in the image's frame.
        reason: '' with depth, else one of `REASONS`.
        detail: the reason as a sentence that says what to do; '' with depth.
    """

    rgb: Stamped[R]
    depth: Stamped[D] | None
    dt_ms: float | None
    reason: str
    detail: str


class DepthPairing(Generic[R, D]):
    """Waits for depth, but never longer than `max_wait_ms`, and pairs by the nearest stamp.

    An image is decided as soon as no depth that follows in order can be noticeably nearer, at the
    latest at its deadline: the caller then has to call `expire` (`deadline_ns` says when). An
    image never overtakes one that waits. While depth is silent no image waits.

    Args:
        max_dt_ms: how far apart the stamps of a pair may be.
        max_wait_ms: how long an image waits for its depth; 0 takes what is there.
        window: over how many of the latest images `summary` takes medians.
    """

    def __init__(
        self,
        max_dt_ms: float = MAX_DT_MS,
        max_wait_ms: float = MAX_WAIT_MS,
        window: int = 1000,
    ) -> None:
        for name, value in (('max_dt_ms', max_dt_ms), ('max_wait_ms', max_wait_ms)):
            if not (isfinite(value) and value >= 0):
                raise ValueError(f'{name} is {value!r}; expected 0 or more milliseconds')
        if window < 1:
            raise ValueError(f'window is {window}; expected at least 1')
        self.max_dt_ms = float(max_dt_ms)
        self.max_wait_ms = float(max_wait_ms)
        self._max_dt_ns = round(max_dt_ms * 1e6)
        self._max_wait_ns = round(max_wait_ms * 1e6)
        self._waiting: deque[tuple[Stamped[R], int]] = deque()  # with its deadline
        self._depths: deque[Stamped[D]] = deque(maxlen=MAX_HELD_DEPTH)  # as they arrived
        self._now_ns: int | None = None
        self._newest_rgb_ns: int | None = None
        self._newest_depth_ns: int | None = None
        self._depth_jumped_ns: int | None = None
        self._heard_ns: int | None = None  # when depth came last, at first when the stream began
        self._images_since = 0  # depth came last
        self._periods_ns: deque[int] = deque(maxlen=_PERIODS)
        self._rgb_came: deque[tuple[int, int]] = deque(maxlen=_CAME)  # stamp, when
        self._late_ms: deque[float] = deque(maxlen=_PERIODS)  # behind the image of that stamp

        self._rgb_count = self._depth_count = self._paired = 0
        self._duplicates = self._out_of_order = self._time_jumps = 0
        self._unpaired: Counter[str] = Counter()
        self._bins: Counter[int] = Counter()
        self._dt_ms: deque[float] = deque(maxlen=window)
        self._rgb_lags_ms: deque[float] = deque(maxlen=window)
        self._depth_lags_ms: deque[float] = deque(maxlen=window)

    @property
    def waiting(self) -> int:
        """How many images wait for their depth; at most MAX_WAITING_RGB."""
        return len(self._waiting)

    @property
    def held_depths(self) -> int:
        """How many depth messages are held; at most MAX_HELD_DEPTH."""
        return len(self._depths)

    @property
    def deadline_ns(self) -> int | None:
        """When `expire` has to be called at the latest; None while no image waits."""
        return self._waiting[0][1] if self._waiting else None

    def add_rgb(self, rgb: Stamped[R], now_ns: int) -> list[Pair[R, D]]:
        """Take an image that arrived now; returns the images that are decided."""
        pairs = self._advance(now_ns)
        newest = self._newest_rgb_ns
        if newest is not None and rgb.stamp_ns < newest - TIME_JUMP_NS:
            pairs += self.flush()
            self._jump(now_ns)
            newest = None
        self._newest_rgb_ns = rgb.stamp_ns if newest is None else max(newest, rgb.stamp_ns)
        self._rgb_count += 1
        self._rgb_lags_ms.append((now_ns - rgb.stamp_ns) / 1e6)
        self._rgb_came.append((rgb.stamp_ns, now_ns))
        if self._heard_ns is None:
            self._heard_ns = now_ns
        self._images_since += 1
        wait_ns = 0 if self._stalled(now_ns) else self._max_wait_ns
        self._waiting.append((rgb, now_ns + wait_ns))
        if len(self._waiting) > MAX_WAITING_RGB:
            pairs.append(self._decide())
        return pairs + self.expire(now_ns)

    def add_depth(self, depth: Stamped[D], now_ns: int) -> list[Pair[R, D]]:
        """Take depth that arrived now; returns the images that are decided by it."""
        pairs = self._advance(now_ns)
        self._heard_ns = now_ns
        self._images_since = 0
        self._depth_count += 1
        self._depth_lags_ms.append((now_ns - depth.stamp_ns) / 1e6)
        newest = self._newest_depth_ns
        if newest is not None and depth.stamp_ns < newest - _DEPTH_JUMP_NS:
            self._depths.clear()
            self._depth_jumped_ns = now_ns
            newest = None
        # Of the same stamp the latest counts: a driver that sets no stamps must not freeze depth.
        again = [held for held in self._depths if held.stamp_ns == depth.stamp_ns]
        for held in again:
            self._depths.remove(held)
        self._duplicates += len(again)
        if not again:
            came_ns = [came for stamp_ns, came in self._rgb_came if stamp_ns == depth.stamp_ns]
            self._late_ms.append((now_ns - came_ns[-1]) / 1e6 if came_ns else 0.0)
        if newest is not None and depth.stamp_ns > newest:
            self._periods_ns.append(depth.stamp_ns - newest)
        elif newest is not None and not again:
            self._out_of_order += 1
        self._newest_depth_ns = depth.stamp_ns if newest is None else max(newest, depth.stamp_ns)
        self._depths.append(depth)
        return pairs + self._ready()

    def expire(self, now_ns: int) -> list[Pair[R, D]]:
        """Decide every image that can be decided by now, or whose deadline has come."""
        pairs = self._advance(now_ns) + self._ready()
        while self._waiting and self._waiting[0][1] <= now_ns:
            pairs.append(self._decide())
        return pairs

    def flush(self) -> list[Pair[R, D]]:
        """Decide every image that waits, with what is there: the stream has ended."""
        return [self._decide() for _ in range(len(self._waiting))]

    def reset(self) -> list[Pair[R, D]]:
        """Start over after a jump of time; returns the images that were waiting."""
        pairs = self.flush()
        self._depths.clear()
        self._forget_lags()
        self._newest_rgb_ns = self._newest_depth_ns = self._depth_jumped_ns = None
        return pairs

    def _advance(self, now_ns: int) -> list[Pair[R, D]]:
        """Decide the images whose deadline passed before this moment's message came."""
        earlier, self._now_ns = self._now_ns, now_ns
        if earlier is not None and now_ns < earlier:
            self._heard_ns = now_ns
            return self.flush()  # the clock was set back: deadlines mean nothing any more
        pairs = []
        while self._waiting and self._waiting[0][1] < now_ns:
            pairs.append(self._decide())
        return pairs

    def _jump(self, now_ns: int) -> None:
        """Forget depth from before a jump of time, unless depth jumped first."""
        self._time_jumps += 1
        self._forget_lags()
        jumped, self._depth_jumped_ns = self._depth_jumped_ns, None
        if jumped is None or now_ns - jumped > _ONE_JUMP_NS:
            self._depths.clear()
            self._newest_depth_ns = None

    def _forget_lags(self) -> None:
        """Forget how late stamps came: a jump shifts them, and would look like two clocks."""
        self._rgb_lags_ms.clear()
        self._depth_lags_ms.clear()
        self._rgb_came.clear()
        self._late_ms.clear()

    def _stalled(self, now_ns: int) -> bool:
        """Whether depth has been silent for so long that waiting for it is in vain."""
        if self._heard_ns is None or self._images_since <= _STALL_IMAGES:
            return False
        stall_ns = _STALL_PERIODS * median_low(self._periods_ns) if self._periods_ns else _STALL_NS
        return now_ns - self._heard_ns > stall_ns + self._max_wait_ns

    def _ready(self) -> list[Pair[R, D]]:
        pairs = []
        while self._waiting and self._cannot_improve(self._waiting[0][0]):
            pairs.append(self._decide())
        return pairs

    def _cannot_improve(self, rgb: Stamped[R]) -> bool:
        """Whether depth that comes next, in order, can be no better than what is there."""
        if not self._depths:
            return False
        # The latest to arrive, not the highest stamp: one wrong stamp shall not rule for long.
        latest = self._depths[-1]
        if latest.stamp_ns >= rgb.stamp_ns or not _same_frame(rgb.frame_id, latest.frame_id):
            return True
        if not self._periods_ns:
            return False
        # Stamps of one exposure may differ by microseconds: waiting a period for each would be in
        # vain. A tenth of a period is not worth the wait either.
        period_ns = median_low(self._periods_ns)
        behind_ns = rgb.stamp_ns - latest.stamp_ns
        ahead_ns = period_ns - behind_ns  # of the depth that is to come
        if behind_ns > self._max_dt_ns:
            return ahead_ns > self._max_dt_ns
        return behind_ns <= ahead_ns + period_ns // 10

    def _decide(self) -> Pair[R, D]:
        rgb, _ = self._waiting.popleft()
        candidates = [held for held in self._depths if _same_frame(rgb.frame_id, held.frame_id)]
        if not self._depths:
            return self._without(rgb, None, NO_DEPTH, f'{REASONS[NO_DEPTH]}.')
        mismatch = frame_mismatch(rgb.frame_id, self._depths[-1].frame_id)
        if not candidates:
            return self._without(rgb, None, OTHER_FRAME, mismatch)
        # Of two that are equally near the one that arrived last.
        nearest = min(reversed(candidates), key=lambda held: abs(held.stamp_ns - rgb.stamp_ns))
        dt_ns = nearest.stamp_ns - rgb.stamp_ns
        dt_ms = dt_ns / 1e6
        self._dt_ms.append(dt_ms)
        self._bins[sum(dt_ms >= edge for edge in DT_EDGES_MS) - 1] += 1
        if abs(dt_ns) > self._max_dt_ns and mismatch:
            return self._without(rgb, dt_ms, OTHER_FRAME, mismatch)
        if abs(dt_ns) > self._max_dt_ns:
            return self._without(
                rgb,
                dt_ms,
                TOO_FAR,
                self._lateness()
                or f'the nearest depth is {dt_ms:+.1f} ms from the image; expected at most '
                f'{self.max_dt_ms:g} ms (max_dt_ms).',
            )
        self._paired += 1
        return Pair(rgb, nearest, dt_ms, '', '')

    def _without(
        self, rgb: Stamped[R], dt_ms: float | None, reason: str, detail: str
    ) -> Pair[R, D]:
        self._unpaired[reason] += 1
        return Pair(rgb, None, dt_ms, reason, detail)

    def clock_offset_ms(self) -> float | None:
        """How far depth's stamps are ahead of the images', judged by when both arrive.

        Stamps alone do not tell: depth whose clock is some periods ahead pairs with an image of
        another moment, and exactly so. Transport counts too, so tens of milliseconds mean nothing.
        """
        if not self._rgb_lags_ms or not self._depth_lags_ms:
            return None
        return float(median(self._rgb_lags_ms) - median(self._depth_lags_ms))

    def _lateness(self) -> str:
        """Say that depth comes later than an image waits; '' where it does not.

        Equal stamps are of one clock, so that the time between them is that on the way.
        """
        late_ms = median(self._late_ms) if self._late_ms else 0.0
        if late_ms <= self.max_wait_ms:
            return ''
        return (
            f'depth comes {late_ms:.0f} ms after the image of the same stamp, which waits '
            f'{self.max_wait_ms:g} ms at most (max_wait_ms): raise that, by which masks come '
            'later, or have depth come sooner, as from a faster alignment or another encoding.'
        )

    def hint(self) -> str:
        """Say which driver setting would bring the stamps together; '' where they are."""
        if late := self._lateness():
            return late[0].upper() + late[1:]
        offset_ms = self.clock_offset_ms()
        if offset_ms is not None and abs(offset_ms) > _TWO_CLOCKS_MS:
            return (
                f'The stamps of depth are {abs(offset_ms):.0f} ms '
                f'{"ahead of" if offset_ms > 0 else "behind"} those of the images when both '
                'arrive: two clocks. Give both streams one: rgb_camera.global_time_enabled and '
                'depth_module.global_time_enabled alike in realsense2_camera, time_domain: global '
                'in orbbec_camera.'
            )
        dt_ms = median(self._dt_ms) if self._dt_ms else 0.0
        too_far = abs(dt_ms) > self.max_dt_ms
        # Of streams that are exposed apart, one has the other within half a period on either side.
        period_ms = median_low(self._periods_ns) / 1e6 if self._periods_ns else 0.0
        if too_far and abs(dt_ms) > _APART_PERIODS * period_ms:
            return (
                f'The nearest depth in time is {dt_ms:+.1f} ms from its image (median), beyond '
                'max_dt_ms: depth is lost on its way, slower than half the rate of the images, '
                'or comes later than max_wait_ms allows.'
            )
        # Not the median: at half the rate every second image is half a period from its depth.
        quarter_ms = sorted(map(abs, self._dt_ms))[len(self._dt_ms) // 4] if self._dt_ms else 0.0
        if quarter_ms > _SYNCED_MS:
            return (
                f'The nearest depth is {dt_ms:+.1f} ms from its image (median): expose both '
                'together with enable_sync in realsense2_camera or enable_frame_sync in '
                'orbbec_camera, at the same rate'
                f'{", or raise max_dt_ms, as far as the vehicle is slow" if too_far else ""}.'
            )
        return ''

    def summary(self) -> dict[str, Any]:
        """Return counts, dt and clock offset for JSON and diagnostics; None is not known."""
        return {
            'rgb': self._rgb_count,
            'with_depth': self._paired,
            'without_depth': {reason: self._unpaired[reason] for reason in REASONS},
            'depth': self._depth_count,
            'depth_duplicates': self._duplicates,
            'depth_out_of_order': self._out_of_order,
            'time_jumps': self._time_jumps,
            'dt_ms': {
                'median': float(median(self._dt_ms)) if self._dt_ms else None,
                'histogram': [
                    {
                        'from_ms': None if low == -inf else low,
                        'to_ms': None if high == inf else high,
                        'frames': self._bins[index],
                    }
                    for index, (low, high) in enumerate(pairwise(DT_EDGES_MS))
                ],
            },
            'clock_offset_ms': self.clock_offset_ms(),
            'hint': self.hint(),
        }


def frame_mismatch(rgb_frame_id: str, depth_frame_id: str) -> str:
    """Say why depth of another frame cannot be used; '' where the frames are one."""
    if _same_frame(rgb_frame_id, depth_frame_id):
        return ''
    return (
        f'depth is in frame {depth_frame_id!r}, the image in {rgb_frame_id!r}: a pixel of one is '
        'not the same pixel of the other. Have the driver register depth to colour: '
        'align_depth.enable and the topic aligned_depth_to_color in realsense2_camera, '
        'depth_registration in orbbec_camera, stereo.i_align_depth in depthai_ros_driver; of '
        "other cameras and of CARLA, depth_image_proc's RegisterNode does it."
    )


def _same_frame(first: str, second: str) -> bool:
    # ROS 1 wrote some frames with a slash before them.
    return first.removeprefix('/') == second.removeprefix('/')
