"""The node with the temporal filter, as its own process."""

from __future__ import annotations

from pathlib import Path

from node_process import (
    NODE,
    NodeProcess,
    Peer,
    now_ns,
    pixels_of,
    rgb8,
    send_until_answered,
)
import numpy as np
import numpy.typing as npt
from tiny_bundle import write_tiny_bundle

Rgb = npt.NDArray[np.uint8]


def test_the_temporal_filter_blends_frames_that_follow_each_other(
    tmp_path: Path, asymmetric_rgb: Rgb
) -> None:
    bundle = write_tiny_bundle(tmp_path / 'tiny.onnx', probabilities=True).path
    parameters = {
        'autostart': 'true',
        'model.bundle': bundle,
        'temporal.alpha': 0.5,
        'input.max_age_ms': 0,
        'diagnostics.period_sec': 0.2,
    }
    with Peer() as peer, NodeProcess(parameters) as process:
        process.wait_for_log('Active:')
        masks = peer.collect(f'{NODE}/mask')
        camera = peer.camera()
        peer.wait_for_match(camera, [f'{NODE}/mask'])
        start_ns = now_ns()
        send_until_answered(peer, camera, rgb8(asymmetric_rgb, start_ns), masks)
        peer.wait_for_diagnostic('Inference', temporal_blended_share='^0.000$')
        first = send_until_answered(
            peer, camera, rgb8(asymmetric_rgb, start_ns + 100_000_000), masks
        )
        values = peer.wait_for_diagnostic('Inference', temporal_blended_share='^0.[1-9]|^1')
        assert float(values['temporal_blended_share']) > 0.9  # nothing moved
        # A time jump back: no history.
        again = send_until_answered(
            peer, camera, rgb8(asymmetric_rgb, start_ns - 10_000_000_000), masks
        )
        peer.wait_for_diagnostic('Inference', temporal_blended_share='^0.000$')
        np.testing.assert_array_equal(pixels_of(first), pixels_of(again))
