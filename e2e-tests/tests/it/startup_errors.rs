//! A start that can't succeed: one clear line that says what, where, and which setting or command mends it; and an
//! exit code that is not 0.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e_tests::{
    Client, Process, Scratch, Service, Standalone, copy_to_run, free_port, kafka_security, program, shared,
};

const LIMIT: Duration = Duration::from_secs(30);

/// Starts a program that is to fail, and checks its last words: one line, with its name and all of `words`.
async fn fails(name: &str, arguments: &[&str], environment: &[(&str, String)], words: &[&str]) -> Result<()> {
    exit_code(name, arguments, environment, words).await.map(|_| ())
}

/// The same for a setting that is wrong: it ends with 2.
async fn is_refused(name: &str, arguments: &[&str], environment: &[(&str, String)], words: &[&str]) -> Result<()> {
    let code = exit_code(name, arguments, environment, words).await?;
    ensure!(code == 2, "{name} ended with {code}");
    Ok(())
}

async fn exit_code(name: &str, arguments: &[&str], environment: &[(&str, String)], words: &[&str]) -> Result<i32> {
    let scratch = Scratch::new()?;
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let environment: Vec<_> = environment.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let mut process = Process::start(&scratch, name, &arguments, &environment)?;
    let ended = process.ended(LIMIT).await.with_context(|| process.output())?;
    let output = process.output();
    let code = ended.status.code().filter(|code| *code != 0);
    let code = code.with_context(|| format!("ended with {}:\n{output}", ended.status))?;
    ensure!(!output.contains("panicked"), "{output}");
    let prefix = format!("{name}: ");
    let complaints: Vec<&str> = output.lines().filter(|line| line.starts_with(&prefix)).collect();
    ensure!(complaints.len() == 1, "not one line that says why:\n{output}");
    ensure!(output.lines().last() == complaints.last().copied(), "something comes after it:\n{output}");
    for word in words {
        ensure!(complaints[0].contains(word), "it does not say {word:?}: {}", complaints[0]);
    }
    Ok(code)
}

/// A participant's environment that works, on the shared platform's databases and Kafka.
fn working(client: &Client, service: Service) -> Result<Vec<(&'static str, String)>> {
    let mut environment = kafka_security();
    environment.extend([
        ("PORT", free_port()?.to_string()),
        ("DATABASE_URL", client.database_url(service)?),
        ("KAFKA_BOOTSTRAP_SERVERS", client.kafka.address().to_owned()),
        ("KAFKA_TOPIC_PREFIX", client.kafka.prefix().to_owned()),
        ("STARTUP_TIMEOUT_MS", "500".to_owned()),
    ]);
    Ok(environment)
}

