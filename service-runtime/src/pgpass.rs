//! A password file in libpq's format (<https://www.postgresql.org/docs/current/libpq-pgpass.html>), which `psql`
//! finds by `PGPASSFILE`: one line for each database, readable by its owner alone.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// One line: which login it is for, and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub host: String,
    pub port: String,
    pub database: String,
    pub user: String,
    pub password: String,
}

impl Entry {
    /// Whether the line is about this login; a field `*` fits any value.
    pub fn fits(&self, host: &str, port: u16, database: &str, user: &str) -> bool {
        let port = port.to_string();
        let fields = [(&self.host, host), (&self.port, &port), (&self.database, database), (&self.user, user)];
        fields.iter().all(|(field, value)| *field == "*" || field == value)
    }

    fn parse(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let mut fields = vec![String::new()];
        let mut characters = line.chars();
        while let Some(character) = characters.next() {
            match character {
                // The password is the rest of the line.
                ':' if fields.len() < 5 => fields.push(String::new()),
                '\\' => fields.last_mut()?.extend(characters.next()),
                _ => fields.last_mut()?.push(character),
            }
        }
        let [host, port, database, user, password] = fields.try_into().ok()?;
        Some(Self { host, port, database, user, password })
    }
}

/// As a line of the file, with `\` and `:` escaped.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [&self.host, &self.port, &self.database, &self.user, &self.password];
        write!(f, "{}", fields.map(|field| field.replace('\\', "\\\\").replace(':', "\\:")).join(":"))
    }
}

/// Never shows the password.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({}@{}:{}/{})", self.user, self.host, self.port, self.database)
    }
}

/// The lines of a password file, in order.
///
/// # Errors
/// When it cannot be read, and when anybody but its owner could read it: libpq ignores such a file.
pub fn read(path: &Path) -> io::Result<Vec<Entry>> {
    let mut file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let what = format!("its mode is {mode:o}, so that others may read it (chmod 600)");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text.lines().filter_map(Entry::parse).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(host: &str, password: &str) -> Entry {
        Entry {
            host: host.to_owned(),
            port: "5433".to_owned(),
            database: "order_db".to_owned(),
            user: "order_user".to_owned(),
            password: password.to_owned(),
        }
    }

    #[test]
    fn a_line_reads_back_as_it_was_written() {
        for entry in [entry("localhost", "plain"), entry("::1", r"with:colon\and backslash")] {
            assert!(Entry::parse(&entry.to_string()) == Some(entry.clone()), "{entry}");
        }
        assert_eq!(entry("::1", "x").to_string(), r"\:\:1:5433:order_db:order_user:x");
    }

    #[test]
    fn comments_and_broken_lines_are_no_entries() {
        for line in ["", "# localhost:5433:order_db:order_user:x", "localhost:5433:order_db:order_user"] {
            assert!(Entry::parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn a_field_fits_its_own_value_and_a_star_any() {
        let named = entry("localhost", "x");
        assert!(named.fits("localhost", 5433, "order_db", "order_user"));
        assert!(!named.fits("127.0.0.1", 5433, "order_db", "order_user"));
        assert!(!named.fits("localhost", 5434, "order_db", "order_user"));
        assert!(entry("*", "x").fits("127.0.0.1", 5433, "order_db", "order_user"));
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let path = std::env::temp_dir().join(format!("pgpass-{}", std::process::id()));
        std::fs::write(&path, "*:*:*:*:x\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let refused = read(&path).unwrap_err();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let entries = read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();

        assert!(refused.to_string().contains("mode is 640"), "{refused}");
        assert_eq!(entries.len(), 1);
    }
}
