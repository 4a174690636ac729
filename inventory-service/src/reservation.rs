//! What a reservation is and what a command does to it. Pure: [`decide`] is all the rules there are, what is around it
//! only carries out what it says.
//!
//! A reply is a function of the command and the stored row, so a command that comes again gets the same reply.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use faults::Bug;
use messages::{
    Envelope, InventoryCommand, InventoryCommitted, InventoryFailed, InventoryKept, InventoryReleased,
    InventoryReserved, Message, OrderId, OutgoingRecord, SagaId, Short, Sku, Timestamp, TimestampText,
};
use participant::Anew;

/// See `migrations/0001_reservations.sql` and `0007_holds_that_end.sql` for what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Reserved,
    Failed,
    Released,
    Voided,
    Expired,
    Committed,
}

impl Status {
    pub const ALL: [Self; 6] =
        [Self::Reserved, Self::Failed, Self::Released, Self::Voided, Self::Expired, Self::Committed];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "RESERVED",
            Self::Failed => "FAILED",
            Self::Released => "RELEASED",
            Self::Voided => "VOIDED",
            Self::Expired => "EXPIRED",
            Self::Committed => "COMMITTED",
        }
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| format!("unknown status {text:?}"))
    }
}

/// A row of `reservations`.
#[derive(Debug, Clone, PartialEq)]
pub struct Reservation {
    pub order_id: OrderId,
    pub saga_id: SagaId,
    pub status: Status,
    pub reason: Option<String>,
    /// The pieces of each product that it is of. Once it has failed: none.
    pub items: BTreeMap<Sku, i64>,
    /// Why it has failed: the products of which there were too few pieces.
    pub short: Vec<Short>,
    /// Until when its goods were set aside, as the reserve was answered. `None`: without a limit.
    pub expires_at: Option<Timestamp>,
    /// Whether that is still to be seen to.
    pub will_expire: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What the decision about a new order depends on, beside its command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub stock: Stock,
    /// How long goods that are counted are set aside, where the command does not say.
    pub hold_for: Option<Duration>,
}

/// Whether there is stock, for an order whose goods are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stock {
    Available,
    SoldOut,
}

/// What to do next with a command.
pub type Next = participant::Next<Reservation, Reply>;

/// The reply to a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Reserved(Envelope<InventoryReserved>),
    Failed(Envelope<InventoryFailed>),
    Released(Envelope<InventoryReleased>),
    Committed(Envelope<InventoryCommitted>),
    Kept(Envelope<InventoryKept>),
}

/// The next thing to do with `command`, given the order's stored row.
pub fn decide(command: &InventoryCommand, stored: Option<&Reservation>, facts: &Facts, now: Timestamp) -> Next {
    use Status::{Committed, Expired, Failed, Released, Reserved, Voided};

    let Some(row) = stored else { return Next::Write(first_row(command, facts, now)) };
    let saga_id = command.saga_id();
    if saga_id != row.saga_id {
        let (order, owner) = (row.order_id, row.saga_id);
        return Next::Contradiction(format!("order {order} belongs to saga {owner}, the command names {saga_id}"));
    }
    match (command, row.status) {
        // What was reserved without being counted, by an older release, is reserved.
        (InventoryCommand::Reserve(command), _)
            if !row.items.is_empty() && command.payload.items.by_sku() != row.items =>
        {
            Next::Contradiction(format!("order {} is of other goods than the command", row.order_id))
        }
        // Whatever became of the goods since: what was answered once stands, until they are released.
        (InventoryCommand::Reserve(command), Reserved | Expired | Committed) => {
            let reserved = InventoryReserved { expires_at: row.expires_at.map(TimestampText) };
            Next::Reply(Reply::Reserved(command.reply(reserved, row.created_at)))
        }
        (InventoryCommand::Reserve(_), Voided) if faults::planted(Bug::NoTombstone) => {
            Next::Write(first_row(command, facts, now))
        }
        (InventoryCommand::Reserve(command), Failed | Released | Voided) => refused(command, row),

        (InventoryCommand::Release(command), Reserved | Expired) => {
            let reason = Some(format!("released: {}", command.payload.reason));
            Next::Write(row.moved_to(Released, reason, now))
        }
        (InventoryCommand::Release(_), Committed) => {
            Next::Contradiction(format!("the goods of order {} have left the house", row.order_id))
        }
        (InventoryCommand::Release(command), Failed | Released | Voided) => {
            Next::Reply(Reply::Released(command.reply(InventoryReleased {}, row.updated_at)))
        }

        (InventoryCommand::Commit(_), Reserved) => Next::Write(row.moved_to(Committed, None, now)),
        (InventoryCommand::Commit(command), Committed) => {
            Next::Reply(Reply::Committed(command.reply(InventoryCommitted {}, row.updated_at)))
        }
        (InventoryCommand::Commit(command), Failed | Released | Voided | Expired) => refused(command, row),

        (InventoryCommand::Keep(_), Reserved) if row.will_expire => Next::Write(row.moved_to(Reserved, None, now)),
        (InventoryCommand::Keep(command), Reserved | Committed) => {
            Next::Reply(Reply::Kept(command.reply(InventoryKept {}, row.updated_at)))
        }
        (InventoryCommand::Keep(command), Failed | Released | Voided | Expired) => refused(command, row),
    }
}

