// The hello world of the Go client: the default URL, one subscription, one message, a log line.
package main

import (
	"log"

	"github.com/nats-io/nats.go"
)

func main() {
	connection, err := nats.Connect(nats.DefaultURL)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	arrived := make(chan struct{})
	_, err = connection.Subscribe("hello", func(message *nats.Msg) {
		log.Printf("Received on [%s]: %s", message.Subject, message.Data)
		close(arrived)
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := connection.Publish("hello", []byte("Hello, NATS!")); err != nil {
		log.Fatal(err)
	}
	<-arrived
}
