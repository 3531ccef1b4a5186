//! Good inputs of each target to start from.

use std::path::{Path, PathBuf};

use parquet::basic::{Compression, Type};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;

use super::*;
use crate::tempodb::block::side::builder::SideBuilder;

const BLOCKS: &str = "testdata/blocks/vParquet5";
/// Of other versions.
const OLD_BLOCKS: [&str; 2] = ["testdata/blocks/vParquet3", "testdata/blocks/vParquet4"];
const WAL: &str = "testdata/blocks/wal/vParquet5";
const WAL_FOLDER: &str = "daee1b73-8553-4698-888c-3e28752dc459+beta+vParquet5";

/// All files below a folder, in order; nothing when it is not there.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

pub(super) fn seeds(target: &str) -> Vec<Vec<u8>> {
    let packed = |name: &str, unpack: fn(&[u8]) -> Vec<u8>| {
        let packed = of_blocks(|found| found == name);
        packed.iter().map(|bytes| unpack(bytes)).chain(packed.clone()).collect()
    };
    match target {
        "block_meta" => of_blocks(|name| name == "meta.json"),
        "row_group_index" => of_blocks(|name| name == "index"),
        "bloom_shard" => of_blocks(|name| name.starts_with("bloom-")),
        "tenant_index_proto" => packed("index.pb.zst", |bytes| zstd::decode_all(bytes).unwrap()),
        "tenant_index_json" => packed("index.json.gz", ungzip),
        "parquet_file" => {
            let wal_file = std::fs::read(Path::new(WAL).join(WAL_FOLDER).join("0000000001")).unwrap();
            let is_data = |path: &PathBuf| path.file_name().is_some_and(|name| name == "data.parquet");
            let old = OLD_BLOCKS.iter().flat_map(|folder| files(Path::new(folder))).filter(is_data);
            let old = old.map(|path| std::fs::read(path).unwrap()).collect();
            [of_blocks(|name| name == "data.parquet"), vec![wal_file], old].concat()
        }
        "data_pages" => of_blocks(|name| name == "data.parquet").into_iter().flat_map(chunks).collect(),
        "wal_folder" => {
            let meta = std::fs::read(Path::new(WAL).join(WAL_FOLDER).join("meta.json")).unwrap();
            vec![[WAL_FOLDER.as_bytes(), b"\n", &meta].concat()]
        }
        "side_pruning" => side_objects(side::PRUNING_NAME),
        "side_tags" => side_objects(side::TAGS_NAME),
        "trace_filter_manifest" => vec![
            br#"{"version":1,"runs":[{"name":"tempo-rs.ids.3.a","day":3,"sizeBytes":1000,"headerBytes":100,"entries":7,"start":-1,"end":5}]}"#
                .to_vec(),
        ],
        "trace_filter_header" => vec![trace_filter::fuzz::seeds()[0].clone()],
        "trace_filter_shard" => vec![trace_filter::fuzz::seeds()[1].clone()],
        other => panic!("{other} has no seeds"),
    }
}

fn of_blocks(is_wanted: impl Fn(&str) -> bool) -> Vec<Vec<u8>> {
    let found = files(Path::new(BLOCKS)).into_iter().filter(|path| is_wanted(path.file_name().unwrap().to_str().unwrap()));
    let seeds: Vec<_> = found.map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty());
    seeds
}

fn ungzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut unpacked).unwrap();
    unpacked
}

/// An object of a block, whole and in parts.
fn side_objects(name: &str) -> Vec<Vec<u8>> {
    let data = of_blocks(|name| name == "data.parquet").swap_remove(0);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut builder = SideBuilder::default();
    runtime.block_on(async {
        let reader = open(&data, BlockVersion::VParquet5).await.unwrap();
        for group in 0..reader.row_groups() {
            builder.add(&reader.read_row_group(group, &Projection::all(), None, &ReadMeter::default()).await.unwrap());
        }
    });
    let objects = builder.finish(data.len() as u64);
    let object = objects.into_iter().find(|(found, _)| *found == name).unwrap().1;
    let mut seeds = side::fuzz::parts(&object);
    seeds.push(object);
    seeds
}

/// The column chunks of a file's first row group, with what [`data_pages`] wants before them.
fn chunks(file: Vec<u8>) -> Vec<Vec<u8>> {
    let file = Bytes::from(file);
    let reader = SerializedFileReader::new(file.clone()).unwrap();
    let chunk = |column: &ColumnChunkMetaData| {
        let codec = match column.compression() {
            Compression::UNCOMPRESSED => 0,
            Compression::SNAPPY => 1,
            Compression::GZIP(_) => 2,
            Compression::ZSTD(_) => 3,
            other => panic!("{other:?}"),
        };
        let kind = match column.column_type() {
            Type::INT64 => 0,
            Type::INT32 => 1,
            Type::DOUBLE => 3,
            Type::BOOLEAN => 4,
            _ => 5,
        };
        let levels = column.column_descr().max_rep_level() | column.column_descr().max_def_level() << 3;
        let (start, length) = column.byte_range();
        [&[codec, levels as u8, kind, 0], &file[start as usize..(start + length) as usize]].concat()
    };
    reader.metadata().row_group(0).columns().iter().map(chunk).collect()
}
