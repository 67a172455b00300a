"""The parameters of Nav2's layers that take the clouds of ground and of what is not ground."""

from typing import Any

import yaml

from desertmind_seg.geometry.costmap import MAX_RANGE_M

GROUND_CONSISTENCY, VOXEL, OBSTACLE = 'ground_consistency', 'voxel', 'obstacle'
CLOUD_LAYERS = GROUND_CONSISTENCY, VOXEL, OBSTACLE
# To what height the node lifts hazards that are lower: well above the layer's min_clearance, with
# room for slopes within a cell and for the noise of depth.
LIFT_M = 0.3
_MIN_CLEARANCE_M = 0.1
# The node looks at heights above the local ground; those of the costmap's frame say nothing on a
# hill.
_ANY_HEIGHT_M = 100.0
_LOWEST_VOXEL_M = -0.8
# As many as the layer has, up to 2.4 m. Rays start at the camera, which has to be within.
_VOXELS, _VOXEL_M = 16, 0.2
# Nearer, the ground is below the picture, and rays that pass above would clear what was seen.
_CLEAR_FROM_M = 2.0

_PLUGINS = {
    GROUND_CONSISTENCY: 'nav2_ground_consistency_costmap_plugin::GroundConsistencyLayer',
    VOXEL: 'nav2_costmap_2d::VoxelLayer',
    OBSTACLE: 'nav2_costmap_2d::ObstacleLayer',
}
_GROUND_CONSISTENCY_NOTES = """\
# The layer is dfki-ric/nav2_ground_consistency_costmap_plugin. Two points that are not ground are
# enough (nonground_occ_thresh): far away a depth camera shows few.
# Do not set maximum_height_filter: the layer compares it with z of the cloud, which is the
# distance in a camera's frame. Nor search neighbours for ground: between the ground before a ledge
# and that on top of it, the ledge is low.
"""
_RAYS_NOTES = """\
# What is not ground marks, and rays to the ground clear. Points of any height are taken: the node
# leaves out what hangs higher above its ground than hazard.clearance_m.
# raytrace_min_range is how far before the camera the picture begins: the camera's height / tan(how
# far down the lower edge of the picture looks). Below that, rays that pass above clear what the
# vehicle is about to drive over.
"""
_VOXEL_NOTES = """\
# What is more than 3.2 m above origin_z in the costmap's frame is not marked, and a camera that is
# below origin_z or so high clears nothing: where the frame has true heights and the ground rises
# or falls by more, take the obstacle layer.
"""
_OBSTACLE_NOTES = """\
# This layer has no heights: a ray to the ground behind a rock clears the rock unless it is seen
# again in the same cycle. Where the ground is level, prefer the voxel layer.
"""


def cloud_layer_parameters(layer: str, node: str, vehicle_height_m: float) -> dict[str, Any]:
    """Return the parameters of a layer, without its name around them.

    Args:
        layer: one of CLOUD_LAYERS.
        node: the segmentation node's name with its namespace; its topics are below it.
        vehicle_height_m: what hangs higher is driven under.
    """
    ground, nonground = f'{node}/ground_points', f'{node}/nonground_points'
    if layer == GROUND_CONSISTENCY:
        return {
            'plugin': _PLUGINS[layer],
            'ground_points_topic': ground,
            'nonground_points_topic': nonground,
            'tf_timeout': 0.1,
            'ground_inc': 1.0,
            'nonground_inc': 1.5,
            'ground_decay': 0.8,
            'nonground_decay': 0.93,
            'nonground_occ_thresh': 2.0,
            'nonground_prob_thresh': 0.75,
            'max_score': 5000.0,
            'min_clearance': _MIN_CLEARANCE_M,
            'robot_height': vehicle_height_m,
            'footprint_clearing_enabled': True,
            'enable_kpi_logging': False,
            'max_data_range': 50.0,
            'discretize_costs': False,
            'ground_neighbor_search_cells': 0,
        }
    heights = {'min_obstacle_height': -_ANY_HEIGHT_M, 'max_obstacle_height': _ANY_HEIGHT_M}
    source = {
        'data_type': 'PointCloud2',
        **heights,
        'obstacle_max_range': MAX_RANGE_M,
        'obstacle_min_range': 0.0,
        'raytrace_max_range': MAX_RANGE_M,
        'raytrace_min_range': _CLEAR_FROM_M,
        'inf_is_valid': False,
    }
    voxels = {
        'origin_z': _LOWEST_VOXEL_M,
        'z_resolution': _VOXEL_M,
        'z_voxels': _VOXELS,
        'mark_threshold': 0,
        'publish_voxel_map': False,
    }
    return {
        'plugin': _PLUGINS[layer],
        'enabled': True,
        'footprint_clearing_enabled': True,
        'combination_method': 1,
        **heights,
        **(voxels if layer == VOXEL else {}),
        'observation_sources': 'nonground ground',
        'nonground': {
            'topic': nonground,
            'marking': True,
            'clearing': layer == VOXEL,
            **source,
        },
        'ground': {'topic': ground, 'marking': False, 'clearing': True, **source},
    }


def cloud_layer_yaml(layer: str, node: str, vehicle_height_m: float) -> str:
    """Return the parameter file's text; arguments as of `cloud_layer_parameters`."""
    name = f'{layer}_layer'
    parameters = {name: cloud_layer_parameters(layer, node, vehicle_height_m)}
    nodes = {'local_costmap': {'local_costmap': {'ros__parameters': parameters}}}
    notes = _GROUND_CONSISTENCY_NOTES
    if layer != GROUND_CONSISTENCY:
        notes = _RAYS_NOTES + (_OBSTACLE_NOTES if layer == OBSTACLE else _VOXEL_NOTES)
    lift_m = min(LIFT_M, (_MIN_CLEARANCE_M + vehicle_height_m) / 2)
    return (
        f"# Nav2's {layer.replace('_', ' ')} layer on ~/ground_points and ~/nonground_points, "
        'written by\n'
        f'# python -m desertmind_seg.nav2_config --layer {layer}\n'
        f'# Give it to Nav2 beside its own parameters, and add {name} to the plugins of the\n'
        '# local costmap there, before the inflation layer. For a vehicle of this height set, of\n'
        f'# the segmentation node, hazard.clearance_m to {vehicle_height_m:g} and clouds.lift_m '
        f'to {lift_m:g}.\n'
        f'{notes}{yaml.safe_dump(nodes, sort_keys=False, width=99)}'
    )
