"""Every virsh command about storage volumes with its options, in scenes.  A table; flags as in tests.support.sameness.

{d} is a running pool of a directory, {d}-2 another, both empty at a scene's beginning; {dir} has the files."""

HOME = "/var/lib/libvirt/samevol"

POOL = "<pool type='dir'><name>{d}</name><target><path>" + HOME + "</path></target></pool>"
POOL_2 = "<pool type='dir'><name>{d}-2</name><target><path>" + HOME + "-2</path></target></pool>"

VOLUME = "<volume><name>{}</name><capacity unit='KiB'>{}</capacity>{}</volume>"
QCOW2 = "<target><format type='{}'/></target>"
BACKING = QCOW2.format("qcow2") + "<backingStore><path>{}</path><format type='raw'/></backingStore>"

FILES: dict[str, str] = {
    "pool": POOL,
    "pool2": POOL_2,
    "raw": VOLUME.format("raw", 64, "<allocation>0</allocation>"),
    "full": VOLUME.format("full", 64, ""),
    "qcow": VOLUME.format("qcow", 1024, QCOW2.format("qcow2")),
    "unknown": VOLUME.format("z", 64, QCOW2.format("nothing")),
    "over": VOLUME.format("over", 1024, BACKING.format(HOME + "/raw")),
    "lost": VOLUME.format("z", 1024, BACKING.format("/nothing/there")),
    "extra": VOLUME.format("z", 64, "<extra/>"),
    "noname": "<volume><capacity>1</capacity></volume>",
    "nocapacity": "<volume><name>z</name></volume>",
    "badcapacity": "<volume><name>z</name><capacity unit='z'>1</capacity></volume>",
    "slash": VOLUME.format("a/b", 64, ""),
    "domain": "<domain type='qemu'><name>z</name></domain>",
    "broken": "<volume><name>z</name",
    "empty": "",
    "copy": VOLUME.format("copy", 64, "<allocation>0</allocation>"),
    "larger": VOLUME.format("larger", 128, ""),
    "converted": VOLUME.format("converted", 64, QCOW2.format("qcow2")),
    "data": "0123456789" * 6553,
}
"""Name -> text."""

LIFE = """
vol-list {d}
vol-list {d} --details
vol-create {d} {dir}/raw.xml
vol-create {d} {dir}/raw.xml
vol-create {d} {dir}/full.xml --validate
vol-create {d} {dir}/qcow.xml --prealloc-metadata
vol-create --pool {d} --file {dir}/over.xml
s: vol-list {d}
s: vol-list {d} --details
vol-list --details --pool {d}
n: vol-dumpxml raw {d}
n: vol-dumpxml qcow {d}
n: vol-dumpxml over {d}
vol-dumpxml --vol over --pool {d} --xpath //backingStore/path
vol-dumpxml over --pool {d} --xpath //backingStore/path --wrap
vol-dumpxml /var/lib/libvirt/samevol/raw --xpath //name
vol-info raw {d}
vol-info raw {d} --bytes
vol-info raw {d} --bytes --physical
vol-info --vol full --pool {d} --bytes
vol-info full --pool {d} --physical
n: vol-info qcow {d}
vol-info /var/lib/libvirt/samevol/full
vol-key raw --pool {d}
vol-key --vol /var/lib/libvirt/samevol/raw
vol-path --vol raw --pool {d}
vol-path /var/lib/libvirt/samevol/raw
vol-name --vol /var/lib/libvirt/samevol/raw
vol-name /var/lib//libvirt/samevol/raw/
vol-pool --vol /var/lib/libvirt/samevol/raw
x: vol-pool /var/lib/libvirt/samevol/raw --uuid
vol-pool raw
vol-name raw
vol-key nobody {d}
vol-key nobody
vol-path nobody --pool {d}
vol-path /var/lib/libvirt/samevol/nobody
vol-name /nowhere
vol-pool /nowhere
vol-info nobody {d}
vol-dumpxml nobody {d}
vol-list nobody
vol-info raw nobody
vol-delete over {d}
vol-delete raw {d}
vol-delete raw {d}
vol-delete nobody --pool {d}
vol-delete --vol full --pool {d} --delete-snapshots
vol-delete /var/lib/libvirt/samevol/full
vol-delete qcow {d}
vol-list {d}
"""

