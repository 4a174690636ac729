//! The four services as separate processes, on Postgres servers and a Kafka that outlive them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use standalone::data_dir::DataDir;
use standalone::platform::Ports;
use standalone::postgres::{Server, Servers};
use tokio::sync::SemaphorePermit;

use crate::process::{Ended, LogTail, Process, log_path};
use crate::scratch::Scratch;
use crate::standalone::PLACES;
use crate::{Broker, Client, KafkaClient, Service, free_ports, postgres};

/// How long a start may take here, where other environments start beside it.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The running services. With the value go their processes and files.
pub struct Services {
    processes: HashMap<Service, Process>,
    ports: Ports,
    settings: Vec<(String, String)>,
    broker: Broker,
    servers: Servers,
    _data_dir: DataDir,
    scratch: Scratch,
    _place: SemaphorePermit<'static>,
}

impl Services {
    /// Starts all of them with these settings; each takes what it knows.
    pub async fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let mut services = Self::launch_none(settings).await?;
        for service in Service::ALL {
            services.launch(service)?;
        }
        for service in Service::ALL {
            services.until_ready(service).await?;
        }
        Ok(services)
    }

    /// What the services need, without the services.
    pub async fn launch_none(settings: &[(&str, &str)]) -> Result<Self> {
        let place = PLACES.acquire().await?;
        let scratch = Scratch::new()?;
        postgres::copy_initialised(&scratch.data()).await?;
        let ports = free_ports()?;
        let data_dir = DataDir::open(&scratch.data())?;
        let servers = Servers::start(&data_dir, ports.databases(), |_| ()).await?;
        let broker = Broker::start(&scratch).await?;
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let processes = HashMap::new();
        Ok(Self { processes, ports, settings, broker, servers, _data_dir: data_dir, scratch, _place: place })
    }

    pub fn client(&self) -> Result<Client> {
        let logs = Service::ALL.map(|service| LogTail::since_now(&log_path(&self.scratch, service.program())));
        Client::new(self.ports, KafkaClient::new(&self.broker.address, &self.broker.prefix), logs.into())
    }

    /// Starts a service; answers when that was, once it is ready.
    pub async fn start_again(&mut self, service: Service) -> Result<Instant> {
        let began = Instant::now();
        self.launch(service)?;
        self.until_ready(service).await?;
        Ok(began)
    }

    /// Starts a service and waits only until its log says `words`.
    pub async fn start_until(&mut self, service: Service, words: &str) -> Result<()> {
        let said = self.processes.get(&service).map_or(0, |process| process.output().len());
        self.launch(service)?;
        let process = self.processes.get_mut(&service).context("it runs")?;
        let has_said = async |process: &Process| process.output()[said..].contains(words);
        process.until(&format!("says {words:?}"), START_LIMIT, has_said).await
    }

    /// SIGKILL.
    pub fn kill(&mut self, service: Service) -> Result<()> {
        self.processes.get_mut(&service).context("it runs")?.kill();
        Ok(())
    }

    /// SIGTERM, and the end that it leads to.
    pub async fn stop(&mut self, service: Service) -> Result<Ended> {
        let process = self.processes.get_mut(&service).context("it runs")?;
        process.end_with(Signal::TERM, Duration::from_secs(20)).await
    }

    /// Sends SIGTERM and waits for nothing.
    pub fn tell_to_stop(&mut self, service: Service) -> Result<()> {
        self.processes.get_mut(&service).context("it runs")?.signal(Signal::TERM)
    }

    /// The end of a service that was told to stop.
    pub async fn end_of(&mut self, service: Service) -> Result<Ended> {
        self.processes.get_mut(&service).context("it runs")?.ended(Duration::from_secs(20)).await
    }

    /// A service's database server, which can be stopped and started.
    pub fn database(&self, service: Service) -> Result<&Server> {
        self.servers.server(service.database()).context("each service has a database")
    }

    fn launch(&mut self, service: Service) -> Result<()> {
        let process = Process::start(&self.scratch, service.program(), &[], &self.environment(service)?)?;
        self.processes.insert(service, process);
        Ok(())
    }

    fn environment(&self, service: Service) -> Result<Vec<(String, String)>> {
        let mut environment = self.broker.environment();
        environment.extend([
            ("PORT".to_owned(), service.port(&self.ports).to_string()),
            ("DATABASE_URL".to_owned(), self.client()?.database_url(service)?),
            ("ORDER_SERVICE_URL".to_owned(), format!("http://127.0.0.1:{}", self.ports.order)),
            // Stable over restarts, so that a killed one has its partitions back at once.
            ("KAFKA_GROUP_INSTANCE_ID".to_owned(), "only".to_owned()),
        ]);
        environment.extend(self.settings.clone());
        Ok(environment)
    }

    async fn until_ready(&mut self, service: Service) -> Result<()> {
        let client = self.client()?;
        let process = self.processes.get_mut(&service).context("it runs")?;
        let ready = async |_: &Process| {
            client.get(service, "/health/ready").await.is_ok_and(|answer| answer.text.contains(r#""status":"ready""#))
        };
        process.until("is ready", START_LIMIT, ready).await
    }
}
