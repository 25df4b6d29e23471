package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// check is one thing that a server says, and nats-server's type for it.
type check struct {
	name   string
	get    func(*side) ([]byte, error)
	decode func([]byte) error
	// The field that is our own.
	ours string
}

// into decodes one JSON value with unknown fields refused.
func into[T any](body []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	var value T
	if err := decoder.Decode(&value); err != nil {
		return err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return fmt.Errorf("more than one value")
	}
	return nil
}

// reply is nats-server's envelope around data of one type.
type reply[T any] struct {
	Server *server.ServerInfo `json:"server"`
	Data   *T                 `json:"data,omitempty"`
	Error  *server.ApiError   `json:"error,omitempty"`
}

func page[T any](path string) check {
	return check{name: "GET " + path, decode: into[T], get: func(one *side) ([]byte, error) {
		client := http.Client{Timeout: waitMax}
		filled := fill(path, one)
		response, err := client.Get(one.monitor + filled)
		if err != nil {
			return nil, err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d: %s", response.StatusCode, shorten(body))
		}
		return body, err
	}}
}

func ask[T any](subject, body string) check {
	return asked[reply[T]](subject, body)
}

func asked[T any](subject, body string) check {
	name := strings.TrimSpace(subject + " " + body)
	return check{name: name, decode: into[T], get: func(one *side) ([]byte, error) {
		message, err := one.load.system.Request(fill(subject, one), []byte(fill(body, one)), waitMax)
		if err != nil {
			return nil, err
		}
		return message.Data, nil
	}}
}

// askedBy is asked by a user of another account.
func askedBy[T any](index int, subject string) check {
	name := fmt.Sprintf("%s by another account", subject)
	return check{name: name, decode: into[reply[T]], get: func(one *side) ([]byte, error) {
		message, err := one.load.open[index].Request(subject, nil, waitMax)
		if err != nil {
			return nil, err
		}
		return message.Data, nil
	}}
}

func told[T any](end string) check {
	return check{name: "event " + end, decode: into[T], get: func(one *side) ([]byte, error) {
		wanted := "$SYS." + fill(end, one)
		return one.load.event(func(subject string) bool { return subject == wanted })
	}}
}

// fill puts in what only a running server knows.
func fill(text string, one *side) string {
	return strings.NewReplacer(
		"<id>", one.load.id,
		"<member>", fmt.Sprint(one.load.member),
		"<leaver>", fmt.Sprint(one.load.leaver),
	).Replace(text)
}

func withOurs(one check, path string) check {
	one.ours = path
	return one
}

func checkNamed(name string) check {
	for _, one := range checks() {
		if one.name == name {
			return one
		}
	}
	panic("no check " + name)
}

