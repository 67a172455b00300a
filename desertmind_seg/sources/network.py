"""Addresses as sources: a still image, a video, or a stream, each with time limits."""

from __future__ import annotations

import base64
from http.client import HTTPException
from pathlib import PurePosixPath
import re
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

import cv2

from desertmind_seg.decoding.image_bytes import decode_color
from desertmind_seg.decoding.image_header import FILE_LIMITS
from desertmind_seg.model.errors import DesertmindError, one_line
from desertmind_seg.sources.frames import Selection, Source, SourceError
from desertmind_seg.sources.images import OneImage, is_image
from desertmind_seg.sources.live import LiveFrames
from desertmind_seg.sources.videos import (
    INDEX_AT_END,
    VideoStream,
    frame_count,
    open_capture,
)

SCHEMES = ('http', 'https', 'rtmp', 'rtmps', 'rtsp', 'rtsps', 'udp')
# For the connection, and for each frame after it.
TIMEOUT_SEC = 10.0
_MAX_IMAGE_BYTES = 1 << 27
# Values of a query that cameras and clouds take for a password.
_SECRETS = re.compile(r'(?i)([?&][^=&]*(?:pass|pwd|token|secret|key|auth|sig)[^=&]*=)[^&#]*')


def open_address(url: str, selection: Selection) -> Source:
    """Open an address of one of SCHEMES.

    Raises:
        SourceError: nobody answers, or the answer is neither image, video nor stream.
    """
    shown = shown_address(url)
    try:
        parts = urlsplit(url)
        valid = parts.port != 0 and not re.search(r'\s', url)
    except ValueError:  # its text may hold a part of the password
        valid = False
    if not valid:
        raise SourceError(
            f'{shown} is no address: its host or port is not valid, or it has spaces; / @ and '
            'spaces of a password or path are written %2F %40 %20'
        )
    name = _name(url)
    if parts.scheme.lower() not in SCHEMES:
        raise SourceError(
            f'{shown} has the scheme {parts.scheme!r}; expected one of {", ".join(SCHEMES)}'
        )
    if not parts.netloc:
        raise SourceError(
            f'{shown} names no host; expected such as rtsp://192.168.1.20:554/stream'
        )
    is_http, is_file = parts.scheme.lower() in ('http', 'https'), False
    if is_http:
        image, is_file = _still_image(url)
        if image is not None:
            try:
                notes: list[str] = []
                rgb = decode_color(image, FILE_LIMITS, upright=True, note=notes.append)
            except DesertmindError as err:
                raise SourceError(f'{shown}: {err}') from err
            source = OneImage(shown, name, rgb, selection)
            source.notes += notes
            return source
    capture = _connect(url)
    # A file is not opened again at its end, where it would begin once more, and without an end.
    if is_file or (is_http and frame_count(capture) is not None):
        return VideoStream(shown, name, capture, selection)
    return LiveFrames(shown, name, capture, lambda: _connect(url), selection)


def _connect(url: str) -> cv2.VideoCapture:
    limit_ms = round(TIMEOUT_SEC * 1e3)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit_ms]
    try:
        capture = open_capture(url, limits)
    except SourceError as err:
        raise SourceError(f'{shown_address(url)}: {err}') from err
    if capture is None:
        is_http = urlsplit(url).scheme.lower() in ('http', 'https')
        raise SourceError(
            f'{shown_address(url)} gives no video within {TIMEOUT_SEC:g} s: nobody answers '
            'there, its path is another, it asks for a user and password '
            '(SCHEME://USER:PASSWORD@HOST), or it is no video'
            + (f'; or {INDEX_AT_END}' if is_http else '')
        )
    return capture


def _still_image(url: str) -> tuple[bytes | None, bool]:
    """Return the image that an address holds, None where it may be a video or a stream.

    Returns:
        The image, and whether the address holds a file, which has an end.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition('@')[2]
    request = Request(urlunsplit(parts._replace(netloc=host, fragment='')))
    request.add_header('User-Agent', 'desertmind_seg')
    if parts.username is not None:
        user = f'{unquote(parts.username)}:{unquote(parts.password or "")}'
        request.add_header('Authorization', f'Basic {base64.b64encode(user.encode()).decode()}')
    try:
        with urlopen(request, timeout=TIMEOUT_SEC) as answer:
            kind = answer.headers.get_content_type()
            if kind == 'text/html':
                raise SourceError(
                    f'{shown_address(url)} is a web page ({kind}); expected image or video'
                )
            # Servers that do not know a kind call it application/octet-stream.
            if not (kind.startswith('image/') or is_image(PurePosixPath(parts.path))):
                # A playlist has a length as well, and may be one of a stream.
                is_playlist = 'mpegurl' in kind or parts.path.lower().endswith(('.m3u8', '.mpd'))
                return None, 'Content-Length' in answer.headers and not is_playlist
            content = bytes(answer.read(_MAX_IMAGE_BYTES + 1))
    except HTTPError as err:
        raise SourceError(f'{shown_address(url)} answers {err.code} {err.reason}') from err
    except (URLError, HTTPException, OSError, ValueError) as err:
        reason = err.reason if isinstance(err, URLError) else err
        text = one_line(reason) if isinstance(reason, Exception) else str(reason)
        raise SourceError(f'{shown_address(url)} cannot be reached: {text}') from err
    if len(content) > _MAX_IMAGE_BYTES:
        raise SourceError(
            f'{shown_address(url)} sends more than {_MAX_IMAGE_BYTES} bytes as an image'
        )
    return content, True


def shown_address(url: str) -> str:
    """Return an address without its password, before the host or among the values of a query.

    A password with '/' in it, which should have been %2F, is hidden too; what follows a port of
    digits is a path.
    """
    hidden = re.sub(r'(?<=//)([^/@:]*):(?!\d+/)[^@]*@(?:[^/]*@)?', r'\1:***@', url)
    return re.sub(_SECRETS, r'\1***', hidden)


def _name(url: str) -> str:
    parts = urlsplit(url)
    stem = PurePosixPath(unquote(parts.path)).stem or parts.hostname or parts.scheme
    return re.sub(r'[^\w.-]+', '_', stem).strip('._') or 'stream'
