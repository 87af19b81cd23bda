package epmd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	stagger = 100 * time.Millisecond // that an address may take before the next is tried too
	grace   = 500 * time.Millisecond // that others may take to know a node that one epmd does not
)

// AddrError is what came of one of several addresses.
type AddrError struct {
	Addr  netip.AddrPort
	Err   error
	After time.Duration // from the beginning of the try
}

// Error names the address.
func (e *AddrError) Error() string { return fmt.Sprintf("%v: %v", e.Addr, e.Err) }

// Unwrap returns the cause.
func (e *AddrError) Unwrap() error { return e.Err }

// AddrErrors is the error of several addresses none of which works. They are in the order in
// which they failed, but an ErrNotRegistered leads.
type AddrErrors []*AddrError

// Error names each address.
func (errs AddrErrors) Error() string {
	texts := make([]string, len(errs))
	for i, e := range errs {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns them all.
func (errs AddrErrors) Unwrap() []error {
	list := make([]error, len(errs))
	for i, e := range errs {
		list[i] = e
	}
	return list
}

// FirstOf tries the addresses in their order and returns the first success, else AddrErrors. It
// tries the next address when one has failed, or has taken 100 ms. After an ErrNotRegistered the
// others have 500 ms left. Further successes are given to discard.
//
// All calls of try have ended when FirstOf returns: their context ends then, or with ctx. A single
// address is tried in the caller's goroutine, which may be locked to a thread with a network of its
// own.
func FirstOf[T any](
	ctx context.Context, addrs []netip.AddrPort, try func(context.Context, netip.AddrPort) (T, error), discard func(T),
) (first T, err error) {
	switch len(addrs) {
	case 0:
		return first, errors.New("no address")
	case 1:
		only := tryOne(ctx, addrs[0], try)
		if only.err != nil {
			return first, AddrErrors{only.failed}
		}
		return only.value, nil
	}
	trying, cancel := context.WithCancel(ctx)
	r := race[T]{left: addrs, try: try, results: make(chan result[T], len(addrs))}
	defer func() {
		cancel()
		r.discardRest(discard)
	}()
	return r.run(trying)
}

// race is the tries of several addresses.
type race[T any] struct {
	left    []netip.AddrPort // not tried yet
	try     func(context.Context, netip.AddrPort) (T, error)
	tries   sync.WaitGroup
	results chan result[T] // one for each address
	errs    AddrErrors
}

// run returns the first success, else all errors. Tries may be under way still.
func (r *race[T]) run(ctx context.Context) (first T, err error) {
	next := time.NewTimer(0)
	defer next.Stop()
	var over <-chan time.Time
	for len(r.errs) < cap(r.results) {
		select {
		case <-next.C:
			if r.start(ctx) {
				next.Reset(stagger)
			}
		case res := <-r.results:
			if res.err == nil {
				return res.value, nil
			}
			if r.errs.add(res.failed) && over == nil {
				over = time.After(grace)
			}
			next.Reset(0)
		case <-over:
			return first, r.errs
		}
	}
	return first, r.errs
}

// start begins to try the next address. It reports whether there was one.
func (r *race[T]) start(ctx context.Context) bool {
	if len(r.left) == 0 {
		return false
	}
	addr := r.left[0]
	r.left = r.left[1:]
	r.tries.Go(func() { r.results <- tryOne(ctx, addr, r.try) })
	return true
}

// discardRest waits until all tries have ended, and discards what succeeded late.
func (r *race[T]) discardRest(discard func(T)) {
	r.tries.Wait()
	close(r.results)
	for res := range r.results {
		if res.err == nil {
			discard(res.value)
		}
	}
}

func tryOne[T any](ctx context.Context, addr netip.AddrPort, try func(context.Context, netip.AddrPort) (T, error)) result[T] {
	began := time.Now()
	value, err := try(ctx, addr)
	return result[T]{value, err, &AddrError{addr, err, time.Since(began)}}
}

type result[T any] struct {
	value  T
	err    error
	failed *AddrError // err, if that is one
}

// add adds an error and reports whether it is an ErrNotRegistered. The first of these leads.
func (errs *AddrErrors) add(e *AddrError) (absent bool) {
	absent = errors.Is(e, ErrNotRegistered)
	if absent && !errors.Is(*errs, ErrNotRegistered) {
		*errs = append(AddrErrors{e}, *errs...)
	} else {
		*errs = append(*errs, e)
	}
	return absent
}
