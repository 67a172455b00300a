"""The node's parameters: one table, from which they are declared, checked and documented."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import difflib
import time
from typing import Any, Literal

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from desertmind_seg.messages.compressed_format import COMPRESSED_COLORS
from desertmind_seg.model.errors import DesertmindError

# When a parameter may be set: 'any time', 'unconfigured' (the node reads it when it is configured)
# or 'at start' (read-only afterwards).
Settable = Literal['any time', 'unconfigured', 'at start']

# A client keeps 10 answers by rclpy's default, and takes each within this time.
_ANSWER_SEC = 0.002


class ParameterError(DesertmindError):
    """A parameter given at start has a wrong type or value; says which, and how to write it."""


@dataclass(frozen=True)
class ParameterSpec:
    """One row of the table; the type is that of `default`, the range includes its ends."""

    name: str
    default: bool | int | float | str
    description: str
    unit: str = ''
    range: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    settable: Settable = 'unconfigured'

    @property
    def constraints(self) -> str:
        """The allowed values as text; empty where any value of the type will do."""
        if self.range is not None:
            return f'{self.range[0]} to {self.range[1]}'
        return ' or '.join(self.choices)

    def problem(self, value: Any) -> str | None:
        """Say why `value`, which has the right type, is refused; None when it is not."""
        if self.choices and value not in self.choices:
            return f'{self.name} is {value!r}; expected {self.constraints}.'
        # Written so that NaN, which compares as false, is refused too.
        if self.range is not None and not self.range[0] <= value <= self.range[1]:
            return f'{self.name} is {value}; expected a number from {self.constraints}.'
        return None

    def descriptor(self) -> ParameterDescriptor:
        """Return what `ros2 param describe` shows."""
        descriptor = ParameterDescriptor(
            name=self.name,
            description=f'{self.description} Unit: {self.unit}.'
            if self.unit
            else self.description,
            read_only=self.settable == 'at start',
            additional_constraints=f'Settable: {self.settable}.'
            + (f' One of: {", ".join(self.choices)}.' if self.choices else ''),
        )
        if self.range is not None and isinstance(self.default, float):
            low, high = self.range
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        elif self.range is not None:
            low, high = (int(end) for end in self.range)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        return descriptor


PARAMETERS = (
    ParameterSpec(
        'autostart',
        False,
        'Configure and activate by itself; when that fails, the process exits with status 2.',
        settable='at start',
    ),
    ParameterSpec(
        'build_only',
        False,
        'Build the TensorRT engine of the bundle unless the cache has it, and exit: with status 0 '
        'when it is there.',
        settable='at start',
    ),
    ParameterSpec(
        'model.bundle',
        '',
        'Path of the bundle (.onnx) to run; empty for the one that the package ships.',
    ),
    ParameterSpec(
        'model.expected_ontology',
        '',
        'Name or SHA-256 of the class table that the consumers of the mask were written for; a '
        'bundle with another one is refused. Empty for any.',
    ),
    ParameterSpec(
        'engine.backend',
        'auto',
        'What runs the bundle: auto, tensorrt, onnxruntime-cuda or onnxruntime-cpu. A named one '
        'that cannot run here is an error; auto takes the first that can and logs which.',
    ),
    ParameterSpec(
        'engine.num_threads',
        0,
        'CPU threads of one operator; 0 for one a physical core.',
        range=(0, 256),
    ),
    ParameterSpec(
        'engine.shape',
        'dynamic',
        'Frame sizes that a TensorRT engine takes, height x width, such as 480x640,720x1280: less '
        'GPU memory and faster kernels than dynamic, which takes every size.',
    ),
    ParameterSpec(
        'engine.cache_dir',
        '',
        'Folder of the built TensorRT engines; empty for $DESERTMIND_SEG_ENGINE_CACHE or, without '
        'it, $XDG_CACHE_HOME/desertmind_seg/engines.',
    ),
    ParameterSpec(
        'engine.target',
        'current',
        'GPU for which build_only builds: current, or a compute capability such as sm86, for '
        'which no GPU is needed.',
    ),
    ParameterSpec(
        'input.transport',
        'raw',
        'raw subscribes to sensor_msgs/Image on image, compressed to '
        'sensor_msgs/CompressedImage on image/compressed.',
        choices=('raw', 'compressed'),
    ),
    ParameterSpec(
        'input.compressed_colors',
        'auto',
        'How compressed images are read: auto as their format string says, as_stored or exchanged '
        '(red and blue) where that is wrong; docs/formats.md tells who writes what.',
        choices=COMPRESSED_COLORS,
    ),
    ParameterSpec(
        'input.rectified',
        False,
        'The images are rectified (image_rect): points come from P of camera_info, not from K and '
        'its distortion.',
    ),
    ParameterSpec(
        'input.max_age_ms',
        500,
        'Frames older than this when their turn comes are dropped; 0 keeps them all.',
        unit='ms',
        range=(0, 60_000),
        settable='any time',
    ),
    ParameterSpec(
        'input.timeout_sec',
        5.0,
        'Warn when no image has come for this long.',
        unit='s',
        range=(0.1, 3600.0),
        settable='any time',
    ),
    ParameterSpec(
        'depth.use',
        'auto',
        'auto subscribes to depth when the bundle takes it, always also for the points and the '
        'costmap of an RGB bundle, never runs an RGB-D bundle without depth.',
        choices=('auto', 'always', 'never'),
    ),
    ParameterSpec(
        'depth.transport',
        'raw',
        'raw subscribes to sensor_msgs/Image on depth/image, compressed to '
        'sensor_msgs/CompressedImage on depth/image/compressedDepth.',
        choices=('raw', 'compressed'),
    ),
    ParameterSpec(
        'depth.max_dt_ms',
        40,
        'How far apart the stamps of an image and of its depth may be.',
        unit='ms',
        range=(0, 10_000),
    ),
    ParameterSpec(
        'depth.max_wait_ms',
        50,
        'How long an image waits for its depth at most; then it goes on without.',
        unit='ms',
        range=(0, 10_000),
    ),
    ParameterSpec(
        'depth.min_valid_share',
        0.02,
        'Depth with a smaller share of valid pixels is not used.',
        range=(0.0, 1.0),
    ),
    ParameterSpec(
        'confidence.threshold',
        0.0,
        'Pixels whose confidence (a probability) is lower become 255 (unlabeled) in mask and '
        'cost.',
        range=(0.0, 1.0),
        settable='any time',
    ),
    ParameterSpec(
        'temporal.alpha',
        0.0,
        'Weight of the history of a pixel, moved along by optical flow, in its probabilities: '
        'less flicker. 0 is off, 0.4 was measured to cost no mIoU. Needs ONNX Runtime and a '
        'bundle with probabilities.',
        range=(0.0, 0.95),
    ),
    ParameterSpec(
        'output.overlay_alpha',
        0.5,
        'Opacity of the class colours in the overlay.',
        range=(0.0, 1.0),
        settable='any time',
    ),
    ParameterSpec(
        'costmap.extrinsics',
        'auto',
        'Where the pose of the camera comes from for the costmap: tf, static (the parameters '
        'below), or auto, which is tf where tf2_ros is installed.',
        choices=('auto', 'tf', 'static'),
    ),
    ParameterSpec(
        'costmap.world_frame',
        'odom',
        'Gravity-aligned frame that stands still, in which the costmap is; tf only.',
    ),
    ParameterSpec(
        'costmap.tf_wait_ms',
        500,
        'How long a frame of the costmap waits for transforms of its stamp, which come later than '
        'the image; masks do not wait. tf only.',
        unit='ms',
        range=(0, 5_000),
    ),
    ParameterSpec(
        'costmap.base_frame',
        'base_link',
        'Base of the vehicle, on the ground; with static extrinsics the frame of the costmap.',
    ),
    ParameterSpec(
        'costmap.x_m',
        0.0,
        'How far before the base the camera is; static extrinsics only.',
        unit='m',
        range=(-20.0, 20.0),
    ),
    ParameterSpec(
        'costmap.y_m',
        0.0,
        'How far to the left of the base the camera is; static extrinsics only.',
        unit='m',
        range=(-20.0, 20.0),
    ),
    ParameterSpec(
        'costmap.z_m',
        1.2,
        'How high above the base the camera is; static extrinsics only.',
        unit='m',
        range=(-20.0, 20.0),
    ),
    ParameterSpec(
        'costmap.roll_deg',
        0.0,
        'Tilt of the camera to its right; static extrinsics only.',
        unit='degrees',
        range=(-180.0, 180.0),
    ),
    ParameterSpec(
        'costmap.pitch_deg',
        0.0,
        'How far the camera looks down; static extrinsics only.',
        unit='degrees',
        range=(-180.0, 180.0),
    ),
    ParameterSpec(
        'costmap.yaw_deg',
        0.0,
        'How far the camera looks to the left; static extrinsics only.',
        unit='degrees',
        range=(-180.0, 180.0),
    ),
    ParameterSpec(
        'costmap.resolution_m',
        0.2,
        'Side of a cell of the costmap.',
        unit='m',
        range=(0.05, 1.0),
    ),
    ParameterSpec(
        'costmap.size_m',
        20.0,
        'Side of the costmap, which is a square.',
        unit='m',
        range=(4.0, 60.0),
    ),
    ParameterSpec(
        'costmap.min_range_m',
        0.5,
        'Points nearer to the camera, on the ground, are left out.',
        unit='m',
        range=(0.0, 100.0),
    ),
    ParameterSpec(
        'costmap.max_range_m',
        10.0,
        'Points further away are left out.',
        unit='m',
        range=(0.0, 100.0),
    ),
    ParameterSpec(
        'costmap.min_height_m',
        -1.0,
        'Points lower than this above the ground of the vehicle are left out.',
        unit='m',
        range=(-20.0, 20.0),
    ),
    ParameterSpec(
        'costmap.max_height_m',
        2.0,
        'Points higher than this are left out.',
        unit='m',
        range=(-20.0, 20.0),
    ),
    ParameterSpec(
        'costmap.decay_sec',
        5.0,
        'Time constant with which the costmap forgets; at most 0.5 with static extrinsics.',
        unit='s',
        range=(0.1, 600.0),
    ),
    ParameterSpec(
        'costmap.stride',
        2,
        'The costmap uses one pixel in so many, along rows and columns.',
        range=(1, 8),
    ),
    ParameterSpec(
        'diagnostics.period_sec',
        1.0,
        'Time between two messages on /diagnostics.',
        unit='s',
        range=(0.1, 60.0),
        settable='at start',
    ),
)
_BY_NAME = {spec.name: spec for spec in PARAMETERS}


class NodeParameters:
    """The current values of a node's parameters, by name.

    Args:
        node: the node on which to declare them.
        is_configured: whether parameters that are settable while unconfigured are refused now.
        on_change: called with the new values of those that are set later on, all of them checked.

    Raises:
        ParameterError: a value given at start is refused.
    """

    def __init__(
        self,
        node: Node,
        is_configured: Callable[[], bool],
        on_change: Callable[[dict[str, Any]], None],
    ) -> None:
        self._node = node
        self._is_configured = is_configured
        self._on_change = on_change
        self._values: dict[str, Any] = {}
        self._answered_sec = 0.0
        node.add_on_set_parameters_callback(self._check_and_store)
        for spec in PARAMETERS:
            self._declare(spec)

    def __getitem__(self, name: str) -> Any:
        """Return a value; cheap enough for each frame."""
        return self._values[name]

    def _declare(self, spec: ParameterSpec) -> None:
        try:
            self._node.declare_parameter(spec.name, spec.default, spec.descriptor())
        except InvalidParameterTypeException as err:
            raise ParameterError(
                f'{err}. Write {spec.name} like its default, {spec.default!r}: a number with a '
                'decimal point is a float, one without is an integer, and true and false need '
                'quotes to be strings.'
            ) from err
        except InvalidParameterValueException as err:
            raise ParameterError(f'{err}.') from err

    def _check_and_store(self, parameters: Sequence[Parameter[Any]]) -> SetParametersResult:
        ours = {
            parameter.name: parameter.value
            for parameter in parameters
            if parameter.name in _BY_NAME
        }
        declared = len(self._values) == len(PARAMETERS)
        if declared:
            self._spread_answers()
        for name, value in ours.items():
            spec = _BY_NAME[name]
            reason = spec.problem(value)
            locked = spec.settable == 'unconfigured' and declared and self._is_configured()
            if reason is None and locked:
                full_name = self._node.get_fully_qualified_name()
                reason = (
                    f'{name} is read when the node is configured, and it is configured now: run '
                    f'`ros2 lifecycle set {full_name} deactivate` and `... cleanup`, set it, '
                    'then `... configure` and `... activate`.'
                )
            if reason is not None:
                return SetParametersResult(successful=False, reason=reason)
        self._values.update(ours)
        if ours and declared:
            self._on_change(ours)
        return SetParametersResult(successful=True)

    def _spread_answers(self) -> None:
        """Wait a moment where one answer follows the other.

        Those to requests that waited while the node had no CPU pushed each other out of the queue
        of their client: of 750 at 50 Hz, with 0.6 s without CPU every 5 s, 1 to 32 were lost; none
        since.
        """
        wait_sec = self._answered_sec + _ANSWER_SEC - time.monotonic()
        if wait_sec > 0:
            time.sleep(wait_sec)
        self._answered_sec = time.monotonic()


def misspelt_parameters(names: Sequence[str]) -> list[str]:
    """Find names that were given at start and look like ours, but are not; one sentence each.

    ROS drops a parameter that no node declares without a word.
    """
    groups = {spec.name.partition('.')[0] for spec in PARAMETERS}
    sentences = []
    for name in names:
        close = difflib.get_close_matches(name, _BY_NAME, n=1, cutoff=0.8)
        if name not in _BY_NAME and (name.partition('.')[0] in groups or close):
            hint = f'; did you mean {close[0]}?' if close else '.'
            sentences.append(f'There is no parameter {name}, its value is ignored{hint}')
    return sentences
