package owner

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// setUnits enters the unit of each owner, and whether it is foreign. It goes by the process. If
// that is not known, it goes by the control group of the socket.
func setUnits(ctx context.Context, cgroups map[*Owner]uint64) {
	wanted := make(map[uint64][]*Owner)
	known := make(map[int32]Owner) // by process; one can have many nodes
	for h, cgroup := range cgroups {
		switch {
		case h.PID != 0:
			of, found := known[h.PID]
			if !found {
				of = Owner{Unit: unitOfProcess(h.PID), Foreign: isForeign([]string{strconv.Itoa(int(h.PID))})}
				known[h.PID] = of
			}
			h.Unit, h.Foreign = of.Unit, of.Foreign
		case cgroup != 0:
			wanted[cgroup] = append(wanted[cgroup], h)
		}
	}
	if len(wanted) > 0 {
		findCgroups(ctx, wanted)
	}
}

// unitOfProcess returns the unit of a process, or "".
func unitOfProcess(pid int32) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/cgroup")
	if err != nil {
		return ""
	}
	return parseCgroup(string(text))
}

// parseCgroup returns the unit of a process from its /proc/PID/cgroup. That has a line for each
// hierarchy of control groups (cgroups(7)). systemd uses that of version 2. On hosts with version 1
// only, it uses the one named for it:
//
//	0::/system.slice/rabbitmq-server.service
//	1:name=systemd:/system.slice/rabbitmq-server.service
func parseCgroup(text string) string {
	var unit, unit1 string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			unit = unitOf(path)
		}
		if _, path, ok := strings.Cut(line, ":name=systemd:"); ok {
			unit1 = unitOf(path)
		}
	}
	if unit != "" {
		return unit
	}
	return unit1
}

// unitOf returns the innermost service or scope in the path of a control group, or "".
func unitOf(path string) string {
	path = strings.TrimSuffix(path, " (deleted)") // the kernel adds it to an ending one
	for path != "" {
		slash := strings.LastIndexByte(path, '/')
		name := path[slash+1:]
		path = path[:max(0, slash)]
		name = strings.TrimPrefix(name, "_") // systemd adds it to names of the kernel's files
		if (strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".scope")) && isUnitName(name) {
			return strings.Clone(name)
		}
	}
	return ""
}

// isUnitName reports whether a unit can have that name (systemd.unit(5)). Users can make control
// groups with other names.
func isUnitName(s string) bool {
	const maxLen = 255
	return len(s) <= maxLen && !strings.HasPrefix(s, ".") && strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(`:-_.\@`, r))
	}) < 0
}

// findCgroups enters what is known from control groups. The keys are their inode numbers.
func findCgroups(ctx context.Context, wanted map[uint64][]*Owner) {
	left := len(wanted)
	_ = filepath.WalkDir(cgroupRoot(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // one that goes meanwhile is none of those
		}
		if ctx.Err() != nil || left == 0 {
			return fs.SkipAll
		}
		inode, isLeaf := cgroupOf(d)
		if holders := wanted[inode]; holders != nil {
			left--
			foreign := isForeign(processesOf(path))
			for _, h := range holders {
				h.Unit, h.Foreign = unitOf(path), foreign
			}
		}
		if isLeaf {
			return fs.SkipDir
		}
		return nil
	})
}

// cgroupOf returns the inode number of a control group, and whether it contains no other.
func cgroupOf(d fs.DirEntry) (inode uint64, isLeaf bool) {
	info, err := d.Info()
	if err != nil {
		return 0, true
	}
	st := info.Sys().(*syscall.Stat_t)
	return st.Ino, st.Nlink == 2 // itself and its "."
}

// cgroupRoot returns where version 2 is mounted: alone, or beside version 1.
func cgroupRoot() string {
	const alone, beside = "/sys/fs/cgroup", "/sys/fs/cgroup/unified"
	var st unix.Statfs_t
	if err := unix.Statfs(alone, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return alone
	}
	return beside
}
