"""The worker: one frame after the other from the slot through the engine to the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
from threading import Event
import time
from typing import Any

from sensor_msgs.msg import CompressedImage

from desertmind_seg.engines.protocol import EngineError
from desertmind_seg.messages.frame_slot import Frame, start_worker
from desertmind_seg.messages.images import MessageError, decode_compressed_image, decode_image
from desertmind_seg.model.arrays import Depth, Rgb
from desertmind_seg.monitoring.health import (
    BAD_FRAME,
    ENGINE_FAILED,
    NOT_SUBSCRIBED,
    PUBLISH_FAILED,
    TIME_JUMP,
    TOO_OLD,
    PipelineHealth,
)
from desertmind_seg.node.inputs import NodeInputs
from desertmind_seg.outputs.images import NodeOutputs
from desertmind_seg.outputs.planner_frame import PlannerFrame
from desertmind_seg.outputs.planners import MASK_CAMERA_INFO, PlannerOutputs
from desertmind_seg.parameters.values import NodeParameters
from desertmind_seg.pipeline.segmenter import ImageError, Segmentation, Segmenter


class FrameWorker:
    """Segments and publishes, in a thread of its own, while the node is active.

    Args:
        settings: the node's parameters.
        inputs: gives the frames; closing them ends the thread.
        segmenter: what the frames go through.
        outputs: what is published of them.
        planner_outputs: what is published of them after the mask.
        health: counts them.
        logger: the node's.
        failed: set when the thread ends by what should not happen.
    """

    def __init__(
        self,
        settings: NodeParameters,
        inputs: NodeInputs,
        segmenter: Segmenter,
        outputs: NodeOutputs,
        planner_outputs: PlannerOutputs,
        health: PipelineHealth,
        logger: Any,
        failed: Event,
    ) -> None:
        self._settings = settings
        self._inputs = inputs
        self._segmenter = segmenter
        self._outputs = outputs
        self._planner_outputs = planner_outputs
        self._health = health
        self._logger = logger
        self._epoch = -1  # of the latest frame; no frame has this one
        self._thread = start_worker('segment', inputs.take, self._process, failed)

    def join(self, timeout_sec: float | None) -> bool:
        """Wait for the end; returns whether it came."""
        self._thread.join(timeout_sec)
        return not self._thread.is_alive()

    def _process(self, frame: Frame) -> None:
        wanted, for_planners = self._outputs.wanted(), self._planner_outputs.wanted()
        if not (wanted or for_planners):
            self._health.frame_dropped(NOT_SUBSCRIBED)
            # Nobody looks any more: what the last frames showed may be over.
            self._health.content.clear()
            self._planner_outputs.hazards.reset()
            if self._inputs.depth is not None:
                self._inputs.depth.forget()
            return
        age_ms, max_age_ms = self._inputs.age_ms(frame), self._settings['input.max_age_ms']
        if 0 < max_age_ms < age_ms:
            self._health.frame_dropped(
                TOO_OLD, f'{age_ms:.0f} ms old when its turn came, input.max_age_ms {max_age_ms}.'
            )
            return
        if frame.epoch != self._epoch:
            self._epoch = frame.epoch
            self._segmenter.reset()
            self._planner_outputs.forget()
        rgb = self._decode(frame)
        if rgb is None:
            return
        depth_of: Callable[[], Depth | None]
        depth_of = functools.partial(self._inputs.depth_of, frame, rgb.shape[:2])
        depth = None
        if self._segmenter.takes_depth:
            depth = depth_of()
            depth_of = lambda: depth  # noqa: E731
        planner_frame = self._planner_outputs.begin(
            frame.message.header, rgb, depth_of, for_planners, wanted
        )
        segmentation = None
        try:
            needed = {'confidence'} & set(wanted) | self._planner_outputs.needed(for_planners)
            segmentation = self._segment(frame, rgb, sorted(needed), depth)
            if segmentation is not None:
                self._publish(frame, planner_frame, wanted, rgb, segmentation)
        finally:
            planner_frame.finish(segmentation)
        if segmentation is not None and MASK_CAMERA_INFO in for_planners:
            self._planner_outputs.publish_camera_info(frame.message.header, rgb.shape[:2])

    def _decode(self, frame: Frame) -> Rgb | None:
        """Return the pixels; None, with the reason counted, where the frame is dropped."""
        message = frame.message
        try:
            if isinstance(message, CompressedImage):
                colors = self._settings['input.compressed_colors']
                return decode_compressed_image(message, colors, self._note)
            return decode_image(message, self._note)
        except MessageError as err:
            self._drop_bad(err)
            return None

    def _note(self, text: str) -> None:
        self._logger.warning(f'Of a frame, and maybe of more: {text}', throttle_duration_sec=60.0)

    def _segment(
        self, frame: Frame, rgb: Rgb, needed: Sequence[str], depth: Depth | None
    ) -> Segmentation | None:
        """Run the engine; None, with the reason counted, where the frame is dropped."""
        try:
            segmentation = self._segmenter.segment(rgb, needed, depth, frame.stamp_ns)
        except ImageError as err:
            self._drop_bad(err)
            return None
        except EngineError as err:
            self._health.frame_dropped(ENGINE_FAILED, str(err))
            self._logger.error(f'Frame dropped: {err}', throttle_duration_sec=5.0)
            return None
        if not self._inputs.is_current(frame):
            self._health.frame_dropped(TIME_JUMP)
            return None
        return segmentation

    def _publish(
        self,
        frame: Frame,
        planner_frame: PlannerFrame,
        wanted: Sequence[str],
        rgb: Rgb,
        segmentation: Segmentation,
    ) -> None:
        message, shown = frame.message, segmentation
        if self._planner_outputs.overrides_mask:
            shown = self._planner_outputs.worse_mask(planner_frame, segmentation)
        refused = self._outputs.publish(
            wanted,
            rgb,
            shown,
            message.header,
            self._segmenter.ontology,
            self._settings['output.overlay_alpha'],
        )
        published_sec, age_ms = time.perf_counter(), self._inputs.age_ms(frame)
        if refused:
            text = '; '.join(refused)
            self._health.frame_dropped(PUBLISH_FAILED, text)
            self._logger.warning(f'Not published: {text}', throttle_duration_sec=5.0)
            return
        self._health.frame_published(
            (published_sec - frame.arrived_sec) * 1e3,
            segmentation.inference_ms,
            age_ms,
        )
        self._health.blended_share = segmentation.blended_share
        self._health.frame_id = message.header.frame_id
        kind = message.format if isinstance(message, CompressedImage) else message.encoding
        self._health.frame_format = f'{kind} {rgb.shape[1]}x{rgb.shape[0]}'
        if segmentation.confidence is not None:
            # Every 64th pixel: 0.02 ms at 1280x720.
            self._health.mean_confidence = float(segmentation.confidence[::8, ::8].mean() / 255)
        # When all has gone out: 0.5 ms of CPU time at 1280x720, 0.8 % of the frame's.
        self._health.content.add(rgb, frame.stamp_ns)

    def _drop_bad(self, err: Exception) -> None:
        self._segmenter.reset()
        self._health.frame_dropped(BAD_FRAME, str(err))
        self._logger.warning(f'Frame dropped: {err}', throttle_duration_sec=5.0)
