"""Distillation: a student learns the soft labels of one large model or of a whole ensemble.

A vehicle carries one engine. Teachers see each training frame as the student does, augmented and
mixed; what they say is averaged and compared with the student by `distillation_loss`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.nn import functional

from desertmind_seg.model.errors import DesertmindError
from desertmind_seg.model.ontology import UNLABELED, Ontology
from training.bundles.transfer import find_stage
from training.bundles.weights import load_stage
from training.data.frames import LabelledFrame
from training.ensembles.ensemble_file import ENSEMBLE_FILE, read_ensemble
from training.ensembles.store import EnsembleError
from training.evaluation.metrics_file import CHECKPOINT
from training.networks.network import SegmentationNetwork
from training.networks.upsampling import bilinear

# A float32 softmax underflows to 0, whose logarithm no loss survives.
_SMALLEST_PROBABILITY = torch.finfo(torch.float32).tiny


class DistillationError(DesertmindError):
    """Teachers cannot teach this student."""


class Teachers:
    """Networks whose probabilities are averaged into soft labels; they never learn.

    Args:
        sources: checkpoints, fp32 bundles (.onnx), ensemble.json files of `training.ensemble`, or
            folders of the first or last. Each source counts equally; within an ensemble its fitted
            weights hold, and a member's folds share the member's weight.
        device: where the teachers run.
        ontology: the student's class table.
        frames: the student's. On some of them a bundle is compared with the network that is read
            back from it.

    Raises:
        FileNotFoundError: a source does not exist.
        BundleError: an .onnx file is no bundle.
        CheckpointError: a checkpoint cannot be read, or a bundle not read back.
        DistillationError: a teacher knows other classes than the student, or an ensemble's
            checkpoints are not those that its weights were fitted for.
    """

    def __init__(
        self,
        sources: Sequence[str | Path],
        device: torch.device | str,
        ontology: Ontology,
        frames: Sequence[LabelledFrame] = (),
    ) -> None:
        self.device = torch.device(device)
        self._networks: list[tuple[str, float, SegmentationNetwork]] = []
        for source in sources:
            for path, weight in _checkpoints(find_stage(str(source), 'distillation.teachers')):
                checkpoint = load_stage(path, frames)
                known = checkpoint.parsed_ontology()
                if known.sha256 != ontology.sha256:
                    raise DistillationError(
                        f'Teacher {str(path)!r} ({checkpoint.recipe["name"]}) was trained for '
                        f'{known.name} ({known.num_classes} classes, {known.sha256[:12]}), the '
                        f'student for {ontology.name} ({ontology.num_classes} classes, '
                        f'{ontology.sha256[:12]}); give teachers of {ontology.name}'
                    )
                network = checkpoint.network().to(self.device).eval().requires_grad_(False)
                self._networks.append((str(path), weight / len(sources), network))

    def soft_labels(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the weighted mean of the teachers' probabilities, at temperature 1.

        Args:
            batch: what the student is about to see: ``image`` (N, 3, h, w), 0..255, any type; and
                ``depth`` float (N, 1, h, w) metres, 0 = missing, where a teacher takes depth.

        Returns:
            float32 (N, C, h', w') without gradient, each pixel's sum 1, at the finest stride of
            the teachers.

        Raises:
            DistillationError: a teacher takes depth and the batch has none.
        """
        image = batch['image'].to(self.device).float()
        depth = batch['depth'].to(self.device) if 'depth' in batch else None
        each: list[torch.Tensor] = []
        with torch.no_grad():
            for path, weight, network in self._networks:
                wants_depth = network.section.modality == 'rgbd'
                if wants_depth and depth is None:
                    raise DistillationError(
                        f'Teacher {path!r} takes depth, but the batch has none; give the student '
                        'a model.depth section, or a teacher that sees RGB only'
                    )
                logits = network(image, depth if wants_depth else None).float()
                each.append(weight * logits.softmax(dim=1))
            finest = max((part.shape[-2], part.shape[-1]) for part in each)
            # Bilinear resizing keeps each pixel's sum at 1.
            return torch.stack([bilinear(part, finest) for part in each]).sum(dim=0)


def check_teachers(sources: Sequence[str | Path]) -> None:
    """Make sure that teachers are there, before frames are counted and steps are tried.

    Args:
        sources: as for `Teachers`.

    Raises:
        FileNotFoundError: one is not; it says which.
        DistillationError: as by `Teachers`, of an ensemble.
    """
    for source in sources:
        for path, _ in _checkpoints(find_stage(str(source), 'distillation.teachers')):
            if not path.is_file():
                raise FileNotFoundError(
                    f'distillation.teachers {source}: there is no {str(path)!r}; give a '
                    'checkpoint of training.train, an fp32 bundle, or an ensemble.json of '
                    'training.ensemble'
                )


def distillation_loss(
    student_logits: torch.Tensor,
    teacher_probabilities: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    only_where_right: bool = False,
) -> torch.Tensor:
    """Return T^2 * KL(teacher || student) at temperature T, the mean over labelled pixels.

    Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network (arXiv:1503.02531),
    section 2: both sides are softened by T, and T^2 keeps the size of the gradient independent of
    T. The teacher's softened odds are p^(1/T), normalised: for one teacher exactly
    softmax(logits / T), for several the softened mean.

    Args:
        student_logits: float (N, C, h, w).
        teacher_probabilities: float (N, C, h', w'), resized to (h, w) where they differ.
        labels: int64 (N, h, w). UNLABELED pixels do not count: they are padding, or what no
            teacher has been taught.
        temperature: T, above 0.
        only_where_right: a pixel whose most probable class by the teacher is not its label adds 0.

    Returns:
        The scalar loss, float32; 0 for a batch without a labelled pixel.
    """
    student = student_logits.float()
    labelled = labels != UNLABELED
    if not labelled.any():
        return student.sum() * 0.0
    teacher = bilinear(teacher_probabilities.float(), (student.shape[-2], student.shape[-1]))
    teacher = teacher.clamp_min(_SMALLEST_PROBABILITY)
    divergence = functional.kl_div(
        (student / temperature).log_softmax(dim=1),
        (teacher.log() / temperature).log_softmax(dim=1),
        reduction='none',
        log_target=True,
    ).sum(dim=1)  # (N, h, w)
    if only_where_right:
        divergence = divergence * (teacher.argmax(dim=1) == labels)
    return temperature**2 * divergence[labelled].mean()


def _checkpoints(source: Path) -> list[tuple[Path, float]]:
    """List a source's checkpoints with their weights, which sum to 1."""
    if source.is_dir():
        ensemble = source / ENSEMBLE_FILE
        source = ensemble if ensemble.is_file() else source / CHECKPOINT
    if source.suffix == '.json':
        try:
            return read_ensemble(source).checkpoints(source.parent)
        except EnsembleError as err:
            raise DistillationError(f'Teacher {str(source)!r}: {err}') from err
    return [(source, 1.0)]