MADE = """
vol-create-as {d} one 64k
vol-create-as {d} one 64k
vol-create-as --pool {d} --name two --capacity 128k --allocation 0
vol-create-as {d} three 1M --format qcow2
vol-create-as {d} four 1M --format qcow2 --backing-vol two --backing-vol-format raw
vol-create-as {d} five 1M --format qcow2 --prealloc-metadata
vol-create-as {d} six 64k --print-xml
vol-create-as {d} seven 64k --format nothing
vol-create-as {d} seven 1M --format qcow2 --backing-vol nobody
vol-create-as {d} seven much
vol-create-as nobody seven 64k
vol-create-as {d} a/b 64k
s: vol-list {d} --details
n: vol-dumpxml four {d}
vol-create {d} {dir}/unknown.xml
vol-create {d} {dir}/lost.xml
vol-create {d} {dir}/extra.xml
vol-delete z {d}
vol-create {d} {dir}/extra.xml --validate
vol-create {d} {dir}/noname.xml
vol-create {d} {dir}/nocapacity.xml
vol-create {d} {dir}/badcapacity.xml
vol-create {d} {dir}/slash.xml
vol-create {d} {dir}/domain.xml
vol-create {d} {dir}/broken.xml
vol-create {d} {dir}/empty.xml
vol-create nobody {dir}/raw.xml
vol-create {d} {dir}/nothing-there.xml
"""

CLONED = """
vol-create {d} {dir}/raw.xml
vol-upload raw {dir}/data.xml {d}
vol-clone raw clone {d}
vol-clone raw clone {d}
vol-clone --vol raw --newname clone2 --pool {d} --prealloc-metadata
vol-clone --vol raw --newname clone3 --pool {d} --reflink
n: vol-clone raw clone4 {d} --print-xml
vol-clone nobody clone4 {d}
vol-clone raw a/b {d}
vol-create-from {d} {dir}/copy.xml raw
vol-create-from {d} {dir}/copy.xml --vol raw --inputpool {d}
vol-create-from {d}-2 {dir}/copy.xml raw --inputpool {d}
vol-create-from --pool {d}-2 --file {dir}/larger.xml --vol raw --inputpool {d} --validate
vol-create-from {d} {dir}/converted.xml --vol raw --inputpool {d} --prealloc-metadata
vol-create-from {d} {dir}/full.xml --vol raw --inputpool {d} --reflink
vol-create-from {d} {dir}/noname.xml --vol raw --inputpool {d}
vol-create-from {d} {dir}/broken.xml --vol raw --inputpool {d}
vol-create-from {d} {dir}/raw.xml --vol nobody --inputpool {d}
vol-create-from nobody {dir}/raw.xml --vol raw --inputpool {d}
s: vol-list {d}
s: vol-list {d}-2
vol-info clone {d} --bytes
vol-info larger {d}-2 --bytes
n: vol-dumpxml converted {d}
vol-download clone {dir}/clone {d}
vol-download copy {dir}/copy {d}-2
vol-delete clone {d}
"""

CHANGED = """
vol-create {d} {dir}/raw.xml
vol-upload raw {dir}/data.xml {d}
vol-upload --vol raw --file {dir}/data.xml --pool {d} --offset 10 --length 100
vol-upload raw {dir}/data.xml {d} --sparse
x: vol-upload raw {dir}/data.xml {d} --length 10 --sparse
vol-upload raw {dir}/data.xml {d}
vol-upload raw {dir}/nothing {d}
vol-upload nobody {dir}/data.xml {d}
vol-download raw {dir}/back {d}
vol-download --vol raw --file {dir}/part --pool {d} --offset 5 --length 20
vol-download raw {dir}/holes {d} --sparse
vol-download nobody {dir}/back {d}
vol-resize raw 128k {d}
vol-info raw {d} --bytes
vol-resize raw 1M {d} --allocate
vol-info raw {d} --bytes
vol-resize raw 64k {d} --delta
vol-info raw {d} --bytes
vol-resize raw 4k {d}
vol-resize raw 4k {d} --shrink
vol-resize --vol raw --capacity 64k --pool {d} --delta --shrink
vol-resize nobody 4k {d}
vol-resize raw much {d}
vol-info raw {d} --bytes
vol-wipe raw {d}
vol-wipe raw {d} --algorithm zero
vol-wipe --vol raw --pool {d} --algorithm nothing
vol-wipe raw {d} --algorithm nnsa
vol-wipe raw {d} --algorithm trim
vol-wipe nobody {d}
vol-download raw {dir}/wiped {d}
"""

STOPPED = """
vol-create {d} {dir}/raw.xml
pool-destroy {d}-2
vol-create-as {d}-2 one 64k
vol-list {d}-2
vol-key one {d}-2
vol-create-from {d}-2 {dir}/copy.xml raw --inputpool {d}
vol-create-from {d} {dir}/copy.xml raw --inputpool {d}-2
vol-path /var/lib/libvirt/samevol-2/one
vol-clone raw clone {d}-2
"""

SCENES = {"life": LIFE, "made": MADE, "cloned": CLONED, "changed": CHANGED, "stopped": STOPPED}
