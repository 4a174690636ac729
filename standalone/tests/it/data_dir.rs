use std::fs;

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
