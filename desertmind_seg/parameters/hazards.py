"""The parameters of hazards from geometry."""

from desertmind_seg.hazards.joining import SOFT_HEIGHT_M
from desertmind_seg.hazards.records import HazardSettings
from desertmind_seg.parameters.spec import ParameterSpec

_DEFAULT = HazardSettings()

HAZARD_PARAMETERS = (
    ParameterSpec(
        'hazard.use',
        'auto',
        'What is done with hazards that depth shows: override makes cost, points, costmap and '
        'grid map take the worse of class and geometry, report only publishes and counts them, '
        'off does nothing. auto is override where depth and camera_info are there, and no warning '
        'where they are not.',
        choices=('auto', 'off', 'report', 'override'),
    ),
    ParameterSpec(
        'hazard.override_mask',
        False,
        'With auto or override, change the class of a hazard in the mask too, to the obstacle '
        'that costs most; 255 where the class table has no obstacle. The mask then waits for '
        'geometry.',
    ),
    ParameterSpec(
        'hazard.step_m',
        _DEFAULT.step_m,
        'What is higher or lower than the ground around it by more is a hazard.',
        unit='m',
        range=(0.02, 2.0),
    ),
    ParameterSpec(
        'hazard.slope_deg',
        _DEFAULT.slope_deg,
        'Ground that is steeper is a hazard.',
        unit='degrees',
        range=(5.0, 60.0),
    ),
    ParameterSpec(
        'hazard.clearance_m',
        _DEFAULT.clearance_m,
        'What hangs higher above the ground is driven under and no hazard.',
        unit='m',
        range=(0.1, 20.0),
    ),
    ParameterSpec(
        'hazard.noise_per_m',
        _DEFAULT.noise_per_m,
        'k of the standard deviation k z^2 of depth at the distance z; a hazard must exceed three '
        'of them. 0.002 is a stereo camera with 5 cm between its lenses; half as much with 10 cm.',
        unit='1/m',
        range=(0.0, 0.1),
    ),
    ParameterSpec(
        'hazard.max_range_m',
        _DEFAULT.max_range_m,
        'Depth further away is not looked at.',
        unit='m',
        range=(1.0, 100.0),
    ),
    ParameterSpec(
        'hazard.soft_classes',
        '',
        'Classes that a vehicle drives through though they stick out of the ground, such as '
        'traversable grass; several with commas between. Rocks that the network takes for such a '
        'class are then excused, too.',
    ),
    ParameterSpec(
        'hazard.soft_height_m',
        SOFT_HEIGHT_M,
        'Up to which height above the ground such classes are excused.',
        unit='m',
        range=(0.05, 5.0),
    ),
)
