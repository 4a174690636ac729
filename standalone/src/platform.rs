//! The four services in this process, on what they need: their databases and a Kafka.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use kafka_init::{BROKERS_DEFAULT, Plan};
use messages::all_topics;
use service_runtime::http::HttpSettings;
use service_runtime::kafka::KafkaSettings;
use service_runtime::program::Threads;
use service_runtime::settings::{self, Settings, SettingsError};
use service_runtime::{CancellationToken, Fatal, http};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};
use tracing::{info, warn};

use crate::broker::EmbeddedBroker;
use crate::data_dir::DataDir;
use crate::postgres::{Database, PASSWORD_FILE, Servers};

/// Partitions of each topic: two are enough to show that keys are spread.
const PARTITIONS: i32 = 2;

/// `fetch.wait.max.ms` on the embedded broker, which does not wake a waiting fetch: each hop costs half of it on
/// average. Measured for two idle consumers: 2 ms cost 10 % of a core, 5 ms 5.5 %, 10 ms 5 %.
const EMBEDDED_FETCH_WAIT_MS: i64 = 5;

/// Environment variables that name one service's own port or database: in one process they would mean all four.
const PER_PROCESS: [&str; 11] = [
    "PORT",
    "DATABASE_URL",
    "PGHOST",
    "PGPORT",
    "PGUSER",
    "PGPASSWORD",
    "PGDATABASE",
    "ORDER_SERVICE_URL",
    "PAYMENT_SERVICE_URL",
    "INVENTORY_SERVICE_URL",
    "ORCHESTRATOR_URL",
];

/// The file in the data directory with Kafka's address, `host:port`, for programs that join in. The embedded broker has
/// another port after each start.
pub const KAFKA_FILE: &str = "kafka";

/// How long the services may take to stop, beyond `SHUTDOWN_DRAIN_MS` and `SHUTDOWN_TIMEOUT_MS`; the databases follow.
const SERVICES_STOP_LIMIT: Duration = Duration::from_millis(1200);

/// How long the services may take to get ready, once their databases and Kafka are there.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// The ports, all on localhost.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub orchestrator: u16,
    pub order: u16,
    pub payment: u16,
    pub inventory: u16,
    pub order_db: u16,
    pub payment_db: u16,
    pub inventory_db: u16,
    pub orchestrator_db: u16,
}

/// Which Kafka to use.
#[derive(Debug, Clone)]
pub enum Kafka {
    Embedded,
    /// host:port of a real one.
    At(String),
}

