# Makes the mount and UTS namespaces it runs in those of the host named $1: an empty /run, and an /etc that is a
# copy of the machine's.
set -eu
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/dbus /run/lock /run/home /run/etc
cp -a /etc/. /run/etc/
mount --bind /run/etc /etc
hostname "$1"
rm -rf /etc/avahi/services
mkdir -p /etc/avahi/services

# Duplicate address detection would hold back IPv6 addresses for a second or two; and an interface that was
# down is to come back with those it had, as it does with IPv4.
for conf in /proc/sys/net/ipv6/conf/all /proc/sys/net/ipv6/conf/default; do
	[ -d $conf ] || continue
	echo 0 >$conf/accept_dad
	echo 1 >$conf/keep_addr_on_down
done
