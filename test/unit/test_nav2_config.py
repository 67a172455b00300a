"""The parameter file of Nav2's layer is what the class table says, and stays so."""

from pathlib import Path
from typing import Any

from camera_infos import camera_info
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
import yaml

from desertmind_seg.geometry.camera_model import CameraInfoError
from desertmind_seg.geometry.nav2_cloud_layers import CLOUD_LAYERS
from desertmind_seg.geometry.nav2_layer import (
    LAYER,
    fields_of_view_rad,
    layer_parameters,
    nav2_yaml,
)
from desertmind_seg.model.bundle import read_bundle
from desertmind_seg.model.files import DEFAULT_BUNDLE, share_path
from desertmind_seg.model.ontology import available_ontologies, load_ontology
from desertmind_seg.nav2_config import LAYERS, main

ROOT = Path(__file__).resolve().parents[2]

# What ros-navigation/semantic_segmentation_layer declares at b269885, with the types of its
# defaults (src/semantic_segmentation_layer.cpp, onInitialize).
OF_THE_LAYER = {
    **dict.fromkeys(('enabled', 'publish_debug_topics', 'use_approximate_time_sync'), bool),
    **dict.fromkeys(('combination_method', 'sensor_data_depth'), int),
    'observation_sources': str,
}
OF_A_SOURCE = {
    **dict.fromkeys(('segmentation_topic', 'confidence_topic', 'labels_topic'), str),
    'pointcloud_topic': str,
    **dict.fromkeys(('observation_persistence', 'expected_update_rate'), float),
    **dict.fromkeys(('max_obstacle_distance', 'min_obstacle_distance'), float),
    **dict.fromkeys(('tile_map_decay_time', 'fov_decay_time', 'outside_fov_decay_time'), float),
    **dict.fromkeys(('camera_horizontal_fov', 'camera_vertical_fov'), float),
    **dict.fromkeys(('visualize_tile_map', 'visualize_frustum_fov', 'use_cost_selection'), bool),
    'class_types': list,
}
OF_A_CLASS_TYPE = {
    'classes': list,
    **dict.fromkeys(('base_cost', 'max_cost', 'mark_confidence', 'samples_to_max_cost'), int),
    'dominant_priority': bool,
}
# kiwicampus/semantic_segmentation_layer at a70cf6e declares the rest.
ONLY_IN_THE_NEW_HOME = {
    *('camera_horizontal_fov', 'camera_vertical_fov', 'fov_decay_time', 'outside_fov_decay_time'),
    'sensor_data_depth',
}

# dfki-ric/nav2_ground_consistency_costmap_plugin at 41cec62, src/ground_consistency_layer.cpp,
# onInitialize.
OF_GROUND_CONSISTENCY = {
    **dict.fromkeys(('ground_points_topic', 'nonground_points_topic'), str),
    **dict.fromkeys(('tf_timeout', 'ground_inc', 'nonground_inc'), float),
    **dict.fromkeys(('ground_decay', 'nonground_decay', 'max_score'), float),
    **dict.fromkeys(('nonground_occ_thresh', 'nonground_prob_thresh'), float),
    **dict.fromkeys(('min_clearance', 'robot_height', 'max_data_range'), float),
    **dict.fromkeys(('footprint_clearing_enabled', 'enable_kpi_logging'), bool),
    'maximum_height_filter': float,
    'discretize_costs': bool,
    'ground_neighbor_search_cells': int,
}
# ros-navigation/navigation2, nav2_costmap_2d/plugins/obstacle_layer.cpp at 021483b and
# voxel_layer.cpp at 0537cb2, onInitialize.
OF_OBSTACLE = {
    **dict.fromkeys(('enabled', 'footprint_clearing_enabled'), bool),
    **dict.fromkeys(('min_obstacle_height', 'max_obstacle_height'), float),
    'combination_method': int,
    'observation_sources': str,
}
OF_VOXEL = {
    **OF_OBSTACLE,
    **dict.fromkeys(('z_voxels', 'unknown_threshold', 'mark_threshold'), int),
    **dict.fromkeys(('origin_z', 'z_resolution'), float),
    'publish_voxel_map': bool,
}
OF_AN_OBSERVATION = {
    **dict.fromkeys(('topic', 'sensor_frame', 'data_type'), str),
    **dict.fromkeys(('observation_persistence', 'expected_update_rate'), float),
    **dict.fromkeys(('min_obstacle_height', 'max_obstacle_height'), float),
    **dict.fromkeys(('inf_is_valid', 'marking', 'clearing'), bool),
    **dict.fromkeys(('obstacle_max_range', 'obstacle_min_range'), float),
    **dict.fromkeys(('raytrace_max_range', 'raytrace_min_range'), float),
}
PLUGINS = {
    'ground_consistency': 'nav2_ground_consistency_costmap_plugin::GroundConsistencyLayer',
    'voxel': 'nav2_costmap_2d::VoxelLayer',
    'obstacle': 'nav2_costmap_2d::ObstacleLayer',
}


