"""Where the endpoint answers otherwise than a node, and why: the source of docs/differences.md.  A table."""

CPUS = "virsh shows as many CPUs as the host has, and the cluster has those of all nodes"
ANYWHERE = "a CPU of any node is one where the domain may run: it is not pinned"
CELLS = "the cluster has a NUMA cell for each node: the range in the sentence is its own"
ONE_MACHINE = "belongs to one machine: not supported (code 3) for the cluster, open `?node=NAME`"

DIFFERENCES: dict[str, str] = {
    "vcpuinfo {d}": CPUS,
    "vcpuinfo {d} --pretty": CPUS,
    "vcpupin {d}": ANYWHERE,
    "vcpupin {d} --vcpu 0 --live": ANYWHERE,
    "emulatorpin {d}": ANYWHERE,
    "iothreadinfo {d} --live": ANYWHERE,
    "cpu-stats {d}": CPUS,
    "freecell 9": CELLS,
    "freepages 9 4": CELLS,
    "nodememstats --cell 9": CELLS,
    "node-memory-tune": ONE_MACHINE,
    "node-memory-tune --shm-pages-to-scan 100": ONE_MACHINE,
    "nodesevinfo": ONE_MACHINE,
    "nodesuspend mem 1": ONE_MACHINE,
    "sysinfo": "the cluster has a system table of its own: its name and uuid, one base board for each node",
}
"""Step of tests/real/command_table.py -> reason."""


def shown(step: str) -> str:
    """A step as a user would write it."""
    name = "NETWORK" if step.startswith("net-") else "DOMAIN"
    return step.replace("{d}", name).replace("{dir}/broken.xml", "FILE")


def document() -> str:
    """docs/differences.md."""
    rows = [f"| `{shown(step)}` | {why} |" for step, why in DIFFERENCES.items()]
    head = (
        "# Where a cluster answers otherwise than a node\n\n"
        "Generated from `tests/real/differences.py`. Every other command of `tests/real/*_table*.py` gives the"
        " same\noutput, exit code and error text as a node's own socket (ids, uuids and times apart). Ids are the"
        " cluster's.\nMalformed XML is refused in libvirt's words; a document type, entities, more than 4 MiB or"
        " 100 nested\nelements in ours (`VIR_ERR_XML_ERROR`). Of arguments that cannot be decoded our text says"
        " why.\n`floor` of an interface's `<bandwidth>` on a network that spans nodes is refused at the start,"
        " whatever the network's own is.\nA network in mode bridge on a device may have `<vlan>`, which libvirt 9"
        " refuses ([VLANs](networks.md#vlans)).\n\n| command | why |\n|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"
