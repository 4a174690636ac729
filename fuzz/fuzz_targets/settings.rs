//! The settings, from raw bytes: `<file, TOML> 0 <NAME=value lines> 0 <password>`. What is wrong is an error, never a
//! panic, and neither an error nor what is shown of settings holds a piece of the password.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use service_runtime::settings::{Settings, SettingsError};

static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("fuzz-settings-{}.toml", std::process::id()))
});

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (file, environment, password) = (next(), next(), next());
    std::fs::write(&*FILE, file).expect("a file in memory");
    let environment = String::from_utf8_lossy(environment).into_owned();
    let environment = || environment.lines().filter_map(|line| line.split_once('=')).map(owned);
    let file = Some(FILE.as_path());

    let _ = show(Settings::load(&order_service::DEFAULTS, file, environment()).and_then(order));
    let payment = Settings::load(&payment_service::DEFAULTS, file, environment());
    let _ = show(payment.and_then(|settings| payment_service::Config::try_from(&settings)));
    let orchestrator = Settings::load(&saga_orchestrator::DEFAULTS, file, environment());
    let _ = show(orchestrator.and_then(|settings| saga_orchestrator::Config::try_from(&settings)));

    let password = unmistakable(&String::from_utf8_lossy(password));
    for url in [
        format!("postgres://order_user:{password}@db.example:5433/order_db?sslmode=require"),
        format!("postgres://order_user:{password}@h1:5432,h2:5432/order_db"),
        format!("postgres://db.example/order_db?user=order_user&password={password}&sslmode=require"),
    ] {
        let environment = [("DATABASE_URL".to_owned(), url.clone())].into_iter();
        let shown = show(Settings::load(&order_service::DEFAULTS, None, environment).and_then(order));
        let letters: Vec<char> = password.chars().collect();
        for piece in letters.windows(3).filter(|piece| piece.iter().all(|c| MARKS.contains(c))) {
            let piece: String = piece.iter().collect();
            assert!(!shown.contains(&piece), "{url:?} is shown as {shown}");
        }
    }
});

/// Letters of which no three stand beside one another in any message.
const MARKS: [char; 4] = ['Q', 'X', 'Z', 'J'];

fn unmistakable(password: &str) -> String {
    password.chars().map(|c| if c.is_alphanumeric() { MARKS[c as usize % 4] } else { c }).collect()
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn order(settings: Settings) -> Result<order_service::Config, SettingsError> {
    order_service::Config::try_from(&settings)
}

fn show<T: std::fmt::Debug>(outcome: Result<T, SettingsError>) -> String {
    match outcome {
        Ok(settings) => format!("{settings:?}"),
        Err(error) => format!("{error} {error:?}"),
    }
}
