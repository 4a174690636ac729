//! The simulated stock: what is sold out is drawn at random.

use std::time::Duration;

use serde::Deserialize;
use service_runtime::settings::{HOUR_MS, Settings, SettingsError, Share, require_within};

use crate::reservation::Stock;

/// How the simulated stock behaves.
#[derive(Debug, Clone, Deserialize)]
pub struct StockSettings {
    inventory_failure_rate: Share,
    inventory_processing_ms: u64,
}

impl TryFrom<&Settings> for StockSettings {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        let section: Self = settings.section()?;
        require_within("inventory_processing_ms", section.inventory_processing_ms, 0..=HOUR_MS)?;
        Ok(section)
    }
}

impl StockSettings {
    /// Whether there is stock for one order.
    pub async fn look(&self) -> Stock {
        if self.inventory_processing_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.inventory_processing_ms)).await;
        }
        let sold_out = rand::random::<f64>() < self.inventory_failure_rate.get();
        if sold_out { Stock::SoldOut } else { Stock::Available }
    }
}
