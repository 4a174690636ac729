//! A saga of a user's flow as clients see it: the body of the answer that it was started with.

use flow::Slot;
use messages::TimestampText;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::value::RawValue;

use super::State;
use super::state::Saga;

/// How far it is, or how it ended. The id of what it is about stands under the name that the flow gives it.
pub struct FlowOutcome<'a>(pub &'a Saga);

impl FlowOutcome<'_> {
    /// What the flow answers with, behind the step that its answer follows. The same bytes each time: it is made from the row
    /// alone. Before that as much of it as there is, while the client has something to do.
    pub fn result(&self) -> Option<Box<RawValue>> {
        let saga = self.0;
        let is_wanted = saga.state.is_behind_answer(&saga.flow) || saga.asks_its_client();
        let body = saga.flow.answer.body.as_ref().filter(|_| is_wanted)?;
        let mut json = Vec::new();
        body.fill(&mut json, &mut |slot: &Slot, out| saga.write(slot, out));
        // What a payload writes is JSON.
        serde_json::from_slice(&json).ok()
    }

    /// Whether nothing turns the saga back any more.
    fn is_final(&self) -> bool {
        let Self(saga) = self;
        saga.state.has_ended() || matches!(saga.state, State::Running { step } if step > saga.flow.pivot)
    }
}

impl Serialize for FlowOutcome<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(saga) = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("sagaId", &saga.saga_id)?;
        map.serialize_entry("flow", &saga.flow.name)?;
        map.serialize_entry("version", &saga.flow.version)?;
        map.serialize_entry(&saga.flow.start.subject, &saga.order_id)?;
        map.serialize_entry("status", saga.status())?;
        map.serialize_entry("step", saga.step_name())?;
        map.serialize_entry("reason", &saga.reason)?;
        map.serialize_entry("owner", saga.request.owner.as_str())?;
        map.serialize_entry("result", &self.result())?;
        if saga.flow.answers_early() {
            map.serialize_entry("final", &self.is_final())?;
        }
        map.serialize_entry("createdAt", &TimestampText(saga.created_at))?;
        map.serialize_entry("updatedAt", &TimestampText(saga.updated_at))?;
        map.end()
    }
}
