"""Chromium without a window, driven by its DevTools protocol over two pipes."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
import json
import os
from pathlib import Path
import select
import shutil
import subprocess
import tempfile
import time
from typing import Any

_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
_TIMEOUT_SEC = 60.0


def chromium() -> str | None:
    """Return the path of a Chromium; None where there is none."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


class Browser:
    """One tab.

    Attributes:
        complaints: what the pages wrote to the console as warning or error, could not load, or
            threw; since `open`.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self.complaints: list[str] = []
        self._commands, self._answers = commands, answers
        self._received = b''
        self._last_id = 0
        self._session: dict[str, str] = {}
        self._events: list[dict[str, Any]] = []
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self._session = {'sessionId': attached['sessionId']}
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._last_id += 1
        message = {'id': self._last_id, 'method': method, 'params': parameters, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._read()
            if answer.get('id') == self._last_id:
                assert 'error' not in answer, (method, answer)
                result: dict[str, Any] = answer['result']
                return result
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + _TIMEOUT_SEC
        while b'\0' not in self._received:
            ready, _, _ = select.select([self._answers], [], [], deadline - time.monotonic())
            assert ready, 'Chromium does not answer'
            part = os.read(self._answers, 1 << 20)
            assert part, 'Chromium has ended'
            self._received += part
        text, _, self._received = self._received.partition(b'\0')
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        method, parameters = event.get('method', ''), event.get('params', {})
        if method == 'Runtime.exceptionThrown':
            details = parameters['exceptionDetails']
            self.complaints.append(details.get('exception', {}).get('description', str(details)))
        elif method == 'Runtime.consoleAPICalled' and parameters['type'] in ('error', 'warning'):
            self.complaints.append(str([part.get('value') for part in parameters['args']]))
        elif method == 'Log.entryAdded' and parameters['entry']['level'] in ('error', 'warning'):
            self.complaints.append(str(parameters['entry']))
        elif method == 'Network.requestWillBeSent':
            address = parameters['request']['url']
            if not address.startswith(('file:', 'data:', 'about:', 'blob:')):
                self.complaints.append(f'loads {address}')
        self._events.append(event)

    def see_as(self, width: int, scheme: str, height: int = 900) -> None:
        """Take a width of the window in CSS pixels, and the scheme 'dark' or 'light'."""
        self.call(
            'Emulation.setDeviceMetricsOverride',
            **{'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': width < 600},
        )
        features = [{'name': 'prefers-color-scheme', 'value': scheme}]
        self.call('Emulation.setEmulatedMedia', features=features)

    def open(self, path: Path) -> None:
        """Open a page from the disk and wait until all of it is there."""
        self.complaints.clear()
        self._events.clear()
        self.call('Page.navigate', url=path.resolve().as_uri())
        while not any(event.get('method') == 'Page.loadEventFired' for event in self._events):
            self._note(self._read())

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression in the page; a promise is waited for."""
        result = self.call(
            'Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True
        )
        assert 'exceptionDetails' not in result, result['exceptionDetails']
        return result['result'].get('value')

    def press(self, key: str) -> None:
        """Press and release a key."""
        code = {'Enter': 13, 'Tab': 9, 'Escape': 27, 'ArrowRight': 39, 'ArrowLeft': 37}[key]
        named = {'key': key, 'code': key, 'windowsVirtualKeyCode': code}
        text = {'text': '\r'} if key == 'Enter' else {}
        self.call('Input.dispatchKeyEvent', type='keyDown', **named, **text)
        self.call('Input.dispatchKeyEvent', type='keyUp', **named)

    def point_at(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.call('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y)

    def picture(self, *, whole: bool = True) -> bytes:
        """Return a PNG of the window, or of the whole page."""
        shot = self.call('Page.captureScreenshot', captureBeyondViewport=whole)
        return base64.b64decode(shot['data'])


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium and end it."""
    path = chromium()
    assert path is not None
    our_read, their_write = os.pipe()
    their_read, our_write = os.pipe()

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # A shell, because the protocol wants the descriptors 3 and 4; sh takes none above 9.
        command = [
            *('bash', '-c', f'exec "$0" "$@" 3<&{their_read} 4>&{their_write}', path),
            *('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'),
            *('--disable-extensions', '--disable-background-networking', '--hide-scrollbars'),
            *('--remote-debugging-pipe', f'--user-data-dir={profile}', 'about:blank'),
        ]
        process = subprocess.Popen(
            command,
            pass_fds=(their_read, their_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_read)
        os.close(their_write)
        try:
            yield Browser(our_write, our_read)
        finally:
            os.close(our_write)
            os.close(our_read)
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