fn with(mut environment: Vec<(&'static str, String)>, key: &'static str, value: &str) -> Vec<(&'static str, String)> {
    environment.retain(|(name, _)| *name != key);
    environment.push((key, value.to_owned()));
    environment
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_setting_that_chooses_another() -> Result<()> {
    let client = shared().await?;
    let taken = TcpListener::bind(("127.0.0.1", free_port()?))?;
    let port = taken.local_addr()?.port().to_string();
    for service in Service::ALL {
        let environment = with(working(&client, service)?, "PORT", &port);
        fails(service.program(), &[], &environment, &["can't listen", &port, "PORT"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_named_by_standalone_with_the_flag_that_chooses_another() -> Result<()> {
    let taken = TcpListener::bind(("127.0.0.1", free_port()?))?;
    let port = taken.local_addr()?.port().to_string();
    for service in Service::ALL {
        let flag = format!("--{}-port", service.database());
        let scratch = Scratch::new()?;
        let mut arguments = Standalone::command_line(&scratch).await?;
        let at = arguments.iter().position(|argument| *argument == flag).context("there is such a flag")?;
        arguments[at + 1].clone_from(&port);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        fails("standalone", &arguments, &[], &[&port, &flag]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_by_another_postgres_is_named_by_standalone_with_its_flag() -> Result<()> {
    let client = shared().await?;
    let scratch = Scratch::new()?;
    let port = client.ports.payment_db.to_string();
    let free = free_port()?.to_string();
    let data = scratch.data().display().to_string();
    let arguments = ["--data-dir", &data, "--order-db-port", &free, "--payment-db-port", &port];

    fails("standalone", &arguments, &[], &["payment database", &port, "--payment-db-port"]).await
}

#[tokio::test]
async fn a_second_start_on_a_data_directory_names_it_and_the_process_that_holds_it() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let data = standalone.data_dir().display().to_string();

    fails("standalone", &["--data-dir", &data], &[], &["in use by process", &data, "--data-dir"]).await
}

#[tokio::test]
async fn a_data_directory_of_another_user_is_named_with_the_command_that_mends_it() -> Result<()> {
    // As root we try it as another user; anyone else tries a folder of root's.
    let scratch = Scratch::new()?;
    let mut command;
    let data = if rustix::process::geteuid().is_root() {
        let copy = scratch.path().join("standalone");
        copy_to_run(&program("standalone")?, &copy)?;
        let data = scratch.data();
        std::fs::create_dir(&data)?;
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755))?;
        command = std::process::Command::new(copy);
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
        data
    } else {
        command = std::process::Command::new(program("standalone")?);
        "/usr".into()
    };

    // One that can be made to fail asks for that.
    command.arg("--data-dir").arg(&data).current_dir("/").env_clear().env("PLANTED_BUG", "none");
    let output = command.output()?;

    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{output:?}");
    for word in [data.to_string_lossy().as_ref(), "belongs to uid 0", "chown", "--data-dir"] {
        ensure!(said.contains(word), "it does not say {word:?}: {said}");
    }
    assert_eq!(said.lines().count(), 1, "{said}");
    Ok(())
}

#[tokio::test]
async fn postgres_programs_that_are_not_there_are_told_with_the_setting_that_names_them() -> Result<()> {
    let scratch = Scratch::new()?;
    let arguments = Standalone::command_line(&scratch).await?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let environment = [("PG_BINDIR", "/no/such/folder".to_owned())];

    fails("standalone", &arguments, &environment, &["PG_BINDIR=/no/such/folder", "initdb", "postgres"]).await
}

/// One that gives a refusal the time that it takes.
fn patient(client: &Client, service: Service) -> Result<Vec<(&'static str, String)>> {
    Ok(with(working(client, service)?, "STARTUP_TIMEOUT_MS", "10000"))
}

/// On a Kafka that wants a password, as `dev/kafka start --secure` runs one.
#[cfg(feature = "kafka-tls")]
#[tokio::test]
async fn a_kafka_that_refuses_the_password_is_named_with_what_it_said() -> Result<()> {
    let client = shared().await?;
    let address = client.kafka.address();
    for service in [Service::Payment, Service::Inventory, Service::Orchestrator] {
        let environment = with(patient(&client, service)?, "KAFKA_SASL_PASSWORD", "secret-word");
        fails(service.program(), &[], &environment, &[address, "invalid credentials"]).await?;
    }
    let environment = with(patient(&client, Service::Payment)?, "KAFKA_SASL_PASSWORD", "secret-word");
    fails("kafka-init", &["--timeout", "10"], &environment, &[address, "invalid credentials"]).await?;
    for command in [&["topics"][..], &["dlq", "list"]] {
        let ran = client.sagactl_with(command, &[("KAFKA_SASL_PASSWORD", "secret-word")]).await?;
        ensure!(ran.code == 2 && ran.stderr.contains("invalid credentials"), "{ran:?}");
    }
    let environment = with(patient(&client, Service::Payment)?, "KAFKA_SSL_CA_LOCATION", "");
    fails("payment-service", &[], &environment, &[address, "certificate verify failed"]).await
}

#[tokio::test]
async fn a_password_for_a_kafka_that_would_not_be_asked_for_it_is_refused_by_its_setting() -> Result<()> {
    let client = shared().await?;
    let environment = with(working(&client, Service::Payment)?, "KAFKA_SECURITY_PROTOCOL", "plaintext");
    let environment = with(environment, "KAFKA_SASL_USERNAME", "ann");
    let error = "kafka_sasl_username: is for kafka_security_protocol";
    let environment = with(environment, "KAFKA_SSL_CA_LOCATION", "");
    fails("payment-service", &[], &environment, &[error]).await
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_named_without_its_password() -> Result<()> {
    let client = shared().await?;
    let nobody = free_port()?;
    let url = format!("postgres://order_user:secret-word@127.0.0.1:{nobody}/order_db");
    let place = format!("order_user@127.0.0.1:{nobody}/order_db");
    for service in Service::ALL {
        let environment = with(working(&client, service)?, "DATABASE_URL", &url);
        fails(service.program(), &[], &environment, &[&place, "DATABASE_URL"]).await?;
    }

    let (_, at) = client
        .database_url(Service::Order)?
        .split_once('@')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .context("a URL")?;
    let refused = format!("postgres://order_user:secret-word@{at}");
    let environment = with(working(&client, Service::Order)?, "DATABASE_URL", &refused);
    let error = fails("order-service", &[], &environment, &["secret-word"]).await.unwrap_err();
    assert!(error.to_string().contains("it does not say \"secret-word\""), "{error}");
    fails("order-service", &[], &environment, &["password authentication failed", "DATABASE_URL"]).await
}

#[tokio::test]
async fn a_password_file_is_searched_for_the_database_that_the_environment_names() -> Result<()> {
    let client = shared().await?;
    let url = client.database_url(Service::Order)?;
    let password = url.split(['/', ':', '@']).nth(4).context("a password")?;
    let (db_port, port) = (client.ports.order_db, free_port()?);
    let scratch = Scratch::new()?;
    let file = scratch.path().join("pgpass");
    // The first line is for the place that the embedded defaults name.
    let lines =
        format!("localhost:5433:order_db:order_user:another\n127.0.0.1:{db_port}:order_db:order_user:{password}\n");
    std::fs::write(&file, lines)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    let environment = [
        ("PORT", port.to_string()),
        ("PGHOST", "127.0.0.1".to_owned()),
        ("PGPORT", db_port.to_string()),
        ("PGPASSFILE", file.display().to_string()),
        ("STARTUP_TIMEOUT_MS", "500".to_owned()),
    ];
    let environment = environment.map(|(key, value)| (key.to_owned(), value));
    let mut process = Process::start(&scratch, "order-service", &[], &environment)?;
    let ready = format!("http://127.0.0.1:{port}/health/ready");

    process.until("is ready", LIMIT, async |_| client.get_url(&ready).await.is_ok_and(|a| a.status == 200)).await
}

/// Starts a program that is to fail, and checks that it shows none of `secrets`, anywhere.
async fn fails_silent_about(
    name: &str,
    arguments: &[&str],
    environment: &[(&str, String)],
    words: &[&str],
    secrets: &[&str],
) -> Result<()> {
    fails(name, arguments, environment, words).await?;
    for secret in secrets {
        let Err(silent) = fails(name, arguments, environment, &[secret]).await else { bail!("it shows {secret:?}") };
        let silent = silent.to_string();
        ensure!(silent.starts_with("it does not say"), "{silent}");
        let last_words = silent.split_once(": ").map_or("", |(_, words)| words);
        ensure!(!last_words.contains(secret), "{last_words}");
    }
    Ok(())
}

#[tokio::test]
async fn a_database_url_whose_password_is_not_percent_encoded_is_refused_without_a_piece_of_it() -> Result<()> {
    let url = "postgres://order_user:p@ss/w:rd#1@127.0.0.1:5433/order_db";
    for service in Service::ALL {
        let environment = [("DATABASE_URL", url.to_owned())];
        let words = ["database_url", "Percent-encode", "PGPASSWORD"];
        fails_silent_about(service.program(), &[], &environment, &words, &["p@ss", "w:rd"]).await?;
    }
    let scratch = Scratch::new()?;
    let arguments = Standalone::command_line(&scratch).await?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let environment = [("STANDALONE_ORDER_DATABASE_URL", url.to_owned())];
    fails_silent_about("standalone", &arguments, &environment, &["Percent-encode"], &["p@ss", "w:rd"]).await?;
    let client = shared().await?;
    let audit = client.sagactl_with(&["audit"], &[("PAYMENT_DATABASE_URL", url)]).await?;
    let said = format!("{}{}", audit.stdout, audit.stderr);
    ensure!(audit.code == 2 && said.contains("payment database") && said.contains("Percent-encode"), "{audit:?}");
    ensure!(!said.contains("p@ss") && !said.contains("w:rd"), "{audit:?}");
    Ok(())
}

#[tokio::test]
async fn a_misspelt_parameter_of_a_database_url_stops_the_start() -> Result<()> {
    let client = shared().await?;
    let url = |parameters: &str| -> Result<String> {
        let url = client.database_url(Service::Order)?;
        Ok(format!("{}{parameters}", url.split('?').next().unwrap_or_default()))
    };
    for (parameters, words) in [
        ("?sslmod=require", ["unknown parameter `sslmod`", "sslmode, sslrootcert"]),
        ("?sslmode=requird", ["`sslmode`", "require, verify-ca or verify-full"]),
        ("?sslmode=require&sslmode=disable", ["`sslmode`", "twice"]),
        ("?target_session_attrs=standby", ["`target_session_attrs`", "read-write or primary"]),
    ] {
        let environment = with(working(&client, Service::Order)?, "DATABASE_URL", &url(parameters)?);
        fails("order-service", &[], &environment, &words).await?;
    }
    let environment = with(working(&client, Service::Order)?, "PGSSLMODE", "requird");
    fails("order-service", &[], &environment, &["PGSSLMODE", "require, verify-ca or verify-full"]).await
}

#[tokio::test]
async fn a_kafka_that_cannot_be_reached_is_named_with_the_setting_that_says_where_it_is() -> Result<()> {
    let client = shared().await?;
    let nobody = format!("127.0.0.1:{}", free_port()?);
    for service in [Service::Payment, Service::Inventory, Service::Orchestrator] {
        let environment = with(working(&client, service)?, "KAFKA_BOOTSTRAP_SERVERS", &nobody);
        fails(service.program(), &[], &environment, &[&nobody, "KAFKA_BOOTSTRAP_SERVERS"]).await?;
    }
    let arguments = ["--bootstrap-servers", &nobody, "--timeout", "1"];
    fails("kafka-init", &arguments, &[], &[&nobody, "KAFKA_BOOTSTRAP_SERVERS"]).await?;
    let scratch = Scratch::new()?;
    let mut arguments = Standalone::command_line(&scratch).await?;
    arguments.extend(["--kafka".to_owned(), nobody.clone()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    fails("standalone", &arguments, &[], &[&nobody, "KAFKA_BOOTSTRAP_SERVERS"]).await
}

#[tokio::test]
async fn a_missing_topic_is_named_with_the_command_that_creates_it() -> Result<()> {
    let client = shared().await?;
    for (service, topic) in [
        (Service::Payment, "elsewhere-payment.charge.command"),
        (Service::Inventory, "elsewhere-inventory.release.command"),
        (Service::Orchestrator, "elsewhere-payment.charged"),
    ] {
        let environment = with(patient(&client, service)?, "KAFKA_TOPIC_PREFIX", "elsewhere-");
        fails(service.program(), &[], &environment, &[topic, client.kafka.address(), "kafka-init"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_key_in_a_settings_file_is_named_with_the_file() -> Result<()> {
    let scratch = Scratch::new()?;
    let file = scratch.path().join("settings.toml");
    std::fs::write(&file, "prot = 4001\n")?;
    let file = file.display().to_string();
    for service in Service::ALL {
        fails(service.program(), &["--config", &file], &[], &["unknown key `prot`", &file, "port"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_bad_value_is_refused_with_the_name_of_its_setting() -> Result<()> {
    for (service, name, value, setting) in [
        (Service::Order, "PORT", "http", "port"),
        (Service::Order, "DATABASE_URL", "not a url", "database_url"),
        (Service::Order, "BIND_ADDRESS", "everywhere", "bind_address"),
        (Service::Payment, "PAYMENT_FAILURE_RATE", "1.5", "payment_failure_rate"),
        (Service::Payment, "PAYMENT_PROCESSING_MS", "-1", "payment_processing_ms"),
        (Service::Inventory, "INVENTORY_FAILURE_RATE", "often", "inventory_failure_rate"),
        (Service::Inventory, "KAFKA_BOOTSTRAP_SERVERS", " ", "kafka_bootstrap_servers"),
        (Service::Orchestrator, "CHECKOUT_WAIT_MS", "soon", "checkout_wait_ms"),
        (Service::Orchestrator, "LOG_FORMAT", "xml", "log_format"),
        (Service::Payment, "RETENTION_DAYS", "a week", "retention_days"),
        (Service::Inventory, "RETENTION_DAYS", "36501", "retention_days"),
    ] {
        fails(service.program(), &[], &[(name, value.to_owned())], &[setting])
            .await
            .with_context(|| format!("{name}={value}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_number_that_would_harm_the_platform_is_refused_with_its_setting_and_its_bounds() -> Result<()> {
    let (orchestrator, payment) = (Service::Orchestrator, Service::Payment);
    for (service, name, value, rule) in [
        (orchestrator, "SAGA_TIMEOUT_MS", "0", "saga_timeout_ms: must be 1000 to 2592000000"),
        (orchestrator, "SAGA_TIMEOUT_MS", "2592000001", "saga_timeout_ms: must be"),
        (orchestrator, "RESEND_FIRST_MS", "99", "resend_first_ms: must be 100 to 3600000"),
        (orchestrator, "RESEND_MAX_MS", "0", "resend_max_ms: must be 100 to 3600000"),
        (orchestrator, "RESEND_MAX_MS", "1999", "resend_max_ms: must be at least RESEND_FIRST_MS"),
        (orchestrator, "RESEND_PER_SECOND", "0", "resend_per_second: must be 1 to 1000000"),
        (orchestrator, "ATTENTION_AFTER", "0", "attention_after: must be 1 to 1000000"),
        (orchestrator, "ORDER_SERVICE_TIMEOUT_MS", "49", "order_service_timeout_ms: must be 50 to 60000"),
        (orchestrator, "CHECKOUT_WAIT_MS", "86400001", "checkout_wait_ms: must be 0 to 86400000"),
        (orchestrator, "CHECKOUT_MAX_WAITING", "0", "checkout_max_waiting: must be 1 to 1000000"),
        (orchestrator, "CHECKOUT_MAX_UNFINISHED", "10000001", "checkout_max_unfinished: must be 1 to 10000000"),
        (orchestrator, "IDEMPOTENCY_RETENTION", "0s", "idempotency_retention: must be 1s to 36500days"),
        (orchestrator, "EVENT_STREAMS_MAX", "1000001", "event_streams_max: must be 0 to 1000000"),
        (orchestrator, "ORDER_SERVICE_URL", "ftp://nowhere", "ORDER_SERVICE_URL is not usable"),
        (payment, "KAFKA_SESSION_TIMEOUT_MS", "2", "kafka_session_timeout_ms: must be 1000 to 1800000"),
        (payment, "KAFKA_FETCH_WAIT_MAX_MS", "0", "kafka_fetch_wait_max_ms: must be 1 to 30000"),
        (payment, "KAFKA_MAX_IN_FLIGHT", "0", "kafka_max_in_flight: must be 1 to 1000000"),
        (payment, "KAFKA_PRODUCER_QUEUE_KBYTES", "1", "kafka_producer_queue_kbytes: must be 64 to 2097151"),
        (payment, "PAYMENT_PROCESSING_MS", "3600001", "payment_processing_ms: must be 0 to 3600000"),
        (Service::Inventory, "INVENTORY_PROCESSING_MS", "3600001", "inventory_processing_ms: must be"),
        (Service::Order, "PORT", "0", "port: must be 1 to 65535"),
        (Service::Order, "DATABASE_MAX_CONNECTIONS", "0", "database_max_connections: must be 1 to 1000"),
        (Service::Order, "WORKER_THREADS", "0", "worker_threads: must be 1 to 1024"),
        (Service::Order, "STARTUP_TIMEOUT_MS", "18446744073709551615", "startup_timeout_ms"),
        (Service::Order, "SHUTDOWN_DRAIN_MS", "3600001", "shutdown_drain_ms: must be 0 to 3600000"),
        (Service::Order, "SHUTDOWN_TIMEOUT_MS", "3600001", "shutdown_timeout_ms: must be 0 to 3600000"),
    ] {
        // Not a start that would fail for another reason.
        let client = shared().await?;
        let environment = with(working(&client, service)?, name, value);
        is_refused(service.program(), &[], &environment, &[rule]).await.with_context(|| format!("{name}={value}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn standalone_refuses_wrong_settings_of_any_of_its_services_before_it_starts_anything() -> Result<()> {
    for (name, value, rule) in [
        ("RESEND_MAX_MS", "0", "resend_max_ms: must be"),
        ("PAYMENT_PROCESSING_MS", "3600001", "payment_processing_ms: must be"),
        ("INVENTORY_FAILURE_RATE", "2", "inventory_failure_rate"),
        ("SHUTDOWN_DRAIN_MS", "3600001", "shutdown_drain_ms: must be"),
    ] {
        let scratch = Scratch::new()?;
        let data = scratch.data().display().to_string();
        let environment = [(name, value.to_owned())];
        is_refused("standalone", &["--data-dir", &data], &environment, &[rule]).await?;
        ensure!(!scratch.data().join("order").exists(), "{name}: a database was made");
    }
    Ok(())
}

#[tokio::test]
async fn a_retention_shorter_than_that_of_idempotency_keys_is_refused() -> Result<()> {
    let environment = [("RETENTION_DAYS", "1".to_owned()), ("IDEMPOTENCY_RETENTION", "25h".to_owned())];
    fails("saga-orchestrator", &[], &environment, &["retention_days", "IDEMPOTENCY_RETENTION"]).await
}

#[tokio::test]
async fn a_services_address_that_is_none_is_refused_with_its_setting_and_without_its_password() -> Result<()> {
    let client = shared().await?;
    for setting in ["ORDER_SERVICE_URL", "PAYMENT_SERVICE_URL", "INVENTORY_SERVICE_URL"] {
        let environment = with(working(&client, Service::Orchestrator)?, setting, "ftp://ann:secret-word@nowhere");
        fails("saga-orchestrator", &[], &environment, &[setting, "http"]).await?;
        let error = fails("saga-orchestrator", &[], &environment, &["secret-word"]).await.unwrap_err();
        assert!(error.to_string().contains("it does not say \"secret-word\""), "{error}");
    }
    Ok(())
}
