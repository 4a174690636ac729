//! Which client a request counts for: the address that its connection comes from, or, where that is a proxy that the
//! settings trust, the address that the proxy names in `X-Forwarded-For`.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use ipnet::IpNet;
use serde::Deserialize;

use super::connection::Connection;

/// The header in which proxies name the clients of a request, each proxy its own client at the end.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// What counts as one client: an IPv4 address, or the 64 bits of an IPv6 address that name a customer's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                // All of `::/64` would be one client, but its loopback address is no network's.
                Self(IpAddr::V6(if network == 0 { address } else { Ipv6Addr::from_bits(network) }))
            }
            address => Self(address),
        }
    }
}

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a request comes from. Handlers take it as an argument.
#[derive(Clone, Default)]
pub struct Caller {
    client: Option<Client>,
    connection: Option<Arc<Connection>>,
}

impl Caller {
    pub(super) fn new(client: Client, connection: Arc<Connection>) -> Self {
        Self { client: Some(client), connection: Some(connection) }
    }

    /// The client that the request counts for. `None`: it came by no connection (a part of a batch, a test).
    pub const fn client(&self) -> Option<Client> {
        self.client
    }

    /// The connection's number in this process, unless a trusted proxy shares it among its clients.
    pub fn own_connection(&self) -> Option<u64> {
        self.connection.as_ref().filter(|connection| !connection.is_of_proxy()).map(|connection| connection.number())
    }

    /// Waits until the client has closed its sending side. It may still read (RFC 9112, section 9.6), or be gone: which of
    /// them is known only once something is sent.
    pub async fn sending_ended(&self) {
        match &self.connection {
            Some(connection) => connection.sending_ended().await,
            None => std::future::pending().await,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// The proxies whose `X-Forwarded-For` counts: addresses and networks, separated by commas.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct TrustedProxies(Vec<IpNet>);

impl TryFrom<String> for TrustedProxies {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let network = |part: &str| {
            let network = part.parse::<IpNet>().ok();
            let network = network.or_else(|| part.parse::<IpAddr>().ok().map(IpNet::from));
            network.ok_or_else(|| format!("`{part}` is no address and no network such as 10.0.0.0/8"))
        };
        parts.map(network).collect::<Result<_, _>>().map(Self)
    }
}

impl TrustedProxies {
    pub(super) fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client of a request that a trusted proxy at `peer` forwards: the last address that is none of the proxies'.
    /// What stands before it in the header may be anything that this client wrote.
    pub(super) fn forwarded_client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        for value in headers.get_all(FORWARDED_FOR).iter().rev() {
            for hop in value.to_str().unwrap_or_default().rsplit(',') {
                // An unreadable hop: all that is known is the proxy behind it.
                let Some(hop) = address(hop.trim()) else { return client };
                client = hop;
                if !self.trust(client) {
                    return client;
                }
            }
        }
        client
    }
}

/// An address, with or without a port: proxies write both.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(text: &str) -> TrustedProxies {
        text.to_owned().try_into().unwrap()
    }

    fn client(peer: &str, headers: &[&str]) -> String {
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(FORWARDED_FOR, value.parse().unwrap());
        }
        trusted("10.0.0.0/8, ::1").forwarded_client(peer.parse().unwrap(), &map).to_string()
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_no_trusted_proxy() {
        for (headers, expected) in [
            (&[][..], "10.0.0.1"),
            (&["192.0.2.7"], "192.0.2.7"),
            // Whoever is behind 192.0.2.7 may have written the first address.
            (&["198.51.100.1, 192.0.2.7"], "192.0.2.7"),
            (&["192.0.2.7, 10.9.9.9"], "192.0.2.7"),
            (&["198.51.100.1", "192.0.2.7,10.9.9.9"], "192.0.2.7"),
            (&["192.0.2.7:4711"], "192.0.2.7"),
            (&["[2001:db8::1]:4711"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["10.1.1.1"], "10.1.1.1"),
            (&["unknown"], "10.0.0.1"),
            (&["192.0.2.7, unknown, 10.9.9.9"], "10.9.9.9"),
        ] {
            assert_eq!(client("10.0.0.1", headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn proxies_are_addresses_and_networks() {
        let proxies = trusted("10.0.0.0/8,192.0.2.1 , 2001:db8::/32");
        for (address, is_trusted) in [
            ("10.200.0.1", true),
            ("::ffff:10.200.0.1", true),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(proxies.trust(address.parse().unwrap()), is_trusted, "{address}");
        }
        assert!(!trusted("").trust(IpAddr::from([127, 0, 0, 1])));
        let refused = TrustedProxies::try_from("10.0.0.0/8, proxy.example".to_owned()).unwrap_err();
        assert!(refused.contains("`proxy.example`"), "{refused}");
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let client = |text: &str| Client::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
        assert_ne!(client("2001:db8:0:1::1"), client("2001:db8:0:2::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_eq!(client("::1").to_string(), "::1");
    }
}
