"""Every virsh command about a running domain, with what people add to it: see command_table.py.  A table."""

ON = {
    "describing a running domain": """
        n: dominfo {d}
        domstate {d}
        domstate {d} --reason
        n: domid {d}
        domuuid {d}
        dumpxml {d}
        dumpxml {d} --inactive
        dumpxml {d} --security-info
        dumpxml {d} --migratable
        vcpucount {d}
        n: vcpuinfo {d}
        n: vcpuinfo {d} --pretty
        vcpupin {d}
        vcpupin {d} --vcpu 0 --live
        emulatorpin {d}
        domblklist {d}
        domblklist {d} --details
        domblkinfo {d} vda
        n: domblkinfo {d} --all
        n: domblkstat {d} vda
        n: domblkstat {d} vda --human
        n: domblkstat {d}
        domblkstat {d} vdz
        domblkerror {d}
        domiflist {d}
        domif-getlink {d} 52:54:00:aa:bb:01
        domifstat {d} vnetnone
        domifaddr {d}
        domifaddr {d} --source arp
        domifaddr {d} --source agent
        n: dommemstat {d}
        dommemstat {d} --period 1 --live
        domcontrol {d}
        domjobinfo {d}
        domjobinfo {d} --completed
        domjobabort {d}
        domtime {d}
        domhostname {d}
        domhostname {d} --source lease
        domhostname {d} --source agent
        nsx: domstats {d}
        n: domstats {d} --state --vcpu --balloon
        n: domstats --state --running
        ns: domstats --block --interface --list-active
        domdisplay {d}
        domdisplay {d} --all
        domdisplay {d} --type spice
        vncdisplay {d}
        ttyconsole {d}
        iothreadinfo {d}
        n: cpu-stats {d}
        n: cpu-stats {d} --total
        n: list
        n: list --all
        list --name
        list --uuid
        list --state-running --name
        list --state-paused --name
        list --transient --name
        list --persistent --name
        schedinfo {d}
        perf {d}
        memtune {d}
        blkiotune {d}
        numatune {d}
        blkdeviotune {d} vda
        domiftune {d} 52:54:00:aa:bb:01
        domlaunchsecinfo {d}
        guestvcpus {d}
        guestinfo {d}
        domfsinfo {d}
        domfsfreeze {d}
        domfsthaw {d}
        domfstrim {d}
        qemu-agent-command {d} '{"execute":"guest-ping"}'
        set-user-password {d} root x
        get-user-sshkeys {d} root
        set-user-sshkeys {d} root --reset
        guest-agent-timeout {d} --timeout 5
        guest-agent-timeout {d} --timeout -5
        dompmsuspend {d} mem
        dompmwakeup {d}
        edit {d}
        """,
    "acting on a running domain": """
        start {d}
        undefine {d} --bad
        suspend {d}
        suspend {d}
        domstate {d} --reason
        resume {d}
        resume {d}
        desc {d} --live --new-desc live
        desc {d} --live
        metadata {d} urn:x:1 --key x --set '<a b="c"/>' --live
        metadata {d} urn:x:1 --live
        metadata {d} urn:x:1 --remove --live
        send-key {d} KEY_LEFTCTRL KEY_C
        send-key {d} --codeset xt 30 31
        send-key {d} KEY_NOTHING
        send-process-signal {d} 1 sigterm
        x: screenshot {d} {dir}/shot
        screenshot {d} {dir}/shot --screen 9
        qemu-monitor-command {d} --hmp 'info status'
        qemu-monitor-command {d} --pretty '{"execute":"query-status"}'
        qemu-monitor-command {d} '{"execute":"nothing"}'
        qemu-monitor-command {d} 'not json'
        qemu-monitor-event {d} --timeout 1
        setmem {d} 90000
        setmem {d} 999999999
        setmem {d} 98304 --live --config
        setmaxmem {d} 131072 --live
        setvcpus {d} 2 --live
        vcpucount {d}
        setvcpus {d} 9 --live
        setvcpus {d} 1 --guest
        setvcpu {d} 1 --disable --live
        setvcpu {d} 0 --disable --live
        vcpupin {d} 0 0 --live
        vcpupin {d} 9 0 --live
        vcpupin {d} 0 99999 --live
        emulatorpin {d} 0 --live
        iothreadadd {d} 2 --live
        iothreadinfo {d} --live
        iothreadset {d} 2 --poll-max-ns 100
        iothreadset {d} 9 --poll-max-ns 100
        iothreaddel {d} 2 --live
        iothreaddel {d} 9 --live
        memtune {d} --hard-limit 1000000 --live
        blkiotune {d} --weight 500 --live
        numatune {d} --nodeset 0 --live
        schedinfo {d} --live cpu_shares=512
        domiftune {d} 52:54:00:aa:bb:01 --inbound 100 --live
        blkdeviotune {d} vda --total-bytes-sec 1000000 --live
        blkdeviotune {d} vda --live
        blkdeviotune {d} vda --total-bytes-sec 0 --live
        blkdeviotune {d} vdz --live
        domif-setlink {d} 52:54:00:aa:bb:01 down
        domif-getlink {d} 52:54:00:aa:bb:01
        domif-setlink {d} 52:54:00:aa:bb:01 up
        perf {d} --enable cpu_cycles --live
        set-lifecycle-action {d} reboot destroy --live
        set-lifecycle-action {d} reboot restart --live --config
        domtime {d} --now
        domblkthreshold {d} vda 1000
        domblkthreshold {d} vdz 1000
        domdirtyrate-calc {d} --seconds 1
        migrate-setspeed {d} 100
        migrate-getspeed {d}
        migrate-setmaxdowntime {d} 100
        migrate-getmaxdowntime {d}
        migrate-compcache {d}
        migrate-compcache {d} --size 1048576
        migrate-postcopy {d}
        update-memory-device {d} --requested-size 1M
        domsetlaunchsecstate {d} --secrethdr {dir}/nic.xml --secret {dir}/nic.xml
        domrename {d} {d}-2
        autostart {d}
        n: dominfo {d}
        autostart {d} --disable
        dumpxml {d}
        inject-nmi {d}
        """,
    "resetting and stopping": """
        shutdown {d} --mode agent
        shutdown {d} --mode nothing
        shutdown {d} --mode acpi
        off
        domstate {d} --reason
        start {d}
        reset {d}
        reboot {d} --mode agent
        domstate {d} --reason
        destroy {d}
        start {d} --paused
        shutdown {d} --mode initctl
        destroy {d}
        domstate {d} --reason
        """,
    "devices of a running domain": """
        attach-disk {d} {dir}/b.qcow2 vdb --subdriver qcow2 --live
        attach-disk {d} {dir}/b.qcow2 vdb --live
        attach-disk {d} {dir}/nothing vdc --live
        attach-disk {d} {dir}/c.raw vdc --live --config --serial abc
        domblklist {d}
        sleep 6
        detach-disk {d} vdc --config
        detach-disk {d} vdz --live
        attach-device {d} {dir}/nic.xml --live
        attach-device {d} {dir}/nic.xml --live
        domiflist {d}
        attach-interface {d} bridge nobridge --live
        attach-interface {d} network nonetwork --live
        attach-interface {d} nothing x --live
        domif-setlink {d} 52:54:00:aa:bb:02 down
        attach-device {d} {dir}/broken.xml --live
        attach-device {d} {dir}/unknown.xml --live
        detach-device {d} {dir}/nic.xml --live
        detach-device {d} {dir}/othernic.xml --live
        detach-interface {d} user --mac 52:54:00:aa:bb:99 --live
        detach-device-alias {d} net0 --live
        detach-device-alias {d} none --live
        update-device {d} {dir}/cd.xml --live
        change-media {d} hda {dir}/cd.iso --insert --live
        change-media {d} hda {dir}/cd.iso --insert --live
        change-media {d} hda --update {dir}/cd.iso --live
        change-media {d} hda --eject --live
        change-media {d} vda --eject --live
        blockresize {d} vda 33554432B
        blockresize {d} vdz 1M
        domblkinfo {d} vda
        """,
    "block jobs": """
        blockjob {d} vda
        blockjob {d} vdz
        blockjob {d} vda --abort
        blockpull {d} vda --wait
        blockcommit {d} vda --active --wait
        blockcopy {d} vda {dir}/copy.qcow2 --wait --pivot
        blockcopy {d} vda {dir}/copy2.qcow2 --transient-job --wait --pivot --format qcow2
        domblklist {d}
        blockcopy {d} vda {dir}/copy3.qcow2 --transient-job
        blockjob {d} vda --raw
        blockcopy {d} vda {dir}/copy4.qcow2 --transient-job
        blockjob {d} vda --bandwidth 10
        w: blockjob {d} vda --abort
        domblklist {d}
        snapshot-create-as {d} ext --disk-only --no-metadata --diskspec vda,file={dir}/ext.qcow2
        domblklist {d}
        blockcommit {d} vda --active --wait --pivot
        domblklist {d}
        snapshot-create-as {d} ext2 --disk-only --no-metadata --diskspec vda,file={dir}/ext2.qcow2
        blockpull {d} vda --wait
        domblklist {d}
        """,
    "snapshots, checkpoints and backups of a running domain": """
        snapshot-create-as {d} live
        snapshot-create-as {d} live
        snapshot-create-as {d} bad --diskspec vdz,file={dir}/x
        snapshot-create {d} {dir}/broken.xml
        snapshot-list {d}
        snapshot-info {d} live
        n: snapshot-dumpxml {d} live
        snapshot-current {d} --name
        snapshot-revert {d} live
        snapshot-revert {d} none
        domstate {d} --reason
        snapshot-delete {d} live
        checkpoint-create-as {d} c1 text
        checkpoint-create-as {d} c1
        checkpoint-create-as {d} c2 --diskspec vda,bitmap=b2
        checkpoint-create {d} {dir}/checkpoint.xml
        checkpoint-list {d}
        checkpoint-list {d} --tree
        checkpoint-list {d} --roots --name
        checkpoint-info {d} c1
        checkpoint-parent {d} c2
        checkpoint-parent {d} c1
        checkpoint-dumpxml {d} c1 --no-domain
        checkpoint-dumpxml {d} c1
        checkpoint-edit {d} c1
        list --with-checkpoint --name
        list --without-checkpoint --name
        snapshot-create-as {d} clash
        backup-begin {d} {dir}/backup.xml
        x: backup-dumpxml {d}
        backup-begin {d} {dir}/broken.xml
        nw: domjobinfo {d} --completed
        w: backup-begin {d} {dir}/backup2.xml {dir}/checkpoint2.xml
        sleep 1
        backup-dumpxml {d}
        undefine {d}
        checkpoint-delete {d} c1 --children-only
        checkpoint-delete {d} c1
        checkpoint-delete {d} none
        checkpoint-list {d}
        """,
    "saving and dumping": """
        domjobinfo {d} --completed
        dump {d} {dir}/core --memory-only --live
        dump {d} {dir}/core2 --format kdump-zlib
        dump {d} {dir}/core2 --memory-only --format nothing
        n: domjobinfo {d} --completed
        save {d} {dir}/saved
        domstate {d} --reason
        save-image-dumpxml {dir}/saved
        save-image-dumpxml {dir}/saved --security-info
        save-image-edit {dir}/saved
        save-image-define {dir}/saved {dir}/broken.xml
        restore {dir}/saved
        domstate {d} --reason
        restore {dir}/saved
        managedsave {d} --verbose
        domstate {d} --reason
        dominfo {d}
        list --all --with-managed-save --name
        list --all --without-managed-save --name
        list --all --managed-save
        managedsave-dumpxml {d}
        managedsave-dumpxml {d} --xpath //name
        managedsave-edit {d}
        managedsave-define {d} {dir}/broken.xml
        managedsave {d}
        snapshot-create-as {d} never
        domrename {d} {d}-3
        undefine {d}
        start {d}
        domstate {d} --reason
        managedsave {d}
        start {d} --force-boot --paused
        domstate {d} --reason
        managedsave-remove {d}
        resume {d}
        destroy {d} --graceful
        domstate {d} --reason
        destroy {d}
        undefine {d} --managed-save --snapshots-metadata --checkpoints-metadata
        dominfo {d}
        restore {dir}/saved --paused
        domstate {d} --reason
        n: dominfo {d}
        list --transient --name
        autostart {d}
        managedsave {d}
        undefine {d}
        define {dir}/self.xml
        n: dominfo {d}
        destroy {d}
        create {dir}/self.xml --paused
        domstate {d} --reason
        create {dir}/self.xml
        undefine {d}
        list --transient --name
        destroy {d}
        dominfo {d}
        create {dir}/self.xml --autodestroy
        sleep 1
        dominfo {d}
        """,
}
"""Scenes of a running domain."""
