//! Where a group begins with topics that another group read in earlier releases: where that one was. Without this an upgrade
//! would have all records read again that Kafka still keeps.

use std::time::{Duration, Instant};

use messages::groups::Group;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tracing::{info, warn};

use super::KafkaSettings;
use super::closing::ClosesOnThread;
use super::heard::{Heard, why};
use super::watermarks::Asking;
use crate::Fatal;

/// How long the broker may take for one answer. A try that gets none is followed by another one.
const LIMIT: Duration = Duration::from_secs(3);

/// Commits the offsets of the group's predecessor, on those of the group's partitions that have none. It joins no group. A group
/// that has members keeps its own offsets: the first instance of this release has done this.
///
/// # Errors
/// When Kafka does not answer within `startup_timeout_ms`, or does not let this client read or commit the offsets.
pub(super) async fn take_over(
    settings: &KafkaSettings,
    service: &str,
    group: Group,
    partitions: u32,
) -> Result<(), Fatal> {
    let Some(predecessor) = group.formerly else { return Ok(()) };
    let copy = Copy { settings: settings.clone(), service: service.to_owned(), predecessor, group, partitions };
    let copied = tokio::task::spawn_blocking(move || copy.until_done()).await;
    let copied = copied.map_err(|error| Fatal::new(format!("the question about offsets failed: {error}")))??;
    if copied > 0 {
        info!(group = group.name, predecessor, partitions = copied, "the group begins where its predecessor was");
    }
    Ok(())
}

struct Copy {
    settings: KafkaSettings,
    service: String,
    predecessor: &'static str,
    group: Group,
    partitions: u32,
}

/// Why a try failed.
struct Failed {
    why: String,
    is_final: bool,
}

impl Copy {
    /// Returns on how many partitions there was something to copy.
    fn until_done(&self) -> Result<usize, Fatal> {
        let (limit, began) = (Duration::from_millis(self.settings.startup_timeout_ms), Instant::now());
        let mut is_first = true;
        loop {
            let Failed { why, is_final } = match self.run() {
                Ok(count) => return Ok(count),
                Err(failed) => failed,
            };
            if is_final || began.elapsed() >= limit {
                let [own, other] = [self.group.name, self.predecessor].map(|name| self.settings.prefixed(name));
                return Err(Fatal::new(format!(
                    "the offsets of the consumer groups {own} and {other} can't be read, or committed for the first: {why}. Where Kafka has ACLs, the service needs Read of both groups"
                )));
            }
            if std::mem::take(&mut is_first) {
                warn!(group = self.group.name, error = why, "waiting for the offsets of the consumer group");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn run(&self) -> Result<usize, Failed> {
        let own = self.asking(self.group.name)?;
        let mut all = TopicPartitionList::new();
        for topic in self.group.topics {
            all.add_partition_range(&self.settings.prefixed(topic), 0, self.partitions.saturating_sub(1).cast_signed());
        }
        let missing = offsets(&own, all, |offset| offset == Offset::Invalid)?;
        if missing.count() == 0 {
            return Ok(0);
        }
        let former = self.asking(self.predecessor)?;
        let former = offsets(&former, missing, |offset| matches!(offset, Offset::Offset(_)))?;
        if former.count() == 0 {
            return Ok(0);
        }
        match own.commit(&former, CommitMode::Sync) {
            Ok(()) => Ok(former.count()),
            Err(error) if has_members(&error) => Ok(0),
            Err(error) => Err(Failed::of(&own, &error)),
        }
    }

    /// A consumer that joins no group: the group is whose offsets it reads and commits.
    fn asking(&self, group: &str) -> Result<Asking, Failed> {
        let mut config = self.settings.client(&self.service);
        // librdkafka gives up a commit that waits for the group's coordinator after a session.
        config
            .set("group.id", self.settings.prefixed(group))
            .set("enable.auto.commit", "false")
            .set("session.timeout.ms", LIMIT.as_millis().to_string());
        let made = config.create_with_context(Heard::default()).map(ClosesOnThread::new);
        made.map_err(|error| Failed { why: error.to_string(), is_final: true })
    }
}

impl Failed {
    fn of(asking: &Asking, error: &KafkaError) -> Self {
        use RDKafkaErrorCode::{GroupAuthorizationFailed, TopicAuthorizationFailed};
        let is_final = matches!(error.rdkafka_error_code(), Some(GroupAuthorizationFailed | TopicAuthorizationFailed));
        Self { why: why(asking, error), is_final }
    }
}

/// Those partitions whose committed offset is of a kind.
fn offsets(
    asking: &Asking,
    partitions: TopicPartitionList,
    is_wanted: impl Fn(Offset) -> bool,
) -> Result<TopicPartitionList, Failed> {
    let committed = asking.committed_offsets(partitions, LIMIT).map_err(|error| Failed::of(asking, &error))?;
    let mut wanted = TopicPartitionList::new();
    for element in committed.elements() {
        element.error().map_err(|error| Failed::of(asking, &error))?;
        if is_wanted(element.offset()) {
            let added = wanted.add_partition_offset(element.topic(), element.partition(), element.offset());
            added.map_err(|error| Failed::of(asking, &error))?;
        }
    }
    Ok(wanted)
}

fn has_members(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{IllegalGeneration, RebalanceInProgress, UnknownMemberId};
    matches!(error.rdkafka_error_code(), Some(UnknownMemberId | IllegalGeneration | RebalanceInProgress))
}
