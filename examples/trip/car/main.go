// The car rental of the trip: a participant in one file. The rules that it keeps are those of docs/participants.md.
//
//	go run . 127.0.0.1:9092 car.db      (Kafka's address, the file of its table)
//
// No car is left in the city NOC.
package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
	_ "modernc.org/sqlite"
)

const (
	rent, giveBack = "trip.car.rent.command", "trip.car.return.command"
	replies        = "trip.replies"
	table          = `CREATE TABLE IF NOT EXISTS rentals (
		trip_id     TEXT PRIMARY KEY,
		saga_id     TEXT NOT NULL,
		asked       TEXT NOT NULL,  -- what was to be rented; empty where the return came first
		status      TEXT NOT NULL CHECK (status IN ('RENTED', 'NONE', 'RETURNED')),
		booking_ref TEXT NOT NULL,
		reason      TEXT NOT NULL,  -- why it is not rented
		decided_at  TEXT NOT NULL)`
)

// Fields that it does not know are ignored.
type command struct {
	EventID, SagaID, TripID uuid.UUID
	Payload                 *struct{ Driver, City, From, Until string }
}

type rental struct{ asked, status, bookingRef, reason, decidedAt string }

var errContradiction = errors.New("the command contradicts its row and gets no reply")

// The row after a command: the same row, where the command was carried out before.
func decide(topic string, c command, sagaID string, row *rental) (rental, error) {
	asked := ""
	if topic == rent {
		text, _ := json.Marshal(c.Payload)
		asked = string(text)
	}
	now := time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
	switch {
	case row != nil && (sagaID != c.SagaID.String() || (asked != "" && row.asked != "" && asked != row.asked)):
		return rental{}, errContradiction
	case topic == rent && row != nil:
		return *row, nil
	case topic == rent && c.Payload.City == "NOC":
		return rental{asked, "NONE", "", "no car is left", now}, nil
	case topic == rent:
		return rental{asked, "RENTED", "C-" + rand.Text()[:8], "", now}, nil
	case row == nil: // A tombstone: the rental that comes later is refused.
		return rental{asked, "RETURNED", "", "returned before it was rented", now}, nil
	case row.status == "RENTED":
		return rental{row.asked, "RETURNED", row.bookingRef, "it was returned", now}, nil
	}
	return *row, nil
}

// The event that answers a command: a function of the command and the row, and so the same each time.
func reply(topic string, c command, row rental) *kgo.Record {
	event, payload := "trip.car.none", map[string]string{"reason": row.reason}
	if topic == giveBack {
		event, payload = "trip.car.returned", map[string]string{}
	} else if row.status == "RENTED" {
		event, payload = "trip.car.rented", map[string]string{"bookingRef": row.bookingRef}
	}
	id := uuid.NewSHA1(c.EventID, []byte(event)).String()
	body, _ := json.Marshal(map[string]any{
		"eventId": id, "causationId": c.EventID, "sagaId": c.SagaID, "tripId": c.TripID,
		"timestamp": row.decidedAt, "payload": payload,
	})
	record := &kgo.Record{Topic: replies, Key: []byte(c.SagaID.String()), Value: body}
	for _, header := range [][2]string{
		{"content-type", "application/json"}, {"ce_specversion", "1.0"}, {"ce_id", id}, {"ce_type", event},
		{"ce_source", "/trip-car"}, {"ce_time", row.decidedAt},
	} {
		record.Headers = append(record.Headers, kgo.RecordHeader{Key: header[0], Value: []byte(header[1])})
	}
	return record
}

func store(ctx context.Context, db *sql.DB, topic string, c command) (row rental, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return row, err
	}
	defer tx.Rollback()
	var stored *rental
	var sagaID string
	found := tx.QueryRow("SELECT saga_id, asked, status, booking_ref, reason, decided_at FROM rentals WHERE trip_id = ?",
		c.TripID.String()).Scan(&sagaID, &row.asked, &row.status, &row.bookingRef, &row.reason, &row.decidedAt)
	if found == nil {
		stored = &row
	} else if found != sql.ErrNoRows {
		return row, found
	}
	if row, err = decide(topic, c, sagaID, stored); err != nil {
		return row, err
	}
	_, err = tx.Exec("REPLACE INTO rentals VALUES (?, ?, ?, ?, ?, ?, ?)", c.TripID.String(), c.SagaID.String(),
		row.asked, row.status, row.bookingRef, row.reason, row.decidedAt)
	if err != nil {
		return row, err
	}
	return row, tx.Commit()
}

func handle(ctx context.Context, db *sql.DB, client *kgo.Client, record *kgo.Record) error {
	var c command
	err := json.Unmarshal(record.Value, &c)
	if err != nil || c.EventID == uuid.Nil || c.SagaID == uuid.Nil || c.TripID == uuid.Nil || c.Payload == nil {
		// Whatever is wrong with it: those behind it must get through.
		log.Printf("%s %d: no command: %v", record.Topic, record.Offset, err)
		return nil
	}
	row, err := store(ctx, db, record.Topic, c)
	if errors.Is(err, errContradiction) {
		log.Printf("trip %s: %v", c.TripID, err)
		return nil
	}
	if err != nil {
		return err
	}
	log.Printf("trip %s: %s", c.TripID, row.status)
	return client.ProduceSync(ctx, reply(record.Topic, c, row)).FirstErr()
}

func run(ctx context.Context, kafka, file string) error {
	db, err := sql.Open("sqlite", file+"?_txlock=immediate")
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err = db.Exec(table); err != nil {
		return err
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(kafka), kgo.ConsumerGroup("trip-car"), kgo.ConsumeTopics(rent, giveBack), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.SessionTimeout(6*time.Second),
		kgo.HeartbeatInterval(time.Second), kgo.FetchMaxWait(50*time.Millisecond), kgo.MetadataMaxAge(10*time.Second),
		// As Java's clients hash keys: the reply reaches the orchestrator that waits for it. And acks=all, by default.
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		// The embedded broker of `standalone` answers newer requests wrongly; every Kafka since 2.3 knows these.
		kgo.MaxVersions(kversion.V2_3_0()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		fetches.EachError(func(topic string, partition int32, err error) { log.Printf("%s %d: %v", topic, partition, err) })
		for _, record := range fetches.Records() {
			if err := handle(ctx, db, client, record); err != nil {
				return fmt.Errorf("%s %d: %w", record.Topic, record.Offset, err) // The command comes again.
			}
			if err := client.CommitRecords(ctx, record); err != nil {
				log.Printf("%v", err) // Its partition is another's by now: the command comes again, there.
			}
		}
	}
	return nil
}

func main() {
	log.SetPrefix("car ")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}
