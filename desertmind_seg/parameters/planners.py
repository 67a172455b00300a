"""The parameters of what planners read: the costmap."""

from desertmind_seg.parameters.spec import ParameterSpec

PLANNER_PARAMETERS = (
    ParameterSpec(
        'costmap.extrinsics',
        'auto',
        'Where the pose of the camera comes from for the costmap: tf, static (the parameters '
        'below), or auto, which is tf where tf2_ros is installed.',
        choices=('auto', 'tf', 'static'),
    ),
    ParameterSpec(
        'costmap.world_frame',
        'odom',
        'Gravity-aligned frame that stands still, in which the costmap is; tf only.',
    ),
    ParameterSpec(
        'costmap.tf_wait_ms',
        500,
        'How long a frame of the costmap waits for transforms of its stamp, which come later than '
        'the image; masks do not wait. tf only.',
        unit='ms',
        range=(0, 5_000),
    ),
    ParameterSpec(
        'costmap.base_frame',
        'base_link',
        'Base of the vehicle, on the ground; with static extrinsics the frame of the costmap.',
    ),
    ParameterSpec(
        'costmap.x_m',
        0.0,
        'How far before the base the camera is; static extrinsics only.',
        unit='m',
        range=(-20.0, 20.0),
    ),
    ParameterSpec(
        'costmap.y_m',
        0.0,
        'How far to the left of the base the camera is; static extrinsics only.',
        unit='m',
        range=(-20.0, 20.0),
    ),
    ParameterSpec(
        'costmap.z_m',
        1.2,
        'How high above the base the camera is; static extrinsics only.',
        unit='m',
        range=(-20.0, 20.0),
    ),
    ParameterSpec(
        'costmap.roll_deg',
        0.0,
        'Tilt of the camera to its right; static extrinsics only.',
        unit='degrees',
        range=(-180.0, 180.0),
    ),
    ParameterSpec(
        'costmap.pitch_deg',
        0.0,
        'How far the camera looks down; static extrinsics only.',
        unit='degrees',
        range=(-180.0, 180.0),
    ),
    ParameterSpec(
        'costmap.yaw_deg',
        0.0,
        'How far the camera looks to the left; static extrinsics only.',
        unit='degrees',
        range=(-180.0, 180.0),
    ),
    ParameterSpec(
        'costmap.resolution_m',
        0.2,
        'Side of a cell of the costmap.',
        unit='m',
        range=(0.05, 1.0),
    ),
    ParameterSpec(
        'costmap.size_m',
        20.0,
        'Side of the costmap, which is a square.',
        unit='m',
        range=(4.0, 60.0),
    ),
    ParameterSpec(
        'costmap.min_range_m',
        0.5,
        'Points nearer to the camera, on the ground, are left out.',
        unit='m',
        range=(0.0, 100.0),
    ),
    ParameterSpec(
        'costmap.max_range_m',
        10.0,
        'Points further away are left out.',
        unit='m',
        range=(0.0, 100.0),
    ),
    ParameterSpec(
        'costmap.min_height_m',
        -1.0,
        'Points lower than this above the ground of the vehicle are left out.',
        unit='m',
        range=(-20.0, 20.0),
    ),
    ParameterSpec(
        'costmap.max_height_m',
        2.0,
        'Points higher than this are left out.',
        unit='m',
        range=(-20.0, 20.0),
    ),
    ParameterSpec(
        'costmap.decay_sec',
        5.0,
        'Time constant with which the costmap forgets; at most 0.5 with static extrinsics.',
        unit='s',
        range=(0.1, 600.0),
    ),
    ParameterSpec(
        'costmap.stride',
        2,
        'The costmap uses one pixel in so many, along rows and columns.',
        range=(1, 8),
    ),
)
