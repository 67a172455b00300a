"""The parameters of Nav2's semantic segmentation layer for a class table."""

from typing import Any

import yaml

from desertmind_seg.geometry.costmap import DECAY_SEC, MAX_RANGE_M, MIN_RANGE_M
from desertmind_seg.model.ontology import Ontology

LAYER = 'semantic_segmentation_layer'
LETHAL = 254
# What a single observation of a lethal class costs, until there are so many with such a mean
# confidence (of 255): one wrong pixel makes a detour and no wall.
UNCONFIRMED_COST = 127
SAMPLES_TO_CONFIRM = 3
MIN_CONFIDENCE = 127


def layer_parameters(ontology: Ontology, node: str) -> dict[str, Any]:
    """Return the parameters of the layer, without the node's name around them.

    Classes of equal group and cost make one class type.

    Args:
        ontology: the class table of the masks.
        node: the segmentation node's name with its namespace; its topics are below it.
    """
    types: dict[str, dict[str, Any]] = {}
    for entry in ontology.classes:
        lethal = entry.cost == LETHAL
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
        'use_cost_selection': True,
        'class_types': list(types),
        **types,
    }
    return {
        'plugin': 'semantic_segmentation_layer::SemanticSegmentationLayer',
        'enabled': True,
        'use_approximate_time_sync': False,
        'observation_sources': 'camera',
        'camera': source,
    }


def nav2_yaml(ontology: Ontology, node: str) -> str:
    """Return the parameter file's text; arguments as of `layer_parameters`."""
    parameters = {LAYER: layer_parameters(ontology, node)}
    nodes = {'local_costmap': {'local_costmap': {'ros__parameters': parameters}}}
    text = yaml.safe_dump(nodes, sort_keys=False, width=99)
    return (
        f"# Nav2's semantic segmentation layer for the classes of {ontology.name}, written by\n"
        f'# python -m desertmind_seg.nav2_config; SHA-256 of the class table:\n'
        f'# {ontology.sha256}\n'
        f'# Give it to Nav2 beside its own parameters, and add {LAYER} to the\n'
        '# plugins of the local costmap there. Points, mask and confidence have equal stamps.\n'
        f'{text}'
    )
