//! Every service in one process, on Postgres servers and a Kafka broker of its own: `cargo run`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use service_runtime::program::{allow_all_files, end, stop_on_signal};
use service_runtime::settings::{SERVICE_DEFAULTS, Settings, environment};
use service_runtime::{Fatal, telemetry};
use standalone::data_dir::DataDir;
use standalone::default_place;
use standalone::platform::{Kafka, Platform, Ports};

/// Runs the whole checkout platform: four services, four Postgres servers, a Kafka broker
///
/// Settings of the services (CHECKOUT_WAIT_MS, PAYMENT_PROCESSING_MS, …; see the README) are taken from the
/// environment.
#[derive(Debug, Parser)]
#[command(name = "standalone", version)]
struct Arguments {
    /// Where everything is kept [default: data, which is a link to /var/lib/checkout/… for a root user whose
    /// Postgres servers cannot reach it]
    #[arg(long, env = "DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Use this Kafka instead of the embedded broker (its topics are created if missing)
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// Port of POST /checkout
    #[arg(long, env = "ORCHESTRATOR_PORT", default_value_t = 4000)]
    orchestrator_port: u16,
    #[arg(long, env = "ORDER_PORT", default_value_t = 4001)]
    order_port: u16,
    #[arg(long, env = "PAYMENT_PORT", default_value_t = 4002)]
    payment_port: u16,
    #[arg(long, env = "INVENTORY_PORT", default_value_t = 4003)]
    inventory_port: u16,
    #[arg(long, env = "ORDER_DB_PORT", default_value_t = 5433)]
    order_db_port: u16,
    #[arg(long, env = "PAYMENT_DB_PORT", default_value_t = 5434)]
    payment_db_port: u16,
    #[arg(long, env = "INVENTORY_DB_PORT", default_value_t = 5435)]
    inventory_db_port: u16,
    #[arg(long, env = "ORCHESTRATOR_DB_PORT", default_value_t = 5436)]
    orchestrator_db_port: u16,
    /// Use this database instead of an embedded one (likewise for the other three)
    #[arg(long, env = "STANDALONE_ORDER_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    order_database_url: Option<String>,
    #[arg(long, env = "STANDALONE_PAYMENT_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    payment_database_url: Option<String>,
    #[arg(long, env = "STANDALONE_INVENTORY_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    inventory_database_url: Option<String>,
    #[arg(long, env = "STANDALONE_ORCHESTRATOR_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    orchestrator_database_url: Option<String>,
}

#[tokio::main]
async fn main() {
    end("standalone", run(Arguments::parse()).await)
}

async fn run(arguments: Arguments) -> Result<(), Fatal> {
    let began = Instant::now();
    faults::init().map_err(Fatal::new)?;
    telemetry::init(&Settings::load(&[SERVICE_DEFAULTS], None, environment())?.section()?)?;
    allow_all_files();
    let stop = stop_on_signal();
    let ports = Ports {
        orchestrator: arguments.orchestrator_port,
        order: arguments.order_port,
        payment: arguments.payment_port,
        inventory: arguments.inventory_port,
        order_db: arguments.order_db_port,
        payment_db: arguments.payment_db_port,
        inventory_db: arguments.inventory_db_port,
        orchestrator_db: arguments.orchestrator_db_port,
    };
    let urls = [
        ("order", arguments.order_database_url),
        ("payment", arguments.payment_database_url),
        ("inventory", arguments.inventory_database_url),
        ("orchestrator", arguments.orchestrator_database_url),
    ];
    let urls: HashMap<_, _> = urls.into_iter().filter_map(|(name, url)| Some((name, url?))).collect();
    let data_dir = match arguments.data_dir {
        Some(path) => DataDir::open(&path).map_err(|error| Fatal::new(error.to_string()))?,
        None => default_place::open(Path::new("data"), &ports.embedded_databases(&urls))?,
    };
    let kafka = arguments.kafka.map_or(Kafka::Embedded, Kafka::At);

    let started = tokio::select! {
        started = Platform::start(&data_dir, ports, kafka, urls, stop.clone()) => started?,
        () = stop.cancelled() => return Ok(()),
    };
    println!("ready in {:.1} s: checkouts at http://localhost:{}", began.elapsed().as_secs_f64(), ports.orchestrator);
    print!("{}", started.introduction());
    started.run().await
}
