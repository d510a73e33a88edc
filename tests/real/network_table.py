"""Every virsh command about networks with its options, in scenes.  A table; flags as in tests.support.sameness.

x: libvirt has no form for these, only a sentence."""

FILES: dict[str, str] = {
    "nat": "<network><name>{d}</name><uuid>{uuid}</uuid><forward mode='nat'/><mac address='52:54:00:5a:00:01'/>"
    "<domain name='same.test'/><dns><txt name='a' value='b'/><host ip='10.99.0.2'><hostname>gate</hostname></host>"
    "<srv service='http' protocol='tcp' domain='same.test' target='gate' port='80'/></dns>"
    "<ip address='10.99.0.1' netmask='255.255.255.0'><dhcp><range start='10.99.0.10' end='10.99.0.99'/>"
    "<host mac='52:54:00:5a:00:10' name='web' ip='10.99.0.100'/></dhcp></ip></network>",
    "plain": "<network><name>{d}</name></network>",
    "other": "<network><name>{d}-2</name><ip address='10.98.0.1' prefix='24'/></network>",
    "empty": "",
    "broken": "<network><name>x</name",
    "domain": "<domain type='qemu'><name>x</name></domain>",
    "noname": "<network><ip address='10.97.0.1' prefix='24'/></network>",
    "slash": "<network><name>a/b</name></network>",
    "baduuid": "<network><name>x</name><uuid>nothing</uuid></network>",
    "samename": "<network><name>{d}</name><uuid>11111111-2222-4333-8444-555555555555</uuid></network>",
    "sameuuid": "<network><name>x</name><uuid>{uuid}</uuid></network>",
    "mode": "<network><name>x</name><forward mode='nothing'/></network>",
    "badip": "<network><name>x</name><ip address='nothing' prefix='24'/></network>",
    "badprefix": "<network><name>x</name><ip address='10.97.0.1' prefix='99'/></network>",
    "outside": "<network><name>x</name><ip address='10.97.0.1' prefix='24'><dhcp>"
    "<range start='10.96.0.2' end='10.96.0.9'/></dhcp></ip></network>",
    "reversed": "<network><name>x</name><ip address='10.97.0.1' prefix='24'><dhcp>"
    "<range start='10.97.0.9' end='10.97.0.2'/></dhcp></ip></network>",
    "badmac": "<network><name>x</name><mac address='zz'/></network>",
    "group": "<network><name>x</name><mac address='01:00:5e:00:00:01'/></network>",
    "natplain": "<network><name>x</name><forward mode='nat'/></network>",
    "portbad": "<network><name>x</name><forward mode='nat'><nat><port start='9' end='2'/></nat></forward>"
    "<ip address='10.97.0.1' prefix='24'/></network>",
    "hostless": "<network><name>x</name><ip address='10.97.0.1' prefix='24'><dhcp><host name='a'/></dhcp></ip>"
    "</network>",
    "extra": "<network><name>{d}</name><uuid>{uuid}</uuid><extra/></network>",
    "port": "<networkport><uuid>21111111-2222-4333-8444-555555555555</uuid><owner><name>x</name>"
    "<uuid>31111111-2222-4333-8444-555555555555</uuid></owner><mac address='52:54:00:5a:00:77'/></networkport>",
    "host": "<host mac='52:54:00:5a:00:11' name='db' ip='10.99.0.101'/>",
}
"""Name -> text, with the name and uuid of the side."""

LIFE = """
net-list
net-define {dir}/nat.xml
net-define {dir}/nat.xml
net-define {dir}/nat.xml --validate
net-list
net-list --all
net-list --inactive
net-list --all --persistent
net-list --all --transient
net-list --all --autostart
net-list --all --no-autostart
net-list --all --name
net-list --all --uuid
net-list --all --table
net-list --name --uuid
net-list --table --name
net-uuid {d}
net-name {uuid}
net-info {d}
net-info {uuid}
net-info {d} --nothing
net-dumpxml {d}
net-dumpxml {d} --inactive
net-dhcp-leases {d}
net-port-list {d}
net-autostart {d}
net-list --all --autostart
net-info {d}
net-autostart {d} --disable
net-destroy {d}
net-start {d}
net-start {d}
net-list
net-list --all
net-list --inactive
net-list --uuid
net-info {d}
net-dumpxml {d}
net-dumpxml {d} --inactive
net-define {dir}/nat.xml
net-dhcp-leases {d}
net-dhcp-leases {d} --mac 52:54:00:5a:00:10
net-dhcp-leases {d} --mac zz
net-port-list {d}
net-port-list {d} --uuid
net-port-dumpxml {d} 21111111-2222-4333-8444-555555555555
net-port-delete {d} 21111111-2222-4333-8444-555555555555
net-port-dumpxml {d} nothing
net-port-create {d} {dir}/broken.xml
net-port-create {d} {dir}/port.xml
net-port-create {d} {dir}/port.xml --validate
net-port-dumpxml {d} 21111111-2222-4333-8444-555555555555
net-port-list {d} --uuid
net-port-delete {d} 21111111-2222-4333-8444-555555555555
net-port-list {d}
net-edit {d}
net-edit nobody
net-autostart {d}
net-undefine {d}
net-list --all --transient
net-info {d}
net-autostart {d}
net-autostart {d} --disable
net-undefine {d}
net-dumpxml {d}
net-dumpxml {d} --inactive
net-destroy {d}
net-list --all
net-info {d}
net-destroy {d}
net-start {d}
net-undefine {d}
net-autostart {d}
net-dumpxml {d}
net-uuid {d}
net-name {uuid}
net-dhcp-leases {d}
net-port-list {d}
net-update {d} add ip-dhcp-host {dir}/host.xml --live
"""

