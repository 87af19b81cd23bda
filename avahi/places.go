package avahi

import (
	"cmp"
	"container/list"
	"time"

	"github.com/goerlang/eclus/internal/places"
)

// Users share the places on a link. While there is room, a user may have any number of them. Once
// there is none, whoever has most gives places back, the last first, until nobody who waits has
// fewer by more than one.

// user is the user whose node an instance stands for.
type user int64

// hostItself has the host's own instance. It is no user.
const hostItself user = -1

// byUser has instances of each user, of type *publishedInstance.
type byUser map[user]*list.List

// list returns the instances of a user. More may be added.
func (b byUser) list(u user) *list.List {
	if b[u] == nil {
		b[u] = list.New()
	}
	return b[u]
}

// len returns how many instances of a user there are.
func (b byUser) len(u user) int {
	if b[u] == nil {
		return 0
	}
	return b[u].Len()
}

// sum returns how many instances there are.
func (b byUser) sum() (n int) {
	for _, l := range b {
		n += l.Len()
	}
	return n
}

// tidy forgets users without instances.
func (b byUser) tidy() {
	for u, l := range b {
		if l.Len() == 0 {
			delete(b, u)
		}
	}
}

// userOf returns the user as far as it is known.
func (e *publishedInstance) userOf() user {
	switch {
	case e.node == nil:
		return hostItself
	case e.node.Holder == nil:
		return user(places.Unknown)
	}
	return user(e.node.Holder.UID)
}

// isDue reports whether the instance waits for a place.
func (p *publishLink) isDue(e *publishedInstance) bool {
	return e.queue != nil && e.queue == p.due[e.user]
}

// awaitPlace has the instance wait for a place, behind the others of its user.
func (p *publishLink) awaitPlace(e *publishedInstance) {
	if u := e.userOf(); !p.isDue(e) || e.user != u {
		e.wait(nil)
		e.user = u
		e.wait(p.due.list(u))
	}
}

// placeDue gives places to instances that wait for one, as far as there are places and it is
// their turn. It returns when the next one's turn is; zero: turns are not what they wait for.
func (p *publishLink) placeDue(now time.Time) (next time.Time) {
	for e := p.nextDue(); e != nil; e = p.nextDue() {
		var giver *publishedInstance
		if !p.hasRoom() || p.all.connection() == nil {
			giver = p.giver(e.user)
		}
		if giver == nil && !p.hasRoom() {
			break
		}
		if next := p.turns.next(); next.After(now) {
			return next
		}
		if giver != nil {
			p.takeBack(giver)
		}
		if !p.place(e) {
			break
		}
		p.turns.take(now)
	}
	return time.Time{}
}

// nextDue returns the instance that gets the next place, nil if none waits. Its user has fewest
// places. Of several users' it is the one that waits for longest.
func (p *publishLink) nextDue() (next *publishedInstance) {
	p.due.tidy()
	for _, l := range p.due {
		e := first(l)
		order := -1
		if next != nil {
			order = cmp.Or(cmp.Compare(p.placed.len(e.user), p.placed.len(next.user)), e.since.Compare(next.since))
		}
		if order < 0 {
			next = e
		}
	}
	return next
}

// giver returns the instance whose place goes to a user when there is no other. It is the last
// of whoever has most. nil: the user has as many.
func (p *publishLink) giver(to user) *publishedInstance {
	greedy, his := p.placed.greediest()
	if his <= p.placed.len(to)+1 {
		return nil
	}
	for el := p.placed[greedy].Back(); el != nil; el = el.Prev() {
		if e := el.Value.(*publishedInstance); e.group != "" {
			return e
		}
	}
	return nil // until Avahi has made a group for one
}

// greediest returns the user who has most, of several the one with the lowest number.
func (b byUser) greediest() (greedy user, most int) {
	greedy = user(places.Unknown)
	for u, l := range b {
		if u != hostItself && (l.Len() > most || l.Len() == most && u < greedy) {
			greedy, most = u, l.Len()
		}
	}
	return greedy, most
}

// takeBack takes a place back. The instance waits for another, before all of its user.
func (p *publishLink) takeBack(e *publishedInstance) {
	p.all.sayShared(e.user)
	p.drop(e)
	again := &publishedInstance{link: p, node: e.node, since: e.since}
	p.instances[e.node.ID] = again
	p.awaitPlace(again)
	again.queue.MoveToFront(again.elem)
}

// hasRoom reports whether another node may be announced. The host's own instance has its place.
func (p *publishLink) hasRoom() bool {
	return p.placed.sum()-p.placed.len(hostItself) < p.all.part.maxInstances-1
}

// enter notes that the instance has a place on a connection.
func (p *publishLink) enter(e *publishedInstance, c *client) {
	e.wait(nil)
	e.client, e.user = c, e.userOf()
	c.objects++
	e.placed = p.placed.list(e.user).PushBack(e)
}

// unplace takes note that the instance has no place any more.
func (p *publishLink) unplace(e *publishedInstance) {
	e.client.objects--
	e.client = nil
	p.placed[e.user].Remove(e.placed)
	p.placed.tidy()
}

// setUser notes whose an instance with a place is, once that is known.
func (p *publishLink) setUser(e *publishedInstance) {
	if u := e.userOf(); e.user != u {
		p.placed[e.user].Remove(e.placed)
		p.placed.tidy()
		e.user = u
		e.placed = p.placed.list(u).PushBack(e)
	}
}

// whose returns what a log calls whoever has most places, "" if that is not known.
func (p *publishLink) whose() string {
	u, _ := p.placed.greediest()
	if u == user(places.Unknown) {
		return ""
	}
	return places.UserName(uint32(u))
}
