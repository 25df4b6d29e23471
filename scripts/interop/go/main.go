// Interoperability cases of the Go client (nats.go). See ../README.md for what each case promises
// and for the lines a program exchanges with scripts/interop.sh.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	waitMax            = 10 * time.Second
	queueMembers       = 24
	queueMessages      = 2400
	queueShareMin      = 50
	queueShareMax      = 150
	fenceRounds        = 1000
	fencePairs         = 4
	publishedMessages  = 1000
	requestCount       = 100
	drainedMessages    = 500
	drainRounds        = 10
	reconnectWait      = 100 * time.Millisecond
	noRespondersMaxAge = 2 * time.Second
)

var url = os.Getenv("NATS_URL")

func connect(options ...nats.Option) (*nats.Conn, error) {
	options = append([]nats.Option{nats.Name("interop-go"), nats.Timeout(waitMax)}, options...)
	return nats.Connect(url, options...)
}

// control asks the script to do something to the server and waits until it is done.
func control(verb string) error {
	fmt.Println("CONTROL", verb)
	line, err := standardInput.ReadString('\n')
	if err != nil {
		return err
	}
	if strings.TrimSpace(line) != "done" {
		return fmt.Errorf("the script answered %q", line)
	}
	return nil
}

var standardInput = bufio.NewReader(os.Stdin)

func waitFor(what string, signal <-chan struct{}) error {
	select {
	case <-signal:
		return nil
	case <-time.After(waitMax):
		return fmt.Errorf("no %s within %v", what, waitMax)
	}
}

// notify never blocks: the client calls it from its own goroutine.
func notify(signal chan struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}

func publishSubscribe() error {
	subscriber, err := connect()
	if err != nil {
		return err
	}
	defer subscriber.Close()
	publisher, err := connect()
	if err != nil {
		return err
	}
	defer publisher.Close()
	subscription, err := subscriber.SubscribeSync("go.publish")
	if err != nil {
		return err
	}
	if err := subscriber.Flush(); err != nil {
		return err
	}
	for number := range publishedMessages {
		if err := publisher.Publish("go.publish", fmt.Appendf(nil, "message %d", number)); err != nil {
			return err
		}
	}
	if err := publisher.Publish("go.publish", nil); err != nil {
		return err
	}
	for number := range publishedMessages {
		message, err := subscription.NextMsg(waitMax)
		if err != nil {
			return err
		}
		if expected := fmt.Sprintf("message %d", number); string(message.Data) != expected {
			return fmt.Errorf("expected %q, got %q", expected, message.Data)
		}
	}
	message, err := subscription.NextMsg(waitMax)
	if err != nil {
		return err
	}
	if len(message.Data) != 0 {
		return fmt.Errorf("expected an empty payload, got %q", message.Data)
	}
	return nil
}

func wildcards() error {
	connection, err := connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	star, err := connection.SubscribeSync("go.wild.*.price")
	if err != nil {
		return err
	}
	tail, err := connection.SubscribeSync("go.wild.>")
	if err != nil {
		return err
	}
	for _, subject := range []string{
		"go.wild", "go.wild.usd", "go.wild.usd.price", "go.wild.usd.eur.price", "go.wild.last.price",
	} {
		if err := connection.Publish(subject, nil); err != nil {
			return err
		}
	}
	if err := expectSubjects(star, "go.wild.usd.price", "go.wild.last.price"); err != nil {
		return fmt.Errorf("go.wild.*.price: %w", err)
	}
	err = expectSubjects(tail,
		"go.wild.usd", "go.wild.usd.price", "go.wild.usd.eur.price", "go.wild.last.price")
	if err != nil {
		return fmt.Errorf("go.wild.>: %w", err)
	}
	return nil
}

func expectSubjects(subscription *nats.Subscription, expected ...string) error {
	var received []string
	for len(received) == 0 || received[len(received)-1] != expected[len(expected)-1] {
		message, err := subscription.NextMsg(waitMax)
		if err != nil {
			return err
		}
		received = append(received, message.Subject)
	}
	if !slices.Equal(received, expected) {
		return fmt.Errorf("expected %v, got %v", expected, received)
	}
	return nil
}

