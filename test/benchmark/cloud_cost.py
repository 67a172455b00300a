"""What ~/ground_points and ~/nonground_points cost, beside nothing: CPU time, points and bytes.

    python test/benchmark/cloud_cost.py

CPU time of the thread, so that other processes count little; a frame of a synthetic drive with
hazards and puddles, 640x480, the messages included. Without a subscriber none of it runs.
"""

import time

import numpy as np
from std_msgs.msg import Header

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.hazards.clouds import CloudSettings, GroundClouds
from desertmind_seg.hazards.detection import HazardDetector
from desertmind_seg.hazards.joining import GROUND, NOT_GROUND, ClassGeometryTable
from desertmind_seg.model.ontology import load_ontology
from desertmind_seg.outputs.clouds import cloud_message
from training.scenery.parameters import HAZARDS
from training.simulator.depth_sensor import frame_depth_mm
from training.simulator.drive import SyntheticDrive

SEED, INDEX = 2, 493
ROUNDS = 50


def main() -> None:
    drive = SyntheticDrive(SEED, hazards=HAZARDS)
    frame = drive.frame(INDEX)
    depth = (frame_depth_mm(SEED, INDEX, frame) / 1000).astype(np.float32)
    (fx, _, cx), (_, fy, cy) = drive.k[:2]
    height, width = depth.shape
    rays = Rays(
        ((np.arange(width, dtype=np.float32) - cx) / fx)[None].astype(np.float32),
        ((np.arange(height, dtype=np.float32) - cy) / fy)[:, None].astype(np.float32),
    )
    up = frame.camera.odom_from_camera[2, :3]
    hazards = HazardDetector().detect(depth, rays, up)
    table = ClassGeometryTable(load_ontology('ycor-8'))
    confidence = np.full(depth.shape, 200, np.uint8)
    print('stride voxel_m  both, one: ms   points  kB')
    for stride, voxel_m in ((1, 0.05), (2, 0.05), (2, 0.0), (4, 0.05)):
        clouds = GroundClouds(CloudSettings(stride=stride, voxel_m=voxel_m), 2.0)
        row = []
        for wanted in ((GROUND, NOT_GROUND), (NOT_GROUND,)):
            spent_ms = []
            for _ in range(ROUNDS):
                start = time.thread_time()
                found = clouds.points(
                    depth, rays, frame.labels_ycor_8, confidence, hazards, table, wanted
                )
                for points in found.values():
                    cloud_message(points, Header())
                spent_ms.append((time.thread_time() - start) * 1e3)
            row.append(np.median(spent_ms))
            if len(wanted) == 2:
                count = sum(points.size for points in found.values())
                size_kb = sum(points.nbytes for points in found.values()) / 1000
        print(f'{stride:6} {voxel_m:7.2f}  {row[0]:5.2f} {row[1]:5.2f}   {count:6} {size_kb:6.0f}')


if __name__ == '__main__':
    main()