/// The running platform.
pub struct Platform {
    services: JoinSet<Ended>,
    servers: Servers,
    password_file: PathBuf,
    /// Held for the broker's life.
    broker: Option<EmbeddedBroker>,
    bootstrap_servers: String,
    ports: Ports,
    /// Where the services' health is asked for.
    addresses: [(&'static str, SocketAddr); 4],
    stop: CancellationToken,
    stop_limit: Duration,
}

impl Ports {
    /// Says which HTTP port is taken before anything is started, with the flag that chooses another.
    async fn check_free(&self) -> Result<(), Fatal> {
        let http = [
            ("orchestrator", self.orchestrator),
            ("order", self.order),
            ("payment", self.payment),
            ("inventory", self.inventory),
        ];
        for (name, port) in http {
            if let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                return Err(Fatal::new(format!(
                    "can't listen on port {port}: {error}. Stop what holds it, or choose another with --{name}-port"
                )));
            }
        }
        Ok(())
    }

    /// The databases as they are documented, on these ports.
    pub fn databases(&self) -> Vec<Database> {
        let database = |name, port, user, database| Database { name, port, user, database };
        vec![
            database("order", self.order_db, "order_user", "order_db"),
            database("payment", self.payment_db, "payment_user", "payment_db"),
            database("inventory", self.inventory_db, "inventory_user", "inventory_db"),
            database("orchestrator", self.orchestrator_db, "orchestrator_user", "orchestrator_db"),
        ]
    }

    /// Those of them that are not at one of these URLs, by name.
    pub fn embedded_databases(&self, urls: &HashMap<&'static str, String>) -> Vec<Database> {
        self.databases().into_iter().filter(|database| !urls.contains_key(database.name)).collect()
    }
}

impl Platform {
    /// Starts everything and returns when every service is ready. `urls` are databases to be used instead of
    /// embedded ones, by name. A cancelled `stop` ends the services.
    pub async fn start(
        data_dir: &DataDir,
        ports: Ports,
        kafka: Kafka,
        mut urls: HashMap<&'static str, String>,
        stop: CancellationToken,
    ) -> Result<Self, Fatal> {
        // Our own, so that a failed start does not look like a wanted stop.
        let stop = stop.child_token();
        check_settings()?;
        ports.check_free().await?;
        let is_embedded = !urls.contains_key("inventory");
        let embedded = ports.embedded_databases(&urls);
        let servers = Servers::start(data_dir, embedded, |line| info!("{line}")).await;
        let servers = servers.map_err(|error| Fatal::new(error.to_string()))?;
        urls.extend(servers.iter().map(|server| (server.database().name, server.url())));

        let (broker, kafka_settings) = start_kafka(data_dir, kafka).await?;
        let bootstrap_servers = kafka_settings["kafka_bootstrap_servers"].to_string();
        data_dir
            .write_private(KAFKA_FILE, &format!("{bootstrap_servers}\n"))
            .map_err(|error| Fatal::new(format!("{}: {error}", data_dir.path().join(KAFKA_FILE).display())))?;
        let settings_of = |defaults: &[&str], port: u16, database: &str| -> Result<Settings, SettingsError> {
            let mut settings = own_settings(defaults)?
                .with("port", i64::from(port))?
                .with("database_url", urls.get(database).cloned().unwrap_or_default())?;
            for (key, value) in &kafka_settings {
                settings = settings.with(key, value.clone())?;
            }
            Ok(settings)
        };
        let address = |settings: &Settings| HttpSettings::try_from(settings).map(|http| http.local_address());
        let orchestrator = settings_of(&saga_orchestrator::DEFAULTS, ports.orchestrator, "orchestrator")?;
        let orchestrator_url = format!("http://{}", address(&orchestrator)?);
        let participant = |defaults: &[&str], port, name| -> Result<Settings, SettingsError> {
            settings_of(defaults, port, name)?.with("orchestrator_url", orchestrator_url.clone())
        };
        let order = participant(&order_service::DEFAULTS, ports.order, "order")?;
        let payment = participant(&payment_service::DEFAULTS, ports.payment, "payment")?;
        let inventory = participant(&inventory_defaults(is_embedded), ports.inventory, "inventory")?;
        let orchestrator = orchestrator
            .with("order_service_url", format!("http://{}", address(&order)?))?
            .with("payment_service_url", format!("http://{}", address(&payment)?))?
            .with("inventory_service_url", format!("http://{}", address(&inventory)?))?;
        let addresses = [
            ("order-service", address(&order)?),
            ("payment-service", address(&payment)?),
            ("inventory-service", address(&inventory)?),
            ("saga-orchestrator", address(&orchestrator)?),
        ];
        let stop_limit = HttpSettings::try_from(&orchestrator)?.stop_limit() + SERVICES_STOP_LIMIT;
        let threads = Threads::try_from(&order)?;
        let (order, payment) = ((&order).try_into()?, (&payment).try_into()?);
        let inventory = (&inventory).try_into()?;
        let orchestrator = saga_orchestrator::Config::try_from(&orchestrator)?;
        let orchestrator = match &broker {
            Some(broker) => orchestrator.with_topic_creation(broker.topic_creation()),
            None => orchestrator,
        };

        let mut services = JoinSet::new();
        let token = || stop.clone();
        services.spawn(on_its_own("order-service", threads, order_service::run(order, token())));
        services.spawn(on_its_own("payment-service", threads, payment_service::run(payment, token())));
        services.spawn(on_its_own("inventory-service", threads, inventory_service::run(inventory, token())));
        services.spawn(on_its_own("saga-orchestrator", threads, saga_orchestrator::run(orchestrator, token())));

        let password_file = data_dir.path().join(PASSWORD_FILE);
        let mut platform =
            Self { services, servers, password_file, broker, bootstrap_servers, ports, addresses, stop, stop_limit };
        match platform.until_ready().await {
            Ok(()) => Ok(platform),
            Err(error) => {
                platform.stop.cancel();
                let _ = platform.run().await;
                Err(error)
            }
        }
    }