func requestReply() error {
	responder, err := connect()
	if err != nil {
		return err
	}
	defer responder.Close()
	requester, err := connect()
	if err != nil {
		return err
	}
	defer requester.Close()
	_, err = responder.Subscribe("go.service", func(message *nats.Msg) {
		_ = message.Respond(append([]byte("reply to "), message.Data...))
	})
	if err != nil {
		return err
	}
	if err := responder.Flush(); err != nil {
		return err
	}
	for number := range requestCount {
		reply, err := requester.Request("go.service", fmt.Appendf(nil, "%d", number), waitMax)
		if err != nil {
			return fmt.Errorf("request %d: %w", number, err)
		}
		if expected := fmt.Sprintf("reply to %d", number); string(reply.Data) != expected {
			return fmt.Errorf("expected %q, got %q", expected, reply.Data)
		}
	}
	return nil
}

func noResponders() error {
	connection, err := connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	started := time.Now()
	_, err = connection.Request("go.nobody", []byte("anyone?"), waitMax)
	if !errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("expected no responders, got %v", err)
	}
	if age := time.Since(started); age > noRespondersMaxAge {
		return fmt.Errorf("no responders was reported only after %v", age)
	}
	return nil
}

func queueGroups() error {
	var total, plain atomic.Int64
	counts := make([]atomic.Int64, queueMembers)
	members := make([]*nats.Conn, 0, queueMembers)
	defer func() {
		for _, member := range members {
			member.Close()
		}
	}()
	for index := range queueMembers {
		member, err := connect()
		if err != nil {
			return err
		}
		members = append(members, member)
		_, err = member.QueueSubscribe("go.work", "workers", func(*nats.Msg) {
			counts[index].Add(1)
			total.Add(1)
		})
		if err != nil {
			return err
		}
		if err := member.Flush(); err != nil {
			return err
		}
	}
	publisher, err := connect()
	if err != nil {
		return err
	}
	defer publisher.Close()
	if _, err := publisher.Subscribe("go.work", func(*nats.Msg) { plain.Add(1) }); err != nil {
		return err
	}
	for range queueMessages {
		if err := publisher.Publish("go.work", []byte("work")); err != nil {
			return err
		}
	}
	if err := publisher.Flush(); err != nil {
		return err
	}
	deadline := time.Now().Add(waitMax)
	for (total.Load() < queueMessages || plain.Load() < queueMessages) && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	// A second copy would be on its way before these answers.
	for _, member := range members {
		if err := member.Flush(); err != nil {
			return err
		}
	}
	if total.Load() != queueMessages || plain.Load() != queueMessages {
		return fmt.Errorf("%d messages: the group got %d, a plain subscriber %d",
			queueMessages, total.Load(), plain.Load())
	}
	for index := range counts {
		if count := counts[index].Load(); count < queueShareMin || count > queueShareMax {
			return fmt.Errorf("member %d of %d got %d of %d messages", index, queueMembers, count, queueMessages)
		}
	}
	return nil
}

func headers() error {
	subscriber, err := connect()
	if err != nil {
		return err
	}
	defer subscriber.Close()
	publisher, err := connect()
	if err != nil {
		return err
	}
	defer publisher.Close()
	subscription, err := subscriber.SubscribeSync("go.headers")
	if err != nil {
		return err
	}
	if err := subscriber.Flush(); err != nil {
		return err
	}
	for _, payload := range []string{"with a payload", ""} {
		message := nats.NewMsg("go.headers")
		message.Header.Add("Accept", "first")
		message.Header.Add("Accept", "second")
		message.Header["trace-ID"] = []string{"a: b, c"}
		message.Data = []byte(payload)
		if err := publisher.PublishMsg(message); err != nil {
			return err
		}
		received, err := subscription.NextMsg(waitMax)
		if err != nil {
			return err
		}
		if string(received.Data) != payload {
			return fmt.Errorf("expected payload %q, got %q", payload, received.Data)
		}
		if values := received.Header.Values("Accept"); !slices.Equal(values, []string{"first", "second"}) {
			return fmt.Errorf("Accept is %q", values)
		}
		if values := received.Header["trace-ID"]; !slices.Equal(values, []string{"a: b, c"}) {
			return fmt.Errorf("trace-ID is %q", values)
		}
	}
	return nil
}

