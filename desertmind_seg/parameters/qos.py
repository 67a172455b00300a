"""QoS that users may override at start, as `qos_overrides.TOPIC.publisher.depth`, and its checks.

rclpy takes a wrong value for a fault of the program that creates the topic, which it cannot name,
and drops a name that is misspelt.
"""

from __future__ import annotations

from collections.abc import Mapping
import difflib
import re
from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from desertmind_seg.parameters.spec import ParameterError

_CHOICES: dict[QoSPolicyKind, Any] = {
    QoSPolicyKind.HISTORY: HistoryPolicy,
    QoSPolicyKind.DEPTH: None,
    QoSPolicyKind.RELIABILITY: ReliabilityPolicy,
    QoSPolicyKind.DURABILITY: DurabilityPolicy,
}
OVERRIDABLE = QoSOverridingOptions(tuple(_CHOICES))
# Other nodes, whose overrides a file for any node holds too, may have more of them, and may tell
# two publishers of a topic apart by a suffix.
_POLICIES = [kind.name.lower() for kind in QoSPolicyKind if kind != QoSPolicyKind.INVALID]
_ENDS = ('publisher', 'subscription')
_NAME = re.compile(r'qos_overrides\.(?P<topic>.*)\.(?P<end>[^.]*)\.(?P<policy>[^.]*)')
_MAX_DEPTH = 2**31 - 1


def check_qos_overrides(given: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each override that is misspelt, so that its value is ignored.

    Args:
        given: at start, by name; what is no override is passed over.

    Raises:
        ParameterError: a value is none of its policy.
    """
    sentences = []
    for name, value in given.items():
        if not name.startswith('qos_overrides.'):
            continue
        named = _NAME.fullmatch(name)
        end, policy = (named['end'].partition('_')[0], named['policy']) if named else ('', '')
        if end not in _ENDS or policy not in _POLICIES:
            close = difflib.get_close_matches(policy, _POLICIES, n=1) if end in _ENDS else []
            hint = f'did you mean {close[0]}?' if close else f'policies: {", ".join(_POLICIES)}.'
            sentences.append(
                f'{name} is no QoS override, its value is ignored; expected '
                f'qos_overrides.TOPIC.{{{"|".join(_ENDS)}}}.POLICY; {hint}'
            )
        elif expected := _refused(policy, value):
            raise ParameterError(f'{name} is {value!r}; expected {expected}.')
    return sentences


def _refused(policy: str, value: Any) -> str:
    """Return what is expected of a policy that a node overrides; '' where the value will do."""
    kind = QoSPolicyKind[policy.upper()]
    if kind not in _CHOICES:
        return ''
    if kind == QoSPolicyKind.DEPTH:
        is_depth = isinstance(value, int) and not isinstance(value, bool)
        return '' if is_depth and 0 <= value <= _MAX_DEPTH else f'an integer, 0 to {_MAX_DEPTH}'
    choices = [name.lower() for name in _CHOICES[kind].__members__ if name != 'UNKNOWN']
    is_choice = isinstance(value, str) and value.lower() in choices
    return '' if is_choice else 'one of ' + ', '.join(sorted(choices))
