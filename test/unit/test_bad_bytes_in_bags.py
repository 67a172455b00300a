"""Bytes that ended a run: in a bag, each is one frame that is left out, and counted."""

import json
from pathlib import Path

import cv2
from image_attacks import attacks
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from desertmind_seg.evaluate_bag import main

TOPIC = '/camera/image_raw/compressed'


def test_the_frames_between_bad_ones_are_segmented(
    tmp_path: Path, tiny_bundle: Path, asymmetric_rgb: np.ndarray
) -> None:
    store = get_typestore(Stores.ROS2_KILTED)
    types = store.types
    good = cv2.imencode('.jpg', asymmetric_rgb)[1].tobytes()
    contents = [each for bad in attacks().values() for each in (bad, good)]
    with Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        name = 'sensor_msgs/msg/CompressedImage'
        connection = writer.add_connection(TOPIC, name, typestore=store)
        for index, content in enumerate(contents):
            stamp = types['builtin_interfaces/msg/Time'](sec=1, nanosec=index)
            message = types[name](
                header=types['std_msgs/msg/Header'](stamp=stamp, frame_id='camera'),
                format='jpeg',
                data=np.frombuffer(content, np.uint8),
            )
            writer.write(connection, 10**9 + index, store.serialize_cdr(message, name))

    bag, out = str(tmp_path / 'bag'), tmp_path / 'out'
    assert main([bag, '--image', TOPIC, '--bundle', str(tiny_bundle), '--out', str(out)]) == 1
    frames = json.loads((out / 'metrics.json').read_text())['frames']
    assert (frames['in'], frames['out']) == (len(contents), len(attacks()))
    assert frames['bad']['count'] == len(attacks())
