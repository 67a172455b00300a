"""A fleet's child process whose engine returns at once, to see what everything else costs."""

from desertmind_seg.fleet import child
from desertmind_seg.fleet.child import ChildSetup, Evaluate, Job
from desertmind_seg.fleet.records import BagRow, FrameRow, ModelCounts

CLASSES = 8
_FRAMES = [
    FrameRow(
        stamp_ns=index,
        miou=0.5,
        miou_against=None,
        confidence=0.9,
        low_confidence=0.1,
        flicker=0.0,
        disagreement=None,
        hazard=None,
        valid_depth=None,
        brightness=120.0,
        sharpness=500.0,
        inference_ms=10.0,
    )
    for index in range(20)
]


def load(setup: ChildSetup) -> Evaluate:
    """Return what answers without looking."""
    model = ModelCounts(
        bundle='instant',
        bundle_sha256='',
        backend='none',
        device='none',
        confusion=[1] * (CLASSES * (CLASSES + 1)),
        latency=[1] * 100,
        pixels=100,
        low_confidence=10,
        flicker_counted=100,
        flicker_changed=1,
        miou_all=0.5,
        miou_present=0.5,
        pixel_accuracy=0.5,
        flicker=0.01,
    )

    def instant(job: Job) -> BagRow:
        row = BagRow.of(job.entry, setup.run_id, 'ok')
        return row.model_copy(
            update={'model': model, 'frames_in': 20, 'frames_out': 20, 'frames': _FRAMES}
        )

    return instant


if __name__ == '__main__':
    child.main(load)
