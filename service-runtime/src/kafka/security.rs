//! How clients and brokers trust one another: TLS and SASL. See `defaults/kafka.toml` for what each setting means.

use std::fs::File;
use std::str::FromStr;

use serde::Deserialize;

use crate::settings::{Secret, Settings, SettingsError, require};

/// The settings of a connection without any of it.
pub(super) const PLAINTEXT: [(&str, &str); 6] = [
    ("kafka_security_protocol", "plaintext"),
    ("kafka_sasl_username", ""),
    ("kafka_sasl_password", ""),
    ("kafka_ssl_ca_location", ""),
    ("kafka_ssl_certificate_location", ""),
    ("kafka_ssl_key_location", ""),
];

/// Settings of a connection, beside its address.
#[derive(Debug, Clone, Deserialize)]
struct Section {
    kafka_security_protocol: String,
    kafka_sasl_mechanism: String,
    kafka_sasl_username: String,
    kafka_sasl_password: Secret,
    kafka_ssl_ca_location: String,
    kafka_ssl_certificate_location: String,
    kafka_ssl_key_location: String,
    kafka_ssl_key_password: Secret,
}

/// What librdkafka has to know of it, by its own names.
#[derive(Debug, Clone, Default)]
pub(super) struct Security(Vec<(&'static str, Secret)>);

/// `security.protocol`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

/// `sasl.mechanism`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

impl Security {
    pub(super) fn properties(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.get()))
    }
}

impl TryFrom<&Settings> for Security {
    type Error = SettingsError;

    fn try_from(settings: &Settings) -> Result<Self, SettingsError> {
        let section: Section = settings.section()?;
        // Before librdkafka does it, so that OpenSSL clears nothing away at the end of the process: librdkafka's threads may
        // use it still. (One in twenty ends of `sagactl dlq` was a crash.)
        #[cfg(feature = "kafka-tls")]
        openssl_sys::init();
        let protocol: Protocol = parsed("kafka_security_protocol", &section.kafka_security_protocol)?;
        let mechanism = parsed("kafka_sasl_mechanism", &section.kafka_sasl_mechanism)?;
        let mut properties = vec![("security.protocol", protocol.name().to_owned())];
        properties.extend(tls(protocol, &section)?);
        properties.extend(sasl(protocol, mechanism, &section)?);
        Ok(Self(properties.into_iter().map(|(name, value)| (name, value.into())).collect()))
    }
}

type Properties = Vec<(&'static str, String)>;

fn tls(protocol: Protocol, section: &Section) -> Result<Properties, SettingsError> {
    let ca = ("kafka_ssl_ca_location", &section.kafka_ssl_ca_location);
    let certificate = ("kafka_ssl_certificate_location", &section.kafka_ssl_certificate_location);
    let key = ("kafka_ssl_key_location", &section.kafka_ssl_key_location);
    if !protocol.has_tls() {
        for (name, value) in [ca, certificate, key] {
            require(name, value.is_empty(), "is for kafka_security_protocol = ssl or sasl_ssl")?;
        }
        return Ok(Vec::new());
    }
    has_openssl("kafka_security_protocol")?;
    for (name, file) in [ca, certificate, key].into_iter().filter(|(_, file)| !file.is_empty()) {
        File::open(file).map_err(|error| SettingsError::Invalid { key: name, problem: format!("{file}: {error}") })?;
    }
    require(key.0, key.1.is_empty() == certificate.1.is_empty(), "goes with kafka_ssl_certificate_location")?;
    // `probe`: the system's certificates, wherever the system has them.
    let trusted = if ca.1.is_empty() { "probe" } else { ca.1 };
    let mut properties = vec![("ssl.ca.location", trusted.to_owned())];
    if !key.1.is_empty() {
        properties.push(("ssl.certificate.location", certificate.1.clone()));
        properties.push(("ssl.key.location", key.1.clone()));
        properties.push(("ssl.key.password", section.kafka_ssl_key_password.get().to_owned()));
    }
    Ok(properties)
}

fn sasl(protocol: Protocol, mechanism: Mechanism, section: &Section) -> Result<Properties, SettingsError> {
    let (username, password) = (&section.kafka_sasl_username, section.kafka_sasl_password.get());
    if !protocol.has_sasl() {
        // Somebody believes that it is used.
        let rule = "is for kafka_security_protocol = sasl_plaintext or sasl_ssl";
        require("kafka_sasl_username", username.is_empty(), rule)?;
        require("kafka_sasl_password", password.is_empty(), rule)?;
        return Ok(Vec::new());
    }
    require("kafka_sasl_username", !username.is_empty(), "must be set: kafka_security_protocol asks for it")?;
    require("kafka_sasl_password", !password.is_empty(), "must be set: kafka_security_protocol asks for it")?;
    if mechanism != Mechanism::Plain {
        has_openssl("kafka_sasl_mechanism")?;
    }
    Ok(vec![
        ("sasl.mechanism", mechanism.name().to_owned()),
        ("sasl.username", username.clone()),
        ("sasl.password", password.to_owned()),
    ])
}

/// TLS and SCRAM come with OpenSSL, which a build has or has not.
fn has_openssl(key: &'static str) -> Result<(), SettingsError> {
    let rule = "this program was built without OpenSSL: build it with `--features service-runtime/kafka-tls`, as the images are";
    require(key, cfg!(feature = "kafka-tls"), rule)
}

fn parsed<T: FromStr<Err = String>>(key: &'static str, text: &str) -> Result<T, SettingsError> {
    text.parse().map_err(|problem| SettingsError::Invalid { key, problem })
}

/// The one of `all` that is called so, in capitals or not.
fn by_name<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, text: &str) -> Result<T, String> {
    let found = all.iter().find(|one| name(**one).eq_ignore_ascii_case(text));
    let known = || all.iter().map(|one| name(*one)).collect::<Vec<_>>().join(", ");
    found.copied().ok_or_else(|| format!("{text:?} is none of {}", known()))
}

