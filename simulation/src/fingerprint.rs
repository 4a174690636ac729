//! What the core decided, as a hash: every move with its times, and every command and call, byte for byte and in
//! order. Two cores of one fingerprint behave the same, whatever their types are. (Built by one compiler, that is: the
//! standard library's hasher may be another one in the next.)

use std::hash::{DefaultHasher, Hasher as _};

use messages::{OutgoingRecord, Timestamp};
use saga_orchestrator::saga::{Operator, OrderCall, Transition};

/// A hash over the decisions of a run. Only who asks for it pays.
#[derive(Default)]
pub struct Fingerprint(Option<DefaultHasher>);

impl Fingerprint {
    pub fn wanted() -> Self {
        Self(Some(DefaultHasher::new()))
    }

    /// A move that was stored: its entry in the history, and what of the saga it set.
    pub fn moved(&mut self, transition: &Transition) {
        let (saga, entry) = (&transition.saga, &transition.entry);
        self.note("move", |parts| {
            parts.push(saga.saga_id.to_string());
            parts.push(entry.seq.to_string());
            parts.push(entry.input.to_string());
            parts.push(entry.event_id.map(|id| id.to_string()).unwrap_or_default());
            parts.push(entry.state.status().to_string());
            parts.push(entry.state.step_name(&saga.flow).to_string());
            parts.push(entry.reason.clone().unwrap_or_default());
            if let Some(Operator { by, act, .. }) = &entry.operator {
                parts.push(by.clone());
                parts.extend(act.settled().iter().flat_map(|settled| [settled.step.clone(), settled.evidence.clone()]));
            }
            parts.push(text(Some(entry.at)));
            parts.push(format!("{} {:?} {}", saga.version, saga.reason, saga.resolved_by_hand));
            parts.push(text(saga.deadline));
            parts.push(text(Some(saga.expires_at)));
            parts.push(text(Some(saga.created_at)));
            parts.push(text(Some(saga.updated_at)));
        });
    }

    /// A command that leaves, whether it arrives or not.
    pub fn sent(&mut self, record: &OutgoingRecord) {
        self.note("send", |parts| {
            parts.push(record.topic.to_string());
            parts.push(record.key.clone());
            parts.extend(record.headers.iter().map(|(name, value)| format!("{name}: {value}")));
            parts.push(String::from_utf8_lossy(&record.body).into_owned());
        });
    }

    /// A call of the order service.
    pub fn called(&mut self, call: &OrderCall) {
        let (saga_id, order_id) = call.ids();
        self.note("call", |parts| {
            parts.extend([saga_id.to_string(), order_id.to_string()]);
            match call {
                OrderCall::Create { user_id, money, .. } => parts.push(format!("create for {user_id}: {money}")),
                OrderCall::Confirm { .. } => parts.push("confirm".to_owned()),
                OrderCall::Cancel { .. } => parts.push("cancel".to_owned()),
            }
        });
    }

    /// The hash of all that was noted; `None` if none was wanted.
    pub fn finish(self) -> Option<u64> {
        self.0.map(|hash| hash.finish())
    }

    fn note(&mut self, kind: &str, describe: impl FnOnce(&mut Vec<String>)) {
        let Some(hash) = &mut self.0 else { return };
        let mut parts = vec![kind.to_owned()];
        describe(&mut parts);
        for part in &parts {
            hash.write_usize(part.len());
            hash.write(part.as_bytes());
        }
    }
}

fn text(at: Option<Timestamp>) -> String {
    at.map_or_else(String::new, |at| at.timestamp_micros().to_string())
}
