//! The passwords of the services' roles: random, one for each data folder, in the data directory's `pgpass`,
//! which only its owner can read. `psql` reads it by `PGPASSFILE`, and so does `sagactl`. It is written at each
//! start, because the ports may be others; a password that is not in it any more is replaced in its cluster.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::PathBuf;

use rand::TryRng;
use rand::rngs::SysRng;
use service_runtime::pgpass::{self, Entry};

use super::{Database, Error};
use crate::data_dir::DataDir;

/// The file's name in the data directory.
pub const PASSWORD_FILE: &str = "pgpass";

/// What `psql -h` may be given: the name, and the addresses that it leads to.
const HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// 192 bits are as hard to guess as any key.
const RANDOM_BYTES: usize = 24;

/// The passwords that are stored already.
pub(super) struct Stored(Vec<Entry>);

impl Stored {
    pub fn read(data_dir: &DataDir) -> Result<Stored, Error> {
        let path = path(data_dir);
        match pgpass::read(&path) {
            Ok(entries) => Ok(Stored(entries)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Stored(Vec::new())),
            Err(error) => Err(Error::io(path)(error)),
        }
    }

    /// The password of the database's role, whatever the port was. One that is not of the shape of ours (a line
    /// that somebody edited) counts as lost.
    pub fn of(&self, database: &Database) -> Option<String> {
        let entry = self.0.iter().find(|entry| entry.database == database.database && entry.user == database.user)?;
        let password = entry.password.clone();
        (password.len() >= 2 * RANDOM_BYTES && password.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .then_some(password)
    }
}

/// A new password, of the operating system's randomness.
pub(super) fn generate() -> Result<String, Error> {
    let mut bytes = [0; RANDOM_BYTES];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| Error::NoRandomness { reason: error.to_string() })?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Stores the passwords, with the ports of this start.
pub(super) fn store<'a>(
    data_dir: &DataDir,
    passwords: impl Iterator<Item = (&'a Database, &'a str)>,
) -> Result<(), Error> {
    let mut text = "# Written at each start. host:port:database:user:password, for psql's PGPASSFILE.\n".to_owned();
    for (database, password) in passwords {
        for host in HOSTS {
            let entry = Entry {
                host: host.to_owned(),
                port: database.port.to_string(),
                database: database.database.to_owned(),
                user: database.user.to_owned(),
                password: password.to_owned(),
            };
            let _ = writeln!(text, "{entry}");
        }
    }
    data_dir.write_private(PASSWORD_FILE, &text).map_err(Error::io(path(data_dir)))
}

pub(super) fn path(data_dir: &DataDir) -> PathBuf {
    data_dir.path().join(PASSWORD_FILE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const ORDER: Database = Database { name: "order", port: 5433, user: "order_user", database: "order_db" };

    #[test]
    fn a_stored_password_is_found_again_under_another_port_and_the_file_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path()).unwrap();
        let password = generate().unwrap();

        store(&data_dir, [(&ORDER, password.as_str())].into_iter()).unwrap();

        let other_port = Database { port: 6000, ..ORDER };
        assert_eq!(Stored::read(&data_dir).unwrap().of(&other_port), Some(password.clone()));
        assert_eq!(path(&data_dir).metadata().unwrap().mode() & 0o777, 0o600);
        let entries = pgpass::read(&path(&data_dir)).unwrap();
        for host in HOSTS {
            assert!(entries.iter().any(|entry| entry.fits(host, 5433, "order_db", "order_user")), "{host}");
        }
        assert_ne!(generate().unwrap(), password);
    }

    #[test]
    fn a_password_of_another_shape_counts_as_lost() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path()).unwrap();
        data_dir.write_private(PASSWORD_FILE, "localhost:5433:order_db:order_user:order_pass\n").unwrap();

        assert_eq!(Stored::read(&data_dir).unwrap().of(&ORDER), None);
    }
}
