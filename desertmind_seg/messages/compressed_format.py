"""The `format` of a sensor_msgs/CompressedImage: what its senders mean by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

# How the colours of a compressed image are read: as its format says, as the image itself says, or
# with red and blue exchanged.
CompressedColors = Literal['auto', 'as_stored', 'exchanged']
COMPRESSED_COLORS: tuple[str, ...] = get_args(CompressedColors)
# Of image_transport's zstd, whole: what the image is stands in its data.
ZSTD = 'zstd'


@dataclass(frozen=True)
class CompressedFormat:
    """What 'SOURCE; CODEC compressed STORED' says; any part may be missing.

    Attributes:
        source: encoding of the image before it was compressed, or all that is said.
        codec: such as 'jpeg', 'png', 'tiff', or 'compressedDepth png'.
        stored: encoding of the array that was given to the codec.
    """

    source: str
    codec: str
    stored: str

    @classmethod
    def of(cls, text: str) -> CompressedFormat:
        """Take a format apart."""
        source, _, words = (part.strip() for part in text.partition(';'))
        codec, _, stored = words.partition(' compressed')
        return cls(source, codec, stored.strip())

    @property
    def mosaic(self) -> str:
        """Encoding of the colour mosaic that was compressed as it is; '' where there is none."""
        encoding = self.stored or self.source
        return encoding if encoding.startswith('bayer_') else ''

    @property
    def exchanged(self) -> bool:
        """Whether an array red, green, blue went to OpenCV, which takes blue, green, red.

        image_transport does so with TIFF, which it gives every array as it is; 'compressed rgb8'
        says that somebody did so with another codec.
        """
        return self.stored.startswith('rgb') or (
            self.codec == 'tiff' and self.source.startswith('rgb')
        )
