//! The URL of a database, read strictly. A password whose characters are not percent-encoded would be read as a host, and
//! logged as one; a misspelt `sslmode` would leave the connection unencrypted. Both are refused, and no error repeats what
//! may be part of a password.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr as _;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::percent_encoded;

/// The parameters that are understood, as they are listed in an error. `options[NAME]` sets one of the server's settings.
const KNOWN: [&str; 14] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "target_session_attrs",
    "application_name",
    "options",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
];

/// Other spellings of them, which sqlx takes.
const ALIASES: [(&str, &str); 5] = [
    ("ssl-mode", "sslmode"),
    ("ssl-root-cert", "sslrootcert"),
    ("ssl-ca", "sslrootcert"),
    ("ssl-cert", "sslcert"),
    ("ssl-key", "sslkey"),
];

const SSL_MODES: &str = "must be disable, allow, prefer, require, verify-ca or verify-full";

/// What is wrong with a URL. Never holds a part of it that may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("must be a URL that begins with postgres:// or postgresql://")]
    NotAUrl,
    #[error(
        "can't be told apart into user, password, host and database ({0}). Percent-encode what is special in the user and the \
         password (@ as %40, / as %2F, : as %3A, # as %23, ? as %3F, % as %25), or leave the password out and set PGPASSWORD \
         or PGPASSFILE"
    )]
    Ambiguous(&'static str),
    #[error("has an unknown parameter{}; known are {}, options[NAME]", named(.0.as_deref()), KNOWN.join(", "))]
    UnknownParameter(Option<String>),
    #[error("has the parameter `{0}` twice")]
    Twice(&'static str),
    #[error("has a parameter without a value")]
    NoValue,
    #[error("has a wrong value of `{0}`: {1}")]
    Value(&'static str, &'static str),
    #[error("names several hosts, and another one as a parameter: `{0}`")]
    HostTwice(&'static str),
    #[error("can't be read")]
    Unreadable,
}

fn named(parameter: Option<&str>) -> String {
    parameter.map_or_else(String::new, |name| format!(" `{name}`"))
}

/// How to connect to each of the hosts that a URL names; one unless there are commas. What it leaves out is taken from
/// libpq's environment variables (PGPASSWORD, PGSSLMODE, PGSSLROOTCERT, ...) and password file. `overrides` are parameters
/// that count more than what the URL has.
pub(super) fn read(url: &str, overrides: &[(&'static str, String)]) -> Result<Vec<PgConnectOptions>, UrlError> {
    // sqlx would take another value for none.
    if std::env::var_os("PGSSLMODE").is_some_and(|mode| mode.to_str().is_none_or(|mode| !is_ssl_mode(mode))) {
        return Err(UrlError::Value("PGSSLMODE, of the environment,", SSL_MODES));
    }
    let url = url.trim();
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let rest = rest.ok_or(UrlError::NotAUrl)?;
    if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(UrlError::Ambiguous("a space or control character"));
    }
    if rest.contains('#') {
        return Err(UrlError::Ambiguous("a `#`"));
    }
    if rest.matches('@').count() > 1 {
        return Err(UrlError::Ambiguous("more than one `@`"));
    }
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if tail.contains('@') {
        return Err(UrlError::Ambiguous("an `@` behind a `/` or `?`"));
    }
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let (user, hosts) = authority.split_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
    if user.contains(['[', ']']) {
        return Err(UrlError::Ambiguous("a `[` or `]`"));
    }
    let hosts: Vec<&str> = hosts.split(',').collect();
    let several = hosts.len() > 1;
    for host in &hosts {
        check_host(host, several)?;
    }
    let mut parameters = parameters(query, several)?;
    for (name, value) in overrides {
        // The last one counts.
        parameters += &format!("&{name}={}", percent_encoded(value));
    }
    let at = if authority.contains('@') { "@" } else { "" };
    let one = |host: &&str| {
        PgConnectOptions::from_str(&format!("postgres://{user}{at}{host}{path}?{parameters}"))
            // Its text may repeat what it could not read.
            .map_err(|_| UrlError::Unreadable)
    };
    hosts.iter().map(one).collect()
}

/// A name, an address, a percent-encoded folder of a socket; each with or without a port.
fn check_host(host: &str, is_of_several: bool) -> Result<(), UrlError> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(UrlError::Ambiguous("a `[` without `]`"))?;
            address.parse::<Ipv6Addr>().map_err(|_| UrlError::Ambiguous("no IPv6 address between `[` and `]`"))?;
            (address, port)
        }
        None => {
            let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
            if name.contains(|c: char| !c.is_ascii_alphanumeric() && !"-._%".contains(c)) {
                return Err(UrlError::Ambiguous("a host with characters that no host's name has"));
            }
            (name, port)
        }
    };
    if name.is_empty() && is_of_several {
        return Err(UrlError::Ambiguous("a host without a name"));
    }
    let is_port =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    match port.strip_prefix(':') {
        Some(port) if is_port(port) => Ok(()),
        None if port.is_empty() => Ok(()),
        _ => Err(UrlError::Ambiguous("a port that is not a number from 1 to 65535")),
    }
}

