//! Real servers on free ports.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use sqlx::{Connection, PgConnection};
use standalone::data_dir::DataDir;
use standalone::postgres::{Database, Error, PASSWORD_FILE, Servers};

pub const FOUR: [Database; 4] = [
    database("order", "order_user", "order_db"),
    database("payment", "payment_user", "payment_db"),
    database("inventory", "inventory_user", "inventory_db"),
    database("orchestrator", "orchestrator_user", "orchestrator_db"),
];

const fn database(name: &'static str, user: &'static str, database: &'static str) -> Database {
    Database { name, port: 0, user, database }
}

pub fn one() -> Vec<Database> {
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

pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

pub async fn start(data_dir: &DataDir, databases: Vec<Database>) -> Result<Servers, Error> {
    let began = std::time::Instant::now();
    let servers = Servers::start(data_dir, databases, |line| println!("{:>8.0?} {line}", began.elapsed())).await;
    println!("{:>8.0?} started", began.elapsed());
    servers
}

pub async fn connect(servers: &Servers, name: &str) -> PgConnection {
    let url = servers.server(name).expect("a server of that name").url();
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
pub fn server_pid(folder: &Path) -> Option<rustix::process::Pid> {
    let pid_file = fs::read_to_string(folder.join("postmaster.pid")).ok()?;
    rustix::process::Pid::from_raw(pid_file.lines().next()?.parse().ok()?)
}

#[tokio::test]
async fn four_servers_answer_their_roles_and_keep_their_rows_over_a_restart() {
    let dir = folder();
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
    let dir = folder();
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
async fn servers_left_behind_make_way_in_a_data_directory_that_was_moved_meanwhile() {
    let dir = folder();
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    let data_dir = DataDir::open(&before).unwrap();
    let servers = start(&data_dir, on_own_ports()[..1].to_vec()).await.unwrap();
    let same_port: Vec<_> = servers.iter().map(|server| server.database().clone()).collect();
    store_a_row(&servers, "order").await;
    std::mem::forget(servers);
    drop(data_dir);
    fs::rename(&before, &after).unwrap();

    let servers = start(&DataDir::open(&after).unwrap(), same_port).await.unwrap();

    assert_eq!(stored_row(&servers, "order").await, "here");
    servers.stop().await;
}

#[tokio::test]
async fn one_server_can_be_killed_and_started_again_while_the_other_runs_on() {
    let dir = folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let servers = start(&data_dir, on_own_ports()[..2].to_vec()).await.unwrap();
    store_a_row(&servers, "order").await;
    store_a_row(&servers, "payment").await;
    // A session that is open when the server dies: its backend lives on for a moment and holds the memory.
    let orphaned = connect(&servers, "order").await;
    let order = servers.server("order").unwrap();

    order.kill().await;

    assert!(PgConnection::connect(&order.url()).await.is_err());
    assert_eq!(stored_row(&servers, "payment").await, "here");
    order.start().await.unwrap();
    assert_eq!(stored_row(&servers, "order").await, "here");
    order.stop().await;
    assert!(PgConnection::connect(&order.url()).await.is_err());
    order.start().await.unwrap();
    order.start().await.unwrap();
    assert_eq!(stored_row(&servers, "order").await, "here");
    drop(orphaned);
    servers.stop().await;
}

#[tokio::test]
async fn a_dropped_set_of_servers_stops_by_itself() {
    let dir = folder();
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
    let dir = folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let half = dir.path().join("order.new-1");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("PG_VERSION"), "15\n").unwrap();
    // An empty folder in the right place is what `mkdir` and some volume mounts leave.
    fs::create_dir(dir.path().join("order")).unwrap();

    let servers = start(&data_dir, one()).await.unwrap();

    assert!(!half.exists());
    store_a_row(&servers, "order").await;
    servers.stop().await;
}

#[tokio::test]
async fn a_signal_to_the_terminals_process_group_does_not_reach_the_servers() {
    let dir = folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let servers = start(&data_dir, one()).await.unwrap();

    let group = rustix::process::getpgid(server_pid(&dir.path().join("order"))).unwrap();

    assert_ne!(group, rustix::process::getpgid(None).unwrap());
    servers.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_told_before_anything_is_initialised() {
    let dir = folder();
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
    let dir = folder();
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
    let dir = folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let folder = dir.path().join("order");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("thesis.txt"), "years of work").unwrap();

    let error = start(&data_dir, one()).await.err().unwrap();

    assert!(matches!(error, Error::NotADataFolder { .. }), "{error}");
    assert_eq!(fs::read_to_string(folder.join("thesis.txt")).unwrap(), "years of work");
}

#[tokio::test]
async fn data_of_another_password_is_reported_with_its_folder_and_with_what_mends_it() {
    let dir = folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    start(&data_dir, one()).await.unwrap().stop().await;
    // As of a folder that was copied here.
    let other = format!("localhost:1:order_db:order_user:{}\n", "0".repeat(48));
    fs::write(dir.path().join(PASSWORD_FILE), other).unwrap();

    let error = start(&data_dir, one()).await.err().unwrap();

    assert!(matches!(error, Error::Login { .. }), "{error}");
    assert!(error.to_string().contains("delete the file, and the next start makes new passwords"), "{error}");
}

#[tokio::test]
async fn a_lost_password_is_replaced_and_the_rows_stay() {
    let dir = folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let servers = start(&data_dir, one()).await.unwrap();
    store_a_row(&servers, "order").await;
    let lost = servers.server("order").unwrap().url();
    servers.stop().await;
    fs::remove_file(dir.path().join(PASSWORD_FILE)).unwrap();
    let hba = dir.path().join("order/pg_hba.conf");
    let by_hand = format!("{}host all reader ::1/128 scram-sha-256\n", fs::read_to_string(&hba).unwrap());
    fs::write(&hba, &by_hand).unwrap();

    let servers = start(&data_dir, one()).await.unwrap();

    assert_eq!(stored_row(&servers, "order").await, "here");
    let password = |url: &str| url.split(['/', ':', '@']).nth(4).map(str::to_owned);
    assert_ne!(password(&servers.server("order").unwrap().url()), password(&lost));
    assert_eq!(fs::read_to_string(&hba).unwrap(), by_hand);
    servers.stop().await;
}

#[tokio::test]
async fn below_a_folder_that_is_closed_to_the_servers_account_the_error_names_it_and_the_flag() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root's servers run as another account");
        return;
    }
    let closed = folder();
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let data_dir = DataDir::open(&closed.path().join("data")).unwrap();

    let error = start(&data_dir, one()).await.err().unwrap().to_string();

    let path = closed.path().canonicalize().unwrap();
    assert!(error.contains(&format!("because {} is closed to it: choose a --data-dir", path.display())), "{error}");
    assert!(!closed.path().join("data/order").exists());
}

#[tokio::test]
async fn a_folder_of_another_owner_is_not_taken_over() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can make a folder of another owner");
        return;
    }
    let dir = folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let folders = ["order", "payment"].map(|name| dir.path().join(name));
    start(&data_dir, FOUR[..2].to_vec()).await.unwrap().stop().await;
    std::os::unix::fs::chown(&folders[1], Some(54321), None).unwrap();

    let error = start(&data_dir, FOUR[..2].to_vec()).await.err().unwrap();

    assert!(matches!(error, Error::ForeignFolder { owner: 54321, .. }), "{error}");
    assert_eq!(fs::metadata(&folders[1]).unwrap().uid(), 54321);
}
