"""The thread that places frames into the costmap: what waits, is given up, is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Condition, Event
from types import SimpleNamespace
from typing import Any

from builtin_interfaces.msg import Time
from costmap_scene import GRASS, GROUND, LETHAL, RAYS, costs, pose
import numpy as np
import pytest
from std_msgs.msg import Header

from desertmind_seg.geometry.frame_transforms import CameraPose, StaticExtrinsics, TransformError
from desertmind_seg.outputs import costmap as outputs_costmap
from desertmind_seg.outputs.costmap import CostmapOutput
from desertmind_seg.outputs.publishers import RCLError
from desertmind_seg.parameters.table import PARAMETERS

DEFAULTS = {spec.name: spec.default for spec in PARAMETERS}


class Transforms:
    """Knows the pose at stamps, in seconds, that have been let come."""

    frame_id = 'odom'

    def __init__(self, *, tracks_motion: bool = True) -> None:
        self.tracks_motion = tracks_motion
        self.known: set[int] = set()
        self.closed = False

    def pose(self, header: Any) -> CameraPose:
        if header.stamp.sec not in self.known:
            raise TransformError(f'Nothing is known of {header.stamp.sec} s.')
        return pose()

    def close(self) -> None:
        self.closed = True


class Output:
    """A costmap output, and what it published and complained of."""

    def __init__(self, transforms: Transforms, **changes: Any) -> None:
        self.changed = Condition()
        self.grids: list[tuple[int, np.ndarray]] = []  # stamp in seconds, occupancy
        self.problems: list[str] = []
        self.subscribers, self.refuses, self.asked = 1, False, 0
        self.failed = Event()
        settings = DEFAULTS | {f'costmap.{name}': value for name, value in changes.items()}
        publisher = SimpleNamespace(publish=self._publish, get_subscription_count=self._ask)
        self.costmap = CostmapOutput(
            SimpleNamespace(),  # type: ignore[arg-type]
            settings,  # type: ignore[arg-type]
            publisher,
            None,
            self._complain,
            self.failed,
        )

    def offer(self, sec: int, cost: int | None = GRASS) -> None:
        """Offer level ground of a cost, or a frame without depth."""
        depth = None if cost is None else GROUND
        header = Header(stamp=Time(sec=sec), frame_id='camera')
        self.costmap.offer(header, depth, costs(cost or 0), RAYS)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 20.0), (self.grids, self.problems)

    def close(self) -> dict[str, str]:
        """End the thread; returns what was counted, without `costmap_`."""
        self.costmap.close()
        assert not self.failed.is_set()
        values = self.costmap.values().items()
        return {name.removeprefix('costmap_'): value for name, value in values if value != '0'}

    def _ask(self) -> int:
        with self.changed:
            self.asked += 1
            self.changed.notify_all()
            return self.subscribers

    def _publish(self, message: Any) -> None:
        if self.refuses:
            raise RCLError('queue full')
        assert message.header.frame_id == 'odom'
        with self.changed:
            self.grids.append((message.header.stamp.sec, np.array(message.data)))
            self.changed.notify_all()

    def _complain(self, problem: str) -> None:
        with self.changed:
            self.problems.append(problem)
            self.changed.notify_all()


@pytest.fixture
def transforms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Transforms]:
    transforms = Transforms()
    monkeypatch.setattr(outputs_costmap, '_extrinsics', lambda *_: transforms)
    yield transforms
    assert transforms.closed


def test_frames_wait_for_their_transforms_and_are_placed_in_order(transforms: Transforms) -> None:
    output = Output(transforms, tf_wait_ms=60_000)
    for sec in (1, 2, 3):
        output.offer(sec)
    transforms.known |= {2, 3}
    output.offer(4)
    transforms.known |= {1, 4}
    output.wait_until(lambda: len(output.grids) == 4)

    assert [sec for sec, _ in output.grids] == [1, 2, 3, 4]
    # 40 of 254 are 15.7 %.
    assert {value for _, grid in output.grids for value in np.unique(grid)} == {-1, 16}
    assert output.close() == {'placed': '4'}
    assert output.problems == []


def test_a_frame_whose_transform_never_comes_is_given_up_alone(transforms: Transforms) -> None:
    transforms.known = {2}
    output = Output(transforms, tf_wait_ms=50)
    output.offer(1)
    output.offer(2)
    output.wait_until(lambda: bool(output.grids))

    assert [sec for sec, _ in output.grids] == [2]
    words = 'Nothing is known of 1 s. Waited 50 ms (costmap.tf_wait_ms).'
    assert output.problems == [words]
    assert output.close() == {'placed': '1', 'lost_no_transform': '1'}


def test_frames_that_find_no_room_are_counted(transforms: Transforms) -> None:
    output = Output(transforms, tf_wait_ms=60_000)
    for sec in range(1, 19):
        output.offer(sec)

    assert len(output.problems) == 2
    assert output.problems[0].startswith('16 frames wait for their transforms')
    transforms.known = set(range(99))
    output.wait_until(lambda: len(output.grids) == 16)
    assert output.grids[-1][0] == 16  # those that waited, not those that came
    assert output.close() == {'placed': '16', 'lost_too_many_waiting': '2'}


def test_a_jump_of_time_forgets_what_was_seen_and_what_waits(transforms: Transforms) -> None:
    transforms.known = {5, 6, 1, 2}
    output = Output(transforms, tf_wait_ms=60_000, decay_sec=1e6)
    output.offer(5, LETHAL)
    output.wait_until(lambda: len(output.grids) == 1)
    output.offer(7, LETHAL)
    output.offer(6, LETHAL)
    output.costmap.forget()
    output.offer(1, None)
    output.offer(2)
    output.wait_until(lambda: len(output.grids) == 3)

    assert [sec for sec, _ in output.grids] == [5, 1, 2]
    assert [set(np.unique(grid)) for _, grid in output.grids] == [{-1, 100}, {-1}, {-1, 16}]
    assert output.close() == {'placed': '3', 'lost_time_jump': '2'}


@pytest.mark.parametrize('tracks_motion', [True, False])
def test_what_is_seen_fades_sooner_where_motion_is_not_known(
    transforms: Transforms, tracks_motion: bool
) -> None:
    transforms.tracks_motion, transforms.known = tracks_motion, {1, 4}
    output = Output(transforms, decay_sec=30.0)
    output.offer(1, LETHAL)
    output.offer(4, None)
    output.wait_until(lambda: len(output.grids) == 2)
    output.close()

    assert (output.grids[1][1] == 100).any() == tracks_motion


def test_a_grid_that_nobody_wants_or_that_is_refused_costs_no_other(
    transforms: Transforms,
) -> None:
    transforms.known = {1, 2, 3}
    output = Output(transforms)
    output.subscribers = 0
    output.offer(1)
    output.wait_until(lambda: output.asked == 1)
    output.subscribers, output.refuses = 1, True
    output.offer(2)
    output.wait_until(lambda: output.problems == ['queue full'])
    output.refuses = False
    output.offer(3)
    output.wait_until(lambda: len(output.grids) == 1)

    assert output.grids[0][0] == 3
    assert output.close() == {'placed': '2', 'lost_publish_failed': '1'}


@pytest.mark.parametrize('source', ['auto', 'static'])
def test_without_tf2_the_camera_is_fixed_on_the_base(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(outputs_costmap, 'tf2_is_installed', lambda: False)
    lines: list[str] = []
    node: Any = SimpleNamespace(get_logger=lambda: SimpleNamespace(info=lines.append))
    settings: Any = DEFAULTS | {'costmap.extrinsics': source, 'costmap.z_m': 1.25}
    output = CostmapOutput(node, settings, None, None, lines.append, Event())
    output.close()

    assert isinstance(output.extrinsics, StaticExtrinsics)
    assert output.extrinsics.pose(Header()).optical_to_world[2, 3] == pytest.approx(1.25)
    (line,) = lines
    assert 'fixed on base_link' in line
    assert 'z_m 1.25' in line
    assert ('(tf2_ros is not installed)' in line) == (source == 'auto')
