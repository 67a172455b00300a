"""Which way is up, from gyro and accelerometer, while the vehicle accelerates, turns and jolts.

A complementary filter: the gyro turns the estimate, the accelerometer pulls it back, with a time
constant of 10 s. Its gains are those of a Kalman filter of tilt and gyro bias, so that it settles
within seconds, and readings pull the less the less they can be gravity alone: the farther they are
from the estimate, and the faster the vehicle turns. Without gyro it is a low pass of 3 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import degrees, radians, sqrt

STANDARD_GRAVITY = 9.80665  # m/s^2

# Of the pull towards the accelerometer. With gyro, 2 m/s^2 for 2 s tilts the estimate by 2 degrees
# (by 4 in the first seconds; what is felt tilts by 11.5). Without, by 6: faster would follow that
# acceleration more, slower the vehicle's own tilting less.
TIME_CONSTANT_SEC, TIME_CONSTANT_WITHOUT_GYRO_SEC = 10.0, 3.0
# What the accelerometer's direction is worth, as a noise density: the vehicle's own acceleration,
# 1 m/s^2 (0.1 rad) that lasts 1 s.
_NOISE_RAD2_SEC = 0.02
_INITIAL_TILT_RAD = radians(10.0)
# Gyros of depth cameras are off by up to this much before anybody calibrates them.
_INITIAL_BIAS_RAD_SEC = radians(1.0)
_BIAS_WALK = radians(0.005)  # rad/s in a second
# Readings this far from the estimate for half a second (jolts are not), or taken while turning
# this fast, are worth half.
_DOUBTED_TILT_RAD = radians(3.0)
_DOUBTED_TURN_RAD_SEC = 0.1
_DOUBTED_AFTER_SEC = 0.5
# A jolt: the direction of such a reading says nothing.
_JOLT = 3.0  # m/s^2 more or less than gravity
_FIRST_SEC = 1.0
_MAX_SUMMED = 2 * STANDARD_GRAVITY  # of what is more only the direction counts

Vector = Sequence[float]


class UpFilter:
    """Estimates the direction of up in the axes of an IMU.

    Attributes:
        up: unit vector; (0, 0, 0) before the first reading.
        settled: whether enough readings have come to begin with.
    """

    def __init__(self) -> None:
        self.up: tuple[float, float, float] = (0.0, 0.0, 0.0)
        self._bias: tuple[float, float, float] = (0.0, 0.0, 0.0)
        self._bias_variance = _INITIAL_BIAS_RAD_SEC**2
        self.restart()

    def restart(self) -> None:
        """Begin anew after a gap; what is known of the gyro's bias stays."""
        self._age_sec = 0.0
        self._sum: tuple[float, float, float] = (0.0, 0.0, 0.0)
        self._tilt_variance = _INITIAL_TILT_RAD**2
        self._covariance = 0.0
        self._lasting: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def settled(self) -> bool:
        """Whether a second of readings has come."""
        return self._age_sec >= _FIRST_SEC

    @property
    def bias_deg_sec(self) -> float:
        """How far the gyro is off, in degrees a second."""
        return degrees(sqrt(_dot(self._bias, self._bias)))

    def add(self, dt_sec: float, acceleration: Vector, rate: Vector | None) -> None:
        """Take a reading.

        Args:
            dt_sec: since the one before; 0 for the first.
            acceleration: (3,) m/s^2 that the sensor feels: at rest it points up.
            rate: (3,) rad/s, mean since the reading before; None without gyro.
        """
        self._age_sec += dt_sec
        if not self.settled:
            length = sqrt(_dot(acceleration, acceleration))
            # One reading that is far off must not outweigh a second of them.
            self._sum = _add(self._sum, 1 / max(1.0, length / _MAX_SUMMED), acceleration)
            self.up = _unit(self._sum)
            return
        turn = 0.0
        if rate is None:
            self._tilt_variance += _NOISE_RAD2_SEC / TIME_CONSTANT_WITHOUT_GYRO_SEC**2 * dt_sec
        else:
            rate = _add(rate, -1.0, self._bias)
            turn = _dot(rate, self.up)
            # The sensor turns by the rate, so up turns the other way in its axes.
            self.up = _unit(_add(self.up, dt_sec, _cross(self.up, rate)))
            self._tilt_variance += dt_sec * (
                2 * self._covariance
                + dt_sec * self._bias_variance
                + _NOISE_RAD2_SEC / TIME_CONSTANT_SEC**2
            )
            self._covariance += dt_sec * self._bias_variance
            self._bias_variance += dt_sec * _BIAS_WALK**2
        norm = sqrt(_dot(acceleration, acceleration))
        if dt_sec > 0 and abs(norm - STANDARD_GRAVITY) < _JOLT:
            self._pull(dt_sec, [value / norm for value in acceleration], turn, rate is not None)

    def _pull(self, dt_sec: float, measured: Vector, turn: float, has_gyro: bool) -> None:
        """Move the estimate towards the direction that the accelerometer shows."""
        error = _add(measured, -_dot(measured, self.up), self.up)
        noise = _NOISE_RAD2_SEC / dt_sec
        if has_gyro:
            share = min(dt_sec / _DOUBTED_AFTER_SEC, 1.0)
            self._lasting = _add(self._lasting, share, _add(error, -1.0, self._lasting))
            doubted = _DOUBTED_TILT_RAD**2 + 2 * self._tilt_variance
            noise *= (
                1
                + _dot(self._lasting, self._lasting) / doubted
                + (turn / _DOUBTED_TURN_RAD_SEC) ** 2
            )
        gain = self._tilt_variance / (self._tilt_variance + noise)
        bias_gain = self._covariance / (self._tilt_variance + noise)
        self._bias_variance -= bias_gain * self._covariance
        self._covariance *= 1 - gain
        self._tilt_variance *= 1 - gain
        self._bias = _add(self._bias, bias_gain, _cross(self.up, error))
        self.up = _unit(_add(self.up, gain, error))


# Tuples of floats: NumPy takes five times as long for three numbers, 400 times a second.


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Vector, b: Vector) -> tuple[float, float, float]:
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


def _add(a: Vector, factor: float, b: Vector) -> tuple[float, float, float]:
    return a[0] + factor * b[0], a[1] + factor * b[1], a[2] + factor * b[2]


def _unit(a: Vector) -> tuple[float, float, float]:
    norm = sqrt(_dot(a, a))
    return (a[0] / norm, a[1] / norm, a[2] / norm) if norm else (0.0, 0.0, 0.0)
