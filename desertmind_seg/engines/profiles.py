"""The frame sizes that a TensorRT engine takes, and its tensors for them."""

from collections.abc import Sequence
from dataclasses import dataclass
import re
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from desertmind_seg.engines.protocol import EngineBuildError
from desertmind_seg.model.bundle import DEPTH_INPUT, IMAGE_INPUT, MAX_SIZE_HW, MIN_SIZE_HW, OUTPUTS

_Side = Annotated[int, Field(ge=1)]
_SizeHw = tuple[_Side, _Side]


class Profile(BaseModel):
    """The frame sizes that an engine takes, (height, width) in pixels."""

    model_config = ConfigDict(frozen=True, strict=True, extra='forbid')

    smallest: _SizeHw
    typical: _SizeHw
    largest: _SizeHw

    def takes(self, size_hw: tuple[int, int]) -> bool:
        """Whether frames of `size_hw` fit."""
        return all(
            low <= side <= high
            for low, side, high in zip(self.smallest, size_hw, self.largest, strict=True)
        )

    def __str__(self) -> str:
        """Return HxW, or the smallest and the largest."""
        sizes = [self.smallest] if self.smallest == self.largest else [self.smallest, self.largest]
        return ' to '.join(f'{height}x{width}' for height, width in sizes)


DYNAMIC = Profile(smallest=MIN_SIZE_HW, typical=(720, 1280), largest=MAX_SIZE_HW)


def parse_shape(text: str) -> tuple[Profile, ...]:
    """Read '480x640,720x1280' (height x width) or 'dynamic'.

    Raises:
        EngineBuildError: not of that form, or a size that bundles do not take.
    """
    if text == 'dynamic':
        return (DYNAMIC,)
    profiles = []
    for part in text.split(','):
        match = re.fullmatch(r'\s*(\d+)x(\d+)\s*', part)
        size_hw = (int(match[1]), int(match[2])) if match else (0, 0)
        if not DYNAMIC.takes(size_hw):
            raise EngineBuildError(
                f'shape {text!r}: {part!r} is no frame size from {DYNAMIC} pixels; give heights x '
                'widths such as 480x640,720x1280, or dynamic for every size'
            )
        profiles.append(Profile(smallest=size_hw, typical=size_hw, largest=size_hw))
    return tuple(dict.fromkeys(profiles))


def tensor_shape(name: str, size_hw: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of an input or output of a bundle for frames of `size_hw`."""
    return (1, *size_hw, 3) if name == IMAGE_INPUT else (1, *size_hw)


@dataclass(frozen=True)
class TensorPlan:
    """An input or output at the largest frame size of an engine.

    Attributes:
        name: of the tensor.
        dtype: of its elements.
        largest: its shape for the largest frame.
    """

    name: str
    dtype: np.dtype[Any]
    largest: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """What its buffers hold, on the host and on the device."""
        return int(np.prod(self.largest)) * self.dtype.itemsize


def plan_tensors(modality: str, profiles: Sequence[Profile]) -> tuple[TensorPlan, ...]:
    """List the buffers that an engine needs so that no frame of its profiles allocates any."""
    largest = max((profile.largest for profile in profiles), key=lambda hw: hw[0] * hw[1])
    names = [IMAGE_INPUT, *([DEPTH_INPUT] if modality == 'rgbd' else []), *OUTPUTS]
    return tuple(
        TensorPlan(
            name,
            np.dtype(np.float32 if name == DEPTH_INPUT else np.uint8),
            tensor_shape(name, largest),
        )
        for name in names
    )