TRANSIENT = """
net-create {dir}/nat.xml
net-create {dir}/nat.xml
net-create {dir}/nat.xml --validate
net-list --transient
net-info {d}
net-dumpxml {d}
net-dumpxml {d} --inactive
net-create {dir}/samename.xml
net-create {dir}/sameuuid.xml
net-update {d} add ip-dhcp-host {dir}/host.xml --config
net-update {d} add ip-dhcp-host {dir}/host.xml
net-dumpxml {d}
net-define {dir}/nat.xml
net-info {d}
net-dumpxml {d}
net-dumpxml {d} --inactive
net-destroy {d}
net-list --all
net-create {dir}/nat.xml
net-info {d}
net-destroy {d}
net-undefine {d}
net-list --all
net-create {dir}/plain.xml
net-dumpxml {d}
net-destroy {d}
net-list --all
"""

REFUSED = """
net-define {dir}/nat.xml
x: net-define {dir}/empty.xml
x: net-define {dir}/broken.xml
net-define {dir}/domain.xml
net-define {dir}/noname.xml
x: net-define {dir}/slash.xml
net-define {dir}/baduuid.xml
net-define {dir}/samename.xml
net-define {dir}/sameuuid.xml
net-define {dir}/mode.xml
net-define {dir}/badip.xml
net-define {dir}/badprefix.xml
net-define {dir}/outside.xml
net-define {dir}/reversed.xml
net-define {dir}/badmac.xml
net-define {dir}/group.xml
net-define {dir}/natplain.xml
x: net-define {dir}/portbad.xml
net-define {dir}/hostless.xml
net-define {dir}/nothing-there.xml
net-define {dir}/extra.xml --validate
x: net-create {dir}/empty.xml
x: net-create {dir}/broken.xml
net-create {dir}/noname.xml
net-create {dir}/mode.xml
net-create {dir}/samename.xml
net-create {dir}/sameuuid.xml
net-list --all
net-dumpxml {d}
"""

