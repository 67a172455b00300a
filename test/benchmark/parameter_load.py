"""How many set_parameters of a busy node go unanswered, by the client's queue; prints JSON.

    python test/benchmark/parameter_load.py                 # 1,500 requests at 50 Hz, twice
    python test/benchmark/parameter_load.py --stall-sec 0   # on a quiet machine

The node segments 640x480 at 10 Hz, and stands still (SIGSTOP) now and then, as it does where
other work takes its CPUs. It keeps 1,000 requests and answers every one, 2 ms apart. A client
keeps 10 answers by rclpy's default and 1,000 by `qos_profile_parameters`: answers that come
together after a stall push each other out of the short queue. Exit status 1 when an answer is
missing with the long one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import signal
import sys
import time

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test/integration')]

from node_process import MASK, NODE, NodeProcess, Peer, now_ns, rgb8
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, qos_profile_parameters, qos_profile_services_default

from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path

HZ, STALL_EVERY_SEC, ANSWER_SEC = 50.0, 5.0, 15.0
PARAMETERS = {'autostart': 'true', 'model.bundle': share_path(DEFAULT_BUNDLE)}


def measure(qos: QoSProfile, requests: int, stall_sec: float) -> dict[str, float]:
    """Ask the node; returns how many answers are missing, and how long they took in ms."""
    rgb = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    with NodeProcess(PARAMETERS) as process, Peer() as peer:
        process.wait_for_log('Active:')
        peer.collect(MASK)
        camera = peer.camera()
        peer.wait_for_match(camera, [MASK])
        client = peer.node.create_client(SetParameters, f'{NODE}/set_parameters', qos_profile=qos)
        peer.wait_until(client.service_is_ready, 'set_parameters')
        peer.state()  # the node knows our client now, see Peer.call
        waits_ms: list[float] = []

        def ask(index: int) -> None:
            asked_sec = time.monotonic()
            message = Parameter('output.overlay_alpha', value=index % 2 / 2).to_parameter_msg()
            future = client.call_async(SetParameters.Request(parameters=[message]))
            future.add_done_callback(
                lambda _: waits_ms.append((time.monotonic() - asked_sec) * 1e3)
            )

        asked, begin_sec = 0, time.monotonic()
        frame_sec, stall_at_sec, go_on_sec = begin_sec, begin_sec + STALL_EVERY_SEC, 0.0
        while asked < requests:
            now_sec = time.monotonic()
            if now_sec >= begin_sec + asked / HZ:
                ask(asked)
                asked += 1
            if now_sec >= frame_sec:
                frame_sec += 0.1
                camera.publish(rgb8(rgb, now_ns()))
            if stall_sec and now_sec >= stall_at_sec:
                process.send(signal.SIGSTOP)
                stall_at_sec, go_on_sec = now_sec + STALL_EVERY_SEC, now_sec + stall_sec
            if go_on_sec and now_sec >= go_on_sec:
                process.send(signal.SIGCONT)
                go_on_sec = 0.0
            peer.spin(0.002)
        process.send(signal.SIGCONT)
        end_sec = time.monotonic() + ANSWER_SEC
        while len(waits_ms) < requests and time.monotonic() < end_sec:
            peer.spin(0.05)
    return {
        'requests': requests,
        'unanswered': requests - len(waits_ms),
        'answer_ms_p50': round(float(np.median(waits_ms)), 1),
        'answer_ms_max': round(max(waits_ms), 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--requests', type=int, default=1500)
    parser.add_argument('--stall-sec', type=float, default=0.6, help='0 for none')
    options = parser.parse_args()
    results = {
        name: measure(qos, options.requests, options.stall_sec)
        for name, qos in (
            ('client_keeps_10', qos_profile_services_default),
            ('client_keeps_1000', qos_profile_parameters),
        )
    }
    print(json.dumps(results, indent=2))
    return int(results['client_keeps_1000']['unanswered'] > 0)


if __name__ == '__main__':
    sys.exit(main())