/// What is wanted of goods that are not set aside.
fn refused<T: Message>(command: &Envelope<T>, row: &Reservation) -> Next {
    let reason = row.reason.clone().unwrap_or_else(|| row.status.as_str().to_owned());
    let failed = InventoryFailed { reason, short: row.short.clone() };
    Next::Reply(Reply::Failed(command.reply(failed, row.updated_at)))
}

/// The row for an order that has none: a reserve is decided, once; what should come behind it leaves a tombstone. Whether
/// there are enough pieces of its products shows as it is stored ([`Reservation::counted`]).
fn first_row(command: &InventoryCommand, facts: &Facts, now: Timestamp) -> Reservation {
    let mut row = Reservation {
        order_id: command.order_id(),
        saga_id: command.saga_id(),
        status: Status::Voided,
        reason: None,
        items: BTreeMap::new(),
        short: Vec::new(),
        expires_at: None,
        will_expire: false,
        created_at: now,
        updated_at: now,
    };
    let command = match command {
        InventoryCommand::Reserve(command) => &command.payload,
        InventoryCommand::Release(command) => {
            let reason = format!("voided before the reserve came: {}", command.payload.reason);
            return Reservation { reason: Some(reason), ..row };
        }
        InventoryCommand::Commit(_) | InventoryCommand::Keep(_) => {
            return Reservation { reason: Some("nothing was set aside for it".to_owned()), ..row };
        }
    };
    row.items = command.items.by_sku();
    let is_counted = !row.items.is_empty();
    let why_not = match command.force_fail {
        true => Some("out of stock: forceInventoryFail"),
        false => (!is_counted && facts.stock == Stock::SoldOut).then_some("out of stock"),
    };
    if let Some(reason) = why_not {
        return Reservation { status: Status::Failed, reason: Some(reason.to_owned()), items: BTreeMap::new(), ..row };
    }
    let limit = match &command.hold_for {
        Some(hold_for) => hold_for.limit(),
        None => facts.hold_for.filter(|_| is_counted),
    };
    let expires_at = limit.map(|limit| now + limit);
    Reservation { status: Status::Reserved, will_expire: expires_at.is_some(), expires_at, ..row }
}

impl Reservation {
    /// The row in its next status. It does not expire any more.
    fn moved_to(&self, status: Status, reason: Option<String>, now: Timestamp) -> Self {
        Self { status, reason, will_expire: false, updated_at: now, ..self.clone() }
    }

    /// The row where so many pieces of each product are free, and these pieces less: reserved if it gets all that it is of,
    /// else failed. A SKU that `free` lacks is unknown.
    #[must_use]
    pub fn counted(&self, free: &mut BTreeMap<Sku, i64>) -> Self {
        let short: Vec<Short> = self
            .items
            .iter()
            .filter_map(|(sku, wanted)| {
                let available = free.get(sku).copied();
                let is_short = available.is_none_or(|available| available < *wanted);
                is_short.then(|| Short {
                    sku: sku.clone(),
                    wanted: *wanted,
                    available: available.unwrap_or_default(),
                    unknown: available.is_none(),
                })
            })
            .collect();
        if !short.is_empty() {
            let reason = Some(format!("out of stock: {}", listed(&short)));
            let (expires_at, will_expire) = (None, false);
            let items = BTreeMap::new();
            return Self { status: Status::Failed, reason, items, short, expires_at, will_expire, ..self.clone() };
        }
        for (sku, wanted) in &self.items {
            if let Some(available) = free.get_mut(sku) {
                *available -= wanted;
            }
        }
        self.clone()
    }
}

/// So many products a reason names.
const NAMED: usize = 5;

/// What was short, for a person.
fn listed(short: &[Short]) -> String {
    let named = short.iter().take(NAMED).map(|Short { sku, wanted, available, unknown }| match unknown {
        true => format!("{sku} (there is no such product)"),
        false => format!("{sku} ({wanted} wanted, {available} available)"),
    });
    let mut text = named.collect::<Vec<_>>().join(", ");
    if short.len() > NAMED {
        text += &format!(" and {} more", short.len() - NAMED);
    }
    text
}

/// What becomes of an answer from this row, for an order whose saga has ended: if the row was made lately, it stands for
/// nothing that anybody will ask about again, and what it holds is released. One that stood when its order fell below the
/// horizon is older: its saga has ended a day ago at least, the shortest retention.
pub fn reserved_anew(row: &Reservation, now: Timestamp) -> Option<Anew<Reservation>> {
    if (now - row.created_at).num_hours() >= 12 {
        return None;
    }
    let released = row.moved_to(Status::Released, row.reason.clone(), now);
    let undone = (row.status == Status::Reserved).then_some(released);
    Some(Anew { why: "nothing is set aside for it again", undone })
}

impl Reply {
    /// The record to produce.
    pub fn to_record(&self, source: &'static str, traceparent: Option<&str>) -> OutgoingRecord {
        match self {
            Self::Reserved(event) => event.to_record(source, traceparent),
            Self::Failed(event) => event.to_record(source, traceparent),
            Self::Released(event) => event.to_record(source, traceparent),
            Self::Committed(event) => event.to_record(source, traceparent),
            Self::Kept(event) => event.to_record(source, traceparent),
        }
    }
}

#[cfg(test)]
mod tests;
