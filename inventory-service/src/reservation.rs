//! What a reservation is and what a command does to it. Pure: [`decide`] is all the rules there are, what is around it
//! only carries out what it says.
//!
//! A reply is a function of the command and the stored row, so a command that comes again gets the same reply.

use std::collections::BTreeMap;
use std::str::FromStr;

use faults::Bug;
use messages::{
    InventoryCommand, InventoryFailed, InventoryReleased, InventoryReserved, OrderId, OutgoingRecord, SagaId, Short,
    Sku, Timestamp,
};
use participant::Anew;

/// See `migrations/0001_reservations.sql` for what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Reserved,
    Failed,
    Released,
    Voided,
}

impl Status {
    pub const ALL: [Self; 4] = [Self::Reserved, Self::Failed, Self::Released, Self::Voided];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "RESERVED",
            Self::Failed => "FAILED",
            Self::Released => "RELEASED",
            Self::Voided => "VOIDED",
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
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Whether there is stock, for an order that was not decided before and whose goods are not counted.
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
    Reserved(messages::Envelope<InventoryReserved>),
    Failed(messages::Envelope<InventoryFailed>),
    Released(messages::Envelope<InventoryReleased>),
}

/// The next thing to do with `command`, given the order's stored row.
pub fn decide(command: &InventoryCommand, stored: Option<&Reservation>, stock: Stock, now: Timestamp) -> Next {
    use Status::{Failed, Released, Reserved, Voided};

    let Some(row) = stored else { return Next::Write(first_row(command, stock, now)) };
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
        (InventoryCommand::Reserve(command), Reserved) => {
            Next::Reply(Reply::Reserved(command.reply(InventoryReserved {}, row.updated_at)))
        }
        (InventoryCommand::Reserve(_), Voided) if faults::planted(Bug::NoTombstone) => {
            Next::Write(first_row(command, stock, now))
        }
        (InventoryCommand::Reserve(command), Failed | Released | Voided) => {
            let reason = row.reason.clone().unwrap_or_else(|| row.status.as_str().to_owned());
            let failed = InventoryFailed { reason, short: row.short.clone() };
            Next::Reply(Reply::Failed(command.reply(failed, row.updated_at)))
        }
        (InventoryCommand::Release(command), Reserved) => {
            let reason = Some(format!("released: {}", command.payload.reason));
            Next::Write(Reservation { status: Released, reason, updated_at: now, ..row.clone() })
        }
        (InventoryCommand::Release(command), Failed | Released | Voided) => {
            Next::Reply(Reply::Released(command.reply(InventoryReleased {}, row.updated_at)))
        }
    }
}

/// The row for an order that has none: a reserve is decided, once; a release leaves a tombstone. Whether there are enough
/// pieces of its products shows as it is stored ([`Reservation::counted`]).
fn first_row(command: &InventoryCommand, stock: Stock, now: Timestamp) -> Reservation {
    let mut items = BTreeMap::new();
    let (status, reason) = match command {
        InventoryCommand::Reserve(command) => match (command.payload.force_fail, command.payload.items.by_sku()) {
            (true, _) => (Status::Failed, Some("out of stock: forceInventoryFail".to_owned())),
            (false, wanted) if !wanted.is_empty() => {
                items = wanted;
                (Status::Reserved, None)
            }
            (false, _) if stock == Stock::SoldOut => (Status::Failed, Some("out of stock".to_owned())),
            (false, _) => (Status::Reserved, None),
        },
        InventoryCommand::Release(command) => {
            let reason = format!("voided before the reserve came: {}", command.payload.reason);
            (Status::Voided, Some(reason))
        }
    };
    let (order_id, saga_id) = (command.order_id(), command.saga_id());
    Reservation { order_id, saga_id, status, reason, items, short: Vec::new(), created_at: now, updated_at: now }
}

impl Reservation {
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
            return Self { status: Status::Failed, reason, items: BTreeMap::new(), short, ..self.clone() };
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
    let released = Reservation { status: Status::Released, updated_at: now, ..row.clone() };
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
        }
    }
}

#[cfg(test)]
mod tests {
    use messages::{Envelope, EventId, Items, ReleaseInventory, ReserveInventory};

    use super::*;

    fn envelope<T>(payload: T) -> Envelope<T> {
        let id = |n: u128| uuid::Uuid::from_u128(n);
        Envelope {
            event_id: EventId::from(id(1)),
            causation_id: None,
            saga_id: SagaId::from(id(2)),
            order_id: OrderId::from(id(3)),
            timestamp: service_runtime::now(),
            payload,
        }
    }

    fn reserve(force_fail: bool) -> InventoryCommand {
        InventoryCommand::Reserve(envelope(ReserveInventory { force_fail, items: Items::default() }))
    }

    fn reserve_items(items: &str) -> InventoryCommand {
        let items = serde_json::from_str(items).unwrap();
        InventoryCommand::Reserve(envelope(ReserveInventory { force_fail: false, items }))
    }

    fn free(pieces: &[(&str, i64)]) -> BTreeMap<Sku, i64> {
        pieces.iter().map(|(sku, count)| (Sku::try_from((*sku).to_owned()).unwrap(), *count)).collect()
    }

