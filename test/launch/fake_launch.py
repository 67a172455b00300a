"""A fake of the parts of `launch` and `launch_ros` that our launch files use; PyPI has neither.

It has the signatures of ROS 2 Humble to Kilted, so that a wrong keyword fails, and does nothing
but remember what it was given. Running for real is tested where launch_ros is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
import importlib.util
from pathlib import Path
import sys
from types import ModuleType
from typing import Any

import pytest


@dataclass
class FakeContext:
    """The values of the launch arguments."""

    configurations: dict[str, str] = field(default_factory=dict)


class FakeLaunchConfiguration:
    def __init__(self, variable_name: str, *, default: str | None = None) -> None:
        self.name, self.default = variable_name, default

    def perform(self, context: FakeContext) -> str:
        return context.configurations[self.name]


class FakeDeclareLaunchArgument:
    def __init__(
        self,
        name: str,
        *,
        default_value: str | None = None,
        description: str | None = None,
        choices: list[str] | None = None,
    ) -> None:
        self.name, self.default_value = name, default_value
        self.description, self.choices = description, choices


class FakeOpaqueFunction:
    def __init__(self, *, function: Callable[[FakeContext], list[Any] | None]) -> None:
        self.function = function


class FakeSetEnvironmentVariable:
    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value


class FakeShutdown:
    def __init__(self, *, reason: str = 'reason not given') -> None:
        self.reason = reason


class FakeExecuteProcess:
    def __init__(
        self, *, cmd: list[str], output: str = 'log', on_exit: list[Any] | None = None
    ) -> None:
        self.cmd, self.output, self.on_exit = cmd, output, on_exit


class FakePythonLaunchDescriptionSource:
    def __init__(self, launch_file_path: str) -> None:
        self.path = launch_file_path


class FakeIncludeLaunchDescription:
    def __init__(
        self,
        launch_description_source: FakePythonLaunchDescriptionSource,
        *,
        launch_arguments: Iterable[tuple[str, str]] | None = None,
    ) -> None:
        self.source = launch_description_source
        self.launch_arguments = dict(launch_arguments or ())


class FakeParameterValue:
    def __init__(self, value: str, *, value_type: type | None = None) -> None:
        self.value, self.value_type = value, value_type


class FakeNode:
    def __init__(
        self,
        *,
        executable: str,
        package: str,
        name: str | None = None,
        namespace: str | None = None,
        parameters: list[Any] | None = None,
        remappings: list[tuple[str, str]] | None = None,
        arguments: list[str] | None = None,
        output: str = 'log',
        respawn: bool = False,
        respawn_delay: float | None = None,
    ) -> None:
        # Jazzy takes no string for respawn: 'false' would be true.
        assert isinstance(respawn, bool)
        self.executable, self.package, self.name, self.namespace = (
            executable,
            package,
            name,
            namespace,
        )
        self.parameters, self.remappings = parameters or [], remappings or []
        self.arguments, self.output = arguments or [], output
        self.respawn, self.respawn_delay = respawn, respawn_delay


class FakeLaunchDescription:
    def __init__(self, initial_entities: list[Any]) -> None:
        self.entities = initial_entities


FAKES: dict[str, dict[str, type]] = {
    'launch': {
        'LaunchDescription': FakeLaunchDescription,
        'LaunchContext': FakeContext,
        'LaunchDescriptionEntity': object,
    },
    'launch.actions': {
        'DeclareLaunchArgument': FakeDeclareLaunchArgument,
        'ExecuteProcess': FakeExecuteProcess,
        'IncludeLaunchDescription': FakeIncludeLaunchDescription,
        'OpaqueFunction': FakeOpaqueFunction,
        'SetEnvironmentVariable': FakeSetEnvironmentVariable,
        'Shutdown': FakeShutdown,
    },
    'launch.launch_description_sources': {
        'PythonLaunchDescriptionSource': FakePythonLaunchDescriptionSource
    },
    'launch.substitutions': {'LaunchConfiguration': FakeLaunchConfiguration},
    'launch_ros': {},
    'launch_ros.actions': {'Node': FakeNode},
    'launch_ros.parameter_descriptions': {'ParameterValue': FakeParameterValue},
}


def run_launch_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, **arguments: str
) -> tuple[list[FakeDeclareLaunchArgument], list[Any]]:
    """Execute a launch file; returns its declared arguments and what it would start."""
    for name, members in FAKES.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location(path.stem.replace('.', '_'), path)
    assert spec is not None
    assert spec.loader is not None
    launch_file = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launch_file)
    declared, started = [], []
    context = FakeContext()
    for entity in launch_file.generate_launch_description().entities:
        if isinstance(entity, FakeDeclareLaunchArgument):
            declared.append(entity)
            value = arguments.pop(entity.name, entity.default_value)
            assert value is not None, f'{entity.name} must be given'
            assert entity.choices is None or value in entity.choices
            context.configurations[entity.name] = value
        elif isinstance(entity, FakeOpaqueFunction):
            started += entity.function(context) or []
        else:
            started.append(entity)
    assert not arguments, f'not declared: {arguments}'
    return declared, started
