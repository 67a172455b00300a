"""The messages of ~/ground_points and ~/nonground_points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sensor_msgs.msg import PointCloud2, PointField

from desertmind_seg.geometry.camera_model import Rays
from desertmind_seg.hazards.clouds import POINT, CloudSettings, GroundClouds, Points
from desertmind_seg.hazards.joining import GROUND, NOT_GROUND, ClassGeometryTable
from desertmind_seg.hazards.records import Hazards
from desertmind_seg.model.arrays import Depth
from desertmind_seg.parameters.spec import ParameterError
from desertmind_seg.parameters.values import NodeParameters
from desertmind_seg.pipeline.segmenter import Segmentation

# Name of the topic -> which points.
CLOUDS = {'ground_points': GROUND, 'nonground_points': NOT_GROUND}
_DATATYPES = {'<f4': PointField.FLOAT32, '|u1': PointField.UINT8}


class OutgoingClouds:
    """Makes both clouds of a configured node; one thread at a time.

    Args:
        settings: its parameters.

    Raises:
        ParameterError: two of the parameters do not go together.
    """

    def __init__(self, settings: NodeParameters) -> None:
        names = 'stride', 'max_range_m', 'voxel_m', 'lift_m'
        values = {name: settings[f'clouds.{name}'] for name in names}
        try:
            self._clouds = GroundClouds(CloudSettings(**values), settings['hazard.clearance_m'])
        except ValueError as err:
            raise ParameterError(f'clouds: {err}.') from err

    def messages(
        self,
        wanted: Sequence[str],
        depth: Depth,
        rays: Rays,
        segmentation: Segmentation,
        hazards: Hazards,
        table: ClassGeometryTable,
        header: Any,
    ) -> dict[str, PointCloud2]:
        """Return the messages of a frame by topic; empty clouds where nothing is of their kind.

        Args:
            wanted: which of CLOUDS.
            depth: (H, W) float32 metres.
            rays: of the camera.
            segmentation: its results, with the confidence.
            hazards: what geometry says of this frame.
            table: of the mask's classes.
            header: the image's, which goes out as it is.
        """
        assert segmentation.confidence is not None
        clouds = self._clouds.points(
            depth,
            rays,
            segmentation.mask,
            segmentation.confidence,
            hazards,
            table,
            [CLOUDS[name] for name in wanted],
        )
        return {name: cloud_message(clouds[CLOUDS[name]], header) for name in wanted}


def cloud_message(points: Points, header: Any) -> PointCloud2:
    """Return the message of points (N,) of POINT."""
    message = PointCloud2(
        header=header,
        height=1,
        width=points.size,
        fields=[
            PointField(name=name, offset=offset, datatype=_DATATYPES[dtype.str], count=1)
            for name, (dtype, offset, *_) in (POINT.fields or {}).items()
        ],
        is_bigendian=False,
        point_step=POINT.itemsize,
        row_step=points.nbytes,
        is_dense=True,
    )
    message.data.frombytes(points.tobytes())
    return message
