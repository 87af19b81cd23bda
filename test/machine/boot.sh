# Turns into the systemd-nspawn that boots a full host named $1, inside the namespaces of a light one, whose /etc
# has the files that make a host of it. $2 is the cgroup for it, in every hierarchy there is. $3 is
# net.unix.max_dgram_qlen, or 0 for what systemd makes of it.
set -eu
name=$1 cgroup=$2 queue=$3
base=/run/machine root=/run/machine/root

# Over the machine's own file system, of which nothing is mounted but / itself.
mkdir -p $base/upper $base/work $root
mount -t overlay overlay -o lowerdir=/,upperdir=$base/upper,workdir=$base/work $root

# Services that the machine has been given are not for here: what is started is what systemd itself brings, and what
# is enabled from inside.
rm -rf $root/etc/systemd $root/etc/rc?.d $root/etc/fstab $root/etc/environment.d $root/var/log/journal
mkdir -p $root/etc/systemd/system $root/var/log/journal
for unit in getty.target console-getty.service systemd-udevd.service systemd-udev-trigger.service \
	systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-networkd-wait-online.service \
	systemd-random-seed.service systemd-hwdb-update.service systemd-timesyncd.service \
	systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-logind.service \
	systemd-binfmt.service systemd-sysctl.service timers.target remote-fs.target \
	proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount; do
	ln -s /dev/null $root/etc/systemd/system/$unit
done
mkdir -p $root/etc/systemd/journald.conf.d $root/etc/avahi
printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nSyncIntervalSec=1s\n' \
	>$root/etc/systemd/journald.conf.d/all.conf
for file in hosts hostname machine-id nsswitch.conf resolv.conf avahi/avahi-daemon.conf; do
	rm -f $root/etc/$file
	cp /etc/$file $root/etc/$file
done

# A systemd in a cgroup that another uses as well fights with it over what is below. In the old cpuset hierarchy a
# cgroup takes nobody in before it has processors.
while read -r _ hierarchy type _; do
	case $type in cgroup | cgroup2) ;; *) continue ;; esac
	own=$hierarchy/$cgroup
	mkdir -p "$own"
	for set in cpuset.cpus cpuset.mems; do
		[ $type = cgroup2 ] || [ ! -e "$own/$set" ] || cat "$hierarchy/$set" >"$own/$set"
	done
	echo $$ >"$own/cgroup.procs"
done </proc/self/mounts

if [ "$queue" != 0 ]; then
	echo "$queue" >/proc/sys/net/unix/max_dgram_qlen
	export SYSTEMD_NSPAWN_API_VFS_WRITABLE=no # or systemd would raise it
fi
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
exec systemd-nspawn --quiet --boot --directory=$root --machine="$name" --register=no --keep-unit \
	--network-namespace-path=/proc/self/ns/net --resolv-conf=off --timezone=off --link-journal=no --console=pipe
