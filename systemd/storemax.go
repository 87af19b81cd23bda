package systemd

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"
)

// StoreMax returns how many descriptors the service manager keeps for this service: FileDescriptorStoreMax=,
// which is 0 unless the unit sets it. systemd tells it from release 254 on (FDSTORE=); an earlier one is asked over
// D-Bus, within ctx.
func StoreMax(ctx context.Context) (int, error) {
	if told, found := os.LookupEnv("FDSTORE"); found {
		n, err := strconv.Atoi(told)
		if err != nil {
			return 0, fmt.Errorf("FDSTORE=%q is no number", told)
		}
		return n, nil
	}
	connect := dbus.ConnectSystemBus
	if strings.HasPrefix(os.Getenv("NOTIFY_SOCKET"), "/run/user/") {
		connect = dbus.ConnectSessionBus
	}
	conn, err := connect(dbus.WithContext(ctx))
	if err != nil {
		return 0, fmt.Errorf("ask systemd for FileDescriptorStoreMax: %w", err)
	}
	defer conn.Close()
	const systemd1 = "org.freedesktop.systemd1"
	var unit dbus.ObjectPath
	err = conn.Object(systemd1, "/org/freedesktop/systemd1").
		CallWithContext(ctx, systemd1+".Manager.GetUnitByPID", dbus.FlagNoAutoStart, uint32(os.Getpid())).Store(&unit)
	if err != nil {
		return 0, fmt.Errorf("ask systemd for the unit of this process: %w", err)
	}
	var size uint32
	err = conn.Object(systemd1, unit).
		CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", dbus.FlagNoAutoStart,
			systemd1+".Service", "FileDescriptorStoreMax").Store(&size)
	if err != nil {
		return 0, fmt.Errorf("ask systemd for FileDescriptorStoreMax: %w", err)
	}
	return int(size), nil
}