/// The query without what sqlx does not know.
fn parameters(query: &str, several_hosts: bool) -> Result<String, UrlError> {
    let mut kept = Vec::new();
    let mut seen = Vec::new();
    let has_password = query.split('&').any(|pair| pair.starts_with("password"));
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let is_setting = key.starts_with("options[") && key.ends_with(']');
        let spelt = ALIASES.iter().find(|(alias, _)| *alias == key).map_or(key, |(_, name)| name);
        let Some(name) = KNOWN.into_iter().find(|known| *known == spelt || (is_setting && *known == "options")) else {
            // A piece of a password that holds a `&` would stand here as well.
            let shown =
                !has_password && key.len() <= 40 && key.bytes().all(|b| b.is_ascii_lowercase() || b"-_".contains(&b));
            return Err(UrlError::UnknownParameter(shown.then(|| key.to_owned())));
        };
        if !is_setting && seen.contains(&name) {
            return Err(UrlError::Twice(name));
        }
        if value.is_empty() {
            return Err(UrlError::NoValue);
        }
        seen.push(name);
        let rule = match name {
            "sslmode" if !is_ssl_mode(value) => SSL_MODES,
            "target_session_attrs" if !["read-write", "primary"].contains(&value) => {
                "must be read-write or primary: a service writes, so that a standby is of no use to it"
            }
            "port" if value.parse::<u16>().is_ok_and(|port| port > 0) => "",
            "port" => "must be a number from 1 to 65535; several stand behind their hosts, as in h1:5432,h2:5432",
            "statement-cache-capacity" if value.parse::<usize>().is_err() => "must be a number",
            "hostaddr" if value.parse::<IpAddr>().is_err() => "must be an IP address",
            "host" if value.contains(',') => "must be one host; several stand before the path, as in h1:5432,h2:5432",
            _ => "",
        };
        if !rule.is_empty() {
            return Err(UrlError::Value(name, rule));
        }
        if several_hosts && ["host", "hostaddr", "port"].contains(&name) {
            return Err(UrlError::HostTwice(name));
        }
        // Every connection is checked for it, whether the URL asks or not.
        if name != "target_session_attrs" {
            kept.push(pair);
        }
    }
    Ok(kept.join("&"))
}

