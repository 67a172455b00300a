"""The values that a running node has, checked against the table whenever somebody sets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import difflib
import re
import time
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from desertmind_seg.parameters.spec import ParameterError, ParameterSpec
from desertmind_seg.parameters.table import PARAMETERS

# A client keeps 10 answers by rclpy's default, and takes each within this time.
_ANSWER_SEC = 0.002

_BY_NAME = {spec.name: spec for spec in PARAMETERS}
_TYPES = [each.value for each in Parameter.Type]
_EXPECTED: dict[type, str] = {
    bool: 'true or false',
    int: 'a whole number, without a decimal point',
    float: 'a number with a decimal point, such as 1.0',
    str: 'a text; a number or true is one in quotes within quotes: \'"1"\'',
}

SetCallback = Callable[[Any, Any], Any]


def refuse_unknown_types(set_parameters: SetCallback) -> SetCallback:
    """Wrap rclpy's callback of the services set_parameters and set_parameters_atomically.

    It raises ValueError where the type of a value is none that ROS has, which ends the node. Such
    a request is refused as a whole. Of a type that is not the parameter's it says two numbers.
    """

    def answer(request: Any, response: Any) -> Any:
        unknown = [each for each in request.parameters if each.value.type not in _TYPES]
        if not unknown:
            response = set_parameters(request, response)
            is_atomic = not hasattr(response, 'results')
            results = [response.result] if is_atomic else response.results
            wrong = [_wrong_type(each) for each in request.parameters]
            wrong = list(filter(None, wrong)) if is_atomic else wrong
            for result, reason in zip(results, wrong, strict=False):
                if reason and result.reason.startswith('Wrong parameter type'):
                    result.reason = reason
            return response
        result = SetParametersResult(
            successful=False,
            reason=f'{unknown[0].name!r} has a value of type {unknown[0].value.type}; expected '
            f'{_TYPES[0]} to {_TYPES[-1]} (rcl_interfaces/msg/ParameterType). Nothing was set.',
        )
        if hasattr(response, 'results'):
            response.results = [result] * len(request.parameters)
        else:
            response.result = result
        return response

    return answer


def _wrong_type(message: Any) -> str:
    """Say of which type a parameter of ours is, '' where the message has a value of that type."""
    spec = _BY_NAME.get(message.name)
    value = Parameter.from_parameter_msg(message).value
    if spec is None or type(value) is type(spec.default):
        return ''
    return f'{spec.name} is {value!r:.100}; expected {_EXPECTED[type(spec.default)]}.'


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
            parameter.name: _BY_NAME[parameter.name].meant(parameter.value)
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

    ROS drops a parameter that no node declares without a word, and a file for any node (`/**:`)
    holds those of others, too. Taken for ours is what is nearly one of ours, what is in one of our
    groups (`hazard.steps`), and one of ours without its group (`threshold`, `bundle_path`). What
    has a group of its own (`detector.threshold`) is another node's, and so may be a frame
    (`base_frame`), which many nodes call alike.
    """
    groups = {spec.name.partition('.')[0] for spec in PARAMETERS}
    sentences = []
    for name in names:
        without_group = re.sub('_(path|file)$', '', name)
        meant = [
            ours
            for ours in _BY_NAME
            if ours.partition('.')[2] == without_group and not ours.endswith('_frame')
        ] or difflib.get_close_matches(name, _BY_NAME, n=1, cutoff=0.8)
        if name not in _BY_NAME and (name.partition('.')[0] in groups or meant):
            hint = f'; did you mean {" or ".join(meant)}?' if meant else '.'
            sentences.append(f'There is no parameter {name}, its value is ignored{hint}')
    return sentences
