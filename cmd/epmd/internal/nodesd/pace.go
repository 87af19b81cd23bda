package nodesd

import (
	"context"
	"time"
)

// A Reader works for about workFor, then rests for restFor. So a lookup that comes meanwhile waits
// for less time than it takes, even where there is one processor. 10,000 new lines take 2 or 3 s.
const (
	workFor = 50 * time.Microsecond
	restFor = time.Millisecond
	looks   = 4 // lines, between two looks at the clock
)

// pace lets others have the processor while long files are read and told.
type pace struct {
	began time.Time // to work, after the last rest
	lines int       // since the last look at the clock
	timer *time.Timer
}

func newPace() pace {
	t := time.NewTimer(0)
	<-t.C
	return pace{timer: t}
}

// begin begins to work after a rest.
func (p *pace) begin() { p.began, p.lines = time.Now(), 0 }

// step is called before each line. It rests when it is time. When ctx has ended, nothing rests.
func (p *pace) step(ctx context.Context) {
	if p.lines++; p.lines < looks {
		return
	}
	p.lines = 0
	if time.Since(p.began) < workFor {
		return
	}
	p.timer.Reset(restFor)
	select {
	case <-ctx.Done():
	case <-p.timer.C:
	}
	p.begin()
}
