//! The flows that this instance knows: those that come with the release, and those that users have published. What is
//! published on another instance is learned within a second, or when a saga needs it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use flow::{Flow, Origin, Reach, check};
use messages::{ORDER_CREATED, groups};
use service_runtime::database::{Session, StoreError, within_limit};
use service_runtime::looking::keep_looking;
use service_runtime::{CancellationToken, Fatal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::SagaSettings;
use crate::saga::flows::{BuiltIn, CHECKOUTS, built_in, is_checkout};
use crate::store::definitions::patiently;
use crate::store::flows::{self as rows, Changed, Publication, Published, Stored, Undecided};
use crate::supported::obstacles;

/// How often an instance looks whether flows were published or changed.
const LOOK: Duration = Duration::from_secs(1);

/// After a look nobody looks again for so long: many replies of sagas that run by an unknown flow come at once.
const RECENT: Duration = Duration::from_millis(250);

/// By which name and version a saga runs.
type Key = (String, i32);

/// The flows that this instance knows.
pub struct Flows {
    session: Session,
    overrides: Overrides,
    known: RwLock<Known>,
    /// When the last look began, and how many changes it saw.
    looked: tokio::sync::Mutex<Option<(Instant, i64)>>,
    /// The topics that participants of users' flows reply on.
    reply_topics: watch::Sender<Vec<String>>,
    /// The topics of events that start sagas: of orders, and of users' flows.
    start_topics: watch::Sender<Vec<String>>,
    /// Flows were published, activated or retired.
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct Known {
    /// By name, then by version.
    flows: BTreeMap<String, BTreeMap<i32, Arc<Flow>>>,
    active: BTreeMap<String, i32>,
    /// What this release can't run: a newer one has published it, or its topics are not there yet.
    unreadable: HashSet<Key>,
}

/// Settings that stand above what a built-in flow says.
#[derive(Debug, Clone, Copy)]
struct Overrides {
    reach: Duration,
    repeat: flow::Repeat,
}

impl Flows {
    /// Those of this release.
    pub fn new(session: Session, settings: &SagaSettings) -> Self {
        let overrides = Overrides {
            reach: Duration::from_millis(settings.saga_timeout_ms),
            repeat: flow::Repeat {
                first: Duration::from_millis(settings.resend_first_ms.into()),
                most: Duration::from_millis(settings.resend_max_ms.into()),
                attention_after: settings.attention_after,
            },
        };
        let mut known = Known::default();
        for BuiltIn { flow, .. } in built_in() {
            match obstacles(flow, true).is_empty() {
                true => known.add(overrides.of(flow)),
                false => drop(known.unreadable.insert((flow.name.clone(), flow.version))),
            }
        }
        Self {
            session,
            overrides,
            known: RwLock::new(known),
            looked: tokio::sync::Mutex::default(),
            reply_topics: watch::Sender::default(),
            start_topics: watch::Sender::new(vec![ORDER_CREATED.to_owned()]),
            changes: watch::Sender::default(),
        }
    }

    /// The flow of this name and version, if this instance knows it.
    pub fn find(&self, name: &str, version: i32) -> Option<Arc<Flow>> {
        self.known().flows.get(name)?.get(&version).cloned()
    }

    /// The flow that new sagas of this name start by.
    pub fn active(&self, name: &str) -> Option<Arc<Flow>> {
        let known = self.known();
        known.flows.get(name)?.get(known.active.get(name)?).cloned()
    }

    /// The names of all flows that sagas can be started by, and their versions.
    pub fn active_versions(&self) -> BTreeMap<String, i32> {
        self.known().active.clone()
    }

    /// The flows that `POST /flows/{name}` starts sagas by here.
    pub fn startable(&self) -> Vec<Arc<Flow>> {
        let known = self.known();
        let active = known.active.iter().filter(|(name, _)| !CHECKOUTS.contains(&name.as_str()));
        active.filter_map(|(name, version)| known.flows.get(name)?.get(version).cloned()).collect()
    }

    /// A flow behind `POST /checkout`, in the version that this release makes requests for, whichever is active.
    pub fn checkout(&self, name: &str) -> Arc<Flow> {
        let ours = crate::saga::flows::checkout(name).unwrap_or_else(crate::saga::flows::pay_first);
        self.find(&ours.name, ours.version).unwrap_or(ours)
    }

    /// Whether an operator has retired a flow behind `POST /checkout`.
    pub fn is_retired(&self, flow: &Flow) -> bool {
        is_checkout(flow) && !self.known().active.contains_key(&flow.name)
    }

    /// Every flow, by name and version.
    pub fn all(&self) -> Vec<Arc<Flow>> {
        self.known().flows.values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// The versions of every flow.
    pub fn by_name(&self) -> Vec<Vec<Arc<Flow>>> {
        self.known().flows.values().map(|versions| versions.values().cloned().collect()).collect()
    }

    /// The topics that users' flows are answered on, as they are published.
    pub fn reply_topics(&self) -> watch::Receiver<Vec<String>> {
        self.reply_topics.subscribe()
    }

    /// The topics of events that start sagas, as flows are activated.
    pub fn start_topics(&self) -> watch::Receiver<Vec<String>> {
        self.start_topics.subscribe()
    }

    /// The topics of users' flows that are read, and so have dead letters.
    pub fn read_topics(&self) -> Vec<String> {
        let users = self.all().into_iter().filter(|flow| !is_built_in(flow));
        let topics: BTreeSet<String> =
            users.flat_map(|flow| [flow.reply_topic()].into_iter().chain(flow.start.topic.clone())).collect();
        topics.into_iter().collect()
    }

    /// Flows are published, activated or retired.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Stores the flows of this release beside those that were published, and reads what is there.
    ///
    /// # Errors
    /// When another file is stored under the name and version of a built-in flow, or the database does not answer.
    pub async fn open(&self) -> Result<(), Fatal> {
        for built_in in built_in() {
            let Flow { name, version, digest, .. } = &*built_in.flow;
            let (by, reason) = ("release", env!("CARGO_PKG_VERSION"));
            let publication =
                Publication { name, version: *version, digest, source: built_in.source, built_in: true, by, reason };
            if let Stored::Other(stored) = patiently(|| rows::publish(&self.session, publication)).await? {
                return Err(Fatal::new(format!(
                    "the flow {name} v{version} of this release has digest {digest}, and the one that is stored has {stored}: a changed flow needs a new version"
                )));
            }
            let obstacles = obstacles(&built_in.flow, true);
            if obstacles.is_empty() {
                let key = (name.as_str(), *version);
                patiently(|| rows::activate_once(&self.session, key, Undecided::Flow, by, reason)).await?;
            } else {
                info!(flow = name, version, obstacles = obstacles.join("; "), "a built-in flow is not run yet");
            }
        }
        patiently(|| self.refresh()).await
    }

    /// Reads what was published or changed since the last look.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        self.seen_since(Instant::now()).await
    }

    /// The same, unless a look has begun since the time `at`: what was published by then is known afterwards.
    pub async fn seen_since(&self, at: Instant) -> Result<(), StoreError> {
        let mut looked = self.looked.lock().await;
        if looked.is_some_and(|(began, _)| began >= at) {
            return Ok(());
        }
        let began = Instant::now();
        let changes = rows::change_count(&self.session).await?;
        if looked.is_none_or(|(_, seen)| seen != changes) {
            self.load().await?;
        }
        *looked = Some((began, changes));
        Ok(())
    }

    /// Whether there are flows that this release can't run: a newer one has published them, say.
    pub fn has_unreadable(&self) -> bool {
        !self.known().unreadable.is_empty()
    }

    /// Whether this flow is known, if need be by a look at what is stored.
    pub async fn learn(&self, name: &str, version: i32) -> bool {
        let key = (name.to_owned(), version);
        if self.known().unreadable.contains(&key) {
            return false;
        }
        let is_recent = self.looked.lock().await.is_some_and(|(at, _)| at.elapsed() < RECENT);
        if self.find(name, version).is_none() && !is_recent && within_limit(self.refresh()).await.is_err() {
            return false;
        }
        self.find(name, version).is_some()
    }

    /// Keeps looking until `stop`.
    pub async fn watch(&self, stop: CancellationToken) {
        keep_looking(LOOK, "published flows", stop, || within_limit(self.refresh())).await;
    }

    async fn load(&self) -> Result<(), StoreError> {
        let (published, changes) = (rows::published(&self.session).await?, rows::changes(&self.session).await?);
        for Published { name, version, built_in, .. } in &published {
            let key = (name.clone(), *version);
            let is_new = self.find(name, *version).is_none() && !self.known().unreadable.contains(&key);
            if is_new && let Some(source) = rows::source(&self.session, name, *version).await? {
                self.add(key, &source, *built_in);
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.active = active(&changes);
        let users = known.flows.values().flat_map(BTreeMap::values).filter(|flow| !is_built_in(flow));
        let replies: BTreeSet<String> = users.flat_map(|flow| reply_topics(flow)).collect();
        let mut starts = known.start_topics(&changes);
        starts.insert(ORDER_CREATED.to_owned());
        drop(known);
        self.changes.send_replace(());
        for (topics, wanted) in [(&self.reply_topics, replies), (&self.start_topics, starts)] {
            topics.send_if_modified(|now| {
                let wanted: Vec<String> = wanted.into_iter().collect();
                let differs = *now != wanted;
                *now = wanted;
                differs
            });
        }
        Ok(())
    }

    fn add(&self, key: Key, source: &str, built_in: bool) {
        let (name, version) = (&key.0, key.1);
        // Names that were not reserved when it was published, or rules for new files, stop no saga that runs.
        let read = check(source, Origin::BuiltIn).map_err(|findings| findings.len());
        let read = read.and_then(|flow| match obstacles(&flow, built_in).len() {
            0 => Ok(flow),
            found => Err(found),
        });
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(flow) => {
                info!(flow = name, version, digest = flow.digest, "a published flow is known now");
                let flow = if built_in { self.overrides.of(&flow) } else { flow };
                known.add(flow);
            }
            Err(findings) => {
                warn!(flow = name, version, findings, "a published flow is of a newer release; it is left to that one");
                known.unreadable.insert(key);
            }
        }
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn add(&mut self, flow: Arc<Flow>) {
        self.flows.entry(flow.name.clone()).or_default().insert(flow.version, flow);
    }

    /// The topics of events that start sagas: of every version that was ever active. (Before that its events wait, and once
    /// none is active they are set aside.) Those of a flow whose active version this release can't run are left to one that can.
    fn start_topics(&self, changes: &[Changed]) -> BTreeSet<String> {
        let activated = changes.iter().filter(|change| change.change == "ACTIVATED");
        let topic = |Changed { name, version, .. }: &Changed| {
            let versions = self.flows.get(name)?;
            let is_left = self.active.get(name).is_some_and(|active| !versions.contains_key(active));
            let flow = versions.get(version).filter(|flow| !is_left && !is_built_in(flow))?;
            flow.start.topic.clone()
        };
        activated.filter_map(topic).collect()
    }
}

/// The topics that a user's flow is answered on and no built-in one is.
fn reply_topics(flow: &Flow) -> impl Iterator<Item = String> {
    let of_platform = groups::FLOWS.topics.iter().filter(|topic| flow.events().any(|event| event == **topic));
    of_platform.map(|topic| (*topic).to_owned()).chain([flow.reply_topic()])
}

/// Whether a flow came with a release. A user's can have neither a route nor the name of a built-in one.
pub fn is_built_in(flow: &Flow) -> bool {
    flow.start.route.is_some() || built_in().iter().any(|built_in| built_in.flow.name == flow.name)
}

impl Overrides {
    fn of(self, flow: &Arc<Flow>) -> Arc<Flow> {
        let reach = flow.reach.map(|reach| match reach {
            Reach::Pivot(_) => Reach::Pivot(self.reach),
            Reach::Answer(_) => Reach::Answer(self.reach),
        });
        Arc::new(Flow { repeat: self.repeat, reach, ..(**flow).clone() })
    }
}

/// The version of each flow that new sagas start by.
pub fn active(changes: &[Changed]) -> BTreeMap<String, i32> {
    let mut active = BTreeMap::new();
    for Changed { name, version, change, .. } in changes {
        match change.as_str() {
            "ACTIVATED" => drop(active.insert(name.clone(), *version)),
            "RETIRED" if active.get(name) == Some(version) => drop(active.remove(name)),
            _ => {}
        }
    }
    active
}

#[cfg(test)]
mod tests {
    use messages::Timestamp;

    use super::*;

    fn change(version: i32, change: &str) -> Changed {
        let [name, actor, reason] = ["trip", "ann", "test"].map(str::to_owned);
        Changed { name, version, change: change.to_owned(), actor, reason, at: Timestamp::default() }
    }

    #[test]
    fn the_file_of_a_released_flow_is_never_edited_again() {
        let digest = "86f2a6c22d8d42e3538a9219fe2e001b36cf3a207b3decb626ac0aaef0e3c783";
        assert_eq!(crate::saga::flows::pay_first().digest, digest, "a start would refuse it: make a new version");
    }

    #[test]
    fn the_last_version_that_was_activated_and_not_retired_is_active() {
        let of = |changes: &[(i32, &str)]| {
            let changes: Vec<_> = changes.iter().map(|(version, what)| change(*version, what)).collect();
            active(&changes).get("trip").copied()
        };
        assert_eq!(of(&[(1, "PUBLISHED")]), None);
        assert_eq!(of(&[(1, "PUBLISHED"), (1, "ACTIVATED"), (2, "PUBLISHED")]), Some(1));
        assert_eq!(of(&[(1, "ACTIVATED"), (2, "ACTIVATED")]), Some(2));
        assert_eq!(of(&[(1, "ACTIVATED"), (2, "ACTIVATED"), (1, "RETIRED")]), Some(2));
        assert_eq!(of(&[(1, "ACTIVATED"), (2, "ACTIVATED"), (2, "RETIRED")]), None, "an old one does not come back");
        assert_eq!(of(&[(2, "ACTIVATED"), (2, "RETIRED"), (2, "ACTIVATED")]), Some(2));
    }
}