def written(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, dict[str, Any]]:
    """Run the command; return what it wrote, and the parameters of the layer in it."""
    assert main(list(arguments)) == 0
    text = capsys.readouterr().out
    parameters = yaml.safe_load(text)['local_costmap']['local_costmap']['ros__parameters']
    ((_, layer),) = parameters.items()
    return text, layer


def types_of(parameters: dict[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in parameters.items()}


@pytest.mark.parametrize('layer', ['ground_consistency', 'voxel', 'obstacle'])
def test_the_committed_files_for_the_clouds_are_what_the_command_writes(
    layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, _ = written(capsys, '--layer', layer)

    assert (ROOT / f'config/nav2_{layer}.yaml').read_text() == text


def test_the_layers_for_the_clouds_are_those_that_the_command_knows() -> None:
    assert LAYERS[1:] == CLOUD_LAYERS == tuple(PLUGINS)


def test_the_ground_consistency_layer_is_told_what_it_declares(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = '--layer', 'ground_consistency', '--vehicle-height', '0.5', '--node', '/front/s/'
    text, layer = written(capsys, *arguments)

    assert layer.pop('plugin') == PLUGINS['ground_consistency']
    assert types_of(layer).items() <= OF_GROUND_CONSISTENCY.items()
    assert layer['ground_points_topic'] == '/front/s/ground_points'
    assert layer['nonground_points_topic'] == '/front/s/nonground_points'
    assert layer['robot_height'] == 0.5
    # It is compared with z of the cloud, the distance in a camera's frame.
    assert 'maximum_height_filter' not in layer
    assert 'hazard.clearance_m to 0.5 and clouds.lift_m to 0.3' in text


@pytest.mark.parametrize(('layer', 'declared'), [('voxel', OF_VOXEL), ('obstacle', OF_OBSTACLE)])
def test_obstacle_and_voxel_layer_are_told_what_they_declare(
    layer: str, declared: dict[str, type], capsys: pytest.CaptureFixture[str]
) -> None:
    text, parameters = written(capsys, '--layer', layer, '--vehicle-height', '0.7')
    sources = {name: parameters.pop(name) for name in ('ground', 'nonground')}

    assert parameters.pop('plugin') == PLUGINS[layer]
    assert types_of(parameters).items() <= declared.items()
    assert set(parameters['observation_sources'].split()) == set(sources)
    for name, source in sources.items():
        assert types_of(source).items() <= OF_AN_OBSERVATION.items()
        assert source['topic'] == f'/segmentation/{name}_points'
        assert source['data_type'] == 'PointCloud2'
        # Their defaults would take no points of a hill: the source's is 0.
        assert source['max_obstacle_height'] == parameters['max_obstacle_height'] >= 50.0
        assert source['min_obstacle_height'] == parameters['min_obstacle_height'] <= -50.0
    assert (sources['ground']['marking'], sources['ground']['clearing']) == (False, True)
    assert sources['nonground']['marking']
    assert 'hazard.clearance_m to 0.7' in text
    if layer == 'voxel':
        top = parameters['origin_z'] + parameters['z_voxels'] * parameters['z_resolution']
        assert parameters['z_voxels'] <= 16
        assert top > 2.0  # the camera has to be within


def test_a_low_vehicle_lifts_less(capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = written(capsys, '--layer', 'ground_consistency', '--vehicle-height', '0.25')

    # Between min_clearance, below which the layer frees, and the vehicle's height, above which.
    assert 'clouds.lift_m to 0.175' in text


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('', 'one of the arguments --ontology --bundle is required'),
        ('--ontology ycor-8 --vehicle-height 1', '--vehicle-height needs --layer ground_cons'),
        ('--layer voxel --ontology ycor-8', 'need --layer semantic'),
        ('--layer voxel --camera-info /info', 'need --layer semantic'),
        ('--layer voxel --vehicle-height 0.1', 'expected more than 0.1 m, below which every'),
        ('--layer voxel --vehicle-height 30', 'and at most 20, as of hazard.clearance_m'),
        ('--layer voxel --vehicle-height nan', "argument --vehicle-height: 'nan'"),
        ('--layer static', "argument --layer: invalid choice: 'static'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())

    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def source_of(document: Any) -> Any:
    parameters = document['local_costmap']['local_costmap']['ros__parameters']
    return parameters[LAYER]['camera']


def test_the_committed_file_is_what_the_command_writes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(['--ontology', 'ycor-8']) == 0

    assert (ROOT / 'config/nav2.yaml').read_text() == capsys.readouterr().out


def test_the_committed_file_is_for_the_bundle_that_ships(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = share_path(DEFAULT_BUNDLE)
    assert main(['--bundle', str(bundle)]) == 0

    assert (ROOT / 'config/nav2.yaml').read_text() == capsys.readouterr().out
    assert (
        read_bundle(bundle).metadata.ontology_sha256 in share_path('config/nav2.yaml').read_text()
    )


@pytest.mark.parametrize('name', available_ontologies())
def test_every_class_of_every_table_has_its_cost(name: str) -> None:
    ontology = load_ontology(name)
    source = source_of(yaml.safe_load(nav2_yaml(ontology, '/segmentation')))

    of_name = {
        class_name: source[class_type]
        for class_type in source['class_types']
        for class_name in source[class_type]['classes']
    }
    assert list(of_name) == list(dict.fromkeys(of_name))
    assert set(of_name) == set(ontology.names)
    for entry in ontology.classes:
        assert of_name[entry.name]['max_cost'] == entry.cost
        assert of_name[entry.name]['dominant_priority'] == (entry.group == 'obstacle')
    # A class type is a part of parameter names: no dot, no space.
    assert all(class_type.isidentifier() for class_type in source['class_types'])
    assert sum(len(source[class_type]['classes']) for class_type in source['class_types']) == len(
        ontology.classes
    )


def test_names_and_types_are_those_that_the_layer_declares() -> None:
    # rclcpp refuses an integer for a parameter that was declared a double, and the reverse; a name
    # that nobody declares is not looked at.
    layer = yaml.safe_load((ROOT / 'config/nav2.yaml').read_text())['local_costmap']
    layer = layer['local_costmap']['ros__parameters'][LAYER]
    source = layer.pop('camera')
    class_types = {name: source.pop(name) for name in source['class_types']}

    assert layer.pop('plugin') == 'semantic_segmentation_layer::SemanticSegmentationLayer'
    assert {name: type(value) for name, value in layer.items()}.items() <= OF_THE_LAYER.items()
    assert {name: type(value) for name, value in source.items()}.items() <= OF_A_SOURCE.items()
    for of_type in class_types.values():
        assert {name: type(value) for name, value in of_type.items()} == OF_A_CLASS_TYPE
    assert {*layer, *source} >= ONLY_IN_THE_NEW_HOME


def test_the_first_home_of_the_layer_decays_as_the_new_one() -> None:
    source = layer_parameters(load_ontology('ycor-8'), '/segmentation')['camera']

    # All else that it lacks is about the field of view, which does not count below 0.
    assert source['outside_fov_decay_time'] < 0


@pytest.mark.parametrize(
    ('changes', 'horizontal_deg', 'vertical_deg'),
    [
        # 2 atan(320 / 320), 2 atan(240 / 320); the rays are those of the pixels' centres.
        ({}, 90.0, 73.74),
        # Half of the sensor's columns, and binned: 2 atan(160 / 320).
        ({'roi': (160, 0, 480, 320), 'binning_x': 2, 'binning_y': 2}, 53.13, 73.74),
        # Where each pixel is as far from the middle as its angle: 640 / 320 rad, 480 / 320 rad.
        ({'distortion_model': 'equidistant', 'd': [1e-9] * 4}, 114.59, 85.94),
        # 220 degrees on the diagonal of the sensor, where the model has no rays at the rim.
        ({'distortion_model': 'equidistant', 'd': [1e-9] * 4, 'focal': (160.0,) * 2}, None, None),
    ],
)
def test_fields_of_view_are_those_of_the_rays(
    changes: dict[str, Any], horizontal_deg: float | None, vertical_deg: float | None
) -> None:
    info = camera_info(**{'focal': (320.0, 320.0), 'center': (319.5, 239.5), **changes})

    horizontal, vertical = np.degrees(fields_of_view_rad(info))

    if horizontal_deg is None:
        assert 150 < vertical <= horizontal < 180
    else:
        assert (horizontal, vertical) == pytest.approx((horizontal_deg, vertical_deg), abs=0.4)


def test_rectified_images_have_the_view_of_p() -> None:
    info = camera_info(focal=(320.0, 320.0), center=(319.5, 239.5))
    info.p[0] = info.p[5] = 640.0
    info.d = [-0.3, 0.1, 0.0, 0.0, 0.0]

    assert np.degrees(fields_of_view_rad(info, rectified=True)) == pytest.approx(
        (53.13, 41.11), abs=0.2
    )


def test_a_camera_that_is_not_calibrated_has_no_view() -> None:
    with pytest.raises(CameraInfoError, match='not calibrated'):
        fields_of_view_rad(camera_info(focal=(0.0, 0.0)))
    with pytest.raises(CameraInfoError, match='says 0 x 0 pixels'):
        fields_of_view_rad(camera_info(size_hw=(0, 0)))
    for center in ((645.0, 239.5), (319.5, 565.0)):
        info = camera_info(center=center, d=[-0.3, 0.0, 0.0, 0.0, 0.0])
        with pytest.raises(CameraInfoError, match='with which no ray meets the middle'):
            fields_of_view_rad(info)


@pytest.mark.data
def test_the_view_comes_from_the_camera_in_a_bag(
    shared_data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = str(shared_data_dir / 'bags/orfd_rgbd')
    topic = '/camera/color/camera_info'

    assert main(['--ontology', 'ycor-8', '--camera-info', topic, '--bag', bag]) == 0
    text = capsys.readouterr().out
    assert main(['--ontology', 'ycor-8', '--camera-info', '/none', '--bag', bag]) == 2

    assert "NOT your camera's" not in text
    source = source_of(yaml.safe_load(text))
    assert (source['camera_horizontal_fov'], source['camera_vertical_fov']) == (0.8113, 0.4787)
    assert topic in capsys.readouterr().err


@pytest.mark.parametrize('storage', ['mcap', 'ros1'])
def test_the_first_whole_camera_info_of_a_bag_of_ros_1_or_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], storage: str
) -> None:
    ros1 = storage == 'ros1'
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_KILTED)
    types, name = store.types, 'sensor_msgs/msg/CameraInfo'
    stamp = types['builtin_interfaces/msg/Time'](1, 0)
    matrix = np.array([400.0, 0, 320, 0, 400, 240, 0, 0, 1])
    fields = {'D': np.zeros(5), 'K': matrix, 'R': np.zeros(9), 'P': np.zeros(12)}
    info = types[name](
        header=types['std_msgs/msg/Header'](
            stamp=stamp, frame_id='camera', **({'seq': 1} if ros1 else {})
        ),
        height=480,
        width=640,
        distortion_model='plumb_bob',
        binning_x=0,
        binning_y=0,
        roi=types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False),
        **{key if ros1 else key.lower(): value for key, value in fields.items()},
    )
    data = store.serialize_ros1(info, name) if ros1 else store.serialize_cdr(info, name)
    path = tmp_path / 'bag'
    with (
        Rosbag1Writer(path) if ros1 else Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
    ) as writer:
        connection = writer.add_connection('/info', name, typestore=store)
        writer.write(connection, 1, bytes(data)[:60])
        writer.write(connection, 2, data)
    assert main(['--ontology', 'ycor-8', '--camera-info', '/info', '--bag', str(path)]) == 0
    source = source_of(yaml.safe_load(capsys.readouterr().out))
    assert source['camera_horizontal_fov'] == pytest.approx(2 * np.arctan(320 / 400), abs=0.01)


def test_a_bag_without_a_topic_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(['--ontology', 'ycor-8', '--bag', 'drive'])

    assert stop.value.code == 2
    assert '--bag and --rectified need --camera-info' in capsys.readouterr().err


def test_one_observation_of_a_lethal_class_is_no_wall() -> None:
    types = layer_parameters(load_ontology('ycor-8'), '/segmentation')['camera']

    assert types['obstacle_254']['classes'] == ['obstacle', 'high vegetation']
    assert types['obstacle_254']['base_cost'] < 253 <= types['obstacle_254']['max_cost']
    assert types['obstacle_254']['samples_to_max_cost'] > 1
    assert types['traversable_40']['base_cost'] == types['traversable_40']['max_cost'] == 40


def test_topics_are_those_of_the_named_node(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['--ontology', 'rugd-24', '--node', '/front/segmentation/']) == 0
    source = source_of(yaml.safe_load(capsys.readouterr().out))

    assert {name: value for name, value in source.items() if name.endswith('_topic')} == {
        'segmentation_topic': '/front/segmentation/mask',
        'confidence_topic': '/front/segmentation/confidence',
        'labels_topic': '/front/segmentation/label_info',
        'pointcloud_topic': '/front/segmentation/points',
    }


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--ontology', 'ycor-9'], "no ontology 'ycor-9' (did you mean 'ycor-8'?); shipped are"),
        (['--bundle', 'missing.onnx'], 'bundle missing.onnx does not exist'),
    ],
)
def test_what_is_not_there_is_an_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f'python -m desertmind_seg.nav2_config: error: {message}')
    assert captured.out == ''
