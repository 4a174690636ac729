//! Folders as the release before made them, with the service's role as the superuser.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::*;
use crate::data_dir::DataDir;
use crate::postgres::{Account, Servers, binaries};

const ORDER: Database = Database { name: "order", port: 0, user: "order_user", database: "order_db" };

/// What a migration may have made, and what a person may have added by hand.
const CONTENT: [&str; 12] = [
    "CREATE DOMAIN order_amount AS numeric CHECK (VALUE > 0)",
    "CREATE TABLE orders (order_id uuid PRIMARY KEY, entry bigint GENERATED ALWAYS AS IDENTITY, amount order_amount)",
    "CREATE INDEX orders_by_entry ON orders (entry)",
    "CREATE TABLE _sqlx_migrations (version bigserial PRIMARY KEY, description text)",
    "INSERT INTO orders (order_id, amount) SELECT gen_random_uuid(), n FROM generate_series(1, 1000) n",
    "INSERT INTO _sqlx_migrations (description) VALUES ('orders')",
    "CREATE SCHEMA reports",
    "CREATE TYPE reports.kind AS ENUM ('daily')",
    "CREATE SEQUENCE reports.numbers",
    "CREATE VIEW reports.totals AS SELECT sum(amount) FROM orders",
    "CREATE MATERIALIZED VIEW reports.old_totals AS SELECT sum(amount) FROM orders",
    "CREATE FUNCTION reports.\"a count\"() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM orders'",
];

/// Makes the folder with initdb and its arguments as they were, and puts the content into it.
async fn make_old(folder: &Path, binaries: &Binaries, account: &Account) {
    account.create_folder(folder).unwrap();
    let password_file = PathBuf::from(format!("{}.password", folder.display()));
    std::fs::write(&password_file, "order_pass\n").unwrap();
    std::os::unix::fs::chown(&password_file, Some(account.uid()), None).unwrap();
    let mut command = account.command(&binaries.initdb());
    command.arg("-D").arg(folder).arg("--username").arg("order_user").arg("--pwfile").arg(&password_file).args([
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--data-checksums",
        "--no-instructions",
    ]);
    let made = command.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let files = FolderFiles { folder, account };
    single_user::run(files, binaries, "postgres", "CREATE DATABASE \"order_db\";\n\n").await.unwrap();
    let content: String = CONTENT.map(|statement| format!("{statement};\n\n")).concat();
    single_user::run(files, binaries, "order_db", &content).await.unwrap();
}

async fn binaries_of(data_dir: &DataDir, major: Option<u32>) -> (Binaries, Account) {
    let binaries = match major {
        Some(major) => binaries::fetch(data_dir.path(), major, &|line: &str| println!("{line}")).await.unwrap(),
        None => binaries::find_or_fetch(data_dir.path(), None, &|line: &str| println!("{line}")).await.unwrap(),
    };
    (binaries, Account::choose(&[]).unwrap())
}

