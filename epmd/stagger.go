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

// AddrErrors is the error of several addresses none of which works, in the order in which they failed; an
// ErrNotRegistered leads.
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

// FirstOf calls try for each address in its order, the next one when one has failed or has taken 100 ms,
// and returns the first success, else AddrErrors. What succeeds besides is given to discard. All calls
// have ended when FirstOf returns: then, or when ctx ends, their context does. After an ErrNotRegistered
// the others have 500 ms left. A single address is tried in the caller's goroutine, which may be locked
// to a thread with a network of its own.
func FirstOf[T any](
	ctx context.Context, addrs []netip.AddrPort, try func(context.Context, netip.AddrPort) (T, error), discard func(T),
) (first T, err error) {
	switch len(addrs) {
	case 0:
		return first, errors.New("no address")
	case 1:
		r := tryOne(ctx, addrs[0], try)
		if r.err != nil {
			return first, AddrErrors{r.failed}
		}
		return r.value, nil
	}
	trying, cancel := context.WithCancel(ctx)
	var tries sync.WaitGroup
	results := make(chan result[T], len(addrs)) // each address sends once
	defer func() {
		cancel()
		tries.Wait()
		close(results)
		for r := range results {
			if r.err == nil {
				discard(r.value)
			}
		}
	}()
	next := time.NewTimer(0)
	defer next.Stop()
	var over <-chan time.Time
	var errs AddrErrors
	for left := addrs; len(errs) < len(addrs); {
		select {
		case <-next.C:
			if len(left) == 0 {
				continue
			}
			addr := left[0]
			left = left[1:]
			tries.Go(func() { results <- tryOne(trying, addr, try) })
			next.Reset(stagger)
		case r := <-results:
			if r.err == nil {
				return r.value, nil
			}
			if errs.add(r.failed) && over == nil {
				over = time.After(grace)
			}
			next.Reset(0)
		case <-over:
			return first, errs
		}
	}
	return first, errs
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
