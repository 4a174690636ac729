//! What becomes of one record: its handler runs until it answers, its reply or its copy on the dead-letter topic is sent
//! until the broker acknowledges it, and then its offset may be committed.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use messages::dead_letter_topic;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaResult;
use tracing::{debug, error, info, warn};

use super::letters::{Copy, Letters, added_headers};
use super::member::{Member, Membership};
use super::offsets::TopicPartition;
use super::producer::{Delivery, Producer};
use super::{Handled, Handler, Record, Retry, spans};
use crate::batch::{Backoff, panic_text};
use crate::database::StoreError;
use crate::trace::{Span, Tracer};
use crate::{CancellationToken, Cause};

/// How often a record may fail by its own fault before it is set aside.
const MAX_REFUSALS: u32 = 5;

/// A log line for so many deliveries of one record that failed.
const WARN_EVERY: u32 = 5;

/// What the records of a consumer share.
pub(super) struct Shared<H> {
    pub handler: H,
    pub producer: Producer,
    pub membership: Arc<Membership>,
    pub tracer: Tracer,
    pub service: &'static str,
    pub letters: Letters,
    pub shutdown: CancellationToken,
}

/// The assignment that a record came by.
pub(super) struct Place {
    pub partition: TopicPartition,
    pub epoch: u64,
}

/// Sees one record through. Returns early, without storing its offset, only when the service stops or the partition
/// is no longer ours.
///
/// A record with a `flaw` is set aside without being handled.
pub(super) async fn process<H: Handler>(shared: Arc<Shared<H>>, record: Record, flaw: Option<String>, place: Place) {
    let span = spans::process(&shared.tracer, &record, shared.service);
    span.around(see_through(&shared, &record, flaw, &place, &span)).await;
}

async fn see_through<H: Handler>(
    shared: &Shared<H>,
    record: &Record,
    flaw: Option<String>,
    place: &Place,
    span: &Span,
) {
    let handled = match flaw {
        Some(flaw) => Some(Handled::DeadLetter(flaw)),
        None => shared.handle(record, place).await,
    };
    let Some(handled) = handled else { return };
    faults::reached("consumer.handled", &record.topic);
    let acknowledged = match &handled {
        Handled::Done => Some(()),
        Handled::Reply(reply) => {
            let acknowledged = shared.deliver(place, || shared.producer.send(reply)).await;
            faults::reached("consumer.answered", &record.topic);
            acknowledged
        }
        Handled::DeadLetter(why) => {
            span.fail(why);
            let (topic, partition, offset) = (&record.topic, record.partition, record.offset);
            let trace_id = record.trace_id();
            let acknowledged = match shared.letters.has(record, Instant::now()) {
                true => {
                    debug!(topic, partition, offset, %why, trace_id, "a copy of it was dead-lettered before");
                    Some(())
                }
                false => {
                    let acknowledged = shared.set_aside(record, place, why).await;
                    let stored = acknowledged.is_some();
                    error!(topic, partition, offset, %why, stored, trace_id, "dead-lettered");
                    acknowledged.inspect(|()| shared.letters.note(record, Instant::now()))
                }
            };
            faults::reached("consumer.dead-lettered", &record.topic);
            acknowledged
        }
    };
    if acknowledged.is_none() {
        return;
    }
    shared.membership.counts.count(&record.topic, |counts| match handled {
        Handled::Done => &counts.done,
        Handled::Reply(_) => &counts.replied,
        Handled::DeadLetter(_) => &counts.dead_lettered,
    });
    let Place { partition, epoch } = place;
    shared.membership.offsets.finished(partition, record.offset, *epoch, |position| {
        // rdkafka stores the given offset plus one. It fails for a partition that is no longer ours: rightly.
        shared.membership.current().map(|member| member.store_offset(&partition.0, partition.1, position - 1));
    });
}

