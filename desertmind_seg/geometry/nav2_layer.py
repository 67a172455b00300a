"""The parameters of Nav2's semantic segmentation layer for a class table.

Those of ros-navigation/semantic_segmentation_layer, where the layer lives since May 2026. Its
first home, kiwicampus/semantic_segmentation_layer, lacks the fields of view, their decay times and
`sensor_data_depth`, and does not look at what it does not declare: one file serves both.
"""

from typing import Any

import numpy as np
import yaml

from desertmind_seg.geometry.camera_model import CameraInfoError, CameraRays, image_size_hw
from desertmind_seg.geometry.costmap import DECAY_SEC, MAX_RANGE_M, MIN_RANGE_M
from desertmind_seg.model.ontology import LETHAL_COST, Ontology

LAYER = 'semantic_segmentation_layer'
# What a single observation of a lethal class costs, until there are so many with such a mean
# confidence (of 255): one wrong pixel makes a detour and no wall.
UNCONFIRMED_COST = 127
SAMPLES_TO_CONFIRM = 3
MIN_CONFIDENCE = 127
# The layer's own defaults. Below 0 its decay by the field of view is off: what it remembers is
# forgotten after tile_map_decay_time, in view or not. The depth is that of its queues, in which
# messages wait for each other and for the transform.
FIELDS_OF_VIEW_RAD = 1.52, 1.01
NO_DECAY_BY_VIEW_SEC = -1.0
SENSOR_DATA_DEPTH = 10


def fields_of_view_rad(camera_info: Any, *, rectified: bool = False) -> tuple[float, float]:
    """Return the horizontal and the vertical field of view of a camera, in radians.

    They are what its rays span in the middle row and the middle column, so that lenses that
    distort, fisheyes among them, get theirs. A pixel for which the lens model has no ray does not
    count: the layer's view is a pyramid, which cannot reach 180 degrees.

    Args:
        camera_info: a sensor_msgs/CameraInfo.
        rectified: whether the images are rectified, as of `CameraRays`.

    Raises:
        CameraInfoError: the camera is not calibrated, its model is not known, or it has no size.
    """
    height, width = image_size_hw(camera_info)
    rays = CameraRays(rectified=rectified).of(camera_info, (height, width))
    row = rays.x[min(height // 2, rays.x.shape[0] - 1)]
    column = rays.y[:, min(width // 2, rays.y.shape[1] - 1)]
    if np.isnan(row).all() or np.isnan(column).all():
        raise CameraInfoError(
            f'camera_info has the distortion {camera_info.distortion_model} '
            f'{np.asarray(camera_info.d).tolist()}, with which no ray meets the middle of the '
            'image; calibrate the camera again.'
        )
    horizontal, vertical = (np.arctan(plane) for plane in (row, column))
    return (
        float(np.nanmax(horizontal) - np.nanmin(horizontal)),
        float(np.nanmax(vertical) - np.nanmin(vertical)),
    )


def layer_parameters(
    ontology: Ontology, node: str, fields_of_view: tuple[float, float] = FIELDS_OF_VIEW_RAD
) -> dict[str, Any]:
    """Return the parameters of the layer, without the node's name around them.

    Classes of equal group and cost make one class type.

    Args:
        ontology: the class table of the masks.
        node: the segmentation node's name with its namespace; its topics are below it.
        fields_of_view: horizontal and vertical, in radians.
    """
    types: dict[str, dict[str, Any]] = {}
    for entry in ontology.classes:
        lethal = entry.cost == LETHAL_COST
        of_type = types.setdefault(
            f'{entry.group}_{entry.cost}',
            {
                'classes': [],
                'base_cost': UNCONFIRMED_COST if lethal else entry.cost,
                'max_cost': entry.cost,
                'mark_confidence': MIN_CONFIDENCE if lethal else 0,
                'samples_to_max_cost': SAMPLES_TO_CONFIRM if lethal else 0,
                # Not outvoted by the ground in front of it.
                'dominant_priority': entry.group == 'obstacle',
            },
        )
        of_type['classes'].append(entry.name)
    source = {
        'segmentation_topic': f'{node}/mask',
        'confidence_topic': f'{node}/confidence',
        'labels_topic': f'{node}/label_info',
        'pointcloud_topic': f'{node}/points',
        'max_obstacle_distance': MAX_RANGE_M,
        'min_obstacle_distance': MIN_RANGE_M,
        'tile_map_decay_time': DECAY_SEC,
        'camera_horizontal_fov': round(fields_of_view[0], 4),
        'camera_vertical_fov': round(fields_of_view[1], 4),
        'fov_decay_time': NO_DECAY_BY_VIEW_SEC,
        'outside_fov_decay_time': NO_DECAY_BY_VIEW_SEC,
        'use_cost_selection': True,
        'class_types': list(types),
        **types,
    }
    return {
        'plugin': 'semantic_segmentation_layer::SemanticSegmentationLayer',
        'enabled': True,
        'use_approximate_time_sync': False,
        'sensor_data_depth': SENSOR_DATA_DEPTH,
        'observation_sources': 'camera',
        'camera': source,
    }


def nav2_yaml(
    ontology: Ontology, node: str, fields_of_view: tuple[float, float] | None = None
) -> str:
    """Return the parameter file's text; arguments as of `layer_parameters`."""
    parameters = {LAYER: layer_parameters(ontology, node, fields_of_view or FIELDS_OF_VIEW_RAD)}
    nodes = {'local_costmap': {'local_costmap': {'ros__parameters': parameters}}}
    text = yaml.safe_dump(nodes, sort_keys=False, width=99)
    whose = (
        '# The fields of view are those of the camera_info that was given.\n'
        if fields_of_view
        else "# The fields of view are the layer's defaults, NOT your camera's: --camera-info\n"
        '# TOPIC writes those. By hand: 2 atan(width / (2 fx)) and 2 atan(height / (2 fy)); for\n'
        '# an equidistant fisheye about width / fx and height / fy.\n'
    )
    return (
        f"# Nav2's semantic segmentation layer for the classes of {ontology.name}, written by\n"
        f'# python -m desertmind_seg.nav2_config; SHA-256 of the class table:\n'
        f'# {ontology.sha256}\n'
        f'# Give it to Nav2 beside its own parameters, and add {LAYER} to the\n'
        '# plugins of the local costmap there. Points, mask and confidence have equal stamps.\n'
        f'{whose}'
        '# They matter once outside_fov_decay_time is above 0: what is out of view is then\n'
        '# forgotten after that time, what is in view after fov_decay_time.\n'
        f'{text}'
    )
