package main

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// load is the same traffic on either server: clients in two accounts, subscriptions, a queue group, messages,
// a client that has left, and one that was refused.
type load struct {
	system *nats.Conn
	events *nats.Subscription
	seen   []*nats.Msg
	open   []*nats.Conn
	// A client that has left.
	leaver uint64
	// One that is there.
	member uint64
	id     string
}

func connect(url, user, password, name string) (*nats.Conn, error) {
	return nats.Connect(url, nats.UserInfo(user, password), nats.Name(name), nats.NoReconnect(),
		nats.Timeout(waitMax), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
}

func startLoad(url string) (*load, error) {
	one := &load{}
	var err error
	if one.system, err = connect(url, "sys", "sys", "observer"); err != nil {
		return one, err
	}
	one.id = one.system.ConnectedServerId()
	if one.events, err = one.system.SubscribeSync("$SYS.>"); err != nil {
		return one, err
	}
	if err = one.system.Flush(); err != nil {
		return one, err
	}
	member, err := connect(url, "a", "a", "member")
	if err != nil {
		return one, err
	}
	one.open = append(one.open, member)
	if one.member, err = member.GetClientID(); err != nil {
		return one, err
	}
	for _, filter := range []string{"work.*", "work.>", "other"} {
		if _, err = member.SubscribeSync(filter); err != nil {
			return one, err
		}
	}
	queue, err := member.QueueSubscribeSync("work.*", "crew")
	if err != nil {
		return one, err
	}
	if err = queue.AutoUnsubscribe(1000); err != nil {
		return one, err
	}
	other, err := connect(url, "b", "b", "other")
	if err != nil {
		return one, err
	}
	one.open = append(one.open, other)
	leaver, err := connect(url, "a", "a", "leaver")
	if err != nil {
		return one, err
	}
	if one.leaver, err = leaver.GetClientID(); err != nil {
		return one, err
	}
	if _, err = leaver.SubscribeSync("left"); err != nil {
		return one, err
	}
	for number := range 100 {
		if err = leaver.Publish("work.done", fmt.Appendf(nil, "message %d", number)); err != nil {
			return one, err
		}
	}
	for _, connection := range []*nats.Conn{member, other, leaver} {
		if err = connection.Flush(); err != nil {
			return one, err
		}
	}
	leaver.Close()
	if refused, err := connect(url, "a", "wrong", "refused"); err == nil {
		refused.Close()
		return one, fmt.Errorf("a wrong password was taken")
	}
	return one, nil
}

// event waits for an event whose subject has this pattern.
func (one *load) event(pattern func(subject string) bool) ([]byte, error) {
	for _, message := range one.seen {
		if pattern(message.Subject) {
			return message.Data, nil
		}
	}
	// Statistics come every ten seconds.
	deadline := time.Now().Add(2 * waitMax)
	for time.Now().Before(deadline) {
		message, err := one.events.NextMsg(time.Until(deadline))
		if err != nil {
			break
		}
		one.seen = append(one.seen, message)
		if pattern(message.Subject) {
			return message.Data, nil
		}
	}
	subjects := []string{}
	for _, message := range one.seen {
		subjects = append(subjects, message.Subject)
	}
	return nil, fmt.Errorf("the event did not come; there were %q", subjects)
}

func (one *load) end() {
	for _, connection := range append(one.open, one.system) {
		if connection != nil {
			connection.Close()
		}
	}
}
