//! Broken inputs for every target: known crashers, then a number of mutations of good inputs, the same ones in every run.
//!
//! `TEMPO_RS_FUZZ_SECONDS=n` gives each target n seconds instead, and other mutations each time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::seeds::{files, seeds};
use super::{TARGETS, Target};

const CASES: u64 = 200;
/// Cases of whole files, which take milliseconds each.
const FILE_CASES: u64 = 30;
/// Where the footer of a file begins at the latest; lengths and counts are there.
const FOOTER_BYTES: usize = 16 << 10;

/// Numbers that lengths and counts like to be wrong by.
const NUMBERS: [u64; 9] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

fn mutate(bytes: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..6) {
        if bytes.is_empty() {
            return;
        }
        let at = match rng.random_range(0..3) {
            0 => bytes.len() - 1 - rng.random_range(0..bytes.len().min(FOOTER_BYTES)),
            1 => rng.random_range(0..bytes.len().min(64)),
            _ => rng.random_range(0..bytes.len()),
        };
        let end = |width: usize| (at + width).min(bytes.len());
        match rng.random_range(0..14) {
            0..4 => bytes[at] ^= 1 << rng.random_range(0..8),
            4..6 => bytes[at] = rng.random(),
            6 => bytes.truncate(at),
            7 => drop(bytes.drain(at..end(rng.random_range(1..20)))),
            8 => {
                let copied = bytes[at..end(rng.random_range(1..60))].to_vec();
                bytes.splice(at..at, copied);
            }
            9 if !other.is_empty() => {
                let from = rng.random_range(0..other.len());
                let spliced = &other[from..(from + rng.random_range(1..200)).min(other.len())];
                let end = end(spliced.len());
                bytes.splice(at..end, spliced.iter().copied());
            }
            10 | 11 => {
                // Varints, as Thrift and protobuf write lengths.
                let mut varint = Vec::new();
                crate::model::wire::put_varint(&mut varint, NUMBERS[rng.random_range(0..NUMBERS.len())]);
                bytes.splice(at..at + 1, varint);
            }
            _ => {
                let number = NUMBERS[rng.random_range(0..NUMBERS.len())].to_le_bytes();
                let end = end([1, 2, 4, 8][rng.random_range(0..4)]);
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
        }
    }
}

/// Runs a target; bytes that make it panic are written down before the test fails.
fn run(name: &str, target: Target, bytes: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err() {
        let folder = Path::new("target/fuzz-failures").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("{:08x}", crc32fast::hash(bytes)));
        std::fs::write(&file, bytes).unwrap();
        panic!("{name} panicked; the bytes are in {}", file.display());
    }
}

fn run_target(name: &str, target: Target) {
    let seconds: Option<u64> = std::env::var("TEMPO_RS_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    for case in files(&Path::new("testdata/fuzz").join(name)) {
        run(name, target, &std::fs::read(case).unwrap());
    }
    let seeds = seeds(name);
    let seed = if seconds.is_some() { rand::random() } else { 0 };
    let mut rng = StdRng::seed_from_u64(seed);
    let cases = if name == "parquet_file" { FILE_CASES } else { CASES };
    let (started, mut count, mut slowest) = (Instant::now(), 0_u64, Duration::ZERO);
    while seconds.map_or(count < cases, |seconds| started.elapsed() < Duration::from_secs(seconds)) {
        let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
        let other = &seeds[rng.random_range(0..seeds.len())];
        // The first cases are the good inputs themselves.
        if count >= 3 {
            mutate(&mut bytes, other, &mut rng);
        }
        let case_started = Instant::now();
        run(name, target, &bytes);
        slowest = slowest.max(case_started.elapsed());
        count += 1;
    }
    println!("{name}: seed {seed}, {count} inputs in {:?}, slowest {slowest:?}", started.elapsed());
}

/// Every target is in turn, so that a time limit is one of CPU time.
#[test]
fn broken_bytes_panic_nowhere() {
    let only = std::env::var("TEMPO_RS_FUZZ_TARGET").ok();
    let chosen: Vec<_> = TARGETS.into_iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)).collect();
    assert!(!chosen.is_empty());
    chosen.into_iter().for_each(|(name, target)| run_target(name, target));
}

/// The targets for libFuzzer are these.
#[test]
fn each_target_has_its_file() {
    let mut names: Vec<String> =
        files(Path::new("fuzz/fuzz_targets")).iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let mut expected = TARGETS.map(|(name, _)| name.to_owned()).to_vec();
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
    let manifest = std::fs::read_to_string("fuzz/Cargo.toml").unwrap();
    for name in expected {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
    }
}
