"""QoS that users may override at start, as `qos_overrides.TOPIC.publisher.depth`, and its checks.

rclpy takes a wrong value for a fault of the program that creates the topic, which it cannot name,
and drops a name that is misspelt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from desertmind_seg.model.errors import did_you_mean
from desertmind_seg.parameters.spec import ParameterError

_CHOICES: dict[QoSPolicyKind, Any] = {
    QoSPolicyKind.HISTORY: HistoryPolicy,
    QoSPolicyKind.DEPTH: None,
    QoSPolicyKind.RELIABILITY: ReliabilityPolicy,
    QoSPolicyKind.DURABILITY: DurabilityPolicy,
}
OVERRIDABLE = QoSOverridingOptions(tuple(_CHOICES))
_PREFIX = 'qos_overrides.'
_POLICIES = [kind.name.lower() for kind in _CHOICES]
_ENDS = ('publisher', 'subscription')
_MAX_DEPTH = 2**31 - 1


def check_qos_overrides(given: Mapping[str, Any], own: Mapping[str, str]) -> list[str]:
    """Return a sentence for each override of ours that is misspelt, so that its value is ignored.

    A file for any node (`/**:`) holds those of others, too, such as the publisher of a driver that
    sends what we hear. Ours is what has one of our topics, without the other end, or one with a
    letter too much or too few or letters in another order: `cam_fl` is no misspelt `cam_fr`.

    Args:
        given: at start, by name; what is no override is passed over.
        own: our topics, and which end of each is ours, 'publisher' or 'subscription'.

    Raises:
        ParameterError: a value is none of its policy.
    """
    sentences = []
    for name, value in given.items():
        if not name.startswith(_PREFIX):
            continue
        topic, *what = name.removeprefix(_PREFIX).split('.')
        end, policy = what if len(what) == 2 else ('', '')
        if topic not in own:
            if meant := _meant(topic, (each for each, its_end in own.items() if its_end == end)):
                sentences.append(
                    f'{name} is of no topic of this node, its value is ignored (did you mean '
                    f'{meant!r}?).'
                )
        elif end == own[topic] and policy in _POLICIES:
            if expected := _refused(policy, value):
                raise ParameterError(f'{name} is {value!r}; expected {expected}.')
        elif end == own[topic] or end.partition('_')[0] not in _ENDS:
            sentences.append(
                f'{name} is no QoS override, its value is ignored; expected '
                f'{_PREFIX}{topic}.{own[topic]}.{{{"|".join(_POLICIES)}}}'
                f'{did_you_mean(policy, _POLICIES)}.'
            )
    return sentences


def _meant(topic: str, ours: Iterable[str]) -> str:
    for each in ours:
        letters = Counter(topic)
        letters.subtract(each)
        other = [letter for letter, count in letters.items() if count]
        if sum(map(abs, letters.values())) <= 1 and not ''.join(other).isdecimal():
            return each
    return ''


def _refused(policy: str, value: Any) -> str:
    """Return what is expected of a policy; '' where the value will do."""
    kind = QoSPolicyKind[policy.upper()]
    if kind == QoSPolicyKind.DEPTH:
        is_depth = isinstance(value, int) and not isinstance(value, bool)
        return '' if is_depth and 0 <= value <= _MAX_DEPTH else f'an integer, 0 to {_MAX_DEPTH}'
    choices = [name.lower() for name in _CHOICES[kind].__members__ if name != 'UNKNOWN']
    is_choice = isinstance(value, str) and value.lower() in choices
    return '' if is_choice else 'one of ' + ', '.join(sorted(choices))
