# Makes what a full host is made of, in a mount namespace of its own, and takes it away again.
set -eu
mount -t tmpfs tmpfs /run
mkdir /run/upper /run/work /run/root
mount -t overlay overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work /run/root
rm -rf /run/root/etc

found=no
while read -r _ hierarchy type _; do
	case $type in cgroup | cgroup2) ;; *) continue ;; esac
	mkdir "$hierarchy/machine-$$"
	rmdir "$hierarchy/machine-$$"
	found=yes
done </proc/self/mounts
[ $found = yes ] || { echo "no cgroups mounted"; exit 1; }
