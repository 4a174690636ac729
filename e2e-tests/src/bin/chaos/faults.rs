//! Carries faults out, and is meanwhile what every installation has: somebody who starts a process that ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::{SecondsFormat, Utc};
use e2e_tests::{Instance, Services, dev_kafka};
use rustix::process::Signal;
use standalone::postgres::Servers;

use crate::plan::{Fault, Kind, Victim};

/// How often the supervisor looks, and so about how long a process that ended by itself stays away.
const SUPERVISION: Duration = Duration::from_millis(300);

/// What is broken and mended here.
pub struct Faults {
    services: Mutex<Services>,
    servers: Arc<Servers>,
    /// Held by the fault that a victim suffers: faults of one victim follow one another.
    victims: BTreeMap<Victim, tokio::sync::Mutex<()>>,
    ended: Mutex<Vec<String>>,
    /// What was done when, beside the services' logs.
    log: Mutex<File>,
}

impl Faults {
    /// Notes what it does in `<folder>/faults.log`.
    pub fn new(services: Services, folder: &Path) -> Result<Self> {
        let instances = services.instances();
        let mut victims: Vec<Victim> = instances.iter().map(|instance| Victim::Service(*instance)).collect();
        victims.extend(instances.iter().map(|instance| Victim::Postgres(instance.service)));
        victims.push(Victim::Kafka);
        let victims = victims.into_iter().map(|victim| (victim, tokio::sync::Mutex::default())).collect();
        let (servers, services, ended) = (services.servers(), Mutex::new(services), Mutex::default());
        let log = Mutex::new(File::create(folder.join("faults.log"))?);
        Ok(Self { servers, services, victims, ended, log })
    }

    /// Breaks the victim, and mends it when its time is over.
    ///
    /// # Errors
    /// When it can't be started again: the run can't go on then.
    pub async fn carry_out(&self, fault: Fault) -> Result<()> {
        let _alone = self.victims.get(&fault.victim).context("the plan knows the victims")?.lock().await;
        self.note(&format!("{} {:?} for {:?}", fault.victim, fault.kind, fault.lasts));
        self.suffer(fault).await?;
        self.note(&format!("{} is back", fault.victim));
        Ok(())
    }

    async fn suffer(&self, fault: Fault) -> Result<()> {
        match fault.victim {
            Victim::Service(instance) => self.strike(instance, fault).await,
            Victim::Postgres(service) => {
                let server = self.servers.server(service.database()).context("each service has a database")?;
                server.kill().await;
                tokio::time::sleep(fault.lasts).await;
                Ok(server.start().await?)
            }
            Victim::Kafka => {
                dev_kafka(&["kill"]).await?;
                tokio::time::sleep(fault.lasts).await;
                dev_kafka(&["start"]).await
            }
        }
    }

    async fn strike(&self, instance: Instance, fault: Fault) -> Result<()> {
        match fault.kind {
            Kind::Kill => {
                self.services().kill(instance)?;
                tokio::time::sleep(fault.lasts).await;
                self.services().launch(instance)
            }
            Kind::Freeze => {
                // Where it has ended by itself there is nobody to freeze; the supervisor starts it again.
                if self.services().signal(instance, Signal::STOP).is_ok() {
                    tokio::time::sleep(fault.lasts).await;
                    self.services().signal(instance, Signal::CONT)?;
                }
                Ok(())
            }
        }
    }

    /// Starts whatever ends without being told to. Ends with an error only.
    pub async fn supervise(&self) -> Result<()> {
        let instances = self.services().instances();
        loop {
            tokio::time::sleep(SUPERVISION).await;
            for instance in &instances {
                // One that suffers a fault is not looked after.
                let Some(Ok(_alone)) = self.victims.get(&Victim::Service(*instance)).map(|victim| victim.try_lock())
                else {
                    continue;
                };
                let mut services = self.services();
                if let Some(status) = services.has_ended(*instance)? {
                    let ended = format!("{instance} ended by itself ({status})");
                    self.note(&ended);
                    self.ended.lock().unwrap_or_else(PoisonError::into_inner).push(ended);
                    services.launch(*instance)?;
                }
            }
        }
    }

    /// Which processes ended by themselves.
    pub fn ended_by_themselves(&self) -> Vec<String> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, what: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // In the form of the services' logs. A log that can't be written is no reason to stop.
        let _ = writeln!(log, "{} {what}", Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true));
    }

    pub fn services(&self) -> MutexGuard<'_, Services> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
