"""The node under Nav2's lifecycle manager, which PyPI has not: a process that keeps its rules.

The rules are those of nav2_lifecycle_manager (Humble to Kilted): change_state is waited for
without limit, then get_state has to say the new state within service_timeout (2 s where that is
no parameter); after activation a bond has to form within half of bond_timeout, and the node is
dead when no heartbeat has come for bond_timeout. With bond_timeout 0 there is no bond.
"""

from __future__ import annotations

from collections.abc import Iterator
import importlib
import importlib.util
from pathlib import Path
import signal
import time
from typing import Any

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from node_process import NODE, NodeProcess, Peer
import pytest

SERVICE_TIMEOUT_SEC, BOND_TIMEOUT_SEC = 5.0, 4.0
REACHES = {
    Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: State.PRIMARY_STATE_FINALIZED,
}
needs_bondpy = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ('bond', 'bondpy')),
    reason='needs bond and bondpy, which only apt has',
)


class Manager:
    """Does with one node what the lifecycle manager does with each of its own."""

    def __init__(self, peer: Peer, bond_timeout_sec: float) -> None:
        self.bond: Any = None
        self._peer = peer
        self._bond_timeout_sec = bond_timeout_sec
        self._change = peer.node.create_client(ChangeState, f'{NODE}/change_state')
        self._get = peer.node.create_client(GetState, f'{NODE}/get_state')
        for client in (self._change, self._get):
            peer.wait_until(client.service_is_ready, 'the services of the node')
        peer.state()  # the node knows our clients now, see Peer.call

    def to(self, transition_id: int) -> None:
        """Change the node's state by the manager's rules."""
        request = ChangeState.Request()
        request.transition.id = transition_id
        changed = self._change.call_async(request)
        self._peer.wait_until(changed.done, 'change_state')
        assert changed.result().success
        state = self._get.call_async(GetState.Request())
        self._peer.wait_until(state.done, 'get_state', SERVICE_TIMEOUT_SEC)
        assert state.result().current_state.id == REACHES[transition_id]
        if transition_id == Transition.TRANSITION_ACTIVATE and self._bond_timeout_sec:
            self._form_bond()
        elif transition_id == Transition.TRANSITION_DEACTIVATE and self.bond is not None:
            self._peer.wait_until(self.bond.is_broken, 'the node ends the bond', 2.0)
            self.close()

    def _form_bond(self) -> None:
        self.bond = importlib.import_module('bondpy.bondpy').Bond(
            self._peer.node, 'bond', NODE.strip('/')
        )
        self.bond.heartbeat_timeout = self._bond_timeout_sec
        self.bond.heartbeat_period = 0.1
        self.bond.start()
        self._peer.wait_until(
            lambda: self.bond.sm.getState().getName() == 'SM.Alive',
            'the bond',
            self._bond_timeout_sec / 2,
        )

    def close(self) -> None:
        """Put the bond away: its own shutdown destroys what the executor still waits for."""
        if self.bond is not None:
            self.bond.is_shutdown = True
            self._peer.node.destroy_subscription(self.bond.sub)
            self._peer.node.destroy_publisher(self.bond.pub)
            self.bond = None

    def watch(self, seconds: float) -> None:
        """Look after the bond for a while."""
        deadline_sec = time.monotonic() + seconds
        while time.monotonic() < deadline_sec and not self.bond.is_broken():
            self._peer.spin(0.05)


@pytest.fixture
def process(tiny_bundle: Path) -> Iterator[NodeProcess]:
    parameters = {'model.bundle': tiny_bundle, 'diagnostics.period_sec': 0.2}
    with NodeProcess(parameters) as process:
        yield process


def test_bring_up_pause_and_shutdown_without_a_bond(process: NodeProcess, peer: Peer) -> None:
    manager = Manager(peer, bond_timeout_sec=0.0)
    for transition_id in (
        *(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE),
        *(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE),
        *(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP),
        Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    ):
        manager.to(transition_id)


@needs_bondpy
def test_the_bond_lasts_while_the_node_is_active(process: NodeProcess, peer: Peer) -> None:
    manager = Manager(peer, BOND_TIMEOUT_SEC)
    manager.to(Transition.TRANSITION_CONFIGURE)
    for _ in range(2):
        manager.to(Transition.TRANSITION_ACTIVATE)
        manager.watch(1.5 * BOND_TIMEOUT_SEC)
        assert not manager.bond.is_broken()
        manager.to(Transition.TRANSITION_DEACTIVATE)
    assert process.log.count('Bond with the lifecycle manager formed.') == 2
    manager.to(Transition.TRANSITION_CLEANUP)
    manager.to(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)


@needs_bondpy
@pytest.mark.parametrize(
    ('number', 'within_sec'), [(signal.SIGKILL, BOND_TIMEOUT_SEC), (signal.SIGINT, 2.0)]
)
def test_the_manager_notices_the_end_of_the_node(
    process: NodeProcess, peer: Peer, number: signal.Signals, within_sec: float
) -> None:
    manager = Manager(peer, BOND_TIMEOUT_SEC)
    manager.to(Transition.TRANSITION_CONFIGURE)
    manager.to(Transition.TRANSITION_ACTIVATE)
    manager.watch(1.0)
    process.send(number)
    manager.watch(within_sec + 1.0)
    assert manager.bond.is_broken()
    manager.close()
    assert 'Traceback' not in process.log


@needs_bondpy
def test_the_node_goes_on_when_the_manager_ends(process: NodeProcess, peer: Peer) -> None:
    manager = Manager(peer, BOND_TIMEOUT_SEC)
    manager.to(Transition.TRANSITION_CONFIGURE)
    manager.to(Transition.TRANSITION_ACTIVATE)
    manager.watch(1.0)
    manager.bond.break_bond()
    peer.wait_until(manager.bond.is_broken, 'the node says that it heard', 2.0)
    manager.close()
    process.wait_for_log('The lifecycle manager has ended the bond')
    assert peer.state() == 'active'
    assert peer.wait_for_diagnostic('Engine', lifecycle='active')['level'] == '0'
