"""The demo's front end and agents: configure and start them, wait until all nodes are in reach."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusterhost.demo import machines
from clusterhost.demo.layout import FRONT, FRONT_ADDRESS, DemoError, Layout, node_address
from clusterhost.demo.machines import Service

READY_SECONDS = 30.0
FRONT_END = "front-end"
AGENT = "agent"
_CONTROL = f"tcp://{FRONT_ADDRESS}:16600"
_BULK = f"tcp://{FRONT_ADDRESS}:16601"

_FRONT_END_TOML = """[cluster]
name = "demo"
hostname = "demo"
state_dir = "{directory}/state"
admin_socket = "{directory}/admin.sock"

[listen]
unix_sock_dir = "{directory}"

[control]
control = "{control}"
bulk = "{bulk}"
"""

_AGENT_TOML = """[agent]
node = "{node}"
uri = "qemu+unix:///system?socket=/run/libvirt/libvirt-sock"
control = "{control}"
bulk = "{bulk}"
state_dir = "{directory}/agent"
migration_address = "{address}"
peer_dir = "/run/clusterhost/peers"
token = "{token}"
"""


def endpoint(layout: Layout) -> str:
    """Return the cluster's URI, for any client on this machine."""
    return f"qemu+unix:///system?socket={layout.front}/libvirt-sock"


def config(layout: Layout) -> Path:
    """Return the path of the front end's configuration, for `clusterhost --config`."""
    return layout.front / "clusterhost.toml"


def start_front_end(layout: Layout, store: str = "") -> None:
    """Configure and start the front end, with the store of its own or at this URL; returns when it answers."""
    text = _FRONT_END_TOML.format(directory=layout.front, control=_CONTROL, bulk=_BULK)
    text += f'\n[store]\nurl = "{store}"\n' if store else ""
    config(layout).write_text(text)
    command = _command("init", config(layout))
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=machines.environment(layout), cwd="/"
    )
    if done.returncode:
        raise DemoError(f"clusterhost init failed: {done.stderr.strip()}")
    machines.set_services(layout, FRONT, {FRONT_END: Service(_command("serve", config(layout)))})
    _wait(layout, "the front end", lambda: ask(layout, "node.list", {}) is not None)


def start_agents(layout: Layout, nodes: Sequence[str]) -> None:
    """Make the nodes known, start their agents; returns when the front end has all of them in reach."""
    for name in nodes:
        directory = layout.machine(name)
        address = node_address(name)
        answer = ask(layout, "node.add", {"name": name, "migration_address": address})
        path = directory / "agent.toml"
        path.touch(mode=0o600)
        path.write_text(
            _AGENT_TOML.format(
                node=name,
                control=_CONTROL,
                bulk=_BULK,
                directory=directory,
                address=address,
                token=answer["token"],
            )
        )
        agent = Service(_command("agent", path))
        machines.set_services(layout, name, {**machines.services(layout, name), AGENT: agent})
    for name in nodes:
        wait_for_node(layout, name)


def wait_for_node(layout: Layout, name: str) -> None:
    """Wait until the front end has the node in reach."""

    def reached() -> bool:
        return any(row["name"] == name and row["link"] == "up" for row in ask(layout, "node.list", {}))

    _wait(layout, f"node {name} at the front end", reached)


def _wait(layout: Layout, what: str, ready: Any) -> None:
    deadline = time.monotonic() + READY_SECONDS
    last = "it does not listen"
    while time.monotonic() < deadline:
        try:
            if ready():
                return
            last = "it is not in reach"
        except OSError as error:
            last = str(error)
        time.sleep(0.05)
    logs = machines.log_tail(layout, FRONT)
    raise DemoError(f"{what} was not ready within {READY_SECONDS:g} s: {last}: {logs}")


def restart(layout: Layout, env: dict[str, str], *, again: bool = True) -> float:
    """Kill the front end with SIGKILL if it runs and start it with `env` added to its environment.

    again: it is started again whenever it ends.  Returns the seconds from its start until it answered."""
    machines.kill_service(layout, FRONT, FRONT_END)
    began = time.monotonic()
    machines.change_service(layout, FRONT, FRONT_END, enabled=True, env=env, restart=again)
    _wait(layout, "the front end", lambda: ask(layout, "node.list", {}) is not None)
    return time.monotonic() - began


def ask(layout: Layout, call: str, args: dict[str, object]) -> Any:
    """Call the front end's admin socket: a JSON line there, JSON lines back until a result or an error."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(READY_SECONDS)
        connection.connect(str(layout.front / "admin.sock"))
        connection.sendall(json.dumps({"call": call, "args": args}).encode() + b"\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                if "error" in message:
                    raise DemoError(f"{call} failed: {message['error']['text']}")
                if "result" in message:
                    return message["result"]
    raise ConnectionResetError(f"the front end ended the connection before it answered {call}")


def _command(verb: str, path: Path) -> list[str]:
    return [sys.executable, "-m", "clusterhost", verb, "--config", str(path)]
