//! The program `standalone` on a data folder of its own.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use standalone::platform::{KAFKA_FILE, Ports};
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

use crate::broker::{delete_old_topics, kafka_security, new_prefix, owned, real_kafka};
use crate::process::{Ended, LogTail, Process, log_path};
use crate::scratch::Scratch;
use crate::{Client, KafkaClient, free_ports, postgres};

/// How long a start may take here, where other environments start beside it.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The setting that keeps topics and groups apart. Each environment has a prefix of its own, unless one is given.
const PREFIX: &str = "KAFKA_TOPIC_PREFIX";

/// How many environments may run at a time, besides the shared one.
pub(crate) static PLACES: Semaphore = Semaphore::const_new(3);

/// A running (or killed) `standalone`. With the value go its processes and its files.
pub struct Standalone {
    process: Process,
    ports: Ports,
    prefix: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    scratch: Scratch,
    _place: Option<SemaphorePermit<'static>>,
}

/// A client of the one platform that all tests share which neither break nor configure anything.
pub async fn shared() -> Result<Client> {
    static SHARED: OnceCell<Standalone> = OnceCell::const_new();
    let start = async || Standalone::on(Scratch::new()?, true, &[], None).await;
    SHARED.get_or_try_init(start).await?.client()
}

impl Standalone {
    /// Starts one with these settings, on databases that are initialised and empty.
    pub async fn start(settings: &[(&str, &str)]) -> Result<Self> {
        Self::on(Scratch::new()?, true, settings, Some(PLACES.acquire().await?)).await
    }

    /// Starts one with these settings as on its very first start: without a data folder.
    pub async fn first_start(settings: &[(&str, &str)]) -> Result<Self> {
        Self::on(Scratch::new()?, false, settings, Some(PLACES.acquire().await?)).await
    }

    async fn on(
        scratch: Scratch,
        initialised: bool,
        settings: &[(&str, &str)],
        place: Option<SemaphorePermit<'static>>,
    ) -> Result<Self> {
        if initialised {
            postgres::copy_initialised(&scratch.data()).await?;
        }
        if let Some(address) = real_kafka() {
            delete_old_topics(&address).await?;
        }
        let given = settings.iter().find(|(name, _)| *name == PREFIX).map(|(_, prefix)| (*prefix).to_owned());
        let (ports, prefix) = (free_ports()?, given.unwrap_or_else(new_prefix));
        let mut arguments = arguments(&scratch, &ports);
        arguments.extend(real_kafka().into_iter().flat_map(|address| ["--kafka".to_owned(), address]));
        let mut environment = owned(kafka_security());
        environment.push((PREFIX.to_owned(), prefix.clone()));
        environment.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let process = Process::start(&scratch, "standalone", &arguments, &environment)?;
        let mut standalone = Self { process, ports, prefix, arguments, environment, scratch, _place: place };
        standalone.until_ready(0).await?;
        Ok(standalone)
    }

    /// The command line of one on initialised databases and free ports, for a start that is to fail.
    pub async fn command_line(scratch: &Scratch) -> Result<Vec<String>> {
        postgres::copy_initialised(&scratch.data()).await?;
        Ok(arguments(scratch, &free_ports()?))
    }

    /// A client of it. Its Kafka is that of the last start.
    pub fn client(&self) -> Result<Client> {
        self.client_with(vec![LogTail::since_now(&log_path(&self.scratch, "standalone"))])
    }

    /// A client that does not print what it has logged when it goes.
    pub fn quiet_client(&self) -> Result<Client> {
        self.client_with(Vec::new())
    }

    /// The process's number.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL: its Postgres servers stay behind.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGINT, and the end that it leads to.
    pub async fn interrupt(&mut self) -> Result<Ended> {
        self.process.end_with(Signal::INT, Duration::from_secs(30)).await
    }

    /// Starts it on the same data folder; answers when that was, once it is ready.
    pub async fn start_again(&mut self) -> Result<Instant> {
        let (began, said) = (Instant::now(), self.process.output().len());
        self.process = Process::start(&self.scratch, "standalone", &self.arguments, &self.environment)?;
        self.until_ready(said).await?;
        Ok(began)
    }

    /// Where its data is.
    pub fn data_dir(&self) -> PathBuf {
        self.scratch.data()
    }

    /// All that it has said, over all its starts.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// The processes that run on its data folder, as `/proc` tells: its own, and those of its Postgres servers.
    pub fn processes(&self) -> Vec<String> {
        let data = self.scratch.data();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let ours = processes.filter_map(|process| {
            let command = std::fs::read(process.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let works_there = std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&data));
            (works_there || command.contains(&*data.to_string_lossy())).then_some(command)
        });
        ours.collect()
    }

    async fn until_ready(&mut self, from: usize) -> Result<()> {
        // "ready in", and all that it tells then.
        let said_all = async |process: &Process| process.output()[from..].contains("Stop with Ctrl-C.");
        self.process.until("is ready", START_LIMIT, said_all).await
    }

    fn client_with(&self, logs: Vec<LogTail>) -> Result<Client> {
        let kafka = match real_kafka() {
            Some(address) => address,
            None => self.embedded_kafka()?,
        };
        Client::new(self.ports, &self.scratch.data(), KafkaClient::new(&kafka, &self.prefix), logs)
    }

    /// By the file that it writes for programs that join in.
    fn embedded_kafka(&self) -> Result<String> {
        let address = std::fs::read_to_string(self.scratch.data().join(KAFKA_FILE));
        Ok(address.context("standalone does not write where its Kafka is")?.trim_end().to_owned())
    }
}

/// The command line: the data folder first.
fn arguments(scratch: &Scratch, ports: &Ports) -> Vec<String> {
    let mut arguments = vec!["--data-dir".to_owned(), scratch.data().display().to_string()];
    let flags = [
        ("--orchestrator-port", ports.orchestrator),
        ("--order-port", ports.order),
        ("--payment-port", ports.payment),
        ("--inventory-port", ports.inventory),
        ("--order-db-port", ports.order_db),
        ("--payment-db-port", ports.payment_db),
        ("--inventory-db-port", ports.inventory_db),
        ("--orchestrator-db-port", ports.orchestrator_db),
    ];
    for (flag, port) in flags {
        arguments.extend([flag.to_owned(), port.to_string()]);
    }
    arguments
}