UPDATE = """
net-define {dir}/nat.xml
net-update {d} add ip-dhcp-host {dir}/host.xml --live
net-update {d} add ip-dhcp-host {dir}/host.xml --config
net-start {d}
net-update {d} add ip-dhcp-host {dir}/host.xml --live
net-update {d} add ip-dhcp-host {dir}/host.xml --live --config
net-update {d} add-first ip-dhcp-host "<host mac='52:54:00:5a:00:12' ip='10.99.0.102'/>" --live --config
net-update {d} add-last ip-dhcp-host "<host mac='52:54:00:5a:00:13' ip='10.99.0.103'/>" --live --config
net-update {d} modify ip-dhcp-host "<host mac='52:54:00:5a:00:13' ip='10.99.0.104'/>" --live --config
net-update {d} delete ip-dhcp-host "<host mac='52:54:00:5a:00:12'/>" --live --config
net-update {d} delete ip-dhcp-host "<host mac='52:54:00:5a:00:99'/>" --live
net-update {d} modify ip-dhcp-host "<host mac='52:54:00:5a:00:99' ip='10.99.0.105'/>" --live
net-update {d} add ip-dhcp-host "<host mac='52:54:00:5a:00:14' ip='10.99.0.103'/>" --live
net-update {d} add ip-dhcp-host "<host mac='52:54:00:5a:00:14' ip='10.99.0.106'/>" --live --parent-index 5
net-update {d} add ip-dhcp-host "<host mac='52:54:00:5a:00:14' ip='10.99.0.106'/>" --live --parent-index 0
x: net-update {d} add ip-dhcp-host "<broken" --live
net-update {d} add ip-dhcp-host "<range/>" --live
net-update {d} add ip-dhcp-range "<range start='10.99.0.110' end='10.99.0.120'/>" --live --config
net-update {d} add ip-dhcp-range "<range start='10.99.0.110' end='10.99.0.120'/>" --live
net-update {d} add ip-dhcp-range "<range start='10.96.0.110' end='10.96.0.120'/>" --live
net-update {d} modify ip-dhcp-range "<range start='10.99.0.110' end='10.99.0.130'/>" --live
net-update {d} delete ip-dhcp-range "<range start='10.99.0.110' end='10.99.0.120'/>" --live --config
net-update {d} add dns-host "<host ip='10.99.0.3'><hostname>three</hostname></host>" --live --config
net-update {d} add dns-host "<host ip='10.99.0.3'><hostname>three</hostname></host>" --live
net-update {d} modify dns-host "<host ip='10.99.0.3'><hostname>four</hostname></host>" --live
net-update {d} delete dns-host "<host ip='10.99.0.3'/>" --live --config
net-update {d} add dns-txt "<txt name='c' value='d'/>" --live --config
net-update {d} modify dns-txt "<txt name='c' value='e'/>" --live
net-update {d} delete dns-txt "<txt name='c'/>" --live --config
net-update {d} delete dns-txt "<txt name='none'/>" --live
net-update {d} add dns-srv "<srv service='ldap' protocol='tcp' target='gate' port='389'/>" --live --config
net-update {d} delete dns-srv "<srv service='ldap' protocol='tcp'/>" --live --config
net-update {d} add portgroup "<portgroup name='a'/>" --live --config
net-update {d} add portgroup "<portgroup name='a'/>" --live
net-update {d} modify portgroup "<portgroup name='a' default='yes'/>" --live --config
net-update {d} delete portgroup "<portgroup name='a'/>" --live --config
net-update {d} add forward-interface "<interface dev='eth7'/>" --config
net-update {d} delete forward-interface "<interface dev='eth9'/>" --config
net-update {d} modify forward "<forward mode='route'/>" --live
net-update {d} modify domain "<domain name='b'/>" --live
net-update {d} modify bridge "<bridge name='b'/>" --live
net-update {d} add forward-pf "<pf dev='eth7'/>" --live
net-update {d} modify ip "<ip address='10.95.0.1' prefix='24'/>" --live
net-update {d} add nothing "<x/>" --live
net-update {d} nothing ip-dhcp-host "<x/>" --live
net-update {d} add ip-dhcp-host
net-update {d} add ip-dhcp-host {dir}/host.xml --live --current
net-update {d} delete ip-dhcp-host {dir}/host.xml --current
net-dumpxml {d}
net-dumpxml {d} --inactive
net-destroy {d}
net-dumpxml {d}
net-update {d} add ip-dhcp-host "<host mac='52:54:00:5a:00:21' ip='10.99.0.121'/>"
net-dumpxml {d}
"""

EVENTS = """
net-event --list
net-event
net-event --event nothing
net-event --event lifecycle --timeout 1
net-event --network nobody --event lifecycle --timeout 1
"""

NAMED = """
net-define --file {dir}/nat.xml
net-start --network {d}
net-info --network {d}
net-uuid --network {d}
net-name --network {uuid}
net-autostart --network {d}
net-autostart --network {d} --disable
net-dumpxml --network {d} --xpath //ip
net-dumpxml {d} --xpath //ip/@address --wrap
net-dumpxml {d} --inactive --xpath /network/name --wrap
net-dumpxml {d} --xpath //nothing
net-dumpxml {d} --xpath "//["
net-dhcp-leases --network {d}
net-port-list --network {d} --table
net-port-list {d} --table --uuid
net-port-dumpxml --network {d} --port 21111111-2222-4333-8444-555555555555 --xpath //mac --wrap
net-port-delete --network {d} --port 21111111-2222-4333-8444-555555555555
net-port-create --network nobody --file {dir}/port.xml
net-update --network {d} --command add --section ip-dhcp-host --xml {dir}/host.xml --live --config
net-update --network {d} --command delete --section ip-dhcp-host --xml {dir}/host.xml --parent-index 0 --current
net-edit --network {d}
net-destroy --network {d}
net-undefine --network {d}
net-create --file {dir}/plain.xml
net-destroy --network {d}
"""

SCENES = {
    "life": LIFE,
    "named": NAMED,
    "transient": TRANSIENT,
    "refused": REFUSED,
    "update": UPDATE,
    "events": EVENTS,
}
