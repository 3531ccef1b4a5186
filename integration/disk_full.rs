//! A full disk: pushes are refused with an error that clients retry, nothing acknowledged is lost, and space brings the service back.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempo_rs::proto::tempopb::trace::v1::ResourceSpans;
use tonic::Code;

use crate::client::{Answer, Client, PROTOBUF};
use crate::otlp;
use crate::process::Place;
use crate::wait::{SOON, eventually, until_some};

const DISK_BYTES: usize = 32 << 20;

/// A small file system of its own.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output().unwrap();
        assert!(mounted.status.success(), "this test mounts a tmpfs and needs root for it: {}", String::from_utf8_lossy(&mounted.stderr));
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all space that is left; returns the file that holds it.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = File::create(&path).unwrap();
        let chunk = vec![0; 1 << 20];
        let error = loop {
            if let Err(error) = file.write(&chunk) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// A trace of two spans with 16 KiB of incompressible text.
fn trace(seed: u64) -> Vec<ResourceSpans> {
    let id = otlp::id::<16>(seed);
    let mut first = otlp::span(&id, seed * 2, "full");
    first.attributes = (0..16u64).map(|number| otlp::text(&format!("k{number}"), &noise(seed * 100 + number))).collect();
    vec![otlp::batch("disk", vec![first, otlp::span(&id, seed * 2 + 1, "second")])]
}

/// Returns the id of the trace when it was acknowledged.
fn push(client: &Client, seed: u64) -> Result<Vec<u8>, Answer> {
    let answer = client.post_traces(PROTOBUF, None, &otlp::encode(&trace(seed)));
    if answer.status == 200 { Ok(otlp::id::<16>(seed)) } else { Err(answer) }
}

fn noise(seed: u64) -> String {
    (0..32).map(|number| otlp::hex(&otlp::id::<16>(seed * 64 + number))).collect()
}

#[test]
fn a_full_disk_refuses_pushes_loses_nothing_and_recovers() {
    let disk = SmallDisk::mount();
    let place = Place::with(|wishes| {
        wishes.data = Some(disk.path().join("data"));
        wishes.segment_bytes = 1 << 20;
    });
    let mut tempo = place.start();
    let client = tempo.client();
    let mut acknowledged: Vec<_> = (7_000..7_020).map(|seed| push(&client, seed).unwrap()).collect();
    tempo.flush();
    acknowledged.extend((7_020..7_040).map(|seed| push(&client, seed).unwrap()));

    let ballast = disk.fill();
    // What was allocated before may still take some.
    let mut seed = 7_100;
    let refused = until_some("a push is refused", SOON, || {
        seed += 1;
        push(&client, seed).map(|id| acknowledged.push(id)).err()
    });
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(!refused.body.is_empty());
    let refused = client.push_grpc(trace(7_099), None).unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    // Blocks cannot be written either; what is live stays live, also when who asked for the flush does not wait for its end.
    let flushed = client.with_timeout(Duration::from_secs(1)).try_get("/flush");
    assert!(flushed.is_none_or(|answer| answer.status >= 500), "a flush that wrote nothing says that it did");
    assert!(tempo.is_running());
    check(&client, &acknowledged);

    fs::remove_file(ballast).unwrap();
    acknowledged.push(until_some("pushes are taken again", SOON, || {
        seed += 1;
        push(&client, seed).ok()
    }));
    check(&client, &acknowledged);
    tempo.flush();
    check(&client, &acknowledged);
    for id in &acknowledged {
        let path = format!("/api/traces/{}?mode=blocks", otlp::hex(id));
        eventually("everything is in blocks", SOON, || client.get(&path).status == 200);
    }
    assert!(tempo.is_running());

    tempo.kill();
    let tempo = place.start();
    check(&tempo.client(), &acknowledged);
}

/// Every trace is there, with each span once.
fn check(client: &Client, ids: &[Vec<u8>]) {
    for id in ids {
        eventually("an acknowledged trace is found", SOON, || client.trace(id).len() == 2);
    }
}
