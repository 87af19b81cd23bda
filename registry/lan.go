package registry

import (
	"fmt"
)

// LANState is how LAN discovery is doing. In the zero LANState nothing is wanted. Nor does it
// say that anything is off.
type LANState struct {
	Publishing Discovery // this host and its nodes are announced
	Browsing   Discovery // other hosts are looked for
}

// Discovery is how one part of LAN discovery is doing.
type Discovery struct {
	Wanted  bool
	Off     string // why the part is off; empty: it is on, or not wanted
	Waiting int    // service instances for which Avahi's limits leave no place

	// Unannounced is how many nodes mDNS leaves out, because a host announces at most 256
	// instances on each link. Hosts with Eclus know these nodes all the same.
	Unannounced int

	// Whose says which user has most of the places that there are, for instance "user 1000". It
	// is empty if nothing is left out, or the user is not known.
	Whose string
}

// Starting is why a part is off that has yet to run.
const Starting = "starting"

func (d Discovery) on() bool { return d.Wanted && d.Off == "" }

// Off returns why no part is on, or "" if one is.
func (l LANState) Off() string {
	switch {
	case l.Publishing.on() || l.Browsing.on():
		return ""
	case l.Browsing.Wanted && !l.Publishing.Wanted:
		return l.Browsing.Off
	}
	return l.Publishing.Off
}

// Unpublished returns why this host is not announced although it should be. It returns "" if no
// other hosts are looked for.
func (l LANState) Unpublished() string {
	if l.Off() != "" {
		return ""
	}
	return l.Publishing.Off
}

// String says in a few words how LAN discovery is doing.
func (l LANState) String() string {
	switch waiting := max(l.Publishing.Waiting, l.Browsing.Waiting); {
	case l.Off() != "":
		return "LAN discovery off: " + l.Off()
	case l.Publishing.Off != "":
		return "LAN discovery on, but this host is not announced: " + l.Publishing.Off
	case l.Browsing.Off != "":
		return "LAN discovery on, but no other hosts are looked for: " + l.Browsing.Off
	case waiting > 0:
		return fmt.Sprintf("LAN discovery on, %d past Avahi's limits", waiting) + l.Publishing.most()
	case l.Publishing.Unannounced > 0:
		return fmt.Sprintf("LAN discovery on, %d nodes not announced by mDNS", l.Publishing.Unannounced) + l.Publishing.most()
	}
	return "LAN discovery on"
}

// most says who has most places.
func (d Discovery) most() string {
	if d.Whose == "" {
		return ""
	}
	return " (" + d.Whose + " has most places)"
}

// SetLAN enters how LAN discovery is doing. Subscribers are told if that is another than before.
func (r *Registry) SetLAN(l LANState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lan == l {
		return
	}
	r.lan = l
	for _, s := range r.subscriptions {
		s.lan = true
		s.wake()
	}
}

// LAN returns how LAN discovery is doing.
func (r *Registry) LAN() LANState {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.lan
}
