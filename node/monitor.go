package node

import "github.com/goerlang/eclus/node/etf"

// Down says that a monitored or linked process has ended, or that nobody can tell any more.
type Down struct {
	Reason etf.Raw // the exit reason; the atom noproc for a process that was not there
	Err    error   // why nobody can tell, such as the end of the connection; without Reason
}

// Monitor watches a process of the peer.
type Monitor struct {
	conn *Conn
	ref  etf.Ref
	down chan Down
}

// Monitor watches the process pid.
func (c *Conn) Monitor(pid etf.Pid) (*Monitor, error) { return c.monitor(pid) }

// MonitorName watches the process that is registered under name at the peer.
func (c *Conn) MonitorName(name etf.Atom) (*Monitor, error) { return c.monitor(name) }

func (c *Conn) monitor(process any) (*Monitor, error) {
	down := make(chan Down, 1)
	ref, err := c.wait(process, func(o outcome) { down <- Down{o.term, o.err} })
	if err != nil {
		return nil, err
	}
	m, err := encodeMessage(etf.Tuple{opMonitor, c.pid, process, ref})
	if err := c.send(c.ctx, m, err); err != nil {
		c.take(ref)
		return nil, err
	}
	return &Monitor{c, ref, down}, nil
}

// Down returns a channel on which one Down comes, unless Stop has been called before. It has room
// for it.
func (m *Monitor) Down() <-chan Down { return m.down }

// Stop ends the watching. It may be called at any time.
func (m *Monitor) Stop() { m.conn.abandon(m.ref) }
