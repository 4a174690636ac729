//! Orders that were placed directly are announced until a saga has taken them up: an acknowledgement of Kafka's is not
//! enough, since Kafka may be emptied before anybody has read it.

use std::time::Duration;

use futures::future::join_all;
use service_runtime::CancellationToken;
use service_runtime::database::{Session, within_limit};
use service_runtime::kafka::Producer;
use service_runtime::looking::{Backlog, keep_looking};
use service_runtime::metrics::Metrics;

use crate::NAME;
use crate::order::Order;
use crate::store::{awaiting, to_announce};

/// How often it is looked for orders that no saga has taken up in time.
const EVERY: Duration = Duration::from_secs(1);

/// Orders that one look announces at most: those that are due beside them are the next look's.
const AT_ONCE: usize = 500;

/// Announces an order for the first time. Whatever becomes of that, the row causes another announcement.
pub fn announce(producer: &Producer, order: &Order) {
    if let Some(created) = order.created() {
        drop(producer.send(&created.to_record(NAME)));
    }
}

/// Announces orders again, until `stop`.
pub async fn announce_again(
    session: &Session,
    producer: &Producer,
    metrics: &Metrics,
    backlog: &Backlog,
    stop: CancellationToken,
) {
    let count = metrics.gauge(
        "orders_awaiting_saga",
        "Orders that were placed directly and that no saga has taken up yet; at most 10,000 are counted.",
    );
    let oldest =
        metrics.seconds("orders_awaiting_saga_seconds", "For how long the first of them has waited; 0: none does.");
    let again = metrics.count("orders_announced_again_total", "Times an order was announced again.");
    let look = async || {
        // First: where Kafka is away, what follows takes its time.
        let (waiting, longest) = within_limit(awaiting(session)).await?;
        count.set(waiting);
        oldest.set(longest.as_secs_f64());
        backlog.note(waiting, longest);
        let orders = within_limit(to_announce(session, AT_ONCE)).await?;
        let created = orders.iter().filter_map(Order::created);
        let sent = created.map(|created| producer.send(&created.to_record(NAME)).acknowledged());
        let taken = join_all(sent).await.into_iter().filter(Result::is_ok).count();
        again.inc_by(taken as u64);
        Ok(())
    };
    keep_looking(EVERY, "orders that await their sagas", stop, look).await;
}
