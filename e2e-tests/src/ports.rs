//! Free ports. They are taken from below the range that the operating system hands out for outgoing connections
//! (32768 and up on Linux), so that nobody gets one while its service is down for a moment.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};
use standalone::platform::Ports;

const LOWEST: u16 = 16_000;
const COUNT: u16 = 16_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that is free on every loopback address, and that nobody else in this process gets.
pub fn free_port() -> Result<u16> {
    // Test processes that run at the same time begin at different places.
    let begin = (std::process::id() % 160 * 100) as u16;
    for _ in 0..COUNT {
        let port = LOWEST + (begin + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        let v6_is_free = match TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
            Ok(_) => true,
            Err(error) => error.kind() != std::io::ErrorKind::AddrInUse,
        };
        if v6_is_free && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {LOWEST} and {}", LOWEST + COUNT)
}

/// A free port for everything.
pub fn free_ports() -> Result<Ports> {
    Ok(Ports {
        orchestrator: free_port()?,
        order: free_port()?,
        payment: free_port()?,
        inventory: free_port()?,
        order_db: free_port()?,
        payment_db: free_port()?,
        inventory_db: free_port()?,
        orchestrator_db: free_port()?,
    })
}
