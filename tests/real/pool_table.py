"""Every virsh command about storage pools with its options, in scenes.  A table; flags as in tests.support.sameness.

n: capacities differ, for those of a cluster are those of its nodes.  A pool's directory is each node's own."""

HOME = "/var/lib/libvirt/same"

FILES: dict[str, str] = {
    "dir": "<pool type='dir'><name>{d}</name><uuid>{uuid}</uuid><target><path>"
    + HOME
    + "</path></target></pool>",
    "nouuid": "<pool type='dir'><name>{d}</name><target><path>" + HOME + "</path></target></pool>",
    "other": "<pool type='dir'><name>{d}-2</name><target><path>" + HOME + "-2</path></target></pool>",
    "moved": "<pool type='dir'><name>{d}</name><uuid>{uuid}</uuid><target><path>"
    + HOME
    + "-2</path></target></pool>",
    "samedir": "<pool type='dir'><name>x</name><target><path>" + HOME + "</path></target></pool>",
    "samename": "<pool type='dir'><name>{d}</name><uuid>11111111-2222-4333-8444-555555555555</uuid>"
    "<target><path>/x</path></target></pool>",
    "sameuuid": "<pool type='dir'><name>x</name><uuid>{uuid}</uuid><target><path>/x</path></target></pool>",
    "mode": "<pool type='dir'><name>{d}</name><uuid>{uuid}</uuid><target><path>"
    + HOME
    + "</path><permissions><mode>0750</mode><owner>0</owner><group>0</group></permissions></target></pool>",
    "fs": "<pool type='fs'><name>{d}</name><source><device path='/dev/nothing'/></source><target><path>"
    + HOME
    + "</path></target></pool>",
    "rbd": "<pool type='rbd'><name>x</name><source><host name='h'/><name>p</name></source></pool>",
    "empty": "",
    "broken": "<pool type='dir'><name>x</name",
    "domain": "<domain type='qemu'><name>x</name></domain>",
    "notype": "<pool><name>x</name></pool>",
    "badtype": "<pool type='nothing'><name>x</name></pool>",
    "noname": "<pool type='dir'><target><path>/x</path></target></pool>",
    "slash": "<pool type='dir'><name>a/b</name><target><path>/x</path></target></pool>",
    "baduuid": "<pool type='dir'><name>x</name><uuid>z</uuid><target><path>/x</path></target></pool>",
    "notarget": "<pool type='dir'><name>x</name></pool>",
    "nosource": "<pool type='netfs'><name>x</name><target><path>/x</path></target></pool>",
    "badmode": "<pool type='dir'><name>x</name><target><path>/x</path><permissions><mode>9</mode></permissions>"
    "</target></pool>",
    "badformat": "<pool type='fs'><name>x</name><source><device path='/d'/><format type='z'/></source>"
    "<target><path>/x</path></target></pool>",
    "cow": "<pool type='logical'><name>x</name><features><cow state='no'/></features><source><name>v</name>"
    "</source></pool>",
    "extra": "<pool type='dir'><name>{d}</name><uuid>{uuid}</uuid><target><path>" + HOME + "</path></target>"
    "<extra/></pool>",
    "spec": "<source><host name='h'/></source>",
}
"""Name -> text, with the name and uuid of the side."""

