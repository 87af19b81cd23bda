package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// gcPercent lets the heap grow by half before it is collected, rather than to twice its size: most of it
// is registrations, which stay, and lookups allocate nothing.
const gcPercent = 50

// giveBack gives back what was needed once and will not be soon again. Of the heap that is what the
// next collection would find, which may be hours away; of the program it is which of its pages have been
// used: those that are needed come back from the page cache when they are touched. It more than halves
// the memory that an idle daemon holds.
func giveBack() error {
	debug.FreeOSMemory()
	program, err := os.Executable()
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer maps.Close()
	var mapping string
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		switch line := strings.Fields(lines.Text()); {
		case len(line) > 5 && line[5] == program:
			mapping = line[0] + " " + line[1]
		case len(line) > 1 && strings.Contains(line[0], "-"):
			mapping = ""
		case mapping != "" && line[0] == "Anonymous:" && line[1] == "0":
			if err := forget(mapping); err != nil {
				return err
			}
		}
	}
	return nil
}

// forget gives back the pages of a mapping of the program file: "begin-end perms", as in
// proc_pid_smaps(5). It must have no anonymous pages, which hold what the file does not, such as the
// relocations of a program that can be loaded anywhere.
func forget(mapping string) error {
	var begin, end uintptr
	var perms string
	if _, err := fmt.Sscanf(mapping, "%x-%x %s", &begin, &end, &perms); err != nil {
		return fmt.Errorf("mapping %q: %w", mapping, err)
	}
	if perms[0] != 'r' || perms[1] == 'w' {
		return nil
	}
	first := unsafe.Add(unsafe.Pointer(nil), begin)
	return unix.Madvise(unsafe.Slice((*byte)(first), end-begin), unix.MADV_DONTNEED)
}
