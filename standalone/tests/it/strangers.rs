//! What another user of the machine can do, who reaches the servers' ports; and what an attacker could who has
//! got hold of the service's password, or of the account that a root user's servers run as.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use standalone::data_dir::DataDir;
use standalone::postgres::{PASSWORD_FILE, Servers};

use crate::postgres::{connect, folder, one, server_pid, start};

/// A user who has nothing to do with the servers.
const STRANGER: u32 = 54321;

/// The SQLSTATE of a privilege that is lacking.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

fn skipped_unless_root() -> bool {
    let skipped = !rustix::process::geteuid().is_root();
    if skipped {
        println!("skipped: only root can act as another user");
    }
    skipped
}

/// How a login as this role is refused: with a SQLSTATE of class 28.
async fn refusal(servers: &Servers, user: &str, password: Option<&str>, database: &str) -> String {
    let port = servers.server("order").expect("the order database's server").database().port;
    let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port).username(user).database(database);
    let options = options.ssl_mode(PgSslMode::Disable);
    let options = password.into_iter().fold(options, |options, password| options.password(password));
    let error = PgConnection::connect_with(&options).await.expect_err("the login is refused");
    let refused = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
    assert!(refused.starts_with("28"), "{user}, {password:?}, {database}: {error}");
    error.to_string()
}

/// Whether a program can do its work on the path, run by this user.
fn can(uid: u32, program: &str, path: &Path) -> bool {
    let output = Command::new(program).arg(path).uid(uid).gid(uid).current_dir("/").output().expect("the program runs");
    output.status.success()
}

#[tokio::test]
async fn nobody_logs_in_without_the_password_with_the_published_one_or_as_the_superuser() {
    let dir = folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let servers = start(&data_dir, one()).await.unwrap();
    let url = servers.server("order").unwrap().url();
    let right = url.split(['/', ':', '@']).nth(4).unwrap();

    for password in [None, Some(""), Some("order_pass")] {
        refusal(&servers, "order_user", password, "order_db").await;
    }
    for user in ["cluster_owner", "postgres", "root"] {
        for password in [None, Some("order_pass"), Some(right)] {
            let refusal = refusal(&servers, user, password, "order_db").await;
            assert!(refusal.contains("no pg_hba.conf entry"), "{refusal}");
        }
    }
    for database in ["postgres", "template1"] {
        refusal(&servers, "order_user", Some(right), database).await;
    }
    servers.stop().await;
}

#[tokio::test]
async fn the_services_role_reaches_no_file_no_program_and_no_other_role() {
    let dir = folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let servers = start(&data_dir, one()).await.unwrap();
    let mut connection = connect(&servers, "order").await;
    let written = dir.path().join("written");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();

    for statement in [
        "COPY (SELECT 1) TO PROGRAM 'cat'".to_owned(),
        "CREATE TEMP TABLE IF NOT EXISTS t (line text); COPY t FROM PROGRAM 'id'".to_owned(),
        "CREATE TEMP TABLE IF NOT EXISTS t (line text); COPY t FROM '/etc/passwd'".to_owned(),
        format!("COPY (SELECT 1) TO '{}'", written.display()),
        "SELECT pg_read_file('/etc/passwd')".to_owned(),
        "SELECT pg_read_binary_file('PG_VERSION')".to_owned(),
        "SELECT pg_ls_dir('/')".to_owned(),
        "SELECT pg_stat_file('/etc/passwd')".to_owned(),
        "SELECT lo_import('/etc/passwd')".to_owned(),
        format!("SELECT lo_export(lo_create(0), '{}')", written.display()),
        "CREATE ROLE more SUPERUSER".to_owned(),
        "CREATE ROLE more LOGIN".to_owned(),
        "ALTER ROLE order_user SUPERUSER".to_owned(),
        "ALTER ROLE cluster_owner PASSWORD 'known'".to_owned(),
        "SET ROLE cluster_owner".to_owned(),
        "SET SESSION AUTHORIZATION cluster_owner".to_owned(),
        "GRANT pg_execute_server_program TO order_user".to_owned(),
        "ALTER SYSTEM SET archive_command = 'id'".to_owned(),
        "SET session_preload_libraries = 'x'".to_owned(),
        "CREATE DATABASE more".to_owned(),
        "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'libc', 'getpid'".to_owned(),
        "UPDATE pg_authid SET rolsuper = true".to_owned(),
        "SELECT rolpassword FROM pg_authid".to_owned(),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        let error = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut connection).await;
        let error = error.expect_err(&statement);
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
        assert_eq!(code, INSUFFICIENT_PRIVILEGE, "{statement}: {error}");
    }
    assert!(!written.exists());
    let privileges: (bool, bool, bool, bool, bool, i64) = sqlx::query_as(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,
                (SELECT count(*) FROM pg_auth_members WHERE member = pg_roles.oid)
         FROM pg_roles WHERE rolname = current_user",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(privileges, (false, false, false, false, false, 0));
    servers.stop().await;
}

