"""All scores of a split of labelled frames."""

import numpy as np

from desertmind_seg.model.arrays import Mask
from desertmind_seg.model.ontology import Ontology
from desertmind_seg.scores.bootstrap import intervals
from desertmind_seg.scores.boundary import BoundaryF1
from desertmind_seg.scores.confusion import ConfusionMatrix, Counts
from desertmind_seg.scores.records import BlockCounts, FrameScore, SplitMetrics, defined
from desertmind_seg.scores.reliability import Calibration


class SplitScores:
    """All scores of a split, counted frame by frame.

    Attributes:
        by_block: confusion counts int64 (C, C + 1) of each block, added up so far.
        per_frame: of each frame, in order.
    """

    def __init__(self, ontology: Ontology) -> None:
        self.ontology = ontology
        self.by_block: dict[str, Counts] = {}
        self.per_frame: list[FrameScore] = []
        self._frames_of_block: dict[str, int] = {}
        self._calibration = Calibration()
        self._boundaries = BoundaryF1(ontology.num_classes)

    def add(
        self, name: str, block: str, truth: Mask, mask: Mask, confidence: Mask
    ) -> ConfusionMatrix:
        """Count one frame, each mask uint8 (H, W), and return its own confusion.

        Args:
            name: of the frame.
            block: group of neighbouring frames that it belongs to.
            truth: class ids, UNLABELED where there is none.
            mask: predicted class ids, or UNLABELED.
            confidence: 255 * probability.

        Raises:
            MetricsError: sizes differ, or an id is not in the ontology.
        """
        matrix = ConfusionMatrix(self.ontology)
        matrix.add(truth, mask)
        self._calibration.add(truth, mask, confidence)
        self._boundaries.add(truth, mask)
        self.by_block[block] = self.by_block.get(block, np.int64(0)) + matrix.counts
        self._frames_of_block[block] = self._frames_of_block.get(block, 0) + 1
        self.per_frame.append(
            FrameScore(
                name=name,
                block=block,
                miou_present=defined(matrix.miou_present),
                pixel_accuracy=defined(matrix.pixel_accuracy),
            )
        )
        return matrix

    @property
    def confusion(self) -> ConfusionMatrix:
        """Counts of all frames."""
        return ConfusionMatrix(self.ontology, np.sum(list(self.by_block.values()), axis=0))

    @property
    def ece(self) -> float:
        """Expected calibration error, 0..1; NaN without a labelled pixel."""
        return self._calibration.ece

    def metrics(self) -> SplitMetrics:
        """Return the scores as a record."""
        counts = dict(sorted(self.by_block.items()))
        matrix = self.confusion
        return SplitMetrics.model_validate(
            {
                **dict(matrix.metrics()),
                'false_safe_rate': defined(matrix.false_safe_rate),
                'false_stop_rate': defined(matrix.false_stop_rate),
                'boundary_f1': defined(self._boundaries.mean_f1),
                'boundary_f1_classes': [defined(score) for score in self._boundaries.f1()],
                'ece': defined(self.ece),
                'reliability': self._calibration.bins(),
                **intervals(np.stack(list(counts.values())), self.ontology),
                'frames': len(self.per_frame),
                'blocks': len(counts),
                'per_block': [
                    BlockCounts(
                        block=block,
                        frames=self._frames_of_block[block],
                        confusion=own.tolist(),
                    )
                    for block, own in counts.items()
                ],
                'per_frame': self.per_frame,
            }
        )
