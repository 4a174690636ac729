//! Real servers on free ports. Their data stands below a folder of mode 0700, so a run as root also shows
//! that the servers' user reaches a folder below one that is closed to it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use sqlx::{Connection, PgConnection};
use standalone::data_dir::DataDir;
use standalone::postgres::{Database, Error, Servers};

const FOUR: [Database; 4] = [
    database("order", "order_user", "order_pass", "order_db"),
    database("payment", "payment_user", "payment_pass", "payment_db"),
    database("inventory", "inventory_user", "inventory_pass", "inventory_db"),
    database("orchestrator", "orchestrator_user", "orchestrator_pass", "orchestrator_db"),
];

const fn database(name: &'static str, user: &'static str, password: &'static str, database: &'static str) -> Database {
    Database { name, port: 0, user, password, database }
}

fn one() -> Vec<Database> {
    FOUR[..1].to_vec()
}

/// All four on ports of their own, below those that the operating system hands out (32768 and up on Linux): nobody gets
/// one while its server is down for a moment.
fn on_own_ports() -> Vec<Database> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time begin at different places.
    let begin = 10_000 + (std::process::id() % 60 * 100) as u16;
    let ports = std::iter::repeat_with(|| begin + NEXT.fetch_add(1, Ordering::Relaxed));
    let free = ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    FOUR.into_iter().zip(free).map(|(database, port)| Database { port, ..database }).collect()
}

fn closed_folder() -> tempfile::TempDir {
    let closed = fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().permissions(closed).tempdir().expect("a temporary folder")
}

async fn start(data_dir: &DataDir, databases: Vec<Database>) -> Result<Servers, Error> {
    let began = std::time::Instant::now();
    let servers = Servers::start(data_dir, databases, |line| println!("{:>8.0?} {line}", began.elapsed())).await;
    println!("{:>8.0?} started", began.elapsed());
    servers
}

async fn connect(servers: &Servers, name: &str) -> PgConnection {
    let url = servers.server(name).expect("a server of that name").database().url();
    PgConnection::connect(&url).await.expect("the database answers")
}

async fn store_a_row(servers: &Servers, name: &str) {
    let mut connection = connect(servers, name).await;
    sqlx::raw_sql("CREATE TABLE kept (word TEXT); INSERT INTO kept VALUES ('here')")
        .execute(&mut connection)
        .await
        .expect("a row can be stored");
}

async fn stored_row(servers: &Servers, name: &str) -> String {
    sqlx::query_scalar("SELECT word FROM kept").fetch_one(&mut connect(servers, name).await).await.expect("the row")
}

/// The pid of the server that runs in the folder.
fn server_pid(folder: &Path) -> Option<rustix::process::Pid> {
    let pid_file = fs::read_to_string(folder.join("postmaster.pid")).ok()?;
    rustix::process::Pid::from_raw(pid_file.lines().next()?.parse().ok()?)
}

#[tokio::test]
async fn four_servers_answer_their_roles_and_keep_their_rows_over_a_restart() {
    let dir = closed_folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let servers = start(&data_dir, FOUR.to_vec()).await.unwrap();
    for database in FOUR {
        let who: (String, String) = sqlx::query_as("SELECT current_user::text, current_database()::text")
            .fetch_one(&mut connect(&servers, database.name).await)
            .await
            .unwrap();
        assert_eq!(who, (database.user.to_owned(), database.database.to_owned()));
        store_a_row(&servers, database.name).await;
    }
    let began = std::time::Instant::now();
    servers.stop().await;
    println!("stopped in {:.0?}", began.elapsed());

    let servers = start(&data_dir, FOUR.to_vec()).await.unwrap();

    for database in FOUR {
        assert_eq!(stored_row(&servers, database.name).await, "here");
    }
    servers.stop().await;
    for database in FOUR {
        assert!(!dir.path().join(database.name).join("postmaster.pid").exists(), "{} runs on", database.name);
    }
}

#[tokio::test]
async fn servers_left_behind_by_a_killed_run_make_way_and_their_rows_stay() {
    let dir = closed_folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let servers = start(&data_dir, on_own_ports()).await.unwrap();
    let same_ports: Vec<_> = servers.iter().map(|server| server.database().clone()).collect();
    store_a_row(&servers, "order").await;
    let left_behind = server_pid(&dir.path().join("order")).unwrap();
    // As after a SIGKILL: nobody stops them.
    std::mem::forget(servers);

    let servers = start(&data_dir, same_ports).await.unwrap();

    assert_eq!(stored_row(&servers, "order").await, "here");
    assert_ne!(server_pid(&dir.path().join("order")).unwrap(), left_behind);
    servers.stop().await;
}

