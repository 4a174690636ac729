//! The ports of the servers. A [`Reservation`] holds a port from the moment it is found free until just
//! before its server binds it, so a clash, with another program or between two of our own, is told before
//! anything was initialised.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

use tokio::time::{Duration, Instant, sleep};

use super::{Database, Error};

/// How long a port in use is waited for.
const PATIENCE: Duration = Duration::from_millis(250);

/// A held port. Drop it right before the server starts.
pub(super) struct Reservation {
    pub port: u16,
    listeners: Vec<TcpListener>,
}

impl Reservation {
    /// Takes the database's port (any free one if it is 0) on every loopback address of this machine. Waits
    /// a moment for a port in use, because a process that was just killed closes its sockets last.
    pub async fn of(database: &Database) -> Result<Reservation, Error> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            match Reservation::take(database.port) {
                Ok(reservation) => return Ok(reservation),
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < give_up => {
                    sleep(Duration::from_millis(10)).await;
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => {
                    return Err(Error::PortInUse { port: database.port, database: database.name });
                }
                Err(source) => return Err(Error::Port { port: database.port, database: database.name, source }),
            }
        }
    }

    fn take(port: u16) -> std::io::Result<Reservation> {
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let port = v4.local_addr()?.port();
        // `psql -h localhost` tries ::1 first where there is one. A container without IPv6 is no error.
        match TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
            Ok(v6) => Ok(Reservation { port, listeners: vec![v4, v6] }),
            Err(error) if error.kind() == ErrorKind::AddrInUse => Err(error),
            Err(_) => Ok(Reservation { port, listeners: vec![v4] }),
        }
    }

    /// The addresses, for `listen_addresses`.
    pub fn addresses(&self) -> String {
        let addresses: Vec<_> = self.listeners.iter().flat_map(TcpListener::local_addr).map(|a| a.ip()).collect();
        addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(port: u16) -> Database {
        Database { name: "order", port, user: "u", database: "d" }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_its_database_and_its_flag() {
        let taken = Reservation::of(&database(0)).await.unwrap();

        let error = Reservation::of(&database(taken.port)).await.err().unwrap();

        let expected = format!(
            "port {}, wanted for the order database, is in use: choose another with --order-db-port",
            taken.port
        );
        assert_eq!(error.to_string(), expected);
    }

    #[tokio::test]
    async fn a_dropped_reservation_leaves_the_port_free_on_every_loopback_address() {
        let reservation = Reservation::of(&database(0)).await.unwrap();
        let (port, addresses) = (reservation.port, reservation.addresses());
        drop(reservation);

        assert!(addresses.starts_with("127.0.0.1"), "{addresses}");
        assert_eq!(Reservation::of(&database(port)).await.unwrap().addresses(), addresses);
    }
}
