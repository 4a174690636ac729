//! Who may do what in a cluster. The service's role owns its database and nothing else: it is no superuser and
//! can neither read the server's files nor run programs. The superuser, [`SUPERUSER`], has no password and no
//! way to log in; what needs it is done in single-user mode. `pg_hba.conf` lets in the service's role, to its
//! database, from this machine, by its password, and nobody else.
//!
//! Folders of releases before this one are converted: there the service's role was the superuser that initdb
//! made, and its password was published. Such a superuser cannot be demoted (it owns the system catalogues), so
//! it is renamed to [`SUPERUSER`], a new role gets the service's name, and with it everything that is not the
//! system's. Each statement here is a transaction and does nothing if it was done before; the first line of
//! `pg_hba.conf` records that all of them were done. So the next start finishes what one left undone.

use super::binaries::Binaries;
use super::folder_file::FolderFiles;
use super::{Database, Error, single_user};

/// The cluster's superuser.
pub(super) const SUPERUSER: &str = "cluster_owner";

const HBA: &str = "pg_hba.conf";

/// The first line of a `pg_hba.conf` that was written here, after all else was done.
const ESTABLISHED: &str = "# standalone: the roles of this cluster are as its release wants them (1)";

/// What the first session prints when the database is there.
const HAS_DATABASE: &str = "the database exists";

/// Whether the folder has its roles. If not, it is new, or an older release's, or [`establish`] was cut short.
pub(super) fn are_established(files: FolderFiles<'_>) -> Result<bool, Error> {
    Ok(files.text(HBA)?.lines().next() == Some(ESTABLISHED))
}

/// Creates the roles and the database unless they exist, gives the service's role what it should own, and sets its
/// password. No server may run in the folder.
pub(super) async fn establish(
    files: FolderFiles<'_>,
    binaries: &Binaries,
    database: &Database,
    password: &str,
) -> Result<(), Error> {
    let said = single_user::run(files, binaries, "postgres", &roles(database, password)).await?;
    if said.contains(HAS_DATABASE) {
        single_user::run(files, binaries, database.database, &ownership(database)).await?;
    } else {
        let create = format!("CREATE DATABASE \"{}\" OWNER \"{}\";\n\n", database.database, database.user);
        single_user::run(files, binaries, "postgres", &create).await?;
    }
    // One that was written before may have got lines by hand; a lost password does not take them away.
    if are_established(files)? {
        return Ok(());
    }
    files.replace(HBA, &hba(database))
}

/// The superuser has the oid 10 in every cluster. A role cannot be renamed by its own session, hence the helper.
/// `SET SESSION AUTHORIZATION DEFAULT` means nothing in single-user mode, so it goes back by the new name.
fn roles(Database { user, database, .. }: &Database, password: &str) -> String {
    format!(
        "DO $$
        DECLARE
          superuser name := (SELECT rolname FROM pg_authid WHERE oid = 10);
        BEGIN
          IF superuser <> '{SUPERUSER}' THEN
            CREATE ROLE {SUPERUSER}_helper SUPERUSER;
            SET LOCAL SESSION AUTHORIZATION {SUPERUSER}_helper;
            EXECUTE format('ALTER ROLE %I RENAME TO {SUPERUSER}', superuser);
            SET LOCAL SESSION AUTHORIZATION {SUPERUSER};
            DROP ROLE {SUPERUSER}_helper;
          END IF;
          IF NOT EXISTS (SELECT FROM pg_authid WHERE rolname = '{user}') THEN
            CREATE ROLE \"{user}\";
          END IF;
        END $$;\n\n\
        ALTER ROLE {SUPERUSER} PASSWORD NULL;\n\n\
        SET password_encryption = 'scram-sha-256';\n\n\
        ALTER ROLE \"{user}\" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD '{password}';\n\n\
        SELECT '{HAS_DATABASE}' WHERE EXISTS (SELECT FROM pg_database WHERE datname = '{database}');\n\n"
    )
}

/// Gives what the superuser owns in the service's database, but for the system's own and what belongs to an
/// extension, to the service's role. A table's indexes, its row type and the sequences of its columns follow it;
/// an array type follows its element type.
fn ownership(Database { user, database, .. }: &Database) -> String {
    format!(
        "DO $$
        DECLARE
          statement text;
        BEGIN
          FOR statement IN
            WITH ours AS (
              SELECT oid, nspname FROM pg_namespace
              WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
            ), of_extension AS (
              SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
            )
            SELECT format('ALTER SCHEMA %I OWNER TO %I', nspname, '{user}')
            FROM pg_namespace JOIN ours USING (oid, nspname) WHERE nspowner = 10
              AND ('pg_namespace'::regclass, oid) NOT IN (SELECT classid, objid FROM of_extension)
            UNION ALL
            SELECT format('ALTER %s %I.%I OWNER TO %I',
              CASE relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, nspname, relname, '{user}')
            FROM pg_class JOIN ours ON ours.oid = relnamespace
            WHERE relowner = 10 AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
              AND ('pg_class'::regclass, pg_class.oid) NOT IN (SELECT classid, objid FROM of_extension)
              AND NOT (relkind = 'S' AND EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass
                AND objid = pg_class.oid AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i')))
            UNION ALL
            SELECT format('ALTER ROUTINE %s OWNER TO %I', pg_proc.oid::regprocedure, '{user}')
            FROM pg_proc JOIN ours ON ours.oid = pronamespace WHERE proowner = 10
              AND ('pg_proc'::regclass, pg_proc.oid) NOT IN (SELECT classid, objid FROM of_extension)
            UNION ALL
            SELECT format('ALTER TYPE %I.%I OWNER TO %I', nspname, typname, '{user}')
            FROM pg_type JOIN ours ON ours.oid = typnamespace
            WHERE typowner = 10 AND typtype IN ('d', 'e', 'r')
              AND ('pg_type'::regclass, pg_type.oid) NOT IN (SELECT classid, objid FROM of_extension)
          LOOP
            EXECUTE statement;
          END LOOP;
          ALTER DATABASE \"{database}\" OWNER TO \"{user}\";
        END $$;\n\n"
    )
}

fn hba(Database { user, database, .. }: &Database) -> String {
    let lines =
        ["127.0.0.1/32", "::1/128"].map(|from| format!("host \"{database}\" \"{user}\" {from} scram-sha-256\n"));
    format!(
        "{ESTABLISHED}\n# The service's role, to its database. The superuser {SUPERUSER} may not log in.\n{}",
        lines.concat()
    )
}

#[cfg(test)]
mod tests;
