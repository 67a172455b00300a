"""The parameters of the clouds of ground and of what is not ground."""

from desertmind_seg.hazards.clouds import CloudSettings
from desertmind_seg.parameters.spec import ParameterSpec

_DEFAULT = CloudSettings()

CLOUD_PARAMETERS = (
    ParameterSpec(
        'clouds.stride',
        _DEFAULT.stride,
        'The clouds of ground and not ground use one pixel in so many, along rows and columns.',
        range=(1, 16),
    ),
    ParameterSpec(
        'clouds.max_range_m',
        _DEFAULT.max_range_m,
        'Points of these clouds that are further from the camera are left out.',
        unit='m',
        range=(0.5, 100.0),
    ),
    ParameterSpec(
        'clouds.voxel_m',
        _DEFAULT.voxel_m,
        'These clouds keep one point in each cube of this side, 0.001 or more; 0 keeps all.',
        unit='m',
        range=(0.0, 1.0),
    ),
    ParameterSpec(
        'clouds.lift_m',
        _DEFAULT.lift_m,
        'Hazards lower than this above the ground (puddles, ditches, slopes) are lifted to it in '
        "~/nonground_points, because consumers free what is low: Nav2's ground consistency layer "
        'below its min_clearance of 0.1 m. Keep it below the height of the vehicle, above which '
        'they free again. 0 lifts only what lies below the ground, onto it.',
        unit='m',
        range=(0.0, 5.0),
    ),
)
