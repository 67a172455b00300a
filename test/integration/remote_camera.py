"""For tests only: the camera's computer. Sends raw frames and prints what the node says it got."""

from __future__ import annotations

import sys
import time

from node_process import CONSUMER_QOS, MASK, Peer, now_ns, rgb8
import numpy as np

FRAMES = 100
PERIOD_SEC = 0.1
SIZE_HW = (480, 640)


def main() -> int:
    """Send the frames; prints how many the node received and how many masks came back."""
    pixels = np.random.default_rng(3).integers(0, 256, (*SIZE_HW, 3), np.uint8)
    with Peer() as peer:
        camera = peer.camera()
        masks = peer.collect(MASK, qos=CONSUMER_QOS)
        peer.wait_for_match(camera, [MASK])
        next_sec = time.monotonic()
        for _ in range(FRAMES):
            camera.publish(rgb8(pixels, now_ns()))
            next_sec += PERIOD_SEC
            while (left_sec := next_sec - time.monotonic()) > 0:
                peer.spin(left_sec)
        # The last frame is counted by now, whether it arrived or not.
        peer.wait_for_diagnostic('Input')
        received = peer.wait_for_diagnostic('Input')['received']
    sys.stdout.write(f'received {received} masks {len(masks)}\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
