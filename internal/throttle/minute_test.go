package throttle

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMinute(3)
		for minute := range 2 {
			for i := range 5 {
				if may := m.May("a"); may != (i < 3) {
					t.Errorf("minute %d, time %d: %v", minute, i, may)
				}
			}
			if !m.May("b") {
				t.Error("b pays for a")
			}
			time.Sleep(time.Minute)
		}
		for i := range 2 * maxCounted {
			if may := m.May(fmt.Sprint(i)); may != (i < maxCounted) {
				t.Fatalf("%d others: %v", i, may)
			}
		}
		if !m.May("0") {
			t.Error("who was counted before is refused")
		}
	})
}
