//! The topics whose records are set aside where they can't be handled: the platform's, and those that participants of
//! published flows reply on.

use std::collections::BTreeSet;

use flow::{Origin, check, reply_topic};
use messages::{MESSAGE_TOPICS, TOPICS};
use sqlx::PgPool;

/// Postgres has no such table.
const UNDEFINED_TABLE: &str = "42P01";

/// The topics that letters may come from.
#[derive(Debug, Clone)]
pub struct Topics {
    /// Of published flows.
    of_flows: Vec<String>,
}

impl Topics {
    /// The platform's, and these of published flows.
    pub const fn with(of_flows: Vec<String>) -> Self {
        Self { of_flows }
    }

    /// The platform's, and those that are read of the flows that are published in the orchestrator's database: of replies,
    /// and of the events that start sagas. Of a flow that this program can't read: of replies.
    ///
    /// # Errors
    /// When that can't be read.
    pub async fn read(orchestrator: &PgPool) -> Result<Self, sqlx::Error> {
        let published = sqlx::query_as("SELECT name, source FROM flows WHERE NOT built_in");
        let published: Vec<(String, String)> = match published.fetch_all(orchestrator).await {
            // No release that has flows of users has started on it yet.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNDEFINED_TABLE) => Vec::new(),
            published => published?,
        };
        let read = published.iter().flat_map(|(name, source)| {
            // Names that were not reserved when it was published are no fault.
            let start = check(source, Origin::BuiltIn).ok().and_then(|flow| flow.start.topic.clone());
            [reply_topic(name)].into_iter().chain(start)
        });
        Ok(Self::with(read.collect::<BTreeSet<String>>().into_iter().collect()))
    }

    /// All of them, the platform's first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        TOPICS.into_iter().chain(self.of_flows.iter().map(String::as_str))
    }

    /// One of the topics, by its name or its dead-letter topic's.
    ///
    /// # Errors
    /// With the names that there are.
    pub fn find(&self, name: &str) -> Result<String, String> {
        let name = name.strip_suffix(".dlq").unwrap_or(name);
        let known = self.names().find(|topic| *topic == name).map(str::to_owned);
        known.ok_or_else(|| format!("the topics are {}", self.names().collect::<Vec<_>>().join(", ")))
    }
}

/// Whether a topic is always there. Those of a flow come with its publication, and that of signals may be missing where an
/// earlier release has made the topics.
pub fn is_always_there(topic: &str) -> bool {
    MESSAGE_TOPICS.contains(&topic)
}

/// Whether its records belong to no saga yet: they are signals, or events that start sagas. Each has an id of its own, and
/// is one however often it comes.
pub fn belongs_to_none(topic: &str) -> bool {
    !MESSAGE_TOPICS.contains(&topic) && !topic.ends_with(".replies")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_known_by_either_name() {
        let topics = Topics::with(vec!["trip.replies".to_owned()]);
        assert_eq!(topics.find("payment.charge.command.dlq").as_deref(), Ok("payment.charge.command"));
        assert_eq!(topics.find("payment.charged").as_deref(), Ok("payment.charged"));
        assert_eq!(topics.find("trip.replies.dlq").as_deref(), Ok("trip.replies"));
        let unknown = topics.find("tour.replies").unwrap_err();
        assert!(unknown.contains("payment.charge.command") && unknown.ends_with(", trip.replies"), "{unknown}");
    }
}
