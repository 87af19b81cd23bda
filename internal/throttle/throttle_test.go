package throttle

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := New()
		for i := range 3 {
			if _, ok := th.May("a"); ok != (i == 0) {
				t.Errorf("may %d: %v", i, ok)
			}
		}
		if _, ok := th.May("b"); !ok {
			t.Error("b is held back for a")
		}
		time.Sleep(time.Minute)
		if withheld, ok := th.May("a"); withheld != 2 || !ok {
			t.Errorf("after a minute: %d, %v", withheld, ok)
		}
		for i := range 5000 {
			th.May(fmt.Sprint(i))
		}
		if len(th.things) > maxThings {
			t.Errorf("%d things are remembered", len(th.things))
		}
	})
}