impl<H: Handler> Shared<H> {
    /// Runs the handler until it answers. A record that fails by its own fault, a panic included, is tried a few
    /// times and then set aside.
    async fn handle(&self, record: &Record, place: &Place) -> Option<Handled> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let mut refusals = 0;
        loop {
            let attempt = async {
                faults::reached("consumer.received", &record.topic);
                self.handler.handle(record).await
            };
            let fault = match AssertUnwindSafe(attempt).catch_unwind().await {
                Ok(Ok(handled)) => return Some(handled),
                Ok(Err(Retry::Store(StoreError::Refused(cause)))) => Some(("the database refused", cause)),
                Ok(Err(retry)) => {
                    debug!(topic = record.topic, offset = record.offset, why = %retry, "trying again");
                    None
                }
                Err(panic) => Some(("the handler panicked", Cause::new(panic_text(&*panic)))),
            };
            if let Some((what, cause)) = fault {
                refusals += 1;
                if refusals >= MAX_REFUSALS {
                    // Clients can read letters, and not the log.
                    cause.log(what);
                    return Some(Handled::DeadLetter(format!("{what} ({cause})")));
                }
            }
            self.membership.counts.count(&record.topic, |counts| &counts.retries);
            self.pause(place, &mut backoff).await?;
        }
    }

    /// Sends a record to its dead-letter topic. While that does not take it, the record's partition is paused: what
    /// comes next may have to be set aside too, and would pile up. The other partitions go on.
    async fn set_aside(&self, record: &Record, place: &Place, why: &str) -> Option<()> {
        let send = || self.dead_letter(record, why);
        let Err(refused) = send().acknowledged().await else { return Some(()) };
        let Place { partition, epoch } = place;
        let one = || {
            let mut list = TopicPartitionList::new();
            list.add_partition(&partition.0, partition.1);
            list
        };
        self.membership.offsets.hold(partition, *epoch, || {
            let paused = self.on_member(|member| member.pause(&one()));
            let (topic, partition) = (&record.topic, record.partition);
            warn!(topic, partition, paused, why = refused, "a dead letter is not taken: its partition waits");
        });
        let acknowledged = self.deliver(place, send).await;
        self.membership.offsets.release(partition, *epoch, || {
            let resumed = self.on_member(|member| member.resume(&one()));
            info!(topic = record.topic, partition = record.partition, resumed, "dead letters are taken again");
        });
        acknowledged
    }

    /// Sends until the broker acknowledges.
    async fn deliver(&self, place: &Place, send: impl Fn() -> Delivery) -> Option<()> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        for tries in 1.. {
            let Err(why) = send().acknowledged().await else { break };
            if tries % WARN_EVERY == 0 {
                warn!(tries, %why, "Kafka does not take a record; sending again");
            }
            self.pause(place, &mut backoff).await?;
        }
        Some(())
    }

    /// `None` when the service stops, or when the partition was revoked: then the record is somebody else's.
    async fn pause(&self, place: &Place, backoff: &mut Backoff) -> Option<()> {
        tokio::select! {
            () = self.shutdown.cancelled() => None,
            () = tokio::time::sleep(backoff.delay()) => {
                self.membership.offsets.is_current(&place.partition, place.epoch).then_some(())
            }
        }
    }

    /// Whether there is a member, and it could do this.
    fn on_member(&self, act: impl FnOnce(&Member) -> KafkaResult<()>) -> bool {
        self.membership.current().is_some_and(|member| act(&member).is_ok())
    }

    /// Pauses all that is assigned, if too many records are in hand.
    pub fn pause_all(&self) {
        let pause = || self.on_member(|member| member.pause(&member.assignment()?));
        self.membership.offsets.pause_all(pause);
    }

    /// Resumes what is assigned, but for partitions that are held.
    pub fn resume_all(&self) {
        self.membership.offsets.resume_all(|is_held| {
            self.on_member(|member| {
                let mut free = TopicPartitionList::new();
                for element in member.assignment()?.elements() {
                    if !is_held(&(element.topic().to_owned(), element.partition())) {
                        free.add_partition(element.topic(), element.partition());
                    }
                }
                member.resume(&free)
            })
        });
    }

    /// The record as it came, if a topic takes it, with headers that say where from and why.
    fn dead_letter(&self, record: &Record, why: &str) -> Delivery {
        let Copy { key, body, headers, cut_from } = Copy::of(record);
        let mut added = added_headers(record, why, self.service).to_vec();
        added.extend(cut_from.map(|bytes| ("dlq_cut_from", bytes.to_string())));
        let original = headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        let headers = original.chain(added.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        self.producer.produce(&dead_letter_topic(&record.topic), key, body, headers)
    }
}
