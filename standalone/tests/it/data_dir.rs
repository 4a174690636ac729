use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use standalone::data_dir::DataDir;

#[test]
fn a_second_open_fails_and_names_the_process_that_holds_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("some/data");
    let _held = DataDir::open(&path).unwrap();

    let error = DataDir::open(&path).unwrap_err();

    let expected = format!(
        "data directory {} is in use by process {}: stop it, or choose another with --data-dir",
        path.canonicalize().unwrap().display(),
        std::process::id()
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_dropped_directory_can_be_opened_again_and_keeps_its_instance_id() {
    let dir = tempfile::tempdir().unwrap();
    let first = DataDir::open(dir.path()).unwrap().instance_id();

    let second = DataDir::open(dir.path()).unwrap().instance_id();

    assert_eq!(first, second);
    let elsewhere = tempfile::tempdir().unwrap();
    assert_ne!(first, DataDir::open(elsewhere.path()).unwrap().instance_id());
}

#[test]
fn a_file_in_place_of_the_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data");
    fs::write(&file, "").unwrap();

    let error = DataDir::open(&file).unwrap_err();
    let below = DataDir::open(&file.join("below")).unwrap_err();

    let expected = format!("data directory {} is a file: choose a directory with --data-dir", file.display());
    assert_eq!(error.to_string(), expected);
    assert_eq!(below.to_string(), expected);
}

#[test]
fn a_directory_that_everybody_may_write_into_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let open = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
    let mode = || fs::metadata(dir.path()).unwrap().mode() & 0o7777;
    fs::write(dir.path().join("somebody's"), "").unwrap();
    open(0o1777);

    let error = DataDir::open(dir.path()).unwrap_err();

    assert!(error.to_string().contains("choose a directory inside it with --data-dir"), "{error}");
    assert_eq!(mode(), 0o1777);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    // One that is in use already is closed instead: an earlier release left it as the umask was.
    open(0o755);
    drop(DataDir::open(dir.path()).unwrap());
    open(0o777);
    drop(DataDir::open(dir.path()).unwrap());
    assert_eq!(mode(), 0o755);
}

#[test]
fn a_new_directory_can_be_listed_by_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");

    let _data_dir = DataDir::open(&path).unwrap();

    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o066, 0);
}

#[test]
fn an_empty_directory_that_was_made_for_it_lets_a_root_users_servers_pass() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();

    let _data_dir = DataDir::open(dir.path()).unwrap();

    let passes = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o777, passes);
}
