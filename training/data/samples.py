"""Frames as samples of a network."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from desertmind_seg.model.ontology import Ontology
from training.data.augment import Depth
from training.data.frames import DatasetError, LabelledFrame


class _SampleWithoutDepth(TypedDict):
    image: torch.Tensor  # uint8 (3, h, w) RGB
    labels: torch.Tensor  # int64 (h, w), 255 unlabelled
    index: torch.Tensor  # int64 (), of the frame


class Sample(_SampleWithoutDepth, total=False):
    """One item of SegmentationDataset."""

    depth: torch.Tensor  # float32 (1, h, w) metres, 0 = missing


class SegmentationDataset(Dataset[Sample]):
    """Frames as samples, augmented.

    An item is asked for by its index, or by ``(index, seed)``: with a seed all randomness of its
    augmentation comes from it, so that a sample depends neither on the worker that makes it nor on
    what was made before a resume.

    Args:
        frames: what the items are.
        ontology: class table of the labels.
        transform: moves a tv_tensors.Image, a tv_tensors.Mask and (with depth) a Depth together.
        with_depth: read depth too; of frames that have none, all of it is missing (0).
    """

    def __init__(
        self,
        frames: Sequence[LabelledFrame],
        ontology: Ontology,
        transform: Callable[..., Any],
        *,
        with_depth: bool = False,
    ) -> None:
        self.frames = list(frames)
        self.ontology = ontology
        self.transform = transform
        self.with_depth = with_depth

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        if isinstance(item, tuple):
            index, seed = item
            with torch.random.fork_rng(devices=[]):
                # Not torch.manual_seed, which would seed the GPU's generator for good.
                torch.default_generator.manual_seed(seed)
                return self._sample(index)
        return self._sample(item)

    def _sample(self, index: int) -> Sample:
        frame = self.frames[index]
        rgb, labels = frame.read_rgb(), frame.read_labels(self.ontology)
        _check_size(frame, rgb, labels, 'labels are')
        parts: list[torch.Tensor] = [
            tv_tensors.Image(torch.from_numpy(rgb).permute(2, 0, 1)),  # (3, H, W)
            tv_tensors.Mask(torch.tensor(labels)[None]),  # (1, H, W)
        ]
        if self.with_depth:
            # Not read_depth where there is none: it would decode the image again for its size.
            empty = np.zeros(rgb.shape[:2], np.float32)
            depth = frame.read_depth() if frame.has_depth else empty
            _check_size(frame, rgb, depth, 'depth is')
            parts.append(Depth(torch.from_numpy(depth)[None]))  # (1, H, W)
        image, mask, *rest = (part.as_subclass(torch.Tensor) for part in self.transform(*parts))
        sample: Sample = {'image': image, 'labels': mask[0].long(), 'index': torch.tensor(index)}
        if rest:
            sample['depth'] = rest[0]
        return sample


def _check_size(
    frame: LabelledFrame, rgb: npt.NDArray[Any], other: npt.NDArray[Any], what: str
) -> None:
    if rgb.shape[:2] != other.shape:
        raise DatasetError(
            f'{frame.dataset} frame {frame.name}: image is {rgb.shape[:2]} but its {what} '
            f'{other.shape} (H, W); they must be equal'
        )