fn is_ssl_mode(mode: &str) -> bool {
    PgSslMode::from_str(mode).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        read(url, &[]).map(|_| ()).expect_err(url).to_string()
    }

    #[test]
    fn a_password_that_is_not_percent_encoded_is_refused_without_a_piece_of_it() {
        for url in [
            "postgres://u:p@ss/w:rd#1@db.example/orders",
            "postgres://u:p@ss@db.example/orders",
            "postgres://u:ss/wrd@db.example/orders",
            "postgres://u:ss?wrd@db.example/orders",
            "postgres://u:ss#wrd@db.example/orders",
            "postgres://u:ss wrd@db.example/orders",
            "postgres://u:ss[wrd@db.example/orders",
            "postgres://u:sswrd/orders",
            "postgres://u:sswrd",
            "postgres://ss!wrd/orders",
            "postgres://h/d?user=u&password=p&sswrd",
            "postgres://h/d?user=u&password=p&sswrd=1",
            "mysql://u:sswrd@h/d",
            "sswrd",
        ] {
            let error = refused(url);
            for piece in ["p@ss", "ss/w", "sswrd", "wrd"] {
                assert!(!error.contains(piece), "{url}: {error}");
            }
        }
        assert!(refused("postgres://u:p@ss/w:rd#1@h/d").contains("Percent-encode"));
        assert!(refused("postgres://u:p@ss/w:rd#1@h/d").contains("PGPASSWORD"));
        let encoded = read("postgres://u:p%40ss%2Fw%3Ard%231@db.example:5433/orders", &[]).unwrap();
        assert_eq!((encoded[0].get_host(), encoded[0].get_port()), ("db.example", 5433));
    }

    #[test]
    fn an_unknown_parameter_is_refused_with_those_that_are_known() {
        let error = refused("postgres://u:p@h/d?sslmod=require");
        assert!(error.contains("`sslmod`") && error.contains("sslmode, sslrootcert"), "{error}");
        for (parameters, words) in [
            ("sslmode=requird", "`sslmode`: must be disable"),
            ("sslmode=require&ssl-mode=disable", "`sslmode` twice"),
            ("application_name=a&application_name=b", "`application_name` twice"),
            ("sslmode", "without a value"),
            ("connect_timeout=3", "`connect_timeout`"),
            ("channel_binding=require", "`channel_binding`"),
            ("target_session_attrs=any", "must be read-write or primary"),
            ("target_session_attrs=prefer-standby", "must be read-write or primary"),
            ("port=0", "65535"),
            ("hostaddr=here", "IP address"),
            ("statement-cache-capacity=lots", "a number"),
        ] {
            let error = refused(&format!("postgres://u:p@h/d?{parameters}"));
            assert!(error.contains(words), "{parameters}: {error}");
        }
    }

    #[test]
    fn what_was_taken_before_still_is() {
        for url in [
            "postgres://order_user:order_pass@localhost:5433/order_db",
            "postgresql://u@h/d",
            "postgres://u:p@127.0.0.1:5433/order_db?sslmode=disable",
            "postgres://u:p$&'()*+,;=:~!x%20y@h/d?sslmode=verify-full&sslrootcert=/etc/ca.pem",
            "postgres://u:p@[::1]:5433/d",
            "postgres://u:pässwörd@h/d",
            "postgres://%2Frun%2Fpostgresql/d",
            "postgres:///d?host=/run/postgresql&user=u&port=5433",
            "postgres://h/d?options=-c%20work_mem%3D8MB&options[jit]=off&options[search_path]=x",
            " postgres://u:p@h/d\n",
        ] {
            assert_eq!(read(url, &[]).expect(url).len(), 1, "{url}");
        }
    }

    #[test]
    fn what_takes_the_place_of_a_part_counts_whatever_characters_it_has() {
        let overrides = [
            ("host", "db.example"),
            ("port", "6000"),
            ("user", "a b&c=é"),
            ("dbname", "d#1"),
            ("password", "p@ss/w:rd"),
        ];
        let overrides = overrides.map(|(name, value)| (name, value.to_owned()));
        for url in ["postgres://u@localhost:5433/order_db", "postgres://u@localhost/order_db?user=x&sslmode=disable"] {
            let options = &read(url, &overrides).unwrap()[0];
            assert_eq!((options.get_host(), options.get_port()), ("db.example", 6000), "{url}");
            assert_eq!((options.get_username(), options.get_database()), ("a b&c=é", Some("d#1")), "{url}");
        }
        let socket = &read("postgres://u@localhost:5433/d", &[("host", "/run/postgresql".to_owned())]).unwrap()[0];
        assert_eq!(socket.get_socket().map(|path| path.as_path()), Some(std::path::Path::new("/run/postgresql")));
    }

    #[test]
    fn several_hosts_share_everything_else() {
        let url = "postgres://u:p@h1:5432,[::1]:5433,h3/d?target_session_attrs=read-write&application_name=a";
        let options = read(url, &[]).unwrap();
        let places: Vec<_> = options.iter().map(|o| (o.get_host(), o.get_port(), o.get_database())).collect();
        assert_eq!(places, [("h1", 5432, Some("d")), ("[::1]", 5433, Some("d")), ("h3", 5432, Some("d"))]);
        assert!(options.iter().all(|o| o.get_username() == "u" && o.get_application_name() == Some("a")));
        for url in ["postgres://u:p@h1,,h2/d", "postgres://u:p@h1,/d", "postgres://u:p@h1:x,h2/d"] {
            assert!(matches!(read(url, &[]), Err(UrlError::Ambiguous(_))), "{url}");
        }
        assert!(refused("postgres://u:p@h1,h2/d?port=5433").contains("`port`"));
    }
}
