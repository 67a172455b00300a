"""The fields of view for Nav2 come from the camera that runs."""

from threading import Event, Thread

from node_process import Peer
import pytest
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo
import yaml

from desertmind_seg import nav2_config
from desertmind_seg.geometry.camera_info_topic import NoCameraInfoError, wait_for_camera_info

TOPIC = '/camera/color/camera_info'


def test_the_view_is_that_of_the_running_camera(
    peer: Peer, capsys: pytest.CaptureFixture[str]
) -> None:
    info = CameraInfo(height=480, width=640, distortion_model='plumb_bob', d=[0.0] * 5)
    info.k = [320.0, 0.0, 319.5, 0.0, 320.0, 239.5, 0.0, 0.0, 1.0]
    publisher = peer.node.create_publisher(CameraInfo, TOPIC, qos_profile_sensor_data)
    done = Event()

    def publish() -> None:
        while not done.wait(0.05):
            publisher.publish(info)

    camera = Thread(target=publish)
    camera.start()
    try:
        assert nav2_config.main(['--ontology', 'ycor-8', '--camera-info', TOPIC]) == 0
        with pytest.raises(NoCameraInfoError, match=f'published are: {TOPIC}'):
            wait_for_camera_info('/elsewhere', 6.0)
        with pytest.raises(NoCameraInfoError, match=r"'/a b' is no name in ROS 2 .*characters"):
            wait_for_camera_info('/a b', 6.0)
    finally:
        done.set()
        camera.join()

    parameters = yaml.safe_load(capsys.readouterr().out)['local_costmap']['local_costmap']
    source = parameters['ros__parameters']['semantic_segmentation_layer']['camera']
    assert source['camera_horizontal_fov'] == pytest.approx(1.57, abs=0.005)
    assert source['camera_vertical_fov'] == pytest.approx(1.287, abs=0.005)
