//! What is measured: the platform as separate processes, or all in one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e_tests::{Client, Layout, Service, Services, Standalone};

use crate::usage::{Counted, Group, postgres};

/// Partitions of a topic for each instance of a service.
pub const PARTITIONS: usize = 8;

/// A running platform. With the value go its processes and files.
pub enum Platform {
    /// Each service a process, on Kafka.
    Processes(Box<Services>),
    /// All services, and a broker in memory, in one process.
    Embedded(Box<Standalone>),
}

/// Something that takes checkouts, and the processes that work for it.
pub struct Subject {
    /// Of `POST /checkout`.
    pub urls: Vec<String>,
    pub groups: Vec<Group>,
}

impl Platform {
    pub async fn start(instances: usize, embedded: bool, settings: &[(String, String)]) -> Result<Self> {
        let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (&**name, &**value)).collect();
        if embedded {
            return Ok(Self::Embedded(Box::new(Standalone::start(&settings).await?)));
        }
        let layout = Layout { instances, partitions: i32::try_from(PARTITIONS * instances)? };
        let mut services = Services::lay_out(layout, &settings).await?;
        services.start_all().await?;
        Ok(Self::Processes(Box::new(services)))
    }

    /// A client of it.
    pub fn client(&self) -> Result<Client> {
        match self {
            Self::Processes(services) => services.quiet_client(),
            Self::Embedded(standalone) => standalone.quiet_client(),
        }
    }

    /// Ends its services and starts them again, as other processes. Their databases and their Kafka go on.
    pub async fn renew(&mut self) -> Result<()> {
        match self {
            Self::Processes(services) => {
                for instance in services.instances() {
                    services.stop(instance).await?;
                }
                services.start_all().await
            }
            Self::Embedded(standalone) => {
                standalone.kill();
                standalone.start_again().await.map(drop)
            }
        }
    }

    /// Kills what starts sagas, and starts it again: how long that takes until it is ready.
    pub async fn restart_orchestrator(&mut self) -> Result<Duration> {
        let began = Instant::now();
        match self {
            Self::Processes(services) => {
                services.kill(Service::Orchestrator)?;
                services.start_again(Service::Orchestrator).await?;
            }
            Self::Embedded(standalone) => {
                standalone.kill();
                standalone.start_again().await?;
            }
        }
        Ok(began.elapsed())
    }

    /// Its Postgres servers.
    pub fn postgres(&self) -> Result<Group> {
        postgres(&match self {
            Self::Processes(services) => services.data_dir(),
            Self::Embedded(standalone) => standalone.data_dir(),
        })
    }

    pub fn subject(&self) -> Result<Subject> {
        match self {
            Self::Processes(services) => {
                let orchestrators = services.instances().into_iter().filter(|one| one.service == Service::Orchestrator);
                let addresses: Result<Vec<_>> = orchestrators.map(|instance| services.address(instance)).collect();
                let processes = services.process_ids();
                let group = |name, service| Group {
                    name,
                    processes: processes
                        .iter()
                        .filter(|(instance, _)| instance.service == service)
                        .map(|(_, pid)| Counted::Itself(*pid))
                        .collect(),
                };
                Ok(Subject {
                    urls: addresses?.iter().map(|address| format!("http://{address}/checkout")).collect(),
                    groups: vec![
                        kafka()?,
                        self.postgres()?,
                        group("orchestrator", Service::Orchestrator),
                        group("order", Service::Order),
                        group("payment", Service::Payment),
                        group("inventory", Service::Inventory),
                    ],
                })
            }
            Self::Embedded(standalone) => {
                let port = standalone.quiet_client()?.ports.orchestrator;
                let processes = vec![Counted::Itself(standalone.process_id())];
                Ok(Subject {
                    urls: vec![format!("http://127.0.0.1:{port}/checkout")],
                    groups: vec![self.postgres()?, Group { name: "standalone", processes }],
                })
            }
        }
    }
}

/// The broker that `dev/kafka` has started.
pub fn kafka() -> Result<Group> {
    let folder = std::env::var_os("KAFKA_DATA_DIR").context("KAFKA_DATA_DIR is not set: run dev/bench")?;
    let file = PathBuf::from(folder).join("kafka.pid");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Group { name: "kafka", processes: vec![Counted::Itself(text.trim().parse()?)] })
}

/// The load generators, which this process starts.
pub fn load() -> Group {
    Group { name: "load", processes: vec![Counted::EndedChildrenOf(std::process::id())] }
}
