//! A reverse proxy as it stands before an installation: it reads a request's head, names the client in
//! `X-Forwarded-For`, and passes on what follows as it comes. One request for each connection.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use e2e_tests::attackers::connect;
use e2e_tests::free_port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const MAX_HEAD: usize = 16 * 1024;

/// Forwards to `to`, from this address of the machine, until the process ends; answers where it listens.
pub async fn start(at: Ipv4Addr, to: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind((at, free_port()?)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            let Ok((client, peer)) = listener.accept().await else { continue };
            tokio::spawn(async move {
                // Either side may end it.
                let _ = forward(client, peer, at, to).await;
            });
        }
    });
    Ok(address)
}

async fn forward(mut client: TcpStream, peer: SocketAddr, at: Ipv4Addr, to: SocketAddr) -> Result<()> {
    let (mut head, mut end) = (Vec::new(), None);
    while end.is_none() {
        ensure!(client.read_buf(&mut head).await? > 0 && head.len() < MAX_HEAD, "no head came");
        end = head.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    }
    let end = end.unwrap_or_default() + 2;
    let mut service = connect(at, to).await?;
    let _ = (client.set_nodelay(true), service.set_nodelay(true));
    let forwarded_for = format!("X-Forwarded-For: {}\r\nConnection: close\r\n", peer.ip());
    service.write_all(&[&head[..end], forwarded_for.as_bytes(), &head[end..]].concat()).await?;
    tokio::io::copy_bidirectional(&mut client, &mut service).await?;
    Ok(())
}
