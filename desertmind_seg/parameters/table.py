"""The node's parameters: one table, from which they are declared, checked and documented."""

from desertmind_seg.messages.compressed_format import COMPRESSED_COLORS
from desertmind_seg.parameters.clouds import CLOUD_PARAMETERS
from desertmind_seg.parameters.gravity import GRAVITY_PARAMETERS
from desertmind_seg.parameters.hazards import HAZARD_PARAMETERS
from desertmind_seg.parameters.planners import PLANNER_PARAMETERS
from desertmind_seg.parameters.spec import ParameterSpec

PARAMETERS = (
    ParameterSpec(
        'autostart',
        False,
        'Configure and activate by itself; when that fails, the process exits with status 2.',
        settable='at start',
    ),
    ParameterSpec(
        'build_only',
        False,
        'Build the TensorRT engine of the bundle unless the cache has it, and exit: with status 0 '
        'when it is there.',
        settable='at start',
    ),
    ParameterSpec(
        'model.bundle',
        '',
        'Path of the bundle (.onnx) to run; empty for the one that the package ships.',
    ),
    ParameterSpec(
        'model.expected_ontology',
        '',
        'Name or SHA-256 of the class table that the consumers of the mask were written for; a '
        'bundle with another one is refused. Empty for any.',
    ),
    ParameterSpec(
        'engine.backend',
        'auto',
        'What runs the bundle: auto, tensorrt, onnxruntime-cuda or onnxruntime-cpu. A named one '
        'that cannot run here is an error; auto takes the first that can and logs which.',
    ),
    ParameterSpec(
        'engine.num_threads',
        0,
        'CPU threads of one operator; 0 for one a physical core, or fewer where a container or '
        'service has a CPU quota.',
        range=(0, 256),
    ),
    ParameterSpec(
        'engine.shape',
        'dynamic',
        'Frame sizes that a TensorRT engine takes, height x width, such as 480x640,720x1280: less '
        'GPU memory and faster kernels than dynamic, which takes every size.',
    ),
    ParameterSpec(
        'engine.cache_dir',
        '',
        'Folder of the built TensorRT engines; empty for $DESERTMIND_SEG_ENGINE_CACHE or, without '
        'it, $XDG_CACHE_HOME/desertmind_seg/engines.',
    ),
    ParameterSpec(
        'engine.target',
        'current',
        'GPU for which build_only builds: current, or a compute capability such as sm86, for '
        'which no GPU is needed.',
    ),
    ParameterSpec(
        'input.transport',
        'raw',
        'raw subscribes to sensor_msgs/Image on image, compressed to '
        'sensor_msgs/CompressedImage on image/compressed.',
        choices=('raw', 'compressed'),
    ),
    ParameterSpec(
        'input.compressed_colors',
        'auto',
        'How compressed images are read: auto as their format string says, as_stored or exchanged '
        '(red and blue) where that is wrong; docs/formats.md tells who writes what.',
        choices=COMPRESSED_COLORS,
    ),
    ParameterSpec(
        'input.rectified',
        False,
        'The images are rectified (image_rect): points come from P of camera_info, not from K and '
        'its distortion.',
    ),
    ParameterSpec(
        'input.max_age_ms',
        500,
        'Frames older than this when their turn comes are dropped; 0 keeps them all.',
        unit='ms',
        range=(0, 60_000),
        settable='any time',
    ),
    ParameterSpec(
        'input.timeout_sec',
        5.0,
        'Warn when no image has come for this long.',
        unit='s',
        range=(0.1, 3600.0),
        settable='any time',
    ),
    ParameterSpec(
        'depth.use',
        'auto',
        'auto: depth is subscribed to, not for an RGB bundle with hazard.use off; always: then '
        'too, for points and costmap; never: no depth, and an RGB-D bundle runs on colours alone.',
        choices=('auto', 'always', 'never'),
    ),
    ParameterSpec(
        'depth.transport',
        'raw',
        'raw subscribes to sensor_msgs/Image on depth/image, compressed to '
        'sensor_msgs/CompressedImage on depth/image/compressedDepth.',
        choices=('raw', 'compressed'),
    ),
    ParameterSpec(
        'depth.max_dt_ms',
        40,
        'How far apart the stamps of an image and of its depth may be.',
        unit='ms',
        range=(0, 10_000),
    ),
    ParameterSpec(
        'depth.max_wait_ms',
        50,
        'How long an image waits for its depth at most; then it goes on without.',
        unit='ms',
        range=(0, 10_000),
    ),
    ParameterSpec(
        'depth.min_valid_share',
        0.02,
        'Depth with a smaller share of valid pixels is not used.',
        range=(0.0, 1.0),
    ),
    ParameterSpec(
        'confidence.threshold',
        0.0,
        'Pixels whose confidence (a probability) is lower become 255 (unlabeled) in mask and '
        'cost.',
        range=(0.0, 1.0),
        settable='any time',
    ),
    ParameterSpec(
        'temporal.alpha',
        0.0,
        'Weight of the history of a pixel, moved along by optical flow, in its probabilities: '
        'less flicker. 0 is off, 0.4 was measured to cost no mIoU. Needs ONNX Runtime and a '
        'bundle with probabilities.',
        range=(0.0, 0.95),
    ),
    ParameterSpec(
        'output.overlay_alpha',
        0.5,
        'Opacity of the class colours in the overlay.',
        range=(0.0, 1.0),
        settable='any time',
    ),
    *HAZARD_PARAMETERS,
    *GRAVITY_PARAMETERS,
    *PLANNER_PARAMETERS,
    *CLOUD_PARAMETERS,
    ParameterSpec(
        'diagnostics.period_sec',
        1.0,
        'Time between two messages on /diagnostics.',
        unit='s',
        range=(0.1, 60.0),
        settable='at start',
    ),
)
