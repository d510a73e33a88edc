#!/bin/busybox sh
# First process of the demo guest: counts on the serial console, answers a shell there, follows hot-plug.
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM=linux
read -r modules < /modules.list
for module in $modules; do insmod "/modules/$module" 2> /dev/null; done
hostname guest
ip link set lo up
[ -c /dev/ttyS0 ] || while :; do sleep 3600; done

counter() {
    n=0
    while :; do
        n=$((n + 1))
        echo "count $n" > /dev/ttyS0
        sleep 1
    done
}

follow_hotplug() {
    known=" "
    while :; do
        for cpu in /sys/devices/system/cpu/cpu[0-9]*/online; do
            [ -e "$cpu" ] || continue
            read -r online < "$cpu"
            [ "$online" = 1 ] || echo 1 > "$cpu"
        done
        for path in /sys/class/net/eth*; do
            [ -e "$path" ] || continue
            nic=${path##*/}
            # The interface's index tells a NIC plugged again under the same name from the old one.
            read -r index < "$path/ifindex"
            case "$known" in *" $index "*) continue ;; esac
            known="$known$index "
            ip link set "$nic" up
            udhcpc -i "$nic" -s /etc/udhcpc.script -x "hostname:guest" -b -t 5 -T 1 -A 2 > /dev/null 2>&1 &
        done
        sleep 1
    done
}

counter &
follow_hotplug &
acpid -c /etc/acpi -l /dev/null > /dev/null 2>&1
while :; do
    setsid cttyhack sh < /dev/ttyS0 > /dev/ttyS0 2>&1
    sleep 1
done