LIFE = """
pool-list
pool-define {dir}/dir.xml
pool-define {dir}/dir.xml
pool-define {dir}/dir.xml --validate
pool-list
pool-list --all
pool-list --inactive
pool-list --all --persistent
pool-list --all --transient
pool-list --all --autostart
pool-list --all --no-autostart
pool-list --all --name
pool-list --all --uuid
pool-list --all --name --uuid
pool-list --all --type dir
pool-list --all --type fs,netfs
pool-list --all --type nothing
pool-list --all --type dir,logical,disk,iscsi,scsi,mpath,rbd,sheepdog,gluster,zfs,vstorage,iscsi-direct
n: pool-list --all --details
pool-uuid {d}
pool-name {uuid}
n: pool-info {d}
n: pool-info {uuid}
pool-info {d} --nothing
n: pool-dumpxml {d}
n: pool-dumpxml {d} --inactive
pool-refresh {d}
pool-delete nobody
pool-start {d}
pool-autostart {d}
pool-list --all --autostart
n: pool-info {d}
pool-autostart {d} --disable
pool-destroy {d}
pool-build {d}
pool-build {d}
pool-build {d} --no-overwrite
pool-build {d} --overwrite
pool-build {d} --overwrite --no-overwrite
pool-start {d}
pool-start {d}
pool-build {d}
pool-list
pool-list --all
pool-list --inactive
n: pool-info {d}
n: pool-info {d} --bytes
n: pool-list --details
n: pool-dumpxml {d}
n: pool-dumpxml {d} --inactive
pool-refresh {d}
pool-refresh {uuid}
pool-undefine {d}
pool-delete {d}
pool-create {dir}/dir.xml
pool-edit {d}
pool-edit nobody
pool-destroy {d}
pool-destroy {d}
pool-refresh {d}
n: pool-info {d}
pool-delete {d}
pool-delete {d}
pool-start {d}
pool-start {d} --build
n: pool-dumpxml {d}
pool-destroy {d}
pool-start {d} --build --overwrite
pool-start {d} --build --no-overwrite
pool-start {d} --build --overwrite --no-overwrite
pool-delete {d}
pool-undefine {d}
pool-undefine {d}
pool-list --all
pool-start {d}
pool-destroy {d}
pool-build {d}
pool-delete {d}
pool-refresh {d}
pool-autostart {d}
pool-dumpxml {d}
pool-info {d}
pool-uuid {d}
pool-name {uuid}
"""

TRANSIENT = """
pool-create {dir}/dir.xml
pool-create {dir}/dir.xml --build
pool-create {dir}/dir.xml --build
pool-list --transient
n: pool-info {d}
n: pool-dumpxml {d}
n: pool-dumpxml {d} --inactive
pool-autostart {d}
pool-undefine {d}
pool-delete {d}
pool-refresh {d}
pool-create {dir}/samename.xml
pool-create {dir}/sameuuid.xml
pool-define {dir}/dir.xml
n: pool-info {d}
pool-destroy {d}
pool-list --all
pool-create {dir}/dir.xml
n: pool-info {d}
pool-destroy {d}
pool-delete {d}
pool-undefine {d}
pool-list --all
pool-create {dir}/dir.xml --build --overwrite
pool-create {dir}/dir.xml --build --no-overwrite
pool-create {dir}/dir.xml --build --overwrite --no-overwrite
pool-create-as {d} dir --target /var/lib/libvirt/same
pool-create-as {d} dir --target /var/lib/libvirt/same --build
pool-destroy {d}
pool-list --all
"""

REFUSED = """
pool-define {dir}/dir.xml
pool-define {dir}/nouuid.xml
pool-define {dir}/samename.xml
pool-define {dir}/sameuuid.xml
pool-define {dir}/samedir.xml
x: pool-define {dir}/empty.xml
x: pool-define {dir}/broken.xml
pool-define {dir}/domain.xml
pool-define {dir}/notype.xml
pool-define {dir}/badtype.xml
pool-define {dir}/noname.xml
pool-define {dir}/slash.xml
pool-define {dir}/baduuid.xml
pool-define {dir}/notarget.xml
pool-define {dir}/nosource.xml
pool-define {dir}/badmode.xml
pool-define {dir}/badformat.xml
pool-define {dir}/cow.xml
pool-define {dir}/rbd.xml
pool-define {dir}/extra.xml --validate
pool-define {dir}/nothing-there.xml
x: pool-create {dir}/broken.xml
pool-create {dir}/noname.xml
pool-create {dir}/badtype.xml
pool-create {dir}/samename.xml
pool-create {dir}/sameuuid.xml
pool-create {dir}/samedir.xml
pool-create {dir}/rbd.xml
pool-list --all
n: pool-dumpxml {d}
"""

CHANGED = """
pool-define {dir}/dir.xml
pool-define {dir}/moved.xml
n: pool-dumpxml {d}
pool-define {dir}/mode.xml
n: pool-dumpxml {d}
pool-build {d}
pool-start {d}
n: pool-dumpxml {d}
pool-destroy {d}
pool-delete {d}
pool-undefine {d}
pool-define {dir}/fs.xml
n: pool-dumpxml {d}
pool-start {d}
pool-build {d} --overwrite
pool-undefine {d}
"""