func flushFence() error {
	var subscribers, publishers []*nats.Conn
	for range fencePairs {
		for _, side := range []*[]*nats.Conn{&subscribers, &publishers} {
			connection, err := connect()
			if err != nil {
				return err
			}
			defer connection.Close()
			*side = append(*side, connection)
		}
	}
	for round := range fenceRounds {
		// Every subscriber meets every publisher.
		subscriber := subscribers[round%fencePairs]
		publisher := publishers[round/fencePairs%fencePairs]
		subject := fmt.Sprintf("go.fence.%d", round)
		subscription, err := subscriber.SubscribeSync(subject)
		if err != nil {
			return err
		}
		if err := subscriber.Flush(); err != nil {
			return err
		}
		if err := publisher.Publish(subject, []byte("x")); err != nil {
			return err
		}
		if _, err := subscription.NextMsg(waitMax); err != nil {
			return fmt.Errorf("round %d: the message was lost: %w", round, err)
		}
		if err := subscription.Unsubscribe(); err != nil {
			return err
		}
	}
	return nil
}

// drain begins when the publisher's flush is over: from then on nothing may overtake its messages.
// A race does not show every time, hence the rounds.
func drain() error {
	for round := range drainRounds {
		if err := drainOnce(); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	return nil
}

func drainOnce() error {
	closed := make(chan struct{}, 1)
	subscriber, err := connect(nats.ClosedHandler(func(*nats.Conn) { notify(closed) }))
	if err != nil {
		return err
	}
	defer subscriber.Close()
	publisher, err := connect()
	if err != nil {
		return err
	}
	defer publisher.Close()
	var received atomic.Int64
	_, err = subscriber.Subscribe("go.drain", func(*nats.Msg) {
		time.Sleep(100 * time.Microsecond) // a handler that is still busy when the drain begins
		received.Add(1)
	})
	if err != nil {
		return err
	}
	if err := subscriber.Flush(); err != nil {
		return err
	}
	for range drainedMessages {
		if err := publisher.Publish("go.drain", []byte("x")); err != nil {
			return err
		}
	}
	if err := publisher.Flush(); err != nil {
		return err
	}
	if err := subscriber.Drain(); err != nil {
		return err
	}
	if err := waitFor("close after the drain", closed); err != nil {
		return err
	}
	if received.Load() != drainedMessages {
		return fmt.Errorf("%d of %d messages were handled", received.Load(), drainedMessages)
	}
	return nil
}

func maxPayload() error {
	subscriber, err := connect()
	if err != nil {
		return err
	}
	defer subscriber.Close()
	publisher, err := connect()
	if err != nil {
		return err
	}
	defer publisher.Close()
	subscription, err := subscriber.SubscribeSync("go.large")
	if err != nil {
		return err
	}
	if err := subscriber.Flush(); err != nil {
		return err
	}
	payload := make([]byte, publisher.MaxPayload())
	for index := range payload {
		payload[index] = byte(index % 251)
	}
	if err := publisher.Publish("go.large", payload); err != nil {
		return err
	}
	message, err := subscription.NextMsg(waitMax)
	if err != nil {
		return err
	}
	if !bytes.Equal(message.Data, payload) {
		return fmt.Errorf("a payload of %d bytes came back as %d other bytes", len(payload), len(message.Data))
	}
	if err := publisher.Publish("go.large", append(payload, 0)); !errors.Is(err, nats.ErrMaxPayload) {
		return fmt.Errorf("one byte more: expected the max payload error, got %v", err)
	}
	if err := publisher.Publish("go.large", []byte("still here")); err != nil {
		return err
	}
	if message, err = subscription.NextMsg(waitMax); err != nil {
		return err
	}
	if string(message.Data) != "still here" {
		return fmt.Errorf("expected %q, got %d bytes", "still here", len(message.Data))
	}
	return nil
}

// reconnecting is a connection that subscribes to subject and tells of its ups and downs.
type reconnecting struct {
	connection   *nats.Conn
	subscription *nats.Subscription
	disconnected chan struct{}
	reconnected  chan struct{}
	lameDuck     chan struct{}
	subject      string
}

func connectReconnecting(subject string) (*reconnecting, error) {
	peer := &reconnecting{
		disconnected: make(chan struct{}, 1),
		reconnected:  make(chan struct{}, 1),
		lameDuck:     make(chan struct{}, 1),
		subject:      subject,
	}
	var err error
	peer.connection, err = connect(
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { notify(peer.disconnected) }),
		nats.ReconnectHandler(func(*nats.Conn) { notify(peer.reconnected) }),
		nats.LameDuckModeHandler(func(*nats.Conn) { notify(peer.lameDuck) }),
	)
	if err != nil {
		return nil, err
	}
	if peer.subscription, err = peer.connection.SubscribeSync(subject); err != nil {
		return nil, err
	}
	return peer, peer.connection.Flush()
}

