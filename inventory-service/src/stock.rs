//! What is known of the stock before an order is decided. Of goods that are not counted, what is sold out is drawn at random.

use std::time::Duration;

use serde::Deserialize;
use service_runtime::settings::{HOUR_MS, Settings, SettingsError, Share, require_within};

use crate::reservation::{Facts, Stock};

/// How the stock behaves.
#[derive(Debug, Clone, Deserialize)]
pub struct StockSettings {
    inventory_failure_rate: Share,
    inventory_processing_ms: u64,
    reservation_ttl_ms: u64,
    /// Whether a service without products begins with a handful.
    pub sample_products: bool,
}

/// The longest hold: a year.
const LONGEST_HOLD_MS: u64 = 365 * 24 * HOUR_MS;

impl TryFrom<&Settings> for StockSettings {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        let section: Self = settings.section()?;
        require_within("inventory_processing_ms", section.inventory_processing_ms, 0..=HOUR_MS)?;
        require_within("reservation_ttl_ms", section.reservation_ttl_ms, 0..=LONGEST_HOLD_MS)?;
        Ok(section)
    }
}

impl StockSettings {
    /// What is known for one order.
    pub async fn look(&self) -> Facts {
        if self.inventory_processing_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.inventory_processing_ms)).await;
        }
        let sold_out = rand::random::<f64>() < self.inventory_failure_rate.get();
        let stock = if sold_out { Stock::SoldOut } else { Stock::Available };
        let ttl = Duration::from_millis(self.reservation_ttl_ms);
        Facts { stock, hold_for: (!ttl.is_zero()).then_some(ttl) }
    }
}
