//! What stands before several instances in an installation: a TCP forwarder that gives each new connection to the next
//! one in turn. It knows nothing of HTTP and checks nobody's health; one that refuses is passed over.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};

/// Forwards until the process ends; answers where it listens.
pub async fn start(instances: Vec<SocketAddr>) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, crate::free_port()?)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        for turn in 0.. {
            let Ok((client, _)) = listener.accept().await else { continue };
            tokio::spawn(forward(client, instances.clone(), turn));
        }
    });
    Ok(address)
}

async fn forward(mut client: TcpStream, instances: Vec<SocketAddr>, turn: usize) {
    for offset in 0..instances.len() {
        if let Ok(mut instance) = TcpStream::connect(instances[(turn + offset) % instances.len()]).await {
            // Without these a request or answer in two parts waits 40 ms for the acknowledgement of its first.
            let _ = (client.set_nodelay(true), instance.set_nodelay(true));
            // It ends when either side does; who was cut off sees it by itself.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut instance).await;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn says(word: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                client.writable().await.unwrap();
                client.try_write(word).unwrap();
            }
        });
        address
    }

    async fn heard(forwarder: SocketAddr) -> String {
        let mut word = String::new();
        TcpStream::connect(forwarder).await.unwrap().read_to_string(&mut word).await.unwrap();
        word
    }

    #[tokio::test]
    async fn connections_go_to_each_in_turn_and_past_one_that_is_down() {
        let down = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let forwarder = start(vec![says(b"one").await, down, says(b"two").await]).await.unwrap();
        let mut words = Vec::new();
        for _ in 0..3 {
            words.push(heard(forwarder).await);
        }
        assert_eq!(words, ["one", "two", "two"]);
    }
}
