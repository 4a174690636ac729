//! Batching while busy: what comes while a statement runs shares the next one.

use anyhow::{Result, bail};
use tokio::sync::mpsc::UnboundedReceiver;

/// As the platform has it: beyond it a statement's cost grows as fast as its size.
const MOST: usize = 500;

/// Takes all that has come, does it, and so on.
pub async fn run<T>(mut inbox: UnboundedReceiver<T>, mut work: impl AsyncFnMut(Vec<T>) -> Result<()>) -> Result<()> {
    let mut taken = Vec::new();
    while inbox.recv_many(&mut taken, MOST).await > 0 {
        work(std::mem::take(&mut taken)).await?;
    }
    bail!("nobody is left to send")
}