/// Starts the servers on a folder that an older release made, and uses it as a service and an attacker would.
async fn starts_with_everything_kept(data_dir: &DataDir) {
    let servers = Servers::start(data_dir, vec![ORDER], |line| println!("{line}")).await.unwrap();
    let url = servers.server("order").unwrap().url();
    let mut connection = PgConnection::connect(&url).await.unwrap();

    let kept: (i64, i64, i64) =
        sqlx::query_as("SELECT count(*), (SELECT count(*) FROM _sqlx_migrations), reports.\"a count\"() FROM orders")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(kept, (1000, 1, 1000));
    let not_owned: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace IN ('public'::regnamespace, 'reports'::regnamespace)
           AND relowner <> current_user::regrole
         UNION ALL SELECT typname::text FROM pg_type
           WHERE typnamespace IN ('public'::regnamespace, 'reports'::regnamespace) AND typowner <> current_user::regrole
         UNION ALL SELECT proname::text FROM pg_proc
           WHERE pronamespace = 'reports'::regnamespace AND proowner <> current_user::regrole",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(not_owned, Vec::<String>::new());
    // What a later migration may do.
    for statement in [
        "ALTER TABLE orders ADD COLUMN status text",
        "ALTER DOMAIN order_amount ADD CONSTRAINT small CHECK (VALUE < 10000)",
        "INSERT INTO orders (order_id, amount) VALUES (gen_random_uuid(), 7)",
        "INSERT INTO _sqlx_migrations (description) VALUES ('status')",
        "CREATE TABLE more (id bigint)",
        "CREATE SCHEMA floor",
        "DROP SCHEMA reports CASCADE",
    ] {
        sqlx::raw_sql(statement).execute(&mut connection).await.expect(statement);
    }
    for statement in ["COPY orders (order_id) FROM PROGRAM 'id'", "CREATE ROLE more", "SET ROLE cluster_owner"] {
        let error = sqlx::raw_sql(statement).execute(&mut connection).await.expect_err(statement);
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501", "{statement}: {error}");
    }
    drop(connection);
    let published = url.replace(servers.server("order").unwrap().password(), "order_pass");
    let error = PgConnection::connect(&published).await.expect_err("the published password is no more");
    assert!(error.to_string().contains("password authentication failed"), "{error}");
    servers.stop().await;
}

async fn converts(major: Option<u32>) {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let (binaries, account) = binaries_of(&data_dir, major).await;
    make_old(&data_dir.path().join("order"), &binaries, &account).await;

    starts_with_everything_kept(&data_dir).await;
}

#[tokio::test]
async fn a_folder_of_the_release_before_is_converted_with_everything_in_it() {
    converts(None).await;
}

#[tokio::test]
#[ignore = "downloads 15 MB"]
async fn a_folder_of_the_release_before_is_converted_on_postgres_18() {
    converts(Some(18)).await;
}

#[tokio::test]
async fn a_conversion_that_was_cut_short_is_finished_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let (binaries, account) = binaries_of(&data_dir, None).await;
    let folder = data_dir.path().join("order");
    make_old(&folder, &binaries, &account).await;
    let files = FolderFiles { folder: &folder, account: &account };
    // The roles are done, what they own is not, and nothing says what the password was.
    single_user::run(files, &binaries, "postgres", &roles(&ORDER, "lost")).await.unwrap();
    // And once more, with all but the last word said.
    single_user::run(files, &binaries, "postgres", &roles(&ORDER, "lost")).await.unwrap();
    single_user::run(files, &binaries, "order_db", &ownership(&ORDER)).await.unwrap();
    assert!(!are_established(files).unwrap());
    // And a session is killed, with its pid file left behind.
    let session = single_user::run(files, &binaries, "order_db", "SELECT pg_sleep(600);\n\n");
    let has_begun = async {
        while !folder.join("postmaster.pid").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = session => panic!("it ended before it was killed: {ended:?}"),
        begun = tokio::time::timeout(Duration::from_secs(60), has_begun) => begun.unwrap(),
    }

    starts_with_everything_kept(&data_dir).await;
}

#[tokio::test]
async fn an_old_folder_whose_database_was_never_made_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = DataDir::open(dir.path()).unwrap();
    let (binaries, account) = binaries_of(&data_dir, None).await;
    let folder = data_dir.path().join("order");
    make_old(&folder, &binaries, &account).await;
    let files = FolderFiles { folder: &folder, account: &account };
    single_user::run(files, &binaries, "postgres", "DROP DATABASE order_db;\n\n").await.unwrap();

    let servers = Servers::start(&data_dir, vec![ORDER], |line| println!("{line}")).await.unwrap();

    let mut connection = PgConnection::connect(&servers.server("order").unwrap().url()).await.unwrap();
    sqlx::raw_sql("CREATE TABLE orders (id bigint)").execute(&mut connection).await.unwrap();
    servers.stop().await;
}