#[tokio::test]
async fn another_user_reads_neither_the_passwords_nor_the_data() {
    let dir = folder();
    let data = dir.path().join("data");
    let data_dir = DataDir::open(&data).unwrap();
    let servers = start(&data_dir, one()).await.unwrap();
    let order = data.join("order");

    assert_eq!(fs::metadata(data.join(PASSWORD_FILE)).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&order).unwrap().mode() & 0o777, 0o700);
    if !skipped_unless_root() {
        let account = fs::metadata(&order).unwrap().uid();
        // The servers' own account does not get at the passwords either.
        for uid in [STRANGER, 65534, account] {
            assert!(!can(uid, "cat", &data.join(PASSWORD_FILE)), "uid {uid}");
            assert!(!can(uid, "ls", &data), "uid {uid}");
        }
        for file in ["PG_VERSION", "server.log", "pg_hba.conf", "postmaster.pid"] {
            assert!(order.join(file).exists(), "{file}");
            assert!(!can(STRANGER, "cat", &order.join(file)), "{file}");
            assert!(can(account, "cat", &order.join(file)), "{file}: the attempt is one that can succeed");
        }
    }
    servers.stop().await;
}

#[tokio::test]
async fn root_follows_no_link_that_the_servers_account_has_put_in_its_folder() {
    if skipped_unless_root() {
        return;
    }
    let dir = folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    start(&data_dir, one()).await.unwrap().stop().await;
    let order = dir.path().join("order");
    let account = fs::metadata(&order).unwrap().uid();
    let roots = dir.path().join("roots");
    for (name, by_symlink) in [
        ("server.log", true),
        ("server.log", false),
        ("pg_hba.conf", true),
        ("pg_hba.conf", false),
        ("pg_hba.conf.new", true),
        ("PG_VERSION", true),
        ("postmaster.pid", true),
    ] {
        fs::write(&roots, "root's\n").unwrap();
        fs::set_permissions(&roots, fs::Permissions::from_mode(0o600)).unwrap();
        let (path, aside) = (order.join(name), dir.path().join("aside"));
        let was_there = path.exists();
        if was_there {
            fs::rename(&path, &aside).unwrap();
        }
        if by_symlink {
            symlink(&roots, &path).unwrap();
        } else {
            fs::hard_link(&roots, &path).unwrap();
        }

        // It may start or not: what counts is what happens to the file.
        if let Ok(servers) = start(&data_dir, one()).await {
            servers.stop().await;
        }

        let meta = fs::metadata(&roots).unwrap();
        let what = format!("{name}, by a {}", if by_symlink { "symbolic link" } else { "hard link" });
        assert_eq!((meta.uid(), meta.mode() & 0o777), (0, 0o600), "{what}");
        assert_eq!(fs::read_to_string(&roots).unwrap(), "root's\n", "{what}");
        let _ = fs::remove_file(&path);
        if was_there {
            fs::rename(&aside, &path).unwrap();
        }
        fs::remove_file(&roots).unwrap();
    }
    // All is as it was, so it starts; and what it writes is its account's.
    start(&data_dir, one()).await.unwrap().stop().await;
    assert_eq!(fs::metadata(order.join("server.log")).unwrap().uid(), account);
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_server_has_no_capability_and_none_of_our_environment() {
    let dir = folder();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let servers = start(&data_dir, one()).await.unwrap();
    let pid = server_pid(&dir.path().join("order")).unwrap();

    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    for set in ["CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set).trim_start_matches('0'), "", "{set}");
    }
    assert!(field("Uid:").split_whitespace().all(|uid| uid != "0"), "{}", field("Uid:"));
    if rustix::process::geteuid().is_root() {
        assert_eq!(field("Groups:"), "");
    }
    // Cargo sets variables for its tests; a secret would be among such.
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("CARGO"));
    servers.stop().await;
}