// restart has the script restart the server; afterwards the old subscription must work again.
func (peer *reconnecting) restart() error {
	if err := control("restart"); err != nil {
		return err
	}
	if err := waitFor("disconnected callback", peer.disconnected); err != nil {
		return err
	}
	if err := waitFor("reconnected callback", peer.reconnected); err != nil {
		return err
	}
	if err := peer.connection.Publish(peer.subject, []byte("again")); err != nil {
		return err
	}
	message, err := peer.subscription.NextMsg(waitMax)
	if err != nil {
		return fmt.Errorf("after the restart: %w", err)
	}
	if string(message.Data) != "again" {
		return fmt.Errorf("after the restart: got %q", message.Data)
	}
	return nil
}

func reconnect() error {
	peer, err := connectReconnecting("go.reconnect")
	if err != nil {
		return err
	}
	defer peer.connection.Close()
	return peer.restart()
}

func lameDuck() error {
	peer, err := connectReconnecting("go.lame_duck")
	if err != nil {
		return err
	}
	defer peer.connection.Close()
	if err := control("lame_duck"); err != nil {
		return err
	}
	if err := waitFor("lame duck callback", peer.lameDuck); err != nil {
		return err
	}
	return peer.restart()
}

func closeCallbacks() error {
	closed := make(chan struct{}, 1)
	disconnected := make(chan struct{}, 1)
	connection, err := connect(
		nats.ClosedHandler(func(*nats.Conn) { notify(closed) }),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { notify(disconnected) }),
	)
	if err != nil {
		return err
	}
	if err := connection.Flush(); err != nil {
		return err
	}
	connection.Close()
	if err := waitFor("disconnected callback", disconnected); err != nil {
		return err
	}
	if err := waitFor("closed callback", closed); err != nil {
		return err
	}
	if err := connection.Publish("go.closed", nil); !errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("publishing on a closed connection: %v", err)
	}
	return nil
}

func main() {
	cases := map[string]func() error{
		"publish_subscribe": publishSubscribe,
		"wildcards":         wildcards,
		"request_reply":     requestReply,
		"no_responders":     noResponders,
		"queue_groups":      queueGroups,
		"headers":           headers,
		"flush_fence":       flushFence,
		"drain":             drain,
		"max_payload":       maxPayload,
		"reconnect":         reconnect,
		"lame_duck":         lameDuck,
		"close_callbacks":   closeCallbacks,
	}
	for _, name := range strings.Fields(os.Getenv("INTEROP_CASES")) {
		run, known := cases[name]
		if !known {
			fmt.Println("RESULT", name, "fail", "this program has no such case")
		} else if err := run(); err != nil {
			fmt.Println("RESULT", name, "fail", strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println("RESULT", name, "pass")
		}
	}
}
