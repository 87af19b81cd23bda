package nodesd

import (
	"context"
	"runtime"
	"time"
)

// restFor is how long a Reader rests after it has worked for a while. Go programs that have nothing
// else to do sleep for whole milliseconds.
const restFor = time.Millisecond

// pace lets others have the processor while long files are read and told. So a lookup that comes
// meanwhile waits for less time than it takes. 10,000 new lines take 2 or 3 s.
//
// Where there is one processor, every twentieth lookup waits, which p99 shows. There a Reader works
// for half the time between two rests, and takes twice as long.
type pace struct {
	workFor time.Duration // between two rests, about
	looks   int           // lines, between two looks at the clock
	began   time.Time     // to work, after the last rest
	lines   int           // since the last look at the clock
	timer   *time.Timer
}

func newPace() pace {
	p := pace{workFor: 50 * time.Microsecond, looks: 4, timer: time.NewTimer(0)}
	if runtime.GOMAXPROCS(0) == 1 {
		p.workFor, p.looks = 25*time.Microsecond, 2
	}
	<-p.timer.C
	return p
}

// begin begins to work after a rest.
func (p *pace) begin() { p.began, p.lines = time.Now(), 0 }

// step is called before each line. It rests when it is time. When ctx has ended, nothing rests.
func (p *pace) step(ctx context.Context) {
	if p.lines++; p.lines < p.looks {
		return
	}
	p.lines = 0
	if time.Since(p.began) < p.workFor {
		return
	}
	p.timer.Reset(restFor)
	select {
	case <-ctx.Done():
	case <-p.timer.C:
	}
	p.begin()
}
