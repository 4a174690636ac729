//! The four services as separate processes, one or several of each, on Postgres servers and a Kafka that outlive them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
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
use crate::{Broker, Client, KafkaClient, Service, free_port, free_ports, postgres};

/// How long a start may take here, where other environments start beside it.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Likewise a stop, with what it waits for.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// One process of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    pub service: Service,
    /// From 1.
    pub number: usize,
}

impl From<Service> for Instance {
    fn from(service: Service) -> Self {
        Self { service, number: 1 }
    }
}

/// `payment-service`, `payment-service-2`.
impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            1 => f.pad(self.service.program()),
            number => f.pad(&format!("{}-{number}", self.service.program())),
        }
    }
}

/// How many of everything.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Of each service.
    pub instances: usize,
    /// Of each topic.
    pub partitions: i32,
}

impl Layout {
    /// Two partitions are enough to show that keys are spread.
    pub const ONE_OF_EACH: Self = Self { instances: 1, partitions: 2 };
}

/// The running services. With the value go their processes and files.
pub struct Services {
    processes: BTreeMap<Instance, Process>,
    /// Where each instance listens.
    addresses: BTreeMap<Instance, SocketAddr>,
    ports: Ports,
    settings: Vec<(String, String)>,
    failpoints: BTreeMap<Service, String>,
    broker: Broker,
    servers: Arc<Servers>,
    _data_dir: DataDir,
    scratch: Scratch,
    _place: SemaphorePermit<'static>,
}