NAMED = """
pool-define --file {dir}/dir.xml
pool-define-as --name {d}-2 --type dir --target /var/lib/libvirt/same-2 --print-xml
pool-define-as --name {d}-2 --type dir --target /var/lib/libvirt/same-2
pool-define-as --name {d}-2 --type dir --target /var/lib/libvirt/same-2
n: pool-dumpxml {d}-2
pool-define-as x fs --source-dev /d --source-format ext4 --target /x --print-xml
pool-define-as x netfs --source-host h --source-path /s --target /x --source-protocol-ver 4 --print-xml
pool-define-as x logical --source-name v --print-xml --validate
pool-define-as x scsi --adapter-name scsi_host1 --target /x --print-xml
pool-define-as x scsi --adapter-wwnn 20 --adapter-wwpn 10 --adapter-parent scsi_host3 --target /x --print-xml
pool-define-as x rbd --source-name p --auth-type ceph --auth-username u --secret-usage s --print-xml
pool-define-as x iscsi --source-initiator q --secret-uuid {uuid} --auth-type chap --auth-username u --print-xml
pool-define-as x scsi --adapter-parent-wwnn 2 --adapter-parent-wwpn 3 --adapter-wwnn 4 --adapter-wwpn 5 --print-xml
pool-define-as x scsi --adapter-parent-fabric-wwn 6 --adapter-wwnn 4 --adapter-wwpn 5 --target /x --print-xml
pool-create-as --name x --type dir --target /var/lib/libvirt/nothing --print-xml
pool-create-as --name x --type dir --target /var/lib/libvirt/nothing
pool-create-as x fs --source-dev /d --source-format ext4 --target /x --print-xml --build --overwrite
pool-create-as x fs --source-dev /d --target /x --print-xml --no-overwrite
pool-create-as x netfs --source-host h --source-path /s --source-protocol-ver 4 --target /x --print-xml --validate
pool-create-as x rbd --source-name p --auth-type ceph --auth-username u --secret-usage s --print-xml
pool-create-as x rbd --source-name p --auth-type ceph --auth-username u --secret-uuid {uuid} --print-xml
pool-create-as x iscsi --source-host h --source-dev i --source-initiator q --target /x --print-xml
pool-create-as x scsi --adapter-name a --adapter-wwnn 2 --adapter-wwpn 1 --adapter-parent p --target /x --print-xml
pool-create-as x scsi --adapter-parent-wwnn 2 --adapter-parent-wwpn 3 --adapter-wwnn 4 --adapter-wwpn 5 --print-xml
pool-create-as x scsi --adapter-parent-fabric-wwn 6 --adapter-wwnn 4 --adapter-wwpn 5 --target /x --print-xml
pool-build --pool {d}
pool-start --pool {d}
n: pool-info --pool {d} --bytes
pool-uuid --pool {d}
pool-name --pool {uuid}
pool-autostart --pool {d}
pool-autostart --pool {d} --disable
pool-dumpxml --pool {d} --xpath //path
pool-dumpxml {d} --xpath //target/path --wrap
pool-dumpxml {d} --inactive --xpath /pool/name --wrap
pool-dumpxml {d} --xpath //nothing
pool-refresh --pool {d}
pool-edit --pool {d}
pool-destroy --pool {d}
pool-delete --pool {d}
pool-undefine --pool {d}
pool-undefine --pool {d}-2
pool-create --file {dir}/dir.xml --build --validate
pool-destroy --pool {d}
find-storage-pool-sources dir
find-storage-pool-sources --type nothing
find-storage-pool-sources --type netfs --srcSpec {dir}/spec.xml
find-storage-pool-sources logical
find-storage-pool-sources-as logical
find-storage-pool-sources-as --type dir --host h --port 1 --initiator i
pool-capabilities
pool-event --list
pool-event
pool-event --event nothing
pool-event --event lifecycle --timeout 1
pool-event --pool nobody --event lifecycle --timeout 1
"""

SCENES = {
    "life": LIFE,
    "transient": TRANSIENT,
    "refused": REFUSED,
    "changed": CHANGED,
    "named": NAMED,
}
