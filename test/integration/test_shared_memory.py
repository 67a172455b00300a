"""The node's memory: /dev/shm with what a killed one left, one that is too small; its heaps."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
import signal
import subprocess

from node_process import IMAGE_TOPIC, MASK, NodeProcess, Peer, now_ns, rgb8, send_until_answered
import numpy as np
import numpy.typing as npt
import pytest

_HEAP = 64 << 20  # bytes
DOCKERS_64_MB = (
    *('unshare', '--mount', '--propagation', 'private', 'sh', '-c'),
    'mount -t tmpfs -o size=64m none /dev/shm && exec "$@"',
    'sh',
)


def test_segment_of_a_killed_node_goes_with_the_next_start(tiny_bundle: Path) -> None:
    parameters = {'model.bundle': tiny_bundle, 'autostart': 'true'}
    # A node maps those of its peers, too.
    before = {str(segment) for segment in Path('/dev/shm').glob('fastdds_*')}
    with NodeProcess(parameters) as killed:
        killed.wait_for_log('Active:')
        (dead,) = killed.shared_memory() - before
        with NodeProcess(parameters) as living:
            living.wait_for_log('Active:')
            (used,) = living.shared_memory() - {dead, *before}
            killed.send(signal.SIGKILL)
            killed.wait()
            with NodeProcess(parameters) as following:
                following.wait_for_log('Active:')
                # Another process of this user may have been faster: then the log is silent.
                assert not Path(dead).exists()
                assert Path(used).exists()
                assert Path(used).name not in following.log


def test_too_little_shared_memory_is_said_and_images_still_come(
    tiny_bundle: Path, peer: Peer, asymmetric_rgb: npt.NDArray[np.uint8]
) -> None:
    tried = subprocess.run([*DOCKERS_64_MB, 'true'], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f'a /dev/shm of its own needs root: {tried.stderr.strip()}')
    parameters = {'model.bundle': tiny_bundle, 'autostart': 'true', 'input.max_age_ms': 0}
    with NodeProcess(parameters, prefix=DOCKERS_64_MB) as node:
        node.wait_for_log('Active:')
        assert node.shared_memory() == set()
        node.wait_for_log('/dev/shm has 67 MB, .* --shm-size=512m')
        camera, masks = peer.camera(IMAGE_TOPIC), peer.collect(MASK)
        peer.wait_for_match(camera, [MASK])
        send_until_answered(peer, camera, rgb8(asymmetric_rgb, now_ns()), masks)


def test_all_threads_of_the_node_share_one_heap(
    tiny_bundle: Path, peer: Peer, asymmetric_rgb: npt.NDArray[np.uint8]
) -> None:
    with NodeProcess({'model.bundle': tiny_bundle, 'autostart': 'true'}) as node:
        camera, masks = peer.camera(IMAGE_TOPIC), peer.collect(MASK)
        peer.wait_for_match(camera, [MASK])
        send_until_answered(peer, camera, rgb8(asymmetric_rgb, now_ns()), masks)

        # A heap of a thread's own is used memory and reserved memory behind it, 64 MB in all that
        # begin at a multiple of that; alone so do others by chance, as the kernel aligns to 2 MB.
        maps = Path(f'/proc/{node.pid}/maps').read_text().splitlines()
        spans = [(*(int(end, 16) for end in line.split()[0].split('-')), line) for line in maps]
        heaps = [
            line
            for (begin, _, line), (_, end, following) in pairwise(spans)
            if begin % _HEAP == 0 and end == begin + _HEAP and ' ---p ' in following
        ]
        assert heaps == []
