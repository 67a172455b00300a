"""The hazards that geometry sees in the depth of a recorded drive."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from desertmind_seg.bag_geometry.camera_info import (
    CAMERA_INFO_TYPE,
    RecordedCamera,
    beside,
    find_camera_info,
    not_registered,
)
from desertmind_seg.bag_geometry.transforms import TF_TYPES, RecordedTransforms
from desertmind_seg.bag_geometry.truth import HEIGHT_TOPIC, RecordedTruth
from desertmind_seg.geometry.camera_model import CameraInfoError, Rays
from desertmind_seg.geometry.frame_transforms import TransformError
from desertmind_seg.hazards.detection import DETECTOR_FAILURES, HazardDetector
from desertmind_seg.hazards.gravity import GravityError, checked, height_problem, tilt_of
from desertmind_seg.hazards.records import (
    HAZARD_KINDS,
    STEEP,
    UNKNOWN,
    Hazards,
    HazardSettings,
)
from desertmind_seg.messages.bags import Bag, BagError
from desertmind_seg.model.arrays import Depth
from desertmind_seg.pipeline.progress import Progress
from desertmind_seg.scores.hazard_records import (
    Disagreement,
    HazardMetrics,
    HazardScores,
    Problem,
)
from desertmind_seg.scores.hazards import HeightErrors, Truth

# No vehicle drives where so much of what is seen is too steep, frame after frame.
_MOSTLY_STEEP = 0.5
# Of how many different problems the text is kept.
_MAX_PROBLEMS = 20


@dataclass(frozen=True)
class GeometryTopics:
    """Where the camera is described; None: looked for.

    Attributes:
        camera_info: topic of sensor_msgs/CameraInfo.
        gravity_frame: frame of /tf whose z is up.
    """

    camera_info: str | None = None
    gravity_frame: str | None = None


@dataclass(frozen=True)
class Judged:
    """A frame.

    Attributes:
        hazards: that geometry sees; None without depth, or a camera to judge it by.
        truth: what is known of them.
    """

    hazards: Hazards | None
    truth: Truth


class RecordedHazards:
    """Judges depth, frame by frame, by CameraInfo and /tf of a bag, which is read once for them.

    Args:
        bag: open.
        image_topic: of the images.
        depth_topic: of their depth, which is registered to them.
        topics: where the camera is described.
        settings: when geometry is a hazard; None: the node's defaults.

    Attributes:
        camera_info: its topic; '' without.
        truth: what a rendered drive knows of its hazards.
        frames: how many were judged.
        frames_unknown: how many had depth, but no ground was found in it, or no up in /tf.
        frames_up_from_data: of both, in how many only the depth says what is up.

    Raises:
        BagError: what was asked for by name is not there.
    """

    def __init__(
        self,
        bag: Bag,
        image_topic: str,
        depth_topic: str,
        topics: GeometryTopics,
        settings: HazardSettings | None = None,
    ) -> None:
        self.frames = self.frames_unknown = self.frames_up_from_data = 0
        self._problems: Counter[str] = Counter()
        self._pixels = self._known = 0
        self._kinds: Counter[str] = Counter()
        self._residuals_m: list[float] = []
        self._tilts_deg: list[tuple[float, float]] = []
        self._steep_shares: list[float] = []
        # Of the camera, by the depth and by /tf above `_base`.
        self._heights_m: list[tuple[float, float]] = []
        self._base = ''
        self._detector = HazardDetector(settings)
        self.truth = RecordedTruth(bag)
        self._height_errors = HeightErrors()
        self._camera = RecordedCamera(image_topic)
        self._transforms = RecordedTransforms()
        self._asked_frame = topics.gravity_frame
        self._level_frame: str | None = None
        self._no_level_frame = ''
        self.camera_info, self._no_camera_info = find_camera_info(
            bag, [image_topic, depth_topic], topics.camera_info
        )
        if self.camera_info:
            self._read(bag, beside(depth_topic))

    def _read(self, bag: Bag, of_depth: str) -> None:
        described: dict[str, Any] = {}
        infos = [self.camera_info]
        if of_depth in bag.topics and bag.topics[of_depth].type == CAMERA_INFO_TYPE:
            infos.append(of_depth)
        tf_topics = [name for name, topic in bag.topics.items() if topic.type in TF_TYPES]
        asked = [*dict.fromkeys(infos), *tf_topics]
        for raw in Progress(
            bag.messages(*asked),
            desc='reading transforms',
            total=sum(bag.topics[name].count for name in asked),
            unit='message',
            leave=False,
        ):
            try:
                message = bag.deserialize(raw)
            except BagError as err:
                self._note(str(err))
                continue
            if raw.topic in infos and np.any(message.k):
                described.setdefault(raw.topic, message)
            if raw.topic == self.camera_info:
                self._camera.add(message)
            elif raw.topic in tf_topics:
                self._transforms.add(message, static=raw.topic.endswith('/tf_static'))
        if len(described) > 1 and (
            why := not_registered(described[of_depth], described[infos[0]])
        ):
            self._note(why)

    @property
    def problem(self) -> str:
        """Why no frame was judged; '' where one was."""
        if self.frames:
            return ''
        if self._problems:
            return f'no frame could be judged: {self._problems.most_common(1)[0][0]}'
        return self._no_camera_info or 'no frame had depth.'

    def judge(
        self,
        header: Any,
        times_ns: tuple[int, int],
        size_hw: tuple[int, int],
        depth: Depth | None,
    ) -> Judged:
        """Judge a frame by its depth.

        Args:
            header: of the image.
            times_ns: its stamp and its log time.
            size_hw: height and width in pixels.
            depth: (H, W) float32 metres, 0 missing; None without.

        Raises:
            BagError: the frame that was asked for as the level one is not in the camera's tree.
        """
        hazards = self._hazards(header, times_ns[0], depth)
        truth = self.truth.at(*times_ns, size_hw)
        if hazards is not None and depth is not None and truth.height_m is not None:
            self._height_errors.add(hazards.height_m, truth.height_m, depth)
        return Judged(hazards, truth)

    def rays(self, header: Any, stamp_ns: int, size_hw: tuple[int, int]) -> Rays | None:
        """Return the rays of a frame of this header, stamp and size; None where none are known."""
        try:
            return self._camera.rays(stamp_ns, size_hw, header.frame_id)
        except CameraInfoError:
            return None

    def _hazards(self, header: Any, stamp_ns: int, depth: Depth | None) -> Hazards | None:
        if not self.camera_info:
            return None
        if self._level_frame is None:
            self._level_frame, self._no_level_frame = self._transforms.level_frame(
                header.frame_id, self._asked_frame
            )
        if depth is None:
            return None
        try:
            size_hw = depth.shape[0], depth.shape[1]
            rays = self._camera.rays(stamp_ns, size_hw, header.frame_id)
            up = self._up(header.frame_id, stamp_ns)
            height_m = self._height_m(header.frame_id, stamp_ns)
            found = self._detector.detect(depth, rays, up, height_m)
        except (CameraInfoError, GravityError, TransformError) as err:
            self._not_judged(str(err))
            return None
        except DETECTOR_FAILURES as err:
            self._not_judged(f'the detector failed: {err}.')
            return None
        self.frames_up_from_data += up is None
        if found.problem:
            self._note(found.problem)
        if np.isnan(found.residual_m):
            self.frames_unknown += 1
        else:
            self.frames += 1
            self._residuals_m.append(found.residual_m)
            self._tilts_deg.append(tilt_of(found.up))
            known = max(1, int(np.count_nonzero(found.kind != UNKNOWN)))
            self._steep_shares.append(int(np.count_nonzero(found.kind == STEEP)) / known)
            if height_m is not None:
                self._heights_m.append((found.camera_m, height_m))
        self._pixels += found.kind.size
        self._known += int(np.count_nonzero(found.kind != UNKNOWN))
        for name, code in HAZARD_KINDS.items():
            self._kinds[name] += int(np.count_nonzero(found.kind == code))
        return found

    def _not_judged(self, problem: str) -> None:
        self._note(problem)
        self.frames_unknown += 1

    def _up(self, frame_id: str, stamp_ns: int) -> npt.NDArray[np.float64] | None:
        """Return what /tf says; None where it has no level frame, and only the depth tells.

        As in the node, what there is must not be missing of a single frame: a guess would be of
        another kind than the frames around it.
        """
        if not self._level_frame:
            return None
        up = self._transforms.up(frame_id, self._level_frame, stamp_ns)
        return checked(up, f'{self._level_frame!r} is not level')

    def _height_m(self, frame_id: str, stamp_ns: int) -> float | None:
        """Return how high the camera is above its base; None where /tf does not say."""
        if not self._level_frame:
            return None
        with suppress(TransformError):  # the base is not on the way to the level frame
            above = self._transforms.height_m(frame_id, self._level_frame, stamp_ns)
            if above is not None:
                self._base, height_m = above
                return height_m
        return None

    def _other_height(self) -> str:
        """Say where the depth has the camera at another height than /tf; '' where it has not."""
        if not self._heights_m:
            return ''
        camera_m, tf_m = (float(of) for of in np.median(self._heights_m, axis=0))
        return height_problem(camera_m, tf_m, f'/tf above {self._base!r}')

    def _not_level(self) -> str:
        """Say where all ground is too steep by a frame of /tf; '' where it is not."""
        if not self._level_frame or float(np.median(self._steep_shares or 0)) < _MOSTLY_STEEP:
            return ''
        return (
            f'most of the ground is steeper than {self._detector.settings.slope_deg:g} degrees by '
            f'{self._level_frame!r}, {self._tilt()}: that frame is not level, as that of a visual '
            'odometry which began tilted, and geometry is wrong; name one that is with '
            '--gravity-frame.'
        )

    def _tilt(self) -> str:
        right_deg, down_deg = np.median(self._tilts_deg, axis=0)
        return (
            f'by which the camera looks down by {round(down_deg)} degrees and is tilted by '
            f'{round(right_deg)} to its right (medians)'
        )

    def metrics(self, disagreement: Disagreement, scores: HazardScores | None) -> HazardMetrics:
        """Return the part of metrics.json on geometry, beside what one model makes of it."""
        problems = self._problems + self._transforms.problems
        for text in filter(None, (self._other_height(), self._not_level())):
            problems[text] = self.frames
        return HazardMetrics(
            problem=self.problem,
            camera_info=self.camera_info or None,
            settings=asdict(self._detector.settings),
            gravity=self._gravity(),
            frames=self.frames,
            frames_unknown=self.frames_unknown,
            frames_up_from_data=self.frames_up_from_data,
            problems=[
                Problem(error=text, count=count)
                for text, count in problems.most_common(_MAX_PROBLEMS)
            ],
            known_share=self._known / self._pixels if self._pixels else None,
            hazard_shares={
                name: count / self._known for name, count in self._kinds.items() if self._known
            },
            residual_m=float(np.median(self._residuals_m)) if self._residuals_m else None,
            disagreement=disagreement,
            height_errors=self._height_errors.metrics()
            if HEIGHT_TOPIC in self.truth.topics
            else None,
            truth=self.truth.topics,
            scores=scores,
        )

    def _gravity(self) -> str:
        if self._level_frame:
            tilt = f', {self._tilt()}' if self.frames else ''
            return f'z of frame {self._level_frame!r} in /tf{tilt}'
        return 'guessed from the depth of each frame alone, by which a slope counts as level' + (
            f': {self._no_level_frame}' if self._no_level_frame else ''
        )

    def _note(self, text: str) -> None:
        if text in self._problems or len(self._problems) < _MAX_PROBLEMS:
            self._problems[text] += 1
