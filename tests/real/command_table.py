"""Every virsh command about domains and the host, with what people add to it: scenes of steps.  A table.

A scene is run from its first line to its last in a fresh domain `{d}` with a qcow2 disk vda in `{dir}`; see
tests/support/sameness.py for the letters before a command.
"""

OFF = {
    "describing a defined domain": """
        dominfo {d}
        domstate {d}
        domstate {d} --reason
        domid {d}
        domname {uuid}
        domuuid {d}
        dumpxml {d}
        dumpxml {d} --inactive
        dumpxml {d} --security-info
        dumpxml {d} --migratable
        dumpxml {d} --update-cpu
        dumpxml {d} --xpath //name
        n: domxml-to-native qemu-argv --domain {d}
        vcpucount {d}
        vcpucount {d} --maximum --config
        vcpucount {d} --current --live
        vcpuinfo {d}
        vcpuinfo {d} --pretty
        vcpupin {d}
        vcpupin {d} --live
        emulatorpin {d}
        domblklist {d}
        domblklist {d} --details
        domblkinfo {d} vda
        domblkinfo {d} --all
        domblkinfo {d} --all --human
        domblkinfo {d} nodisk
        domblkstat {d} vda
        domblkerror {d}
        domiflist {d}
        domif-getlink {d} 52:54:00:aa:bb:01
        domif-getlink {d} 52:54:00:aa:bb:01 --config
        domifstat {d} vnet0
        domifaddr {d}
        dommemstat {d}
        domcontrol {d}
        domjobinfo {d}
        domjobabort {d}
        domtime {d}
        domhostname {d}
        n: domstats {d}
        domstats --state --inactive
        domdisplay {d}
        vncdisplay {d}
        ttyconsole {d}
        iothreadinfo {d}
        iothreadinfo {d} --config
        cpu-stats {d}
        list --all
        list --all --name
        list --all --uuid
        list --all --id
        list --all --title
        list --inactive
        list --persistent --all
        list --transient --all
        list --autostart --all
        list --no-autostart --all
        list --with-snapshot --all
        list --without-snapshot --all
        list --with-managed-save --all
        list --without-managed-save --all
        list --managed-save --all
        list --with-checkpoint --all
        list --without-checkpoint --all
        list --state-shutoff
        list --state-running
        list --state-paused
        list --state-other
        guestinfo {d}
        guestvcpus {d}
        domfsinfo {d}
        domlaunchsecinfo {d}
        schedinfo {d}
        perf {d}
        edit {d}
        """,
    "editing a defined domain": """
        desc {d}
        desc {d} --config --new-desc 'a long text'
        desc {d} --title
        desc {d} --title --config --new-desc title
        desc {d} --title
        desc {d} --live --new-desc nothing
        metadata {d} urn:x:1
        metadata {d} urn:x:1 --key x --set '<a b="c"/>' --config
        metadata {d} urn:x:1 --config
        metadata {d} urn:x:1 --key x --set '<a' --config
        metadata {d} urn:x:1 --remove --config
        metadata {d} urn:x:1
        autostart {d}
        dominfo {d}
        list --autostart --all
        autostart {d} --disable
        dominfo {d}
        setmaxmem {d} 131072 --config
        setmaxmem {d} 131072 --live
        setmem {d} 98304 --config
        setmem {d} 98304
        setmem {d} 999999999 --config
        setvcpus {d} 2 --config
        setvcpus {d} 2
        setvcpus {d} 9 --config
        setvcpus {d} 0 --config
        setvcpus {d} 3 --config --maximum
        vcpupin {d} 0 0 --config
        vcpupin {d} 9 0 --config
        vcpupin {d} 0 99999 --config
        vcpupin {d}
        emulatorpin {d} 0 --config
        emulatorpin {d} --config
        iothreadadd {d} 1 --config
        iothreadadd {d} 1 --config
        iothreadpin {d} 1 0 --config
        iothreadinfo {d}
        iothreadset {d} 1 --poll-max-ns 100
        iothreaddel {d} 1 --config
        iothreaddel {d} 9 --config
        memtune {d}
        memtune {d} --hard-limit 1000000 --config
        memtune {d} --hard-limit 1000000 --live
        memtune {d} --config
        blkiotune {d}
        blkiotune {d} --weight 500 --config
        blkiotune {d} --weight 500 --live
        numatune {d}
        numatune {d} --mode strict --nodeset 0 --config
        numatune {d} --nodeset 99 --mode bad
        schedinfo {d} --config
        schedinfo {d} --config cpu_shares=512
        schedinfo {d} --config cpu_shares=nonsense
        schedinfo {d} --config nothing=1
        domiftune {d} 52:54:00:aa:bb:01
        domiftune {d} 52:54:00:aa:bb:01 --inbound 100 --config
        domiftune {d} 52:54:00:aa:bb:01 --config
        domiftune {d} 52:54:00:aa:bb:99
        blkdeviotune {d} vda
        blkdeviotune {d} vda --total-bytes-sec 1000000 --config
        blkdeviotune {d} vda --config
        blkdeviotune {d} vdz
        domif-setlink {d} 52:54:00:aa:bb:01 down --config
        domif-getlink {d} 52:54:00:aa:bb:01 --config
        domif-setlink {d} 52:54:00:aa:bb:99 down --config
        perf {d} --enable cpu_cycles --config
        perf {d} --disable cpu_cycles --config
        set-lifecycle-action {d} reboot destroy --config
        set-lifecycle-action {d} nothing destroy --config
        set-lifecycle-action {d} reboot destroy --live
        guest-agent-timeout {d} --timeout 5
        attach-disk {d} {dir}/b.qcow2 vdb --subdriver qcow2 --config
        attach-disk {d} {dir}/b.qcow2 vdb --config
        attach-disk {d} {dir}/b.qcow2 vdc
        attach-disk {d} {dir}/b.qcow2 vdc --live
        detach-disk {d} vdb --config
        detach-disk {d} vdb --config
        attach-interface {d} bridge nobridge --mac 52:54:00:aa:bb:05 --config
        detach-interface {d} bridge --mac 52:54:00:aa:bb:05 --config
        detach-interface {d} bridge --mac 52:54:00:aa:bb:05 --config
        attach-device {d} {dir}/nic.xml --config
        detach-device {d} {dir}/nic.xml --config
        attach-device {d} {dir}/broken.xml --config
        attach-device {d} {dir}/nothing.xml --config
        detach-device-alias {d} ua-none --config
        update-device {d} {dir}/cd.xml --config
        change-media {d} hda --eject --config
        change-media {d} hda {dir}/cd.iso --insert --config
        change-media {d} hda --eject --config
        change-media {d} hdz --eject --config
        dumpxml {d}
        """,
    "what a defined domain refuses": """
        destroy {d}
        shutdown {d}
        reboot {d}
        reset {d}
        suspend {d}
        resume {d}
        save {d} {dir}/s
        dump {d} {dir}/s
        managedsave {d}
        managedsave-remove {d}
        managedsave-dumpxml {d}
        managedsave-edit {d}
        managedsave-define {d} {dir}/nic.xml
        screenshot {d} {dir}/shot
        send-key {d} KEY_A
        inject-nmi {d}
        send-process-signal {d} 1 sigterm
        qemu-monitor-command {d} --hmp 'info status'
        qemu-agent-command {d} '{"execute":"guest-ping"}'
        set-user-password {d} root x
        get-user-sshkeys {d} root
        set-user-sshkeys {d} root --reset
        setvcpu {d} 0 --disable --live
        dompmsuspend {d} mem
        dompmwakeup {d}
        domfsfreeze {d}
        domfsthaw {d}
        domfstrim {d}
        blockjob {d} vda
        blockpull {d} vda
        blockcommit {d} vda
        blockcopy {d} vda {dir}/c.qcow2 --transient-job
        blockresize {d} vda 1M
        domblkthreshold {d} vda 1000
        backup-begin {d}
        backup-dumpxml {d}
        migrate {d} qemu+unix:///nowhere --live
        migrate-setspeed {d} 10
        migrate-getspeed {d}
        migrate-setmaxdowntime {d} 10
        migrate-getmaxdowntime {d}
        migrate-compcache {d}
        migrate-postcopy {d}
        domdirtyrate-calc {d}
        update-memory-device {d} --requested-size 1M
        domsetlaunchsecstate {d} --secrethdr {dir}/nic.xml --secret {dir}/nic.xml
        domrename {d} {d}
        undefine {d} --bad
        create {dir}/broken.xml
        define {dir}/broken.xml
        define {dir}/noname.xml
        define {dir}/notype.xml
        define {dir}/badtype.xml
        define {dir}/badmachine.xml
        define {dir}/sameuuid.xml
        define {dir}/unknown.xml
        define {dir}/baduuid.xml
        define {dir}/empty.xml
        define {dir}/samename.xml
        define {dir}/nothing.xml
        define --validate {dir}/extra.xml
        restore {dir}/nothing
        restore {dir}/nic.xml
        save-image-dumpxml {dir}/nothing
        save-image-dumpxml {dir}/nic.xml
        save-image-edit {dir}/nothing
        save-image-define {dir}/nothing {dir}/nic.xml
        domxml-from-native qemu-argv {dir}/nic.xml
        domxml-to-native qemu-argv {dir}/broken.xml
        domxml-to-native nothing --domain {d}
        """,
    "snapshots and checkpoints of a defined domain": """
        snapshot-list {d}
        snapshot-current {d}
        snapshot-current {d} --name
        snapshot-info {d} --current
        snapshot-create-as {d} one 'a text'
        snapshot-create-as {d} one
        snapshot-create-as {d} two
        snapshot-create {d} {dir}/snapshot.xml
        snapshot-list {d}
        snapshot-list {d} --tree
        snapshot-list {d} --parent
        snapshot-list {d} --roots --name
        snapshot-list {d} --leaves
        snapshot-list {d} --from one --descendants
        snapshot-info {d} one
        snapshot-dumpxml {d} one
        snapshot-dumpxml {d} none
        snapshot-parent {d} two
        snapshot-parent {d} one
        snapshot-current {d} one
        snapshot-current {d}
        snapshot-edit {d} one
        snapshot-revert {d} one
        snapshot-revert {d} none
        snapshot-revert {d} --current
        list --all --with-snapshot
        list --all --without-snapshot
        undefine {d}
        snapshot-delete {d} one --children-only
        snapshot-delete {d} one
        snapshot-delete {d} none
        snapshot-list {d}
        checkpoint-list {d}
        checkpoint-create-as {d} c1
        checkpoint-info {d} c1
        checkpoint-parent {d} c1
        checkpoint-dumpxml {d} c1
        checkpoint-delete {d} c1
        checkpoint-edit {d} c1
        """,
    "names": """
        domrename {d} {d}-2
        dominfo {d}
        dominfo {d}-2
        domrename {d}-2 {d}
        domrename {d} ''
        domrename {d} a/b
        domrename nobody {d}
        dominfo nobody
        domid nobody
        domuuid 00000000-0000-0000-0000-000000000000
        domname 4242
        start nobody
        snapshot-list nobody
        undefine nobody
        domstats nobody
        event --domain nobody --event lifecycle --timeout 1
        event --domain {d} --event lifecycle --timeout 1
        event --event nothing
        event --list
        """,
}
"""Scenes of a domain that is not running."""

