// Package gocheck is what the Go client tests share: the records that ../README.md defines, their tally, and the named
// checks. A check fails by a panic (Must, Equal, Fail); Main turns it into a line.
package gocheck

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
)

// CheckTimeout bounds each check, and with it every call that takes its context.
const CheckTimeout = 120 * time.Second

// Bootstrap is the broker under test.
var Bootstrap = os.Getenv("BOOTSTRAP")

// BaseMs is an hour ago: retention leaves the records alone and no broker takes them for records from the future.
var BaseMs = time.Now().UnixMilli() - 3_600_000

// Header is one record header.
type Header struct {
	Key   string
	Value []byte
}

// Record is record i of a topic: its value is null or empty now and then.
func Record(i int) (key, value []byte, headers []Header, timestamp time.Time) {
	switch i % 50 {
	case 0:
		value = []byte{}
	case 1:
		value = nil
	default:
		value = []byte(strings.Repeat(fmt.Sprintf("value-%d;", i), 1+i%40))
	}
	headers = []Header{{"n", []byte(strconv.Itoa(i))}, {"bin", []byte{0, byte(i), 255}}}
	return []byte(fmt.Sprintf("key-%d", i%17)), value, headers, time.UnixMilli(BaseMs + int64(i))
}

type place struct {
	partition int32
	offset    int64
}

// Tally holds what came out of a topic against what went in: each record once, unchanged, in order within its partition.
// It is used by several goroutines; what it finds wrong comes out of Expect.
type Tally struct {
	mu    sync.Mutex
	seen  map[int]place
	last  map[int32]place
	lastI map[int32]int
	wrong string
	// Duplicates: the producer may have written a record twice, as one without idempotence does when an answer is lost.
	Duplicates bool
}

// NewTally is an empty tally.
func NewTally() *Tally {
	return &Tally{seen: map[int]place{}, last: map[int32]place{}, lastI: map[int32]int{}}
}

// Add takes a record that must not have come before.
func (t *Tally) Add(partition int32, offset int64, key, value []byte, headers []Header, timestamp time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.add(place{partition, offset}, key, value, headers, timestamp)
}

// AddAgain is Add where a consumer may see an offset again: it lost its place with the broker and took its last commit.
func (t *Tally) AddAgain(partition int32, offset int64, key, value []byte, headers []Header, timestamp time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.last[partition]; ok && offset <= last.offset {
		return
	}
	t.add(place{partition, offset}, key, value, headers, timestamp)
}

func (t *Tally) add(at place, key, value []byte, headers []Header, timestamp time.Time) {
	if len(headers) == 0 {
		t.complain("a record without headers at %v", at)
		return
	}
	i, _ := strconv.Atoi(string(headers[0].Value))
	wantKey, wantValue, wantHeaders, wantTime := Record(i)
	same := bytes.Equal(key, wantKey) && bytes.Equal(value, wantValue) && (value == nil) == (wantValue == nil) &&
		len(headers) == len(wantHeaders) && timestamp.Equal(wantTime)
	for h := 0; same && h < len(headers); h++ {
		same = headers[h].Key == wantHeaders[h].Key && bytes.Equal(headers[h].Value, wantHeaders[h].Value)
	}
	if !same {
		t.complain("record %d came back as %q %q %q %v, not %q %q %q %v", i, key, value, headers, timestamp, wantKey, wantValue, wantHeaders, wantTime)
	}
	before, again := t.seen[i]
	if again && t.Duplicates {
		return
	}
	if again {
		t.complain("record %d twice: at %v and at %v", i, before, at)
	}
	if last, ok := t.last[at.partition]; ok && (at.offset <= last.offset || i <= t.lastI[at.partition]) {
		t.complain("record %d at %v after record %d at %v", i, at, t.lastI[at.partition], last)
	}
	t.seen[i], t.last[at.partition], t.lastI[at.partition] = at, at, i
}

func (t *Tally) complain(format string, args ...any) {
	if t.wrong == "" {
		t.wrong = fmt.Sprintf(format, args...)
	}
}

// Len is how many different records have come.
func (t *Tally) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.seen)
}

// Wait waits until n records have come or one was wrong.
func (t *Tally) Wait(n int) {
	Until(fmt.Sprintf("%d records", n), func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		return len(t.seen) >= n || t.wrong != ""
	})
	t.Expect(n)
}

// Expect fails the check unless records 0 to n-1 have come, each as it has to be.
func (t *Tally) Expect(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wrong != "" {
		Fail("%s", t.wrong)
	}
	for i := range n {
		if _, ok := t.seen[i]; !ok || len(t.seen) != n {
			Fail("%d of %d records; record %d there: %v", len(t.seen), n, i, ok)
		}
	}
}

// Fail fails the check.
func Fail(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// Must fails the check on an error.
func Must(err error) {
	if err != nil {
		panic(err)
	}
}

// Get is Must for a call with a result.
func Get[T any](value T, err error) T {
	Must(err)
	return value
}

// Equal fails the check when the two differ as they are printed.
func Equal(what string, got, want any) {
	if g, w := fmt.Sprintf("%v", got), fmt.Sprintf("%v", want); g != w {
		Fail("%s: got %.500s, not %.500s", what, g, w)
	}
}

// Until asks until the condition holds.
func Until(what string, condition func() bool) {
	for deadline := time.Now().Add(60 * time.Second); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			Fail("%s: not within a minute", what)
		}
	}
}

// RestartBroker begins a restart of the broker, how being RESTART (SIGTERM) or CRASH (SIGKILL); the function returned waits
// for its end.
func RestartBroker(how string) (restarted func()) {
	command := exec.Command("sh", "-c", os.Getenv(how))
	Must(command.Start())
	return func() { Must(command.Wait()) }
}

type check struct {
	name string
	run  func(context.Context)
}

var checks []check

// Check registers a check; Main runs them in order.
func Check(name string, run func(context.Context)) { checks = append(checks, check{name, run}) }

// Main runs the checks (those named on the command line, else all), a line each, and ends the program.
func Main() {
	failed := 0
	for _, c := range checks {
		if !wanted(c.name) {
			continue
		}
		began := time.Now()
		if why := run(c); why != "" {
			failed++
			fmt.Printf("FAIL  %s: %.800s\n", c.name, strings.Join(strings.Fields(why), " "))
		} else {
			fmt.Printf("ok    %s (%.1f s)\n", c.name, time.Since(began).Seconds())
		}
	}
	if failed > 0 {
		os.Exit(1)
	}
	os.Exit(0)
}

func run(c check) string {
	ctx, cancel := context.WithTimeout(context.Background(), CheckTimeout)
	defer cancel()
	ended := make(chan string, 1)
	go func() {
		defer func() {
			why := ""
			if p := recover(); p != nil {
				why = fmt.Sprint(p)
				fmt.Fprintf(os.Stderr, "%s: %v\n%s\n", c.name, p, debug.Stack())
			}
			ended <- why
		}()
		c.run(ctx)
	}()
	select {
	case why := <-ended:
		return why
	case <-time.After(CheckTimeout + 10*time.Second):
		return "not done in time"
	}
}

func wanted(name string) bool {
	for _, w := range os.Args[1:] {
		if strings.Contains(name, w) {
			return true
		}
	}
	return len(os.Args) == 1
}
