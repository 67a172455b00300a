"""The Hazards status: what geometry sees, how far it agrees with the classes, and why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
import time

from desertmind_seg.monitoring.health import WARN, Status, status_of
from desertmind_seg.node.gravity_input import GravityInput
from desertmind_seg.node.inputs import NodeInputs
from desertmind_seg.outputs.hazards import HazardReport
from desertmind_seg.outputs.planners import NO_CAMERA_INFO, NO_DEPTH, PlannerOutputs
from desertmind_seg.parameters.values import NodeParameters


def hazard_status(
    settings: NodeParameters,
    outputs: PlannerOutputs | None,
    gravity: GravityInput | None,
    inputs: NodeInputs,
    wanted: Sequence[str],
    silence: Sequence[str] = (),
) -> Status:
    """Return the Hazards status.

    A camera without depth is no problem unless somebody subscribes to what needs it; to that
    belongs, with `hazard.use` override, what depth would change.

    Args:
        settings: the node's parameters.
        outputs: what finds hazards; None before the node is configured.
        gravity: where it comes from; None before the node is configured.
        inputs: what the node hears.
        wanted: names of all outputs of the node that somebody subscribes to.
        silence: a sentence where no image has come for too long: the last one tells of then.
    """
    use = settings['hazard.use']
    if outputs is None or gravity is None or not inputs.sources:
        return _status({'use': use}, [], 'the node is not active')
    values = {'use': use, 'superseded': str(outputs.superseded)}
    times_ms = outputs.hazards.times_ms.percentiles()
    for key in ('p50', 'p99'):
        values[f'detection_ms_{key}'] = '' if times_ms[key] is None else f'{times_ms[key]:.2f}'
    if use == 'off':
        asked = [f'~/{name}' for name in outputs.of_hazards(wanted)]
        if asked:
            sentence = f'hazard.use is off, but somebody subscribes to {", ".join(asked)}.'
            return _status(values, [sentence], '')
        return _status(values, [], 'off')
    missing = _missing(outputs, inputs)
    if missing:
        sentence = f'no geometry: {missing}'
        waited_sec = time.monotonic() - inputs.active_since_sec
        is_missed = waited_sec > settings['input.timeout_sec'] and outputs.expects_depth(wanted)
        return _status(values, [sentence] if is_missed else [], sentence)
    report = outputs.hazards.report()
    if not outputs.needs_hazards(wanted):  # what it showed when somebody last asked is no news
        return _status(values, [], 'nobody subscribes to what needs them')
    if silence:
        return _status(values, [f'no geometry: {sentence}' for sentence in silence], '')
    if report is None:
        return _status(values, [], 'no frame was looked at yet')
    values |= _shares(report) | gravity.values()
    problems = gravity.new_problems()
    why = report.problem
    if why == NO_DEPTH and inputs.depth is not None and inputs.depth.why_without:
        # The Depth status counts the frames since it was last asked: of a slow camera, none.
        why = f'the frame has no depth: {inputs.depth.why_without}'
    if why and not any(why in problem for problem in problems):
        problems.append(f'no geometry: {why}')
    if height_problem := outputs.hazards.height_problem():
        problems.append(height_problem)
    hazards = sum(report.shares.values())
    summary = f'{report.known_share:.0%} of the pixels have geometry, {hazards:.1%} are hazards'
    return _status(values, problems, summary)


def _missing(outputs: PlannerOutputs, inputs: NodeInputs) -> str:
    """Say what never came; '' where all of it did."""
    if inputs.depth is None:
        return 'depth.use is never.'
    if not inputs.depth.heard:
        return f'no depth has come on {inputs.sources["depth"].topic}.'
    return '' if outputs.has_camera_info else NO_CAMERA_INFO


def _shares(report: HazardReport) -> dict[str, str]:
    unsafe, overcautious = report.disagreement
    shown = {
        'known_share': report.known_share,
        'ground_residual_m': report.residual_m,
        'camera_above_ground_m': report.camera_m,
        **{f'{name}_share': share for name, share in report.shares.items()},
        'traversable_but_hazard_share': unsafe,
        'not_traversable_but_free_share': overcautious,
    }
    return {name: '' if isnan(value) else f'{value:.4f}' for name, value in shown.items()}


def _status(values: Mapping[str, str], problems: Sequence[str], summary: str) -> Status:
    return status_of('Hazards', WARN, problems, summary.rstrip('.'), values)
