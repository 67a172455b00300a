"""Frames as samples of a network, and the order in which they are trained on."""

from collections.abc import Callable, Iterator, Sequence
import logging
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors

from desertmind_seg.model.ontology import Ontology
from training.data.augment import Depth
from training.data.frames import (
    NO_DEPTH,
    DatasetError,
    LabelledFrame,
    depth_doubt,
    read_all,
    read_frame,
)

_log = logging.getLogger(__name__)


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
        rgb, labels, depth = read_frame(frame, self.ontology, with_depth=self.with_depth)
        parts: list[torch.Tensor] = [
            tv_tensors.Image(torch.from_numpy(rgb).permute(2, 0, 1)),  # (3, H, W)
            tv_tensors.Mask(torch.tensor(labels)[None]),  # (1, H, W)
        ]
        if depth is not None:
            parts.append(Depth(torch.from_numpy(depth)[None]))  # (1, H, W)
        image, mask, *rest = (part.as_subclass(torch.Tensor) for part in self.transform(*parts))
        sample: Sample = {'image': image, 'labels': mask[0].long(), 'index': torch.tensor(index)}
        if rest:
            sample['depth'] = rest[0]
        return sample


def check_frames(frames: Sequence[LabelledFrame], ontology: Ontology, *, with_depth: bool) -> None:
    """Read each frame, so that bad ones are told before a run begins and not within it.

    Depth that is hardly in millimetres is named in a warning.

    Raises:
        DatasetError: as `read_all`; or no depth is measured.
    """
    measured, near = read_all(frames, ontology, with_depth=with_depth)
    if with_depth and not measured:
        raise DatasetError(f'of {len(frames)} frames {NO_DEPTH}')
    if doubt := depth_doubt(measured, near):
        _log.warning('%s', doubt)


class TrainingBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (frame, augmentation seed) for one of several processes.

    An epoch's draws depend on the seed and the epoch alone, so that a resumed run goes on at any
    batch without drawing what came before, and any number of processes trains on the same frames.
    The last frames that do not fill a step are left out. Frames are drawn without replacement, or
    with replacement where they have weights. Where the steps of an epoch are given, all frames are
    drawn before any is drawn again.

    Args:
        frames: how many there are.
        weights: float64 (frames,) above 0, or None for all alike.
        batch_size: frames of a whole step, over all processes and accumulated passes.
        passes: forward and backward passes of a step.
        seed: of the run.
        rank: number of this process.
        world_size: number of processes.
        steps: of an epoch; None for once through the frames.

    Raises:
        ValueError: the batch does not divide, or there are fewer frames than one batch and no
            number of steps.
    """

    def __init__(
        self,
        frames: int,
        weights: npt.NDArray[np.float64] | None,
        *,
        batch_size: int,
        passes: int,
        seed: int,
        rank: int,
        world_size: int,
        steps: int | None = None,
    ) -> None:
        if batch_size % (passes * world_size):
            raise ValueError(
                f'optim.batch_size {batch_size} does not divide into {passes} accumulated passes '
                f'on {world_size} processes; make it a multiple of {passes * world_size}'
            )
        if steps is None and frames < batch_size:
            raise ValueError(f'{frames} frames are fewer than one batch of {batch_size}')
        self._frames, self._weights, self._seed = frames, weights, seed
        self._pass_size = batch_size // passes
        self._size = self._pass_size // world_size
        self._offset = rank * self._size
        self._passes = (frames // batch_size if steps is None else steps) * passes
        self._epoch, self._start = 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Draw another epoch from its first batch on; the current one keeps its place."""
        if epoch != self._epoch:
            self._epoch, self._start = epoch, 0

    def start_at(self, epoch: int, batch: int) -> None:
        """Let the next iteration begin within an epoch, at a resumed run's batch."""
        self._epoch, self._start = epoch, batch

    def __len__(self) -> int:
        """Return the batches of a whole epoch, wherever the next iteration begins."""
        return self._passes

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng((self._seed, self._epoch))
        drawn = self._passes * self._pass_size
        if self._weights is None:
            rounds = -(-drawn // self._frames)
            order = np.concatenate([rng.permutation(self._frames) for _ in range(rounds)])[:drawn]
        else:
            order = rng.choice(self._frames, drawn, p=self._weights / self._weights.sum())
        seeds = rng.integers(2**63, size=drawn)
        for number in range(self._start, self._passes):
            first = number * self._pass_size + self._offset
            chosen = slice(first, first + self._size)
            yield list(zip(order[chosen].tolist(), seeds[chosen].tolist(), strict=True))


def sampling_weights(
    pixels: npt.NDArray[np.int64], rare_class_boost: float
) -> npt.NDArray[np.float64]:
    """Weight frames by the rarest class they show.

    Repeat-factor sampling (Gupta et al., LVIS, CVPR 2019, section 4.1) with the exponent as the
    knob: weight = max over the frame's classes of (median frequency / class frequency) ** boost,
    at least 1, where a class's frequency is the share of frames that show it in 0.1 % of their
    pixels or more.

    Args:
        pixels: labelled pixels, int (frames, classes).
        rare_class_boost: 0 gives every frame the weight 1; 0.5 is the paper's square root.

    Returns:
        float64 (frames,), each at least 1.
    """
    shows = pixels >= 1e-3 * pixels.sum(axis=1, keepdims=True).clip(min=1)
    shows &= pixels > 0
    frequency = shows.mean(axis=0)
    present = frequency > 0
    ratio = np.ones(pixels.shape[1])
    ratio[present] = np.median(frequency[present]) / frequency[present]
    boost = np.maximum(ratio, 1.0) ** rare_class_boost
    return np.where(shows, boost[None, :], 1.0).max(axis=1)  # type: ignore[no-any-return]
