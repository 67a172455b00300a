"""Quality of service as recorders wrote it down over the years."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.composer import Composer

from desertmind_seg.storage.connection import OfferedQos, strongest

_FAST: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
# The composer in C ends the process with what is nested deeply; the other raises RecursionError.
_BASES = (_FAST,) if _FAST is yaml.SafeLoader else (Composer, _FAST)
_MOST_DIGITS = 70  # 64 binary ones, their sign and prefix


class _Loader(*_BASES):  # type: ignore[misc]
    def __init__(self, stream: str) -> None:
        _FAST.__init__(self, stream)
        Composer.__init__(self)

    def whole_number(self, node: yaml.ScalarNode) -> int:
        """Construct it, which takes quadratic time for one of base 60."""
        if len(node.value) > _MOST_DIGITS:
            raise ValueError(f'a number of {len(node.value)} characters')
        return int(self.construct_yaml_int(node))

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave `<<` alone, which is then refused: 30 that merge one another take hours."""


_Loader.add_constructor('tag:yaml.org,2002:int', _Loader.whole_number)

# As numbers of rmw until metadata version 8, as names since; what is missing is ROS's default.
_RELIABLE = {0, 1, 'system_default', 'reliable', 'unknown', None}
_TRANSIENT_LOCAL = {1, 'transient_local'}


def load_yaml(text: str) -> Any:
    """Parse YAML, ten times as fast as `yaml.safe_load` where libyaml is there.

    Raises:
        ValueError: it cannot be parsed.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, TypeError, AttributeError, OverflowError, RecursionError) as err:
        raise ValueError(' '.join(str(err).split())) from err


def recorded_qos(profiles: Any) -> OfferedQos | None:
    """Return what publishers offered together: a list of profiles, or YAML of one.

    None where nothing is recorded or where it cannot be understood: it decides only how a topic
    is played.
    """
    if isinstance(profiles, str):
        try:
            profiles = load_yaml(profiles)
        except ValueError:
            return None
    if not isinstance(profiles, list):
        return None
    return strongest([_offer(profile) for profile in profiles if isinstance(profile, dict)])


def _offer(profile: dict[Any, Any]) -> OfferedQos:
    depth = profile.get('depth')
    return OfferedQos(
        reliable=_plain(profile.get('reliability')) in _RELIABLE,
        transient_local=_plain(profile.get('durability')) in _TRANSIENT_LOCAL,
        depth=depth if isinstance(depth, int) and 0 < depth < 100_000 else 1,
    )


def _plain(value: Any) -> int | str | None:
    return value.lower() if isinstance(value, str) else value if isinstance(value, int) else None
