//! Reads of local files that are in memory already: without the way over a blocking thread and back, which costs more than copying the bytes.

use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use rustix::io::{ReadWriteFlags, preadv2};

/// More than this is left to a blocking thread, so that tasks do not wait for the copying.
const MAX_BYTES: u64 = 4 << 20;

/// Returns `ranges` of the file if they are small and in the page cache; never waits for a disk. `None` also for every error: whoever reads
/// the usual way then meets it again.
pub(super) fn read(path: &Path, ranges: &[Range<u64>]) -> Option<Vec<Bytes>> {
    if ranges.iter().map(|range| range.end - range.start).sum::<u64>() > MAX_BYTES {
        return None;
    }
    let file = File::open(path).ok()?;
    ranges.iter().map(|range| read_range(&file, range)).collect()
}

fn read_range(file: &File, range: &Range<u64>) -> Option<Bytes> {
    let mut buffer = vec![0; usize::try_from(range.end - range.start).ok()?];
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = IoSliceMut::new(&mut buffer[filled..]);
        match preadv2(file, &mut [rest], range.start + filled as u64, ReadWriteFlags::NOWAIT) {
            Ok(0) | Err(_) => return None,
            Ok(read) => filled += read,
        }
    }
    Some(buffer.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_left_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, (0..=255).collect::<Vec<u8>>()).unwrap();
        // File systems without such reads have none; what comes is right.
        if let Some(found) = read(&path, &[3..5, 255..256, 7..7]) {
            assert_eq!(found, [&[3, 4][..], &[255], &[]]);
        }
        assert_eq!(read(&path, &[3..5, 250..257]), None);
        assert_eq!(read(&path, &[0..MAX_BYTES + 1]), None);
        assert_eq!(read(&folder.path().join("other"), &[3..5]), None);
    }
}
