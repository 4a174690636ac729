//! How reservations go, and what is about to be sold out, as Prometheus sees it.

use std::time::Duration;

use service_runtime::CancellationToken;
use service_runtime::database::{StoreError, within_limit};
use service_runtime::looking::keep_looking;
use service_runtime::metrics::{Counts, Gauge, Gauges, Metrics, Seconds};
use sqlx::{PgPool, Row as _};

use crate::reservation::{Reservation, Status};

/// So many products have a line of their own: those with the fewest pieces.
const LOWEST: i64 = 20;

/// It reads all products: a scrape must not wait for that.
const EVERY: Duration = Duration::from_secs(15);

/// What happens to reservations.
#[derive(Clone)]
pub struct Reservations {
    stored: Counts,
    refused: Counts,
}

impl Reservations {
    pub fn new(metrics: &Metrics) -> Self {
        let help = "Reservations that got this status: each counts once for each of its statuses.";
        let stored = metrics.counts_by("inventory_reservations_total", help, &["status"]);
        // Holds that end by themselves are counted where they do.
        let ours = Status::ALL.into_iter().filter(|status| *status != Status::Expired);
        ours.for_each(|status| drop(stored.with_label_values(&[&word(status)])));
        let help =
            "Reservations that FAILED, by why: too few pieces, no such product, or not counted (drawn, or forced).";
        let refused = metrics.counts_by("inventory_refused_total", help, &["reason"]);
        ["short", "unknown", "uncounted"].iter().for_each(|reason| drop(refused.with_label_values(&[reason])));
        Self { stored, refused }
    }

    pub fn note(&self, row: &Reservation) {
        // One that is kept got its status before.
        if row.status != Status::Reserved || row.created_at == row.updated_at {
            self.stored.with_label_values(&[&word(row.status)]).inc();
        }
        if row.status == Status::Failed {
            let reason = match row.short.first() {
                None => "uncounted",
                Some(_) if row.short.iter().any(|short| short.unknown) => "unknown",
                Some(_) => "short",
            };
            self.refused.with_label_values(&[reason]).inc();
        }
    }
}

fn word(status: Status) -> String {
    status.as_str().to_ascii_lowercase()
}

/// Looks from time to time how many products there are, and of which the fewest pieces are available, until `stop`.
pub async fn watch_stock(pool: &PgPool, metrics: &Metrics, stop: CancellationToken) {
    let stock = Stock {
        products: metrics.gauge("inventory_products", "Products."),
        sold_out: metrics.gauge("inventory_products_sold_out", "Products of which no piece is available."),
        lowest: metrics.gauges_by(
            "inventory_available_pieces",
            "Pieces that are available, of the 20 products that have the fewest.",
            &["sku"],
        ),
        read_at: metrics.seconds(
            "inventory_stock_read_timestamp_seconds",
            "When the gauges of products were read, in seconds since 1970; 0: never.",
        ),
    };
    keep_looking(EVERY, "how much stock there is", stop, || within_limit(stock.look(pool))).await;
}

struct Stock {
    products: Gauge,
    sold_out: Gauge,
    lowest: Gauges,
    read_at: Seconds,
}

impl Stock {
    async fn look(&self, pool: &PgPool) -> Result<(), StoreError> {
        let counts = "SELECT count(*), count(*) FILTER (WHERE available = 0) FROM products";
        let counts = sqlx::query(counts).fetch_one(pool).await?;
        let lowest = "SELECT sku, available::bigint FROM products ORDER BY available, sku LIMIT $1";
        let lowest = sqlx::query(lowest).bind(LOWEST).fetch_all(pool).await?;
        self.products.set(counts.try_get(0)?);
        self.sold_out.set(counts.try_get(1)?);
        self.lowest.reset();
        for row in lowest {
            self.lowest.with_label_values(&[row.try_get::<&str, _>("sku")?]).set(row.try_get("available")?);
        }
        self.read_at.set(service_runtime::now().timestamp_millis() as f64 / 1000.0);
        Ok(())
    }
}
