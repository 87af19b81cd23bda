// Package hostid says what this host is called in etcd.
package hostid

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
)

// MachineID is where the machine ID is; see machine-id(5).
const MachineID = "/etc/machine-id"

// application is the ID with which the machine ID is hashed.
var application = []byte{0x5d, 0x26, 0xa1, 0x6e, 0x3f, 0x0c, 0x4b, 0x7b, 0x9c, 0x58, 0x2d, 0xe1, 0x86, 0x47, 0x0f, 0xb3}

// Read returns the ID of the host whose machine ID is in the file at path. It is 32 hexadecimal
// digits, and does not give the machine ID away. It is what this prints:
//
//	systemd-id128 machine-id --app-specific=5d26a16e3f0c4b7b9c582de186470fb3
func Read(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("machine ID: %w", err)
	}
	machine, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(machine) != 16 {
		return "", fmt.Errorf("machine ID: %s does not have 32 hexadecimal digits", path)
	}
	hash := hmac.New(sha256.New, machine)
	hash.Write(application)
	id := hash.Sum(nil)[:16]
	id[6] = id[6]&0x0f | 0x40 // a UUID of version 4, as sd_id128_get_machine_app_specific(3) has it
	id[8] = id[8]&0x3f | 0x80
	return hex.EncodeToString(id), nil
}
