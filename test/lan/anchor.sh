# Holds the namespaces it was started in for as long as its standard input stays open; then kills all
# that is left in its network namespace and goes. The end of its starter, however it comes, closes
# standard input. Says "ready" when it is one to rely on. Takes away, last, the cgroups that are named after its process.
self=/proc/$$/ns/net

# In a namespace that is shared with others the sweep below would kill strangers.
for other in $PPID 1; do
	if [ $self -ef /proc/$other/ns/net ]; then
		echo "no network namespace of its own" >&2
		exit 1
	fi
done

# sweep kills every other process of the namespace once, and tells if there was one. The shell looks
# at /proc itself: a subshell or a pipeline would be one more process to find.
sweep() {
	found=no
	for p in /proc/[0-9]*; do
		if [ "$p" != /proc/$$ ] && [ "$p/ns/net" -ef $self ]; then
			kill -9 "${p#/proc/}" 2>/dev/null
			found=yes
		fi
	done
	[ $found = yes ]
}

echo ready
read -r _

# A killed process leaves the namespace a moment later, and may have forked before it died.
rounds=0
while sweep; do
	rounds=$((rounds + 1))
	if [ $rounds -gt 500 ]; then
		echo "processes left that do not die" >&2
		exit 1
	fi
	sleep 0.01
done

# cgroups prints the folders of those in every hierarchy, however they are mounted, the innermost first.
cgroups() {
	for top in "/sys/fs/cgroup/lan-$$" /sys/fs/cgroup/*/"lan-$$"; do
		[ ! -d "$top" ] || find "$top" -depth -type d
	done
}

# Processes of a container have a network namespace of their own. Those that are frozen don't die.
rounds=0
while left=$(cgroups) && [ -n "$left" ]; do
	for group in $left; do
		[ ! -e "$group/freezer.state" ] || echo THAWED >"$group/freezer.state" 2>/dev/null
		while read -r pid; do
			kill -9 "$pid" 2>/dev/null
		done 2>/dev/null <"$group/cgroup.procs"
	done
	echo "$left" | xargs -r rmdir 2>/dev/null
	rounds=$((rounds + 1))
	if [ $rounds -gt 500 ]; then
		echo "cgroups left:" $left >&2
		exit 1
	fi
	sleep 0.01
done
