// Checks a server's monitoring and $SYS subjects against nats-server's own types and answers.
//
// It puts the same load on a tested server and on a reference server, decodes every HTTP answer, every
// $SYS reply and every event of the tested one into the types that package server of nats-server exports,
// with unknown fields refused, and compares the fields and their JSON types with what the reference says
// under that load. It starts nothing itself: scripts/interop/system/main.sh says how it is called.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"
)

// side is one of the two servers.
type side struct {
	name    string
	url     string
	monitor string
	load    *load
}

// observation is one answer or event of a side, or why there is none.
type observation struct {
	body []byte
	err  error
}

var failures int

func fail(what, format string, arguments ...any) {
	failures++
	fmt.Printf("%s: %s\n", what, fmt.Sprintf(format, arguments...))
}

func main() {
	var tested, reference side
	tested.name, reference.name = "tested", "reference"
	flag.StringVar(&tested.url, "tested", "", "URL of the tested server, without a user")
	flag.StringVar(&tested.monitor, "tested-monitor", "", "its monitoring URL")
	flag.StringVar(&reference.url, "reference", "", "URL of a nats-server with the same configuration")
	flag.StringVar(&reference.monitor, "reference-monitor", "", "its monitoring URL")
	show := flag.Bool("show", false, "print what was compared")
	flag.Parse()
	if tested.url == "" || tested.monitor == "" || reference.url == "" || reference.monitor == "" {
		flag.Usage()
		os.Exit(2)
	}
	observations := map[string][2]observation{}
	order := []string{}
	for index, one := range []*side{&tested, &reference} {
		seen, names, err := observe(one)
		if err != nil {
			fail(one.name, "%v", err)
			continue
		}
		if index == 0 {
			order = names
		}
		for name, observation := range seen {
			pair := observations[name]
			pair[index] = observation
			observations[name] = pair
		}
	}
	for _, name := range order {
		pair := observations[name]
		compare(name, pair[0], pair[1])
		if *show {
			fmt.Printf("compared %s\n", name)
		}
	}
	if len(order) != len(checks()) && failures == 0 {
		fail("main", "only %d of %d answers were looked at", len(order), len(checks()))
	}
	fmt.Printf("%d answers compared, %d failures\n", len(order), failures)
	if failures > 0 {
		os.Exit(1)
	}
}

// observe puts the load on one side and collects everything it says.
func observe(one *side) (map[string]observation, []string, error) {
	var err error
	if one.load, err = startLoad(one.url); err != nil {
		return nil, nil, fmt.Errorf("the load cannot be started: %w", err)
	}
	defer one.load.end()
	seen := map[string]observation{}
	names := []string{}
	for _, check := range checks() {
		var observed observation
		observed.body, observed.err = check.get(one)
		seen[check.name] = observed
		names = append(names, check.name)
	}
	return seen, names, nil
}

func compare(name string, tested, reference observation) {
	if tested.err != nil || reference.err != nil {
		if tested.err != nil {
			fail(name, "the tested server: %v", tested.err)
		}
		if reference.err != nil {
			fail(name, "the reference: %v", reference.err)
		}
		return
	}
	check := checkNamed(name)
	body := tested.body
	if check.ours != "" {
		var err error
		if body, err = without(body, check.ours); err != nil {
			fail(name, "%v in %s", err, tested.body)
			return
		}
	}
	if err := check.decode(body); err != nil {
		fail(name, "does not decode into nats-server's type: %v in %s", err, shorten(body))
	}
	if err := check.decode(reference.body); err != nil {
		fail(name, "this program is wrong, the reference does not decode: %v", err)
	}
	ours, err := shapeOf(body)
	if err != nil {
		fail(name, "%v", err)
		return
	}
	theirs, err := shapeOf(reference.body)
	if err != nil {
		fail(name, "%v", err)
		return
	}
	for path, kind := range theirs {
		switch own, there := ours[path]; {
		case !there && !isOptional(path):
			fail(name, "%s (%s) is missing", path, kind)
		case there && own != kind && own != "null" && kind != "null":
			fail(name, "%s is %s, nats-server's is %s", path, own, kind)
		}
	}
	for path, kind := range ours {
		if _, there := theirs[path]; !there && !isOptional(path) {
			fail(name, "%s (%s) is not in nats-server's answer", path, kind)
		}
	}
}

// without takes a field of our own out of an object, at `field` or at `outer.field`.
func without(body []byte, path string) ([]byte, error) {
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return nil, err
	}
	object := value
	names := split(path)
	for _, name := range names[:len(names)-1] {
		fields, is := object.(map[string]any)
		if !is {
			return nil, fmt.Errorf("no object on the way to %s", path)
		}
		object = fields[name]
	}
	fields, is := object.(map[string]any)
	if !is {
		return nil, fmt.Errorf("no object on the way to %s", path)
	}
	delete(fields, names[len(names)-1])
	return json.Marshal(value)
}

func shorten(body []byte) string {
	const shown = 600
	if len(body) > shown {
		return string(body[:shown]) + "…"
	}
	return string(body)
}

// waitMax bounds every single wait.
const waitMax = 10 * time.Second