HOST = """
    capabilities
    capabilities --xpath //cpu/arch
    nodeinfo
    n: freecell
    n: freecell 0
    freecell 9
    n: freecell --all
    ns: freepages --all
    n: freepages 0 4
    freepages 0 3
    freepages 9 4
    allocpages 2M 0
    allocpages 3 1
    hostname
    maxvcpus
    maxvcpus qemu
    maxvcpus kvm
    maxvcpus nothing
    node-memory-tune
    node-memory-tune --shm-pages-to-scan 100
    nodecpumap
    nodecpumap --pretty
    n: nodecpustats
    n: nodecpustats --cpu 0
    nodecpustats --cpu 999
    n: nodecpustats --percent
    n: nodememstats
    n: nodememstats --cell 0
    nodememstats --cell 9
    nodesevinfo
    nodesuspend mem 1
    sysinfo
    version
    version --daemon
    domcapabilities
    domcapabilities --virttype qemu
    domcapabilities --machine q35
    domcapabilities --arch nothing
    domcapabilities --machine nothing
    domcapabilities --virttype xen
    cpu-models x86_64
    cpu-models nothing
    cpu-baseline {dir}/cpu.xml
    cpu-baseline {dir}/cpu.xml --features
    cpu-baseline {dir}/nic.xml
    cpu-compare {dir}/cpu.xml
    cpu-compare {dir}/cpu.xml --error
    cpu-compare {dir}/nic.xml
    cpu-compare {dir}/broken.xml
    hypervisor-cpu-baseline {dir}/cpu.xml
    hypervisor-cpu-baseline {dir}/cpu.xml --virttype nothing
    hypervisor-cpu-compare {dir}/cpu.xml
    hypervisor-cpu-compare {dir}/cpu.xml --virttype qemu
    hypervisor-cpu-compare {dir}/cpu.xml --machine nothing
    uri
    """
"""The host's commands: a node's view of the endpoint says what the node says."""

ELSEWHERE = {
    "console": "needs a terminal: test_console_and_events.py",
    "migrate": "test_migration.py",
    "dom-fd-associate": "descriptors do not travel: docs/compat-libvirt.md",
    "lxc-enter-namespace": "LXC: no node driver has it",
    "qemu-attach": "a process id names nothing on another machine",
}
"""Commands without a step here, and why."""

GROUPS = (
    "Domain Management", "Domain Monitoring", "Domain Events", "Host and Hypervisor", "Checkpoint",
    "Snapshot", "Backup",
)  # fmt: skip
"""Groups of `virsh help` that are all here."""
