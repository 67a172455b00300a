"""A fake of the parts of `launch` and `launch_ros` that our launch files use; PyPI has neither.

It has the signatures of ROS 2 Humble to Kilted, so that a wrong keyword fails, and does nothing
but remember what it was given. test_launch_for_real.py runs the files where launch_ros is there.
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
class FakeLoop:
    """The event loop of launch; a call of its exception handler makes launch return 1."""

    failures: list[str] = field(default_factory=list)

    def call_exception_handler(self, context: dict[str, str]) -> None:
        self.failures.append(context['message'])


@dataclass
class FakeContext:
    """The values of the launch arguments, and the state of the launch."""

    launch_configurations: dict[str, str] = field(default_factory=dict)
    is_shutdown: bool = False
    asyncio_loop: FakeLoop = field(default_factory=FakeLoop)


@dataclass
class FakeLaunchConfiguration:
    variable_name: str
    default: str | None = None

    def perform(self, context: FakeContext) -> str:
        if self.default is None:
            return context.launch_configurations[self.variable_name]
        return context.launch_configurations.get(self.variable_name, self.default)


@dataclass
class FakeDeclareLaunchArgument:
    name: str
    default_value: str | None = None
    description: str | None = None
    choices: list[str] | None = None


@dataclass(kw_only=True)
class FakeOpaqueFunction:
    function: Callable[[FakeContext], list[Any] | None]


@dataclass
class FakeSetEnvironmentVariable:
    name: str
    value: str


@dataclass(kw_only=True)
class FakeLogInfo:
    msg: str


@dataclass(kw_only=True)
class FakeShutdown:
    reason: str


@dataclass(kw_only=True)
class FakeEmitEvent:
    event: Any


@dataclass(kw_only=True)
class FakeShutdownProcess:
    process_matcher: Any


@dataclass(kw_only=True)
class FakeProcessExited:
    action: Any
    returncode: int
    process_name: str = 'process-1'


@dataclass(kw_only=True)
class FakeOnProcessExit:
    on_exit: Callable[[FakeProcessExited, FakeContext], list[Any]]


@dataclass
class FakeRegisterEventHandler:
    event_handler: FakeOnProcessExit


@dataclass(kw_only=True)
class FakeExecutableInPackage:
    executable: str
    package: str


@dataclass(kw_only=True)
class FakeExecuteProcess:
    cmd: list[Any]
    output: str = 'log'


class FakeLaunchDescription:
    def __init__(self, initial_entities: list[Any]) -> None:
        self.entities = initial_entities

    def get_launch_arguments(self) -> list[FakeDeclareLaunchArgument]:
        return [item for item in self.entities if isinstance(item, FakeDeclareLaunchArgument)]


@dataclass
class FakePythonLaunchDescriptionSource:
    launch_file_path: str

    def get_launch_description(self, _context: FakeContext) -> FakeLaunchDescription:
        path = Path(self.launch_file_path)
        spec = importlib.util.spec_from_file_location(path.stem.replace('.', '_'), path)
        assert spec is not None
        assert spec.loader is not None
        launch_file = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(launch_file)
        description: FakeLaunchDescription = launch_file.generate_launch_description()
        return description


class FakeIncludeLaunchDescription:
    def __init__(
        self,
        launch_description_source: FakePythonLaunchDescriptionSource,
        *,
        launch_arguments: Iterable[tuple[str, str]] | None = None,
    ) -> None:
        self.source = launch_description_source
        self.launch_arguments = dict(launch_arguments or ())


@dataclass
class FakeGroupAction:
    actions: list[Any]


@dataclass
class FakeParameterValue:
    value: str
    value_type: type | None = None


@dataclass(kw_only=True)
class FakeNode:
    executable: str
    package: str
    name: str | None = None
    namespace: str | None = None
    parameters: list[Any] = field(default_factory=list)
    remappings: list[tuple[str, str]] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    output: str = 'log'
    respawn: bool = False
    respawn_delay: float | None = None
    on_exit: Callable[[FakeProcessExited, FakeContext], list[Any]] | None = None


FAKES: dict[str, dict[str, Any]] = {
    'launch': {
        'LaunchDescription': FakeLaunchDescription,
        'LaunchContext': FakeContext,
        'LaunchDescriptionEntity': object,
    },
    'launch.actions': {
        'DeclareLaunchArgument': FakeDeclareLaunchArgument,
        'EmitEvent': FakeEmitEvent,
        'ExecuteProcess': FakeExecuteProcess,
        'GroupAction': FakeGroupAction,
        'IncludeLaunchDescription': FakeIncludeLaunchDescription,
        'LogInfo': FakeLogInfo,
        'OpaqueFunction': FakeOpaqueFunction,
        'RegisterEventHandler': FakeRegisterEventHandler,
        'SetEnvironmentVariable': FakeSetEnvironmentVariable,
        'Shutdown': FakeShutdown,
    },
    'launch.event_handlers': {'OnProcessExit': FakeOnProcessExit},
    'launch.events': {'matches_action': lambda action: action},
    'launch.events.process': {
        'ProcessExited': FakeProcessExited,
        'ShutdownProcess': FakeShutdownProcess,
    },
    'launch.launch_description_sources': {
        'PythonLaunchDescriptionSource': FakePythonLaunchDescriptionSource
    },
    'launch.substitutions': {'LaunchConfiguration': FakeLaunchConfiguration},
    'launch_ros': {},
    'launch_ros.actions': {'Node': FakeNode},
    'launch_ros.parameter_descriptions': {'ParameterValue': FakeParameterValue},
    'launch_ros.substitutions': {'ExecutableInPackage': FakeExecutableInPackage},
}


def run_launch_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, pushed: str = '', **arguments: str
) -> tuple[list[FakeDeclareLaunchArgument], list[Any]]:
    """Execute a launch file below a pushed namespace; returns what it declares and starts."""
    for name, members in FAKES.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    context = FakeContext({'ros_namespace': pushed} if pushed else {})
    description = FakePythonLaunchDescriptionSource(str(path)).get_launch_description(context)
    declared = description.get_launch_arguments()
    for argument in declared:
        value = arguments.pop(argument.name, argument.default_value)
        assert value is not None, f'{argument.name} must be given'
        assert argument.choices is None or value in argument.choices
        context.launch_configurations[argument.name] = value
    assert not arguments, f'not declared: {arguments}'
    started: list[Any] = []
    for entity in description.entities:
        if isinstance(entity, FakeOpaqueFunction):
            started += entity.function(context) or []
        elif entity not in declared:
            started.append(entity)
    return declared, started
