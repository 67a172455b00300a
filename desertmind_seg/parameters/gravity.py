"""The parameters of which way is up."""

from desertmind_seg.parameters.spec import ParameterSpec

_ANGLE_RANGE = (-180.0, 180.0)

GRAVITY_PARAMETERS = (
    ParameterSpec(
        'hazard.gravity',
        'auto',
        'What tells which way is up: tf (costmap.world_frame), imu (sensor_msgs/Imu on imu), '
        'static (the angles of costmap), or auto: the first of these that is there; static only '
        'where costmap.extrinsics is static or an angle or z_m was set; else the depth alone.',
        choices=('auto', 'tf', 'imu', 'static'),
    ),
    ParameterSpec(
        'hazard.imu_axes',
        'auto',
        'How the axes of the IMU lie in the camera: auto as tf2 says, or by the names of the '
        'frames; optical like the image (x right, y down, z forward); body (x forward, y left, z '
        'up), turned by the angles below.',
        choices=('auto', 'optical', 'body'),
    ),
    ParameterSpec(
        'hazard.imu_roll_deg',
        0.0,
        "Tilt of the IMU to the camera's right; with imu_axes body only.",
        unit='degrees',
        range=_ANGLE_RANGE,
    ),
    ParameterSpec(
        'hazard.imu_pitch_deg',
        0.0,
        'How far the IMU looks down from where the camera looks; with imu_axes body only.',
        unit='degrees',
        range=_ANGLE_RANGE,
    ),
    ParameterSpec(
        'hazard.imu_yaw_deg',
        0.0,
        "How far the IMU looks to the camera's left; with imu_axes body only.",
        unit='degrees',
        range=_ANGLE_RANGE,
    ),
)