    fn release() -> InventoryCommand {
        InventoryCommand::Release(envelope(ReleaseInventory { reason: "TIMED_OUT".into() }))
    }

    fn next(command: &InventoryCommand, stored: Option<Status>) -> Next {
        let now = service_runtime::now();
        let row = stored.map(|status| Reservation { status, ..first_row(command, Stock::Available, now) });
        decide(command, row.as_ref(), Stock::Available, now)
    }

    fn written(next: Next) -> Status {
        match next {
            Next::Write(row) => row.status,
            other => panic!("expected a write, got {other:?}"),
        }
    }

    #[test]
    fn a_reserve_is_decided_once_and_answered_from_the_row() {
        assert_eq!(written(next(&reserve(false), None)), Status::Reserved);
        assert_eq!(written(next(&reserve(true), None)), Status::Failed);
        let sold_out = decide(&reserve(false), None, Stock::SoldOut, service_runtime::now());
        assert_eq!(written(sold_out), Status::Failed);
        assert!(matches!(next(&reserve(false), Some(Status::Reserved)), Next::Reply(Reply::Reserved(_))));
    }

    #[test]
    fn an_order_gets_all_pieces_that_it_is_of_or_none() {
        let row = |items| first_row(&reserve_items(items), Stock::SoldOut, service_runtime::now());
        let mut stock = free(&[("a", 3), ("b", 1)]);

        let first = row(r#"[{"sku":"a","qty":1},{"sku":"b","qty":1},{"sku":"a","qty":1}]"#).counted(&mut stock);
        assert_eq!(
            (first.status, first.items, &stock),
            (Status::Reserved, free(&[("a", 2), ("b", 1)]), &free(&[("a", 1), ("b", 0)]))
        );

        let second = row(r#"[{"sku":"a","qty":1},{"sku":"b","qty":2},{"sku":"c","qty":1}]"#).counted(&mut stock);
        assert_eq!((second.status, second.items.len(), &stock), (Status::Failed, 0, &free(&[("a", 1), ("b", 0)])));
        let reason = "out of stock: b (2 wanted, 0 available), c (there is no such product)";
        assert_eq!(second.reason.as_deref(), Some(reason));

        let third = row(r#"[{"sku":"a","qty":1}]"#).counted(&mut stock);
        assert_eq!((third.status, stock), (Status::Reserved, free(&[("a", 0), ("b", 0)])));
    }

    #[test]
    fn a_reserve_of_other_goods_than_are_reserved_is_a_contradiction() {
        let (now, command) = (service_runtime::now(), reserve_items(r#"[{"sku":"a","qty":2}]"#));
        let row = first_row(&command, Stock::Available, now);
        let decided = |items| decide(&reserve_items(items), Some(&row), Stock::Available, now);
        assert!(matches!(decided(r#"[{"sku":"a","qty":1},{"sku":"a","qty":1}]"#), Next::Reply(Reply::Reserved(_))));
        for other in [r#"[{"sku":"a","qty":1}]"#, r#"[{"sku":"b","qty":2}]"#, "[]"] {
            assert!(matches!(decided(other), Next::Contradiction(_)), "{other}");
        }
        let uncounted = Reservation { items: BTreeMap::new(), ..row.clone() };
        assert!(matches!(decide(&command, Some(&uncounted), Stock::Available, now), Next::Reply(Reply::Reserved(_))));
    }

    #[test]
    fn a_reserve_after_the_end_is_answered_failed() {
        for status in [Status::Failed, Status::Released, Status::Voided] {
            assert!(matches!(next(&reserve(false), Some(status)), Next::Reply(Reply::Failed(_))), "{status:?}");
        }
    }

    #[test]
    fn a_release_frees_what_is_reserved_and_is_answered_released_in_any_case() {
        assert_eq!(written(next(&release(), Some(Status::Reserved))), Status::Released);
        for status in [Status::Failed, Status::Released, Status::Voided] {
            assert!(matches!(next(&release(), Some(status)), Next::Reply(Reply::Released(_))), "{status:?}");
        }
    }

    #[test]
    fn a_release_before_its_reserve_leaves_a_tombstone() {
        assert_eq!(written(next(&release(), None)), Status::Voided);
    }

    #[test]
    fn what_was_stored_lately_for_an_order_whose_saga_has_ended_is_taken_back() {
        let now = service_runtime::now();
        let row = |status| Reservation { status, ..first_row(&reserve(false), Stock::Available, now) };
        let undone = reserved_anew(&row(Status::Reserved), now).unwrap().undone.unwrap();
        assert_eq!(undone, Reservation { status: Status::Released, ..row(Status::Reserved) });
        assert!(reserved_anew(&row(Status::Voided), now).unwrap().undone.is_none());
        let half_a_day_later = now + std::time::Duration::from_secs(12 * 3600);
        assert!(reserved_anew(&row(Status::Reserved), half_a_day_later).is_none());
    }

    #[test]
    fn a_command_of_another_saga_gets_no_reply_in_any_status() {
        for command in [reserve(false), release()] {
            for status in Status::ALL {
                let now = service_runtime::now();
                let row = Reservation { saga_id: SagaId::new(), status, ..first_row(&command, Stock::Available, now) };
                assert!(matches!(decide(&command, Some(&row), Stock::Available, now), Next::Contradiction(_)));
            }
        }
    }
}