impl Services {
    /// Starts one of each with these settings; each takes what it knows.
    pub async fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let mut services = Self::launch_none(settings).await?;
        services.start_all().await?;
        Ok(services)
    }

    /// What a service's next start is to do at its failpoints; empty for nothing. See the crate `faults`.
    pub fn set_failpoints(&mut self, service: Service, failpoints: &str) {
        self.failpoints.insert(service, failpoints.to_owned());
    }

    /// What the services need, without the services.
    pub async fn launch_none(settings: &[(&str, &str)]) -> Result<Self> {
        Self::lay_out(Layout::ONE_OF_EACH, settings).await
    }

    /// What that many services need, without the services.
    pub async fn lay_out(layout: Layout, settings: &[(&str, &str)]) -> Result<Self> {
        Self::on(Broker::with_partitions(layout.partitions).await?, layout, settings).await
    }

    /// The same, on this broker.
    pub async fn on(broker: Broker, layout: Layout, settings: &[(&str, &str)]) -> Result<Self> {
        let place = PLACES.acquire().await?;
        let scratch = Scratch::new()?;
        postgres::copy_initialised(&scratch.data()).await?;
        let ports = free_ports()?;
        let mut addresses = BTreeMap::new();
        for service in Service::ALL {
            for number in 1..=layout.instances {
                let port = if number == 1 { service.port(&ports) } else { free_port()? };
                addresses.insert(Instance { service, number }, (Ipv4Addr::LOCALHOST, port).into());
            }
        }
        let data_dir = DataDir::open(&scratch.data())?;
        let servers = Arc::new(Servers::start(&data_dir, ports.databases(), |_| ()).await?);
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let processes = BTreeMap::new();
        let (failpoints, _data_dir, _place) = (BTreeMap::new(), data_dir, place);
        Ok(Self { processes, addresses, ports, settings, failpoints, broker, servers, _data_dir, scratch, _place })
    }

    /// Starts every instance and waits until all are ready.
    pub async fn start_all(&mut self) -> Result<()> {
        for instance in self.instances() {
            self.launch(instance)?;
        }
        for instance in self.instances() {
            self.until_ready(instance).await?;
        }
        Ok(())
    }

    /// A setting for whatever is started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// All that there are to be, whether they run or not.
    pub fn instances(&self) -> Vec<Instance> {
        self.addresses.keys().copied().collect()
    }

    /// Where an instance listens, or will.
    pub fn address(&self, instance: Instance) -> Result<SocketAddr> {
        self.addresses.get(&instance).copied().with_context(|| format!("there is to be no {instance}"))
    }

    /// A client of the first instance of each.
    pub fn client(&self) -> Result<Client> {
        let logs = Service::ALL.map(|service| LogTail::since_now(&log_path(&self.scratch, service.program())));
        self.client_with(logs.into())
    }

    /// A client that does not print what the services have logged when it goes.
    pub fn quiet_client(&self) -> Result<Client> {
        self.client_with(Vec::new())
    }

    fn client_with(&self, logs: Vec<LogTail>) -> Result<Client> {
        Client::new(self.ports, &self.scratch.data(), KafkaClient::new(&self.broker.address, &self.broker.prefix), logs)
    }

    /// Starts a service; answers when that was, once it is ready.
    pub async fn start_again(&mut self, instance: impl Into<Instance>) -> Result<Instant> {
        let (began, instance) = (Instant::now(), instance.into());
        self.launch(instance)?;
        self.until_ready(instance).await?;
        Ok(began)
    }

    /// Starts a service and waits only until its log says `words`.
    pub async fn start_until(&mut self, service: Service, words: &str) -> Result<()> {
        let said = self.processes.get(&service.into()).map_or(0, |process| process.output().len());
        self.launch(service)?;
        let has_said = async |process: &Process| process.output()[said..].contains(words);
        self.process(service)?.until(&format!("says {words:?}"), START_LIMIT, has_said).await
    }

    /// SIGKILL.
    pub fn kill(&mut self, instance: impl Into<Instance>) -> Result<()> {
        self.process(instance)?.kill();
        Ok(())
    }

    /// Sends a signal and waits for nothing.
    pub fn signal(&mut self, instance: impl Into<Instance>, signal: Signal) -> Result<()> {
        self.process(instance)?.signal(signal)
    }

    /// How an instance ended, if it did.
    pub fn has_ended(&mut self, instance: impl Into<Instance>) -> Result<Option<ExitStatus>> {
        Ok(self.process(instance)?.has_ended())
    }

    /// All that an instance has logged, over all its starts.
    pub fn log(&mut self, instance: impl Into<Instance>) -> Result<String> {
        Ok(self.process(instance)?.output())
    }

    /// SIGTERM, and the end that it leads to.
    pub async fn stop(&mut self, instance: impl Into<Instance>) -> Result<Ended> {
        self.process(instance)?.end_with(Signal::TERM, STOP_LIMIT).await
    }

    /// Sends SIGTERM and waits for nothing.
    pub fn tell_to_stop(&mut self, service: Service) -> Result<()> {
        self.signal(service, Signal::TERM)
    }

    /// The end of a service that was told to stop.
    pub async fn end_of(&mut self, service: Service) -> Result<Ended> {
        self.process(service)?.ended(STOP_LIMIT).await
    }

    /// The processes' numbers.
    pub fn process_ids(&self) -> Vec<(Instance, u32)> {
        self.processes.iter().map(|(instance, process)| (*instance, process.id())).collect()
    }

    /// Their Kafka.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// A service's database server, which can be stopped and started.
    pub fn database(&self, service: Service) -> Result<&Server> {
        self.servers.server(service.database()).context("each service has a database")
    }

    /// Where the databases' folders are.
    pub fn data_dir(&self) -> PathBuf {
        self.scratch.data()
    }

    /// All database servers.
    pub fn servers(&self) -> Arc<Servers> {
        self.servers.clone()
    }

    /// Whether the files stay after the end; answers where they are.
    pub fn keep_files(&self, keep: bool) -> Result<PathBuf> {
        self.scratch.keep(keep)?;
        Ok(self.scratch.path().to_owned())
    }

    /// Starts an instance and waits for nothing.
    pub fn launch(&mut self, instance: impl Into<Instance>) -> Result<()> {
        let instance = instance.into();
        let (name, program) = (instance.to_string(), instance.service.program());
        let process = Process::start_as(&name, &self.scratch, program, &[], &self.environment(instance)?)?;
        self.processes.insert(instance, process);
        Ok(())
    }

    fn process(&mut self, instance: impl Into<Instance>) -> Result<&mut Process> {
        let instance = instance.into();
        self.processes.get_mut(&instance).with_context(|| format!("{instance} was not started"))
    }

    fn environment(&self, instance: Instance) -> Result<Vec<(String, String)>> {
        let mut environment = self.broker.environment();
        let order = Instance { service: Service::Order, ..instance };
        environment.extend([
            ("PORT".to_owned(), self.address(instance)?.port().to_string()),
            ("DATABASE_URL".to_owned(), self.quiet_client()?.database_url(instance.service)?),
            // The order service of the same number: there are as many.
            ("ORDER_SERVICE_URL".to_owned(), format!("http://{}", self.address(order)?)),
            ("PAYMENT_SERVICE_URL".to_owned(), format!("http://127.0.0.1:{}", self.ports.payment)),
            ("INVENTORY_SERVICE_URL".to_owned(), format!("http://127.0.0.1:{}", self.ports.inventory)),
            ("ORCHESTRATOR_URL".to_owned(), format!("http://127.0.0.1:{}", self.ports.orchestrator)),
            // Stable over restarts, so that a killed one has its partitions back at once.
            ("KAFKA_GROUP_INSTANCE_ID".to_owned(), instance.number.to_string()),
        ]);
        if let Some(points) = self.failpoints.get(&instance.service) {
            environment.push(("FAILPOINTS".to_owned(), points.clone()));
            // One that sleeps holds up its thread: here one message, not the service.
            environment.push(("WORKER_THREADS".to_owned(), "4".to_owned()));
        }
        environment.extend(self.settings.clone());
        Ok(environment)
    }

    async fn until_ready(&mut self, instance: Instance) -> Result<()> {
        let (client, url) = (self.quiet_client()?, format!("http://{}/health/ready", self.address(instance)?));
        let ready = async |_: &Process| {
            client.get_url(&url).await.is_ok_and(|answer| answer.text.contains(r#""status":"ready""#))
        };
        self.process(instance)?.until("is ready", START_LIMIT, ready).await
    }
}