#[tokio::test]
async fn one_server_can_be_killed_and_started_again_while_the_other_runs_on() {
    let dir = closed_folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let servers = start(&data_dir, on_own_ports()[..2].to_vec()).await.unwrap();
    store_a_row(&servers, "order").await;
    store_a_row(&servers, "payment").await;
    // A session that is open when the server dies: its backend lives on for a moment and holds the memory.
    let orphaned = connect(&servers, "order").await;
    let order = servers.server("order").unwrap();

    order.kill().await;

    assert!(PgConnection::connect(&order.database().url()).await.is_err());
    assert_eq!(stored_row(&servers, "payment").await, "here");
    order.start().await.unwrap();
    assert_eq!(stored_row(&servers, "order").await, "here");
    order.stop().await;
    assert!(PgConnection::connect(&order.database().url()).await.is_err());
    order.start().await.unwrap();
    order.start().await.unwrap();
    assert_eq!(stored_row(&servers, "order").await, "here");
    drop(orphaned);
    servers.stop().await;
}

#[tokio::test]
async fn a_dropped_set_of_servers_stops_by_itself() {
    let dir = closed_folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let servers = start(&data_dir, one()).await.unwrap();
    let folder = dir.path().join("order");
    assert!(server_pid(&folder).is_some());

    drop(servers);

    let gone = async {
        while server_pid(&folder).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.unwrap();
}

#[tokio::test]
async fn an_initialisation_that_was_cut_short_is_done_anew() {
    let dir = closed_folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let half = dir.path().join("order.new-1");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("PG_VERSION"), "15\n").unwrap();
    // An empty folder in the right place is what `mkdir` and some volume mounts leave.
    fs::create_dir(dir.path().join("order")).unwrap();

    let servers = start(&data_dir, one()).await.unwrap();

    assert!(!half.exists());
    assert!(!dir.path().join("order.new-password").exists());
    store_a_row(&servers, "order").await;
    servers.stop().await;
}

#[tokio::test]
async fn a_signal_to_the_terminals_process_group_does_not_reach_the_servers() {
    let dir = closed_folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let servers = start(&data_dir, one()).await.unwrap();

    let group = rustix::process::getpgid(server_pid(&dir.path().join("order"))).unwrap();

    assert_ne!(group, rustix::process::getpgid(None).unwrap());
    servers.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_told_before_anything_is_initialised() {
    let dir = closed_folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();

    let error = start(&data_dir, vec![Database { port, ..FOUR[1].clone() }]).await.err().unwrap();

    let expected =
        format!("port {port}, wanted for the payment database, is in use: choose another with --payment-db-port");
    assert_eq!(error.to_string(), expected);
    assert!(!dir.path().join("payment").exists());
}

#[tokio::test]
async fn data_of_another_major_version_is_refused_and_left_alone() {
    let dir = closed_folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let folder = dir.path().join("order");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("PG_VERSION"), "9\n").unwrap();

    let error = start(&data_dir, one()).await.err().unwrap().to_string();

    let path = folder.canonicalize().unwrap();
    assert!(
        error.starts_with(&format!("{} was initialised by Postgres 9, which Postgres ", path.display())),
        "{error}"
    );
    assert!(error.contains("set PG_BINDIR to the bin folder of a Postgres 9"), "{error}");
    assert_eq!(fs::read_to_string(folder.join("PG_VERSION")).unwrap(), "9\n");
}

#[tokio::test]
async fn a_folder_of_something_else_is_never_overwritten() {
    let dir = closed_folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let folder = dir.path().join("order");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("thesis.txt"), "years of work").unwrap();

    let error = start(&data_dir, one()).await.err().unwrap();

    assert!(matches!(error, Error::NotADataFolder { .. }), "{error}");
    assert_eq!(fs::read_to_string(folder.join("thesis.txt")).unwrap(), "years of work");
}

#[tokio::test]
async fn data_that_was_made_with_another_password_is_told_with_its_folder() {
    let dir = closed_folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    start(&data_dir, one()).await.unwrap().stop().await;

    let error = start(&data_dir, vec![Database { password: "other", ..FOUR[0].clone() }]).await.err().unwrap();

    assert!(matches!(error, Error::Login { .. }), "{error}");
}