    async fn until_ready(&mut self) -> Result<(), Fatal> {
        let deadline = Instant::now() + READY_LIMIT;
        for (name, address) in self.addresses {
            while !http::probe_ready(address).await {
                if Instant::now() >= deadline {
                    let what =
                        format!("{name} is not ready after {READY_LIMIT:?}: http://{address}/health/ready says why");
                    return Err(Fatal::new(what));
                }
                tokio::select! {
                    ended = self.services.join_next() => {
                        return Err(why(ended).unwrap_or_else(|| Fatal::new("stopped before it was ready")));
                    }
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
            }
        }
        Ok(())
    }

    /// What runs where, as commands to copy.
    pub fn introduction(&self) -> String {
        let mut text = String::new();
        let kafka = if self.broker.is_some() { "embedded (forgets at exit)" } else { "yours" };
        let checkout = format!("http://localhost:{}/checkout", self.ports.orchestrator);
        let body = r#"{"userId":"u1","totalAmount":500}"#;
        let _ = writeln!(text, "\nSend a checkout:");
        let _ = writeln!(text, "  curl -i {checkout} -H 'Content-Type: application/json' -d '{body}'\n");
        let _ = writeln!(text, "Look at it in a browser:\n  http://localhost:{}/\n", self.ports.orchestrator);
        if self.servers.iter().next().is_some() {
            let _ = writeln!(text, "Look at the rows:\n  export PGPASSFILE={}", quoted(&self.password_file));
        }
        for server in self.servers.iter() {
            let Database { port, user, database, .. } = server.database();
            let _ = writeln!(text, "  psql -h localhost -p {port} -U {user} -d {database}");
        }
        let _ = writeln!(text, "\nKafka: {} at {}. Stop with Ctrl-C.\n", kafka, self.bootstrap_servers);
        text
    }

    /// Runs until stopped, or until a service ends by itself; then stops the rest, the databases last.
    pub async fn run(mut self) -> Result<(), Fatal> {
        let mut outcome = Ok(());
        let (stop, stop_limit) = (self.stop.clone(), self.stop_limit);
        let out_of_time = async {
            stop.cancelled().await;
            tokio::time::sleep(stop_limit).await;
        };
        tokio::pin!(out_of_time);
        loop {
            let ended = tokio::select! {
                ended = self.services.join_next() => ended,
                () = &mut out_of_time => {
                    warn!("not everything was finished in time; it will be repeated");
                    break;
                }
            };
            if ended.is_none() {
                break;
            }
            self.stop.cancel();
            if let Some(error) = why(ended) {
                outcome = outcome.and(Err(error));
            }
        }
        self.servers.stop().await;
        outcome
    }
}

/// A path as a word of a shell's command line.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c));
    if is_plain { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// Of the inventory service: with a database of ours it begins with something to sell.
const fn inventory_defaults(is_embedded: bool) -> [&'static str; 4] {
    let [own, kafka, service] = inventory_service::DEFAULTS;
    [own, kafka, service, if is_embedded { "sample_products = true" } else { "" }]
}

/// What the environment says of a service, but for what names one service's own port or database.
fn own_settings(defaults: &[&str]) -> Result<Settings, SettingsError> {
    let environment = settings::environment().filter(|(name, _)| !PER_PROCESS.contains(&name.as_str()));
    Settings::load(defaults, None, environment)
}

/// Finds what is wrong with the settings before anything is started, which takes seconds.
fn check_settings() -> Result<(), SettingsError> {
    order_service::Config::try_from(&own_settings(&order_service::DEFAULTS)?)?;
    payment_service::Config::try_from(&own_settings(&payment_service::DEFAULTS)?)?;
    inventory_service::Config::try_from(&own_settings(&inventory_service::DEFAULTS)?)?;
    saga_orchestrator::Config::try_from(&own_settings(&saga_orchestrator::DEFAULTS)?)?;
    Ok(())
}

/// A service by its name, and how it ended.
type Ended = (&'static str, Result<(), Fatal>);

/// Runs a service as a process of its own would: on its own threads, of which there is mostly one.
async fn on_its_own(
    name: &'static str,
    threads: Threads,
    service: impl Future<Output = Result<(), Fatal>> + Send + 'static,
) -> Ended {
    let (tell, ended) = oneshot::channel();
    let run = move || {
        let outcome = threads.runtime().and_then(|runtime| runtime.block_on(service));
        // Nobody listens any more when the stop took too long.
        let _ = tell.send(outcome);
    };
    let started = thread::Builder::new().name(name.to_owned()).spawn(run);
    let outcome = match started {
        Ok(_) => ended.await.unwrap_or_else(|_| Err(Fatal::new("it panicked"))),
        Err(error) => Err(Fatal::new(format!("no thread can be started: {error}"))),
    };
    (name, outcome)
}

/// Why a service ended, if not because it was told to.
fn why(ended: Option<Result<Ended, JoinError>>) -> Option<Fatal> {
    match ended? {
        Ok((_, Ok(()))) => None,
        Ok((name, Err(error))) => Some(Fatal::new(format!("{name}: {error}"))),
        Err(error) => Some(Fatal::new(format!("a service failed: {error}"))),
    }
}

/// The broker, if it is ours, and the settings by which the services use it.
async fn start_kafka(
    data_dir: &DataDir,
    kafka: Kafka,
) -> Result<(Option<EmbeddedBroker>, HashMap<&'static str, config::Value>), Fatal> {
    let topic_prefix = std::env::var("KAFKA_TOPIC_PREFIX").unwrap_or_default();
    match kafka {
        Kafka::Embedded => {
            let names: Vec<String> = all_topics().map(|name| format!("{topic_prefix}{name}")).collect();
            let broker = EmbeddedBroker::start(&names, PARTITIONS).map_err(|error| Fatal::new(error.to_string()))?;
            let mut settings = HashMap::from([
                ("kafka_bootstrap_servers", broker.bootstrap_servers().into()),
                ("kafka_fetch_wait_max_ms", EMBEDDED_FETCH_WAIT_MS.into()),
            ]);
            // What the environment says of a real one.
            settings.extend(KafkaSettings::PLAINTEXT.map(|(key, value)| (key, value.into())));
            Ok((Some(broker), settings))
        }
        Kafka::At(bootstrap_servers) => {
            create_missing_topics(&bootstrap_servers, &topic_prefix).await?;
            let settings = HashMap::from([
                ("kafka_bootstrap_servers", bootstrap_servers.into()),
                // The data directory is locked, so this name is unique, and it is stable over restarts.
                ("kafka_group_instance_id", data_dir.instance_id().to_string().into()),
            ]);
            Ok((None, settings))
        }
    }
}

/// Creates what is missing, as `kafka-init` does.
async fn create_missing_topics(bootstrap_servers: &str, topic_prefix: &str) -> Result<(), Fatal> {
    let plan = Plan {
        kafka: KafkaSettings::at(bootstrap_servers, topic_prefix)?,
        topics: Vec::new(),
        partitions: None,
        grow: false,
        replication_factor: BROKERS_DEFAULT,
        timeout: Duration::from_secs(10),
    };
    let report = plan.carry_out().await?;
    if !report.created.is_empty() {
        info!(topics = report.created.len(), bootstrap_servers, "created the missing Kafka topics");
    }
    for difference in report.differences {
        warn!(bootstrap_servers, "{difference}");
    }
    Ok(())
}
