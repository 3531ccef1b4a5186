//! Two processes must not share data directories.

use crate::otlp;
use crate::process::Place;
use crate::wait::{SOON, VISIBLE, eventually};

#[test]
fn a_second_process_on_the_same_directories_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    let tempo = place.start();
    let twin = place.twin();
    let mut second = twin.launch();
    assert_eq!(second.wait(SOON).code(), Some(1));
    let log = second.log();
    let last = log.lines().last().unwrap();
    assert!(last.contains(&place.log_dir().display().to_string()), "{log}");
    assert!(last.contains("another process") || last.contains("in use") || last.contains("locked"), "{log}");
    assert!(!log.contains("panicked"), "{log}");

    let id = otlp::id::<16>(6_000);
    tempo.client().push(&otlp::rich_trace(&id, "exclusive"));
    eventually("the first process works", VISIBLE, || tempo.client().trace(&id).len() == 2);
    // A killed process leaves no lock behind.
    tempo.kill();
    let tempo = twin.start();
    eventually("found by the next process", SOON, || tempo.client().trace(&id).len() == 2);
}
