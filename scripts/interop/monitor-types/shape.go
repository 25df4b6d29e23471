package main

import (
	"encoding/json"
	"fmt"
	"strings"
)

// optional fields depend on what happened so far, on timing, or on the Go runtime. Both servers leave them
// out at times; where they are there, they are decoded and their types compared.
var optional = []string{
	".data.gomemlimit", ".gomemlimit", ".statsz.gomemlimit",
	".git_commit", ".data.git_commit",
	// Measured at another moment.
	".client.rtt",
	// What happened to slow the client.
	".connections[].stalls", ".data.connections[].stalls",
	// A service import with a response under way.
	".account_detail.responses", ".data.responses",
	// nats-server offers this one as a service too; here it is the system account's alone.
	".data.memstats",
	// Its map of queues is empty when nothing waits.
	".System recvQ", ".data.System recvQ", ".System recvQ Pings", ".data.System recvQ Pings",
	".System sendQ", ".data.System sendQ",
}

func isOptional(path string) bool {
	for _, name := range optional {
		if path == name || strings.HasPrefix(path, name+".") {
			return true
		}
	}
	return false
}

func split(path string) []string {
	return strings.Split(path, ".")
}

// maps whose keys are data, not fields.
var byName = []string{".http_req_stats", ".data.http_req_stats"}

// shapeOf lists every field of an answer with its JSON type. Elements of a list count together.
func shapeOf(body []byte) (map[string]string, error) {
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return nil, fmt.Errorf("no JSON: %w in %s", err, shorten(body))
	}
	shape := map[string]string{}
	walk("", value, shape)
	return shape, nil
}

func walk(path string, value any, shape map[string]string) {
	note := func(kind string) {
		if known, there := shape[path]; !there || known == "null" {
			shape[path] = kind
		}
	}
	switch value := value.(type) {
	case nil:
		note("null")
	case bool:
		note("bool")
	case float64:
		note("number")
	case string:
		note("string")
	case []any:
		note("array")
		for _, element := range value {
			walk(path+"[]", element, shape)
		}
	case map[string]any:
		note("object")
		for key, element := range value {
			if contains(byName, path) {
				key = "*"
			}
			walk(path+"."+key, element, shape)
		}
	}
}

func contains(list []string, wanted string) bool {
	for _, one := range list {
		if one == wanted {
			return true
		}
	}
	return false
}
