"""One parameter: its default, what is allowed, and when it may be set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from desertmind_seg.model.errors import DesertmindError

# When a parameter may be set: 'any time', 'unconfigured' (the node reads it when it is configured)
# or 'at start' (read-only afterwards).
Settable = Literal['any time', 'unconfigured', 'at start']


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

    def meant(self, value: Any) -> Any:
        """Return a value as it was meant: a parameter file's `off` without quotes is false."""
        return 'off' if value is False and 'off' in self.choices else value

    def problem(self, value: Any) -> str | None:
        """Say why `value`, which has the right type, is refused; None when it is not."""
        if value is None:  # rclpy lets `[]` in a parameter file pass for any type
            return f'{self.name} is empty, such as []; expected a value like {self.default!r}.'
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
            dynamic_typing='off' in self.choices,
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
