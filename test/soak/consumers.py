"""A process that is the consumers of the soak: they subscribe to every output, come and go.

    python test/soak/consumers.py --seed 1

Holds between none and all of the outputs for a few seconds each until it is ended; the soak also
kills it at random.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import random
import sys
import time

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'test/integration')]

from node_process import CONSUMER_QOS, NODE, SENSOR_QOS
import rclpy
from sensor_msgs.msg import Image


def main() -> None:
    """Subscribe and unsubscribe until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seed', type=int, default=0)
    dice = random.Random(parser.parse_args().seed)
    rclpy.init()
    node = rclpy.create_node('soak_consumer')
    known = (
        *('mask', 'confidence', 'overlay', 'color_mask'),
        *('cost', 'height', 'hazard', 'hazard_mask'),
    )
    others = [
        f'{NODE}/{name}' for name in ('points', 'costmap', 'ground_points', 'nonground_points')
    ]
    while True:
        # What the node offers beside images has its type in the graph; messages are not decoded.
        offered = dict(node.get_topic_names_and_types())
        topics = [f'{NODE}/{name}' for name in known]
        wanted = dice.sample(topics, dice.randrange(len(topics) + 1))
        subscriptions = [
            node.create_subscription(
                Image, topic, lambda _: None, dice.choice((CONSUMER_QOS, SENSOR_QOS)), raw=True
            )
            for topic in wanted
        ]
        for topic, types in offered.items():
            package, _, kind = types[0].partition('/msg/')
            if topic in others and dice.random() < 0.7:
                module = __import__(f'{package}.msg', fromlist=[kind])
                subscriptions.append(
                    node.create_subscription(
                        getattr(module, kind), topic, lambda _: None, SENSOR_QOS, raw=True
                    )
                )
        until_sec = time.monotonic() + dice.uniform(1.0, 10.0)
        while time.monotonic() < until_sec:
            rclpy.spin_once(node, timeout_sec=0.1)
        for subscription in subscriptions:
            node.destroy_subscription(subscription)


if __name__ == '__main__':
    main()