func checks() []check {
	const ping, own, account = "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.<id>", "$SYS.REQ.ACCOUNT.A"
	return []check{
		withOurs(page[server.Varz]("/varz"), "midge"),
		page[server.Connz]("/connz"),
		page[server.Connz]("/connz?auth=1&subs=1"),
		page[server.Connz]("/connz?auth=1&subs=detail"),
		page[server.Connz]("/connz?state=closed&auth=1&subs=detail&cid=<leaver>"),
		page[server.Connz]("/connz?acc=NOBODY"),
		page[server.Subsz]("/subsz"),
		page[server.Subsz]("/subsz?subs=1&acc=A&test=work.done"),
		page[server.Routez]("/routez"),
		page[server.Leafz]("/leafz"),
		page[server.Gatewayz]("/gatewayz"),
		page[server.Accountz]("/accountz"),
		page[server.Accountz]("/accountz?acc=A"),
		page[server.Accountz]("/accountz?acc=SYS"),
		page[server.AccountStatz]("/accstatz"),
		page[server.AccountStatz]("/accstatz?unused=1"),
		page[server.HealthStatus]("/healthz"),
		page[server.JSInfo]("/jsz"),
		page[server.IpqueueszStatus]("/ipqueuesz"),

		asked[server.ServerStatsMsg](ping, ""),
		asked[server.ServerStatsMsg](ping+".STATSZ", `{"server_name":"interop"}`),
		asked[server.ServerID](ping+".IDZ", ""),
		withOurs(ask[server.Varz](ping+".VARZ", ""), "data.midge"),
		withOurs(ask[server.Varz](own+".VARZ", "{}"), "data.midge"),
		ask[server.Connz](ping+".CONNZ", ""),
		ask[server.Connz](own+".CONNZ", `{"auth":true,"subscriptions_detail":true}`),
		ask[server.Connz](own+".CONNZ", `{"auth":true,"subscriptions":true,"acc":"A","filter_subject":"work.x"}`),
		ask[server.Connz](own+".CONNZ", `{"cid":<leaver>,"state":1,"auth":true}`),
		ask[server.Subsz](own+".SUBSZ", `{"subscriptions":true,"account":"A","test":"work.done"}`),
		ask[server.Routez](own+".ROUTEZ", `{"subscriptions":true}`),
		ask[server.Leafz](own+".LEAFZ", ""),
		ask[server.Gatewayz](own+".GATEWAYZ", ""),
		ask[server.Accountz](own+".ACCOUNTZ", ""),
		ask[server.Accountz](own+".ACCOUNTZ", `{"account":"A"}`),
		ask[server.JSInfo](own+".JSZ", ""),
		ask[server.HealthStatus](own+".HEALTHZ", ""),
		ask[server.HealthStatus](own+".HEALTHZ", `{"stream":"x","details":true}`),
		ask[server.ProfilezStatus](own+".PROFILEZ", ""),
		ask[server.ExpvarzStatus](own+".EXPVARZ", ""),
		ask[server.IpqueueszStatus](own+".IPQUEUESZ", ""),
		ask[server.RaftzStatus](own+".RAFTZ", ""),

		ask[server.Connz](account+".CONNZ", ""),
		ask[server.Leafz](account+".LEAFZ", ""),
		ask[server.JSInfo](account+".JSZ", ""),
		ask[server.AccountInfo](account+".INFO", ""),
		ask[server.AccountStatz](account+".STATZ", ""),
		asked[server.AccountNumConns](account+".CONNS", ""),
		ask[server.AccountStatz]("$SYS.REQ.ACCOUNT.PING.STATZ", ""),
		ask[server.UserInfo]("$SYS.REQ.USER.INFO", ""),
		askedBy[server.UserInfo](0, "$SYS.REQ.USER.INFO"),
		askedBy[server.UserInfo](1, "$SYS.REQ.USER.INFO"),
		askedBy[server.Connz](0, "$SYS.REQ.SERVER.PING.CONNZ"),
		askedBy[server.Connz](0, "$SYS.REQ.ACCOUNT.PING.CONNZ"),
		askedBy[server.AccountStatz](0, "$SYS.REQ.ACCOUNT.PING.STATZ"),

		// Refusals.
		ask[server.Varz](own+".VARZ", "no JSON"),
		ask[server.Connz](own+".CONNZ", `{"limit":"x"}`),
		ask[server.Connz](own+".CONNZ", `{"sort":"zz"}`),
		ask[server.AccountInfo]("$SYS.REQ.ACCOUNT.NOBODY.INFO", ""),
		ask[server.Varz](own+".KICK", `{"cid":999999}`),
		ask[server.Varz](own+".LDM", `{"cid":999999}`),
		ask[server.Varz](own+".LDM", `{"cid":<member>}`),

		told[server.ConnectEventMsg]("ACCOUNT.A.CONNECT"),
		told[server.DisconnectEventMsg]("ACCOUNT.A.DISCONNECT"),
		told[server.DisconnectEventMsg]("SERVER.<id>.CLIENT.AUTH.ERR"),
		told[server.AccountNumConns]("ACCOUNT.A.SERVER.CONNS"),
		told[server.AccountNumConns]("SERVER.ACCOUNT.A.CONNS"),
		told[server.ServerStatsMsg]("SERVER.<id>.STATSZ"),
		// Ends one of the load's clients: the last of all.
		ask[server.Varz](own+".KICK", `{"cid":<member>}`),
	}
}