impl Protocol {
    const fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }

    fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        by_name(&[Self::Plaintext, Self::Ssl, Self::SaslPlaintext, Self::SaslSsl], Self::name, text)
    }
}

impl Mechanism {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl FromStr for Mechanism {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        by_name(&[Self::Plain, Self::ScramSha256, Self::ScramSha512], Self::name, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::KAFKA_DEFAULTS;

    fn security(settings: &[(&str, &str)]) -> Result<Vec<(&'static str, String)>, String> {
        let environment = settings.iter().map(|(key, value)| (format!("KAFKA_{key}"), (*value).to_owned()));
        let settings = Settings::load(&[KAFKA_DEFAULTS], None, environment).unwrap();
        let security = Security::try_from(&settings).map_err(|error| error.to_string())?;
        assert!(!format!("{security:?}").contains("hunter2"), "{security:?}");
        Ok(security.properties().map(|(name, value)| (name, value.to_owned())).collect())
    }

    fn property(name: &'static str, value: &str) -> (&'static str, String) {
        (name, value.to_owned())
    }

    #[test]
    fn a_connection_is_plain_unless_told_otherwise() {
        assert_eq!(security(&[]).unwrap(), [property("security.protocol", "plaintext")]);
    }

    #[test]
    fn a_password_goes_along_by_the_mechanism_that_is_told() {
        let plain = [
            ("SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
            ("SASL_MECHANISM", "plain"),
            ("SASL_USERNAME", "ann"),
            ("SASL_PASSWORD", "hunter2"),
        ];
        let expected = [
            property("security.protocol", "sasl_plaintext"),
            property("sasl.mechanism", "PLAIN"),
            property("sasl.username", "ann"),
            property("sasl.password", "hunter2"),
        ];
        assert_eq!(security(&plain).unwrap(), expected);
    }

    #[test]
    fn what_would_not_be_used_or_is_missing_is_refused_by_its_name() {
        for (settings, named) in [
            (&[("SECURITY_PROTOCOL", "tls")][..], r#"kafka_security_protocol: "tls" is none of plaintext, ssl"#),
            (&[("SASL_MECHANISM", "GSSAPI")], "kafka_sasl_mechanism"),
            (&[("SASL_USERNAME", "ann")], "kafka_sasl_username: is for"),
            (&[("SASL_PASSWORD", "hunter2")], "kafka_sasl_password: is for"),
            (&[("SSL_CA_LOCATION", "/ca.pem")], "kafka_ssl_ca_location: is for"),
            (&[("SECURITY_PROTOCOL", "sasl_plaintext")], "kafka_sasl_username: must be set"),
            (&[("SECURITY_PROTOCOL", "sasl_plaintext"), ("SASL_USERNAME", "ann")], "kafka_sasl_password: must be set"),
        ] {
            let refused = security(settings).unwrap_err();
            assert!(refused.contains(named) && !refused.contains("hunter2"), "{settings:?}: {refused}");
        }
    }

    #[test]
    #[cfg(not(feature = "kafka-tls"))]
    fn a_build_without_openssl_says_so() {
        let scram = [("SECURITY_PROTOCOL", "sasl_plaintext"), ("SASL_USERNAME", "ann"), ("SASL_PASSWORD", "hunter2")];
        for settings in [&[("SECURITY_PROTOCOL", "ssl")][..], &scram] {
            let refused = security(settings).unwrap_err();
            assert!(refused.contains("--features service-runtime/kafka-tls"), "{refused}");
        }
    }

    #[test]
    #[cfg(feature = "kafka-tls")]
    fn tls_needs_files_that_are_there_and_a_key_for_a_certificate() {
        let own = file!().strip_prefix("service-runtime/").unwrap();
        assert_eq!(
            security(&[("SECURITY_PROTOCOL", "ssl")]).unwrap(),
            [property("security.protocol", "ssl"), property("ssl.ca.location", "probe")]
        );
        for (settings, named) in [
            (&[("SSL_CA_LOCATION", "/nowhere.pem")][..], "kafka_ssl_ca_location: /nowhere.pem: No such file"),
            (&[("SSL_CERTIFICATE_LOCATION", own)], "kafka_ssl_key_location: goes with"),
            (&[("SSL_KEY_LOCATION", own)], "kafka_ssl_key_location: goes with"),
        ] {
            let settings: Vec<_> = settings.iter().copied().chain([("SECURITY_PROTOCOL", "ssl")]).collect();
            let refused = security(&settings).unwrap_err();
            assert!(refused.contains(named), "{settings:?}: {refused}");
        }
        let both = [("SECURITY_PROTOCOL", "ssl"), ("SSL_CERTIFICATE_LOCATION", own), ("SSL_KEY_LOCATION", own)];
        assert!(security(&both).unwrap().contains(&property("ssl.key.location", own)));
    }
}
